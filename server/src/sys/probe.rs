//! Does this kernel, and what is wrapped around it, let us work? Asked before the first executor starts, because its
//! own errors would name a system call and not what an operator can change.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::fatal::{Fatal, FatalReason};

/// Raises RLIMIT_MEMLOCK to what it may be, and checks that it holds `need` bytes.
///
/// # Errors
/// [`FatalReason::MemlockTooLow`]
pub fn memlock(need: u64) -> Result<(), Fatal> {
    let limit = getrlimit(Resource::Memlock);
    if holds(limit.current, need) {
        return Ok(());
    }
    // Privileged processes may raise the hard limit as well.
    let wanted = Rlimit { current: Some(need), maximum: limit.maximum.map(|maximum| maximum.max(need)) };
    let allowed = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Memlock, wanted).is_err() {
        let _ = setrlimit(Resource::Memlock, allowed);
    }
    let now = getrlimit(Resource::Memlock).current;
    if holds(now, need) {
        return Ok(());
    }
    Err(Fatal::new(
        FatalReason::MemlockTooLow,
        format!(
            "the limit of locked memory is {} KiB, but io_uring needs {} KiB here: raise it with LimitMEMLOCK= in the \
             systemd unit, --ulimit memlock= for containers, or /etc/security/limits.conf",
            now.unwrap_or(0) / 1024,
            need.div_ceil(1024),
        ),
    ))
}

/// Raises RLIMIT_MEMLOCK to what it may be.
pub fn raise_memlock() {
    let limit = getrlimit(Resource::Memlock);
    let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// `None` is no limit.
fn holds(limit: Option<u64>, need: u64) -> bool {
    limit.is_none_or(|limit| limit >= need)
}

/// Raises the limit of open files to what it may be, as Go does for etcd. Returns the limit.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Asks the kernel for the smallest ring and closes it again.
///
/// # Errors
/// [`FatalReason::IoUringDenied`], or [`FatalReason::StartFailed`] if the kernel has no memory or descriptor left.
pub fn io_uring() -> Result<(), Fatal> {
    match setup_ring() {
        Ok(_ring) => Ok(()),
        Err(error) => Err(ring_refused(&error, io_uring_disabled())),
    }
}

/// The sentence for an error of `io_uring_setup`.
fn ring_refused(error: &io::Error, disabled: u8) -> Fatal {
    let denied = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled > 0 => format!(
            "the sysctl kernel.io_uring_disabled is {disabled}: set it to 0 (tuning/sysctl.d/90-ringd.conf)"
        ),
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp filter denies it, as the default profiles of container runtimes do: run the container with \
             tuning/seccomp/ringd.json (docker --security-opt seccomp=…, Kubernetes seccompProfile.localhostProfile)"
                .into()
        }
        Some(libc::ENOSYS) => {
            "either the kernel is older than 5.8 or built without it, or a seccomp filter hides it: for containers \
             tuning/seccomp/ringd.json is a profile that allows it"
                .into()
        }
        _ => {
            return Fatal::new(FatalReason::StartFailed, format!("io_uring_setup failed: {error}"));
        }
    };
    Fatal::new(FatalReason::IoUringDenied, format!("io_uring is not available ({error}): {denied}"))
}

/// `kernel.io_uring_disabled`: 0 allowed, 1 for the privileged, 2 for nobody. Older kernels don't have it.
fn io_uring_disabled() -> u8 {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn setup_ring() -> io::Result<OwnedFd> {
    /// `struct io_uring_params` is 120 bytes; all zero asks for the defaults.
    #[repr(C, align(8))]
    struct Params([u8; 120]);
    let mut params = Params([0; 120]);
    let entries: libc::c_uint = 1;
    // SAFETY: the kernel writes at most the size of `struct io_uring_params` behind the pointer, which is that of `Params`
    // and alive for the call; it keeps no pointer to it afterwards.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut params) };
    match i32::try_from(result) {
        // SAFETY: a result that isn't negative is a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Magic numbers of file systems that live in memory. tmpfs takes O_DIRECT since Linux 6.6, and still loses everything.
const IN_MEMORY: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Size and alignment of a direct write.
const BLOCK: usize = 4096;

/// Writes one block into `dir` as the log does, with O_DIRECT and O_DSYNC, and removes it.
///
/// # Errors
/// [`FatalReason::DirectIoUnsupported`], [`FatalReason::DataDirUnwritable`], [`FatalReason::DiskFull`]
pub fn direct_io(dir: &Path) -> Result<(), Fatal> {
    let shown = dir.display();
    if let Ok(stat) = rustix::fs::statfs(dir)
        && let Some((_, name)) = IN_MEMORY.iter().find(|(magic, _)| *magic == stat.f_type as u64)
    {
        return Err(Fatal::new(
            FatalReason::DirectIoUnsupported,
            format!("{shown} is on {name}, which keeps nothing: --data-dir and --wal-dir must be on a disk"),
        ));
    }
    // A member that has data must come up on a full disk, too: then one of its own files is proof enough.
    let result = match existing_segment(dir) {
        Some(segment) => open_direct(&segment, false).map(drop),
        None => {
            let path = dir.join(".direct-io-probe");
            let result = write_direct(&path);
            let _ = fs::remove_file(&path);
            result
        }
    };
    result.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Fatal::new(
            FatalReason::DirectIoUnsupported,
            format!(
                "the file system of {shown} has no direct writes of 4 KiB (O_DIRECT: {error}): put --data-dir on ext4 or \
                 XFS"
            ),
        ),
        _ => from_write(dir, &error),
    })
}

fn existing_segment(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "seg"))
}

fn open_direct(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(create)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)
}

fn write_direct(path: &Path) -> io::Result<()> {
    let file = open_direct(path, true)?;
    let buffer = vec![0_u8; 2 * BLOCK];
    let skip = buffer.as_ptr().align_offset(BLOCK);
    let block = buffer.get(skip..skip + BLOCK).ok_or_else(|| io::Error::other("no aligned block"))?;
    file.write_all_at(block, 0)
}

/// The reason behind an error of creating or writing something in `dir`.
pub fn from_write(dir: &Path, error: &io::Error) -> Fatal {
    let reason = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => FatalReason::DiskFull,
        _ => FatalReason::DataDirUnwritable,
    };
    let advice = match reason {
        FatalReason::DiskFull => "there is no room left",
        _ => "the data directory must be writable for the user that runs ringd",
    };
    Fatal::new(reason, format!("cannot write in {}: {error}; {advice}", dir.display()))
}

/// The reason behind an error of listening on `url`.
pub fn from_listen(url: &str, error: &io::Error) -> Fatal {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Fatal::new(FatalReason::AddressInUse, format!("listen on {url}: address already in use"))
        }
        _ => Fatal::new(FatalReason::AddressUnusable, format!("listen on {url}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_ring_says_what_to_change() {
        // errno, sysctl, reason, words
        let cases = [
            (libc::EPERM, 0, FatalReason::IoUringDenied, "tuning/seccomp/ringd.json"),
            (libc::EPERM, 2, FatalReason::IoUringDenied, "kernel.io_uring_disabled is 2"),
            (libc::ENOSYS, 0, FatalReason::IoUringDenied, "seccomp"),
            (libc::ENOMEM, 0, FatalReason::StartFailed, "io_uring_setup failed"),
        ];
        for (errno, disabled, reason, words) in cases {
            let fatal = ring_refused(&io::Error::from_raw_os_error(errno), disabled);
            assert_eq!(fatal.reason, reason, "{fatal}");
            assert!(fatal.message.contains(words), "{fatal}");
            assert!(!fatal.message.contains('\n'), "{fatal}");
        }
    }

    #[test]
    fn memlock_is_raised_or_refused() {
        memlock(0).expect("no locked memory is always allowed");
        if getrlimit(Resource::Memlock).current.is_some() {
            // Beyond what the kernel can represent nobody may go, but root may go anywhere below.
            let fatal = memlock(u64::MAX - 1);
            if let Err(fatal) = fatal {
                assert_eq!(fatal.reason, FatalReason::MemlockTooLow);
                assert!(fatal.message.contains("LimitMEMLOCK"), "{fatal}");
            }
        }
    }

    #[test]
    fn tmpfs_is_refused_and_leaves_nothing() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            panic!("this test needs /dev/shm");
        };
        let fatal = direct_io(dir.path()).expect_err("tmpfs");
        assert_eq!(fatal.reason, FatalReason::DirectIoUnsupported);
        assert!(fatal.message.contains("tmpfs"), "{fatal}");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_disk_takes_a_direct_block_and_keeps_nothing() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a temporary directory");
        direct_io(dir.path()).expect("a disk");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn errors_find_their_reason() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        let dir = Path::new("/x");
        assert_eq!(from_write(dir, &error(libc::ENOSPC)).reason, FatalReason::DiskFull);
        assert_eq!(from_write(dir, &error(libc::EROFS)).reason, FatalReason::DataDirUnwritable);
        assert_eq!(from_listen("http://x", &error(libc::EADDRINUSE)).reason, FatalReason::AddressInUse);
        assert_eq!(from_listen("http://x", &error(libc::EADDRNOTAVAIL)).reason, FatalReason::AddressUnusable);
        assert_eq!(from_listen("http://x", &error(libc::EACCES)).reason, FatalReason::AddressUnusable);
    }
}
