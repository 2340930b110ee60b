//! A log file that is put aside when it is full: `--enable-log-rotation`, with names and rules as lumberjack's, which is
//! what etcd uses.
//!
//! A line that would take `dir/name.ext` beyond its size goes into a new file, after the old one was renamed to
//! `dir/name-2006-01-02T15-04-05.000.ext`, the time of its renaming in UTC. Names of that form sort as their times do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::logs;
use crate::config::LogRotation;

/// Looks like a time in a name; digits stand for any digit.
const TIME_SHAPE: &[u8] = b"2006-01-02T15-04-05.000";

/// A sink that is given whole lines.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    rules: LogRotation,
    file: File,
    /// Bytes in it.
    length: u64,
}

impl Rotating {
    /// Opens the file, which is appended to if it exists, and deletes what the rules no longer keep.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub fn open(path: &Path, rules: LogRotation) -> io::Result<Rotating> {
        let file = append_to(path)?;
        let length = file.metadata()?.len();
        let rotating = Rotating { path: path.into(), rules, file, length };
        rotating.delete_old(SystemTime::now());
        Ok(rotating)
    }

    /// Puts the file aside and begins a new one with the same permissions.
    fn rotate(&mut self) -> io::Result<()> {
        let permissions = self.file.metadata()?.permissions();
        let mut now = SystemTime::now();
        let mut aside = self.name_aside(now);
        while aside.exists() {
            now += Duration::from_millis(1);
            aside = self.name_aside(now);
        }
        fs::rename(&self.path, aside)?;
        self.file = append_to(&self.path)?;
        self.file.set_permissions(permissions)?;
        self.length = 0;
        self.delete_old(now);
        Ok(())
    }

    fn name_aside(&self, now: SystemTime) -> PathBuf {
        let (prefix, extension) = self.around_the_time();
        self.path.with_file_name(format!("{prefix}{}{extension}", time_in_name(now)))
    }

    /// What stands before and after the time in the name of a file that was put aside.
    fn around_the_time(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        (part(self.path.file_stem()) + "-", extension.unwrap_or_default())
    }

    /// Deletes the files put aside that are too many or too old. Failing costs space, so nothing is said of it.
    fn delete_old(&self, now: SystemTime) {
        let mut times = self.times_aside();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let many = self.rules.backups_max.unwrap_or(usize::MAX);
        let oldest = self.rules.age_max.and_then(|age| now.checked_sub(age)).map(time_in_name);
        let (prefix, extension) = self.around_the_time();
        for (number, time) in times.iter().enumerate() {
            if number >= many || oldest.as_ref().is_some_and(|oldest| time < oldest) {
                let _ = fs::remove_file(self.path.with_file_name(format!("{prefix}{time}{extension}")));
            }
        }
    }

    fn times_aside(&self) -> Vec<String> {
        let (prefix, extension) = self.around_the_time();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let time = name.strip_prefix(&prefix)?.strip_suffix(&extension)?;
                has_the_shape_of_a_time(time).then(|| time.to_owned())
            })
            .collect()
    }
}

impl Write for Rotating {
    /// Takes a whole line. Where no new file can be made the line is refused, as a full disk would, and the next one
    /// tries again.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.length + line.len() as u64 > self.rules.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.length += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// As every log file is opened.
///
/// # Errors
/// If it can't be.
pub fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn time_in_name(time: SystemTime) -> String {
    let shown = logs::show_time(time).replace(':', "-");
    shown[..TIME_SHAPE.len()].to_owned()
}

fn has_the_shape_of_a_time(text: &str) -> bool {
    let fits = |(byte, shape): (u8, &u8)| {
        if shape.is_ascii_digit() { byte.is_ascii_digit() } else { byte == *shape }
    };
    text.len() == TIME_SHAPE.len() && text.bytes().zip(TIME_SHAPE).all(fits)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn rules(bytes_max: u64) -> LogRotation {
        LogRotation { bytes_max, age_max: None, backups_max: None }
    }

    /// The names in `dir`, sorted, times shown as `T`, and the contents.
    fn files(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_line_that_does_not_fit_begins_a_new_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.b.log");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut log = Rotating::open(&path, rules(12)).expect("a file");
        for number in 1..=7 {
            writeln!(log, "{number:03}").unwrap();
        }
        let files = files(dir.path());
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["old\n001\n002\n", "003\n004\n005\n", "006\n007\n"], "{files:?}");
        assert_eq!(files[2].0, "a.b.log");
        for (name, _) in &files[..2] {
            let time = name.strip_prefix("a.b-").and_then(|rest| rest.strip_suffix(".log"));
            assert!(time.is_some_and(has_the_shape_of_a_time), "{name}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_too_many_or_too_old_is_deleted() {
        let day = Duration::from_secs(24 * 3600);
        // the files put aside, and others, whose names are not ours to delete
        let dated = ["2026-01-01T00-00-00.000", "2026-01-02T00-00-00.000", "2026-01-03T00-00-00.000"];
        let others =
            ["x-2026-01-01.log", "y-2026-01-01T00-00-00.000.log", "x-2026-01-01T00-00-00.000.txt", "x-.log"];
        let now = UNIX_EPOCH + day * 20_457; // 2026-01-04
        let cases = [
            (LogRotation { age_max: None, backups_max: None, bytes_max: 9 }, 3),
            (LogRotation { age_max: None, backups_max: Some(2), bytes_max: 9 }, 2),
            (LogRotation { age_max: Some(day * 5 / 2), backups_max: None, bytes_max: 9 }, 2),
            (LogRotation { age_max: Some(day * 5 / 2), backups_max: Some(1), bytes_max: 9 }, 1),
            (LogRotation { age_max: Some(day / 2), backups_max: Some(9), bytes_max: 9 }, 0),
        ];
        for (rules, kept) in cases {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("x.log");
            let log = Rotating { path: path.clone(), rules, file: append_to(&path).unwrap(), length: 0 };
            let dated = dated.map(|time| format!("x-{time}.log"));
            for name in dated.iter().map(String::as_str).chain(others) {
                fs::write(dir.path().join(name), "").unwrap();
            }
            log.delete_old(now);
            for (number, name) in dated.iter().enumerate() {
                assert_eq!(dir.path().join(name).exists(), number + kept >= 3, "{rules:?} {name}");
            }
            for name in others {
                assert!(dir.path().join(name).exists(), "{rules:?} {name}");
            }
        }
    }

    #[test]
    fn where_no_file_can_be_made_lines_are_refused_and_later_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("x.log");
        let mut log = Rotating::open(&path, rules(4)).expect("a file");
        log.write_all(b"one\n").unwrap();
        fs::rename(&inner, dir.path().join("moved")).unwrap();
        assert_eq!(log.write_all(b"two\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::rename(dir.path().join("moved"), &inner).unwrap();
        log.write_all(b"333\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "333\n");
        assert_eq!(files(&inner).len(), 2);
    }
}
