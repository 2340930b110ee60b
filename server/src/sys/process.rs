//! What `/proc` says of this process, for the metrics with the prefixes `process_` and `os_`, and what it asks of the kernel.

use std::fs;

/// One look at `/proc/self`. What can't be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Limit of open descriptors.
    pub max_fds: u64,
    /// Resident memory, mapped file pages included.
    pub resident_bytes: u64,
    /// Resident memory that no file is behind.
    pub resident_anonymous_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Start of the process, in seconds since 1970.
    pub start_seconds: f64,
}

/// The heap lies in small pages from now on, whatever the allocator and the kernel's setting prefer: a server without load would
/// hold 40 MiB instead of 14, and nothing it does is faster with huge ones. A kernel that has no huge pages refuses.
pub fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Looks now: a few reads of files that live in the kernel, some tens of microseconds.
pub fn sample() -> Sample {
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let (cpu_ticks, start_ticks) = parse_stat(&stat).unwrap_or_default();
    Sample {
        cpu_seconds: cpu_ticks as f64 / ticks,
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
        resident_bytes: parse_kib(&status, "VmRSS:"),
        resident_anonymous_bytes: parse_kib(&status, "RssAnon:"),
        virtual_bytes: parse_kib(&status, "VmSize:"),
        start_seconds: parse_boot(&boot) as f64 + start_ticks as f64 / ticks,
    }
}

/// Ticks of CPU time, and of the start since boot, of `/proc/self/stat`: fields 14, 15 and 22, counted behind the name,
/// which may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let start: u64 = fields.nth(22 - 16)?.parse().ok()?;
    Some((user + system, start))
}

fn parse_boot(stat: &str) -> u64 {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

fn parse_kib(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat =
            "7 (a ) b) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 777 1000 200 18446744073709551615";
        assert_eq!(parse_stat(stat), Some((200, 777)));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn this_process_has_memory_files_and_a_past() {
        let now = sample();
        assert!(now.resident_bytes > 0 && now.virtual_bytes >= now.resident_bytes, "{now:?}");
        assert!(now.resident_anonymous_bytes <= now.resident_bytes, "{now:?}");
        assert!(now.open_fds > 0 && now.open_fds <= now.max_fds, "{now:?}");
        assert!(now.start_seconds > 1e9, "{now:?}");
    }
}
