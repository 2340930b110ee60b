//! The data directory: ours alone, for this process alone.
//!
//! ```text
//! <data-dir>/           0700
//!   lock                held exclusively while a process runs; its text is that process's id
//!   identity            whose data this is (`sys::identity`)
//!   log/                segments of the Raft log, or in --wal-dir; in damaged/ below it those that a repair has replaced
//!   tree                the tree file
//! ```
//!
//! A start looks before it writes: a directory with anything else in it, and no identity, holds something of somebody's,
//! and is refused. The lock is `flock`'s, so the kernel gives it back however a process ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::fatal::{Fatal, FatalReason};
use super::identity::{self, Identity};
use super::probe::from_write;

/// Name of the lock file.
pub const LOCK_FILE: &str = "lock";
/// Name of the tree file.
pub const TREE_FILE: &str = "tree";
/// Name of the folder of the Raft log where there is no `--wal-dir`.
pub const LOG_DIR: &str = "log";

/// What may lie in a directory that has no identity yet: what an interrupted first start leaves, and ext4's folder.
const HARMLESS: [&str; 5] = [LOCK_FILE, identity::FILE_TEMPORARY, "lost+found", ".direct-io-probe", LOG_DIR];

/// An open data directory. Dropping it gives up the lock.
#[derive(Debug)]
pub struct DataDir {
    /// The directory.
    pub path: PathBuf,
    /// Where the segments of the Raft log are: `log` below it, or `--wal-dir`.
    pub log_path: PathBuf,
    /// Whose data is in it; `None` at a first start, until [`DataDir::found`].
    pub identity: Option<Identity>,
    /// What the log should say about it.
    pub warnings: Vec<String>,
    _locks: Vec<File>,
}

impl DataDir {
    /// Creates or enters the directories, takes the locks, reads the identity. Probes nothing of the file system's.
    ///
    /// # Errors
    /// One of the `DataDir…` reasons.
    pub fn open(path: &Path, wal_dir: Option<&Path>) -> Result<DataDir, Fatal> {
        let mut warnings = Vec::new();
        enter(path, &mut warnings)?;
        refuse_foreign(path)?;
        let mut locks = vec![lock(path)?];
        let identity = Identity::read(path)?;
        let log_path = match wal_dir {
            Some(dir) => {
                enter(dir, &mut warnings)?;
                refuse_foreign_log(dir, identity)?;
                if !same_dir(dir, path) {
                    locks.push(lock(dir)?);
                }
                dir.to_path_buf()
            }
            None => {
                let dir = path.join(LOG_DIR);
                enter(&dir, &mut warnings)?;
                dir
            }
        };
        Ok(DataDir { path: path.into(), log_path, identity, warnings, _locks: locks })
    }

    /// Makes an empty directory this member's, durably.
    ///
    /// # Errors
    /// [`FatalReason::DataDirUnwritable`], [`FatalReason::DiskFull`]
    ///
    /// # Panics
    /// If it is somebody's already.
    pub fn found(&mut self, identity: Identity) -> Result<(), Fatal> {
        let promised = self.identity.is_some_and(|identity| identity.log_begun);
        assert!(!promised, "a data directory whose log is begun never changes its owner");
        identity.write(&self.path)?;
        self.identity = Some(identity);
        Ok(())
    }

    /// Notes durably that the log is begun: its first segment and the tree file are there. See `sys::identity`.
    ///
    /// # Errors
    /// As [`DataDir::found`].
    ///
    /// # Panics
    /// If it is nobody's.
    pub fn begin_log(&mut self) -> Result<(), Fatal> {
        let identity = self.identity.expect("a data directory is founded before its log is begun");
        if identity.log_begun {
            return Ok(());
        }
        let begun = Identity { log_begun: true, ..identity };
        begun.write(&self.path)?;
        self.identity = Some(begun);
        Ok(())
    }
}

fn same_dir(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Makes sure there is a directory that nobody else can enter.
fn enter(path: &Path, warnings: &mut Vec<String>) -> Result<(), Fatal> {
    if path.as_os_str().is_empty() {
        return Err(Fatal::new(FatalReason::DataDirUnwritable, "the data directory has no name"));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| from_write(path, &error))?;
    let metadata = fs::metadata(path).map_err(|error| from_write(path, &error))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if fs::set_permissions(path, fs::Permissions::from_mode(0o700)).is_ok() {
        warnings.push(format!("{} had mode {mode:04o}; it is 0700 now", path.display()));
        return Ok(());
    }
    // Not ours, such as a volume that a container runtime prepared for a group.
    if mode & 0o002 != 0 {
        return Err(Fatal::new(
            FatalReason::DataDirUnwritable,
            format!(
                "{} is writable for everybody (mode {mode:04o}) and not ours to change: make it 0700",
                path.display()
            ),
        ));
    }
    warnings.push(format!("{} has mode {mode:04o}; 0700 is recommended", path.display()));
    Ok(())
}

/// Looks for what isn't ours, before anything is written.
fn refuse_foreign(path: &Path) -> Result<(), Fatal> {
    let mut names = Vec::new();
    let entries = fs::read_dir(path).map_err(|error| from_write(path, &error))?;
    for entry in entries {
        names.push(
            entry.map_err(|error| from_write(path, &error))?.file_name().to_string_lossy().into_owned(),
        );
    }
    names.sort();
    if names.iter().any(|name| name == identity::FILE) {
        return Ok(());
    }
    let foreign =
        |what: String| Err(Fatal::new(FatalReason::DataDirForeign, format!("{} {what}", path.display())));
    if names.iter().any(|name| name == "member") && path.join("member").is_dir() {
        return foreign(
            "is a data directory of etcd, which ringd can't open: give another --data-dir (ringd copies nothing and \
             changes nothing there)"
                .into(),
        );
    }
    match names.iter().find(|name| !HARMLESS.contains(&name.as_str())) {
        Some(name) if name == TREE_FILE => foreign(format!(
            "holds {name:?} but no {:?} file, so it can't be told whose it is: restore that file, or give an empty or a \
             new --data-dir",
            identity::FILE
        )),
        Some(name) => foreign(format!(
            "holds {name:?} but no {:?} file, so it isn't ringd's: give an empty or a new --data-dir",
            identity::FILE
        )),
        None if has_entries(&path.join(LOG_DIR)) => foreign(format!(
            "holds a log but no {:?} file, so it can't be told whose it is: restore that file",
            identity::FILE
        )),
        None => Ok(()),
    }
}

/// A `--wal-dir` that a first start finds must be empty.
fn refuse_foreign_log(dir: &Path, identity: Option<Identity>) -> Result<(), Fatal> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    let stranger = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !HARMLESS.contains(&name.as_str()));
    match (identity, stranger) {
        (None, Some(name)) => Err(Fatal::new(
            FatalReason::DataDirForeign,
            format!(
                "--wal-dir {} holds {name:?}, but the data directory is new: give an empty one",
                dir.display()
            ),
        )),
        _ => Ok(()),
    }
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| !HARMLESS.contains(&entry.file_name().to_string_lossy().as_ref()))
    })
}

/// Takes the directory's lock, or says who has it.
fn lock(dir: &Path) -> Result<File, Fatal> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| from_write(dir, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(locked(dir, &mut file)),
        Err(errno) => return Err(from_write(dir, &io::Error::from(errno))),
    }
    // Who holds it, for the other's message; a failure here costs only that.
    let _ = file.set_len(0);
    let _ = file.write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(file)
}

fn locked(dir: &Path, file: &mut File) -> Fatal {
    let mut holder = String::new();
    let _ = file.rewind();
    let _ = file.take(32).read_to_string(&mut holder);
    let who = match holder.trim() {
        "" => "another process".to_string(),
        id => format!("another process (id {id})"),
    };
    Fatal::new(
        FatalReason::DataDirLocked,
        format!("{who} is using {}: two servers must not share a data directory", dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Identity = Identity { member: 1, cluster: 2, log_begun: false };

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").mode() & 0o7777
    }

    #[test]
    fn a_first_start_makes_it_and_a_second_finds_it() {
        let outer = temporary();
        let path = outer.path().join("a/default.ringd");
        let mut dir = DataDir::open(&path, None).expect("a first start");
        assert_eq!((dir.identity, mode(&path), mode(&dir.log_path)), (None, 0o700, 0o700));
        assert_eq!(dir.log_path, path.join("log"));
        dir.found(ID).expect("writable");
        drop(dir);
        fs::write(path.join("tree"), "x").expect("writable");
        let dir = DataDir::open(&path, None).expect("a second start");
        assert_eq!(dir.identity, Some(ID));
        assert_eq!(dir.warnings, Vec::<String>::new());
    }

    #[test]
    fn an_interrupted_first_start_can_be_repeated() {
        let outer = temporary();
        drop(DataDir::open(outer.path(), None).expect("a first start"));
        fs::write(outer.path().join(identity::FILE_TEMPORARY), "half").expect("writable");
        fs::write(outer.path().join("log/.direct-io-probe"), "block").expect("writable");
        let mut dir = DataDir::open(outer.path(), None).expect("again");
        dir.found(ID).expect("writable");
    }

    #[test]
    fn one_process_at_a_time() {
        let outer = temporary();
        let first = DataDir::open(outer.path(), None).expect("the first");
        let fatal = DataDir::open(outer.path(), None).expect_err("the second");
        assert_eq!(fatal.reason, FatalReason::DataDirLocked);
        assert!(fatal.message.contains(&format!("(id {})", std::process::id())), "{fatal}");
        drop(first);
        DataDir::open(outer.path(), None).expect("after the first");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        // a file or folder (with a / at its end) that lies there, words of the refusal
        let cases = [
            ("member/", "a data directory of etcd"),
            ("data.mdb", "holds \"data.mdb\""),
            ("tree", "holds \"tree\""),
            ("log/00000001", "holds a log"),
        ];
        for (name, words) in cases {
            let outer = temporary();
            let path = outer.path().join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("a folder");
            match name.ends_with('/') {
                true => fs::create_dir_all(&path).expect("a folder"),
                false => fs::write(&path, "x").expect("a file"),
            }
            let fatal = DataDir::open(outer.path(), None).expect_err(name);
            assert_eq!(fatal.reason, FatalReason::DataDirForeign, "{name}: {fatal}");
            assert!(fatal.message.contains(words), "{name}: {fatal}");
            assert!(!outer.path().join(LOCK_FILE).exists(), "{name}: nothing may be written");
        }
    }

    #[test]
    fn the_logs_own_directory_is_locked_and_must_be_new_too() {
        let (data, wal) = (temporary(), temporary());
        let mut dir = DataDir::open(data.path(), Some(wal.path())).expect("a first start");
        assert_eq!(dir.log_path, wal.path());
        dir.found(ID).expect("writable");
        let other = temporary();
        let fatal = DataDir::open(other.path(), Some(wal.path())).expect_err("shared");
        assert_eq!(fatal.reason, FatalReason::DataDirLocked);
        drop(dir);
        fs::write(wal.path().join("00000001"), "x").expect("writable");
        DataDir::open(data.path(), Some(wal.path())).expect("its own");
        let fatal = DataDir::open(other.path(), Some(wal.path())).expect_err("another's");
        assert_eq!(fatal.reason, FatalReason::DataDirForeign);
    }

    #[test]
    fn wide_modes_are_narrowed() {
        let outer = temporary();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let dir = DataDir::open(outer.path(), None).expect("ours");
        assert_eq!(mode(outer.path()), 0o700);
        assert_eq!(dir.warnings.len(), 1, "{:?}", dir.warnings);
    }

    #[test]
    fn what_cannot_be_a_directory_is_unwritable() {
        let outer = temporary();
        let file = outer.path().join("file");
        fs::write(&file, "x").expect("writable");
        for path in [file.join("below"), file, PathBuf::new(), PathBuf::from("/proc/ringd")] {
            let fatal = DataDir::open(&path, None).expect_err("no directory");
            assert_eq!(fatal.reason, FatalReason::DataDirUnwritable, "{}", path.display());
        }
    }
}
