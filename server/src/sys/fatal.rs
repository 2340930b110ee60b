//! Why this process ends by itself: one closed list, one exit code each.
//!
//! An operator sees a code (in systemd, in a pod's last state) before a sentence, so every reason has its own and none
//! changes its number again. Whatever is not in this list is a bug and ends in a panic, which aborts (signal 6, seen by
//! a shell as 134).
//!
//! | code | reason | what to do |
//! |---|---|---|
//! | 0 | – | asked to stop (SIGTERM, SIGINT) or `--help`, `--version` |
//! | 1 | `Config` | a flag or variable has a value that can't be used; the sentence names it |
//! | 2 | `Usage` | unknown flag, or a value that isn't of the flag's kind |
//! | 10 | `DataDirUnwritable` | the data directory can't be created, entered or written |
//! | 11 | `DataDirForeign` | the directory holds something else's data, or another format version |
//! | 12 | `DataDirLocked` | another process has this data directory |
//! | 13 | `DirectIoUnsupported` | tmpfs, or another file system without O_DIRECT: move the data directory |
//! | 14 | `MemlockTooLow` | raise LimitMEMLOCK (systemd), `--ulimit memlock` (containers) |
//! | 15 | `IoUringDenied` | seccomp, sysctl or kernel refuses io_uring: see `tuning/` |
//! | 16 | `AddressInUse` | a port of a `--listen-…` URL is taken |
//! | 17 | `AddressUnusable` | an address of a `--listen-…` URL isn't of this machine or not permitted |
//! | 18 | `TlsUnusable` | certificate, key or CA file missing, broken or not belonging together |
//! | 19 | `IdentityMismatch` | the directory belongs to another member than the flags say |
//! | 20 | `LogDamaged` | the Raft log is damaged where it was already acknowledged |
//! | 21 | `TreeDamaged` | the tree file is damaged |
//! | 22 | `LogWriteFailed` | a write to the Raft log failed (EIO): replace the device |
//! | 23 | `LogStalled` | the log device didn't answer for too long |
//! | 24 | `CheckpointFailed` | a write or sync of the tree file failed |
//! | 25 | `DiskFull` | no room even for the files a start needs |
//! | 26 | `StartFailed` | an operating-system call that a start needs failed for another reason |
//! | 27 | `MemberRemoved` | this member was removed from its cluster: delete its data directory, add it again if wanted |

use std::fmt;

/// Why this process ends by itself. See the table in the module's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FatalReason {
    /// A flag or environment variable has a value that can't be used.
    Config = 1,
    /// Unknown flag, or a value that isn't of the flag's kind.
    Usage = 2,
    /// The data directory can't be created, entered or written.
    DataDirUnwritable = 10,
    /// The data directory holds something else's data, or a format this version doesn't read.
    DataDirForeign = 11,
    /// Another process holds the lock of the data directory.
    DataDirLocked = 12,
    /// The file system below the data directory has no O_DIRECT (tmpfs).
    DirectIoUnsupported = 13,
    /// RLIMIT_MEMLOCK is too low for the rings of the executors.
    MemlockTooLow = 14,
    /// The kernel, a sysctl or a seccomp filter refuses io_uring.
    IoUringDenied = 15,
    /// A listen address is taken.
    AddressInUse = 16,
    /// A listen address isn't of this machine, or this user may not bind it.
    AddressUnusable = 17,
    /// Certificate, key or CA can't be read or don't belong together.
    TlsUnusable = 18,
    /// The data directory belongs to another member or cluster.
    IdentityMismatch = 19,
    /// The Raft log is damaged where it may have been acknowledged.
    LogDamaged = 20,
    /// The tree file is damaged.
    TreeDamaged = 21,
    /// A write to the Raft log failed. It is never tried again.
    LogWriteFailed = 22,
    /// The log device didn't answer for too long.
    LogStalled = 23,
    /// A write or sync of the tree file failed.
    CheckpointFailed = 24,
    /// No room for the files a start needs.
    DiskFull = 25,
    /// An operating-system call that a start needs failed for another reason.
    StartFailed = 26,
    /// This member was removed from its cluster, and can't come back with this data.
    MemberRemoved = 27,
}

impl FatalReason {
    /// Every reason, in the order of their codes.
    pub const ALL: [FatalReason; 20] = [
        FatalReason::Config,
        FatalReason::Usage,
        FatalReason::DataDirUnwritable,
        FatalReason::DataDirForeign,
        FatalReason::DataDirLocked,
        FatalReason::DirectIoUnsupported,
        FatalReason::MemlockTooLow,
        FatalReason::IoUringDenied,
        FatalReason::AddressInUse,
        FatalReason::AddressUnusable,
        FatalReason::TlsUnusable,
        FatalReason::IdentityMismatch,
        FatalReason::LogDamaged,
        FatalReason::TreeDamaged,
        FatalReason::LogWriteFailed,
        FatalReason::LogStalled,
        FatalReason::CheckpointFailed,
        FatalReason::DiskFull,
        FatalReason::StartFailed,
        FatalReason::MemberRemoved,
    ];

    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// A reason with the one sentence an operator reads: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// Decides the exit code.
    pub reason: FatalReason,
    /// One sentence.
    pub message: String,
}

impl Fatal {
    /// A reason and its sentence.
    pub fn new(reason: FatalReason, message: impl Into<String>) -> Fatal {
        Fatal { reason, message: message.into() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fatal {}

#[cfg(test)]
mod tests {
    use super::FatalReason;

    #[test]
    fn codes_are_distinct_ascending_and_documented() {
        let codes: Vec<u8> = FatalReason::ALL.iter().map(|reason| reason.exit_code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        assert!(codes.iter().all(|&code| code != 0 && code < 126), "{codes:?}");
        let source = include_str!("fatal.rs");
        let tuning = include_str!("../../../tuning/README.md");
        for reason in FatalReason::ALL {
            let row = format!("//! | {} | `{reason:?}` |", reason.exit_code());
            assert!(source.contains(&row), "the header's table lacks {row}");
            let code = reason.exit_code();
            let rows = [format!("| {code} |"), format!("| {code},"), format!(", {code} |")];
            assert!(rows.iter().any(|row| tuning.contains(row)), "tuning/README.md lacks code {code}");
        }
    }
}
