//! Whose data this is: the first file a start writes, and the last thing an operator should lose.
//!
//! `identity` in the data directory, six lines of text so that `cat` shows it:
//!
//! ```text
//! ringd data directory
//! format 2
//! member 8e9e05c52164694d
//! cluster cdf818194e3a8c32
//! log begun                 or: log none
//! crc32 xxxxxxxx            CRC-32 (IEEE) of the five lines before it, their newlines included
//! ```
//!
//! Ids are 16 digits of lower-case hexadecimal. The file is written to a temporary name, synced, renamed, and the
//! directory synced; so it is there whole or not at all, and one that doesn't parse was damaged or is foreign.
//!
//! It is written twice. First, with `log none`, before there is a log or a tree. Then, with `log begun`, when the
//! log's first segment and the tree file are there durably and before anything is written to the log. So a log or a
//! tree that is missing is told from one that never was: without this, a log that was lost before the first checkpoint
//! would look like a first start, and what was acknowledged would be gone without a word.
//!
//! Version rule: a reader refuses a format it doesn't know; a new one raises the number. Format 1 had no line `log …`; it
//! is read as `log begun`, because a start that got as far as writing it nearly always began its log too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::fatal::{Fatal, FatalReason};
use super::probe::from_write;

/// Name of the file in the data directory.
pub const FILE: &str = "identity";
/// Its name until it is whole.
pub const FILE_TEMPORARY: &str = "identity.tmp";

/// More than any version of the file will ever have.
const BYTES_MAX: u64 = 4096;

/// Member and cluster that the data belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// etcd's member id.
    pub member: u64,
    /// etcd's cluster id.
    pub cluster: u64,
    /// Whether a log was begun: then its segments and the tree file were there, and something may be acknowledged.
    pub log_begun: bool,
}

impl Identity {
    /// The file's text.
    pub fn encode(self) -> String {
        let log = if self.log_begun { "log begun\n" } else { "log none\n" };
        self.text(2, log)
    }

    fn text(self, format: u8, log: &str) -> String {
        let Identity { member, cluster, .. } = self;
        let body = format!(
            "ringd data directory\nformat {format}\nmember {member:016x}\ncluster {cluster:016x}\n{log}"
        );
        let sum = crc32fast::hash(body.as_bytes());
        format!("{body}crc32 {sum:08x}\n")
    }

    /// From the file's bytes.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn decode(bytes: &[u8]) -> Result<Identity, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_string())?;
        let mut lines = text.lines();
        if lines.next() != Some("ringd data directory") {
            return Err("it is not ringd's".into());
        }
        let format = match lines.next().and_then(|line| line.strip_prefix("format ")) {
            Some("1") => 1,
            Some("2") => 2,
            Some(other) => return Err(format!("its format {other} is not one this version reads")),
            None => return Err("it has no format".into()),
        };
        let mut id = |name: &str| {
            let digits = lines.next().and_then(|line| line.strip_prefix(name))?.strip_prefix(' ')?;
            (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let (Some(member), Some(cluster)) = (id("member"), id("cluster")) else {
            return Err("it has no ids".into());
        };
        let log_begun = format == 1 || lines.next() == Some("log begun");
        let identity = Identity { member, cluster, log_begun };
        // The text is canonical, so the checksum is compared by writing it again.
        let canonical = if format == 1 { identity.text(1, "") } else { identity.encode() };
        if canonical.as_bytes() != bytes {
            return Err("its checksum is wrong".into());
        }
        Ok(identity)
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`FatalReason::DataDirForeign`] if it isn't ours, [`FatalReason::DataDirUnwritable`] if it can't be read.
    pub fn read(dir: &Path) -> Result<Option<Identity>, Fatal> {
        let path = dir.join(FILE);
        let result = File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX), &mut bytes)?;
            Ok(bytes)
        });
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Fatal::new(
                    FatalReason::DataDirUnwritable,
                    format!("cannot read {}: {error}", path.display()),
                ));
            }
        };
        let identity = Identity::decode(&bytes).map_err(|what| {
            Fatal::new(
                FatalReason::DataDirForeign,
                format!(
                    "{}: {what}; restore the data directory from a backup or use another one",
                    path.display()
                ),
            )
        })?;
        Ok(Some(identity))
    }

    /// Writes the file so that it is there whole after a power cut, or not at all.
    ///
    /// # Errors
    /// [`FatalReason::DataDirUnwritable`], [`FatalReason::DiskFull`]
    pub fn write(self, dir: &Path) -> Result<(), Fatal> {
        let write = || {
            let temporary = dir.join(FILE_TEMPORARY);
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(self.encode().as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, dir.join(FILE))?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| from_write(dir, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Identity =
        Identity { member: 0x8e9e_05c5_2164_694d, cluster: 0xcdf8_1819_4e3a_8c32, log_begun: true };
    const FORMAT_1: &str =
        "ringd data directory\nformat 1\nmember 8e9e05c52164694d\ncluster cdf818194e3a8c32\ncrc32 1b38553b\n";
    const NONE: &str = "ringd data directory\nformat 2\nmember 8e9e05c52164694d\ncluster cdf818194e3a8c32\n\
                        log none\ncrc32 244332eb\n";
    const BEGUN: &str = "ringd data directory\nformat 2\nmember 8e9e05c52164694d\ncluster cdf818194e3a8c32\n\
                         log begun\ncrc32 58e6e4d2\n";

    #[test]
    fn golden_bytes() {
        let none = Identity { log_begun: false, ..ID };
        for (identity, golden) in [(none, NONE), (ID, BEGUN)] {
            assert_eq!(identity.encode(), golden);
            assert_eq!(Identity::decode(golden.as_bytes()), Ok(identity));
        }
    }

    #[test]
    fn format_1_is_read_as_one_whose_log_was_begun() {
        assert_eq!(Identity::decode(FORMAT_1.as_bytes()), Ok(ID));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_taken() {
        for golden in [FORMAT_1, NONE, BEGUN] {
            let bytes = golden.as_bytes();
            for at in 0..bytes.len() {
                assert!(Identity::decode(&bytes[..at]).is_err(), "cut at {at}");
                for bit in 0..8 {
                    let mut flipped = bytes.to_vec();
                    flipped[at] ^= 1 << bit;
                    assert!(Identity::decode(&flipped).is_err(), "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        for (text, want) in [
            ("", "it is not ringd's"),
            ("hello\n", "it is not ringd's"),
            ("ringd data directory\n", "it has no format"),
            ("ringd data directory\nformat 3\n", "its format 3 is not one this version reads"),
            ("ringd data directory\nformat 1\nmember 8e9e\n", "it has no ids"),
        ] {
            assert_eq!(Identity::decode(text.as_bytes()), Err(want.to_string()), "{text:?}");
        }
        assert!(Identity::decode(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn written_once_and_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Identity::read(dir.path()), Ok(None));
        ID.write(dir.path()).expect("writable");
        assert_eq!(Identity::read(dir.path()), Ok(Some(ID)));
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, [FILE]);
        fs::write(dir.path().join(FILE), "x").expect("writable");
        assert_eq!(Identity::read(dir.path()).expect_err("foreign").reason, FatalReason::DataDirForeign);
    }
}
