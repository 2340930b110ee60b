//! What the kernel says about a running process: CPU time, memory, open files.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// CPU time (user and system) that `pid` has used so far, all threads together. Counted in ticks of 10 ms.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): the name may hold spaces and parentheses, so fields count from the last ')': utime and stime are 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_secs_f64(
            (user + system) as f64 / rustix::param::clock_ticks_per_second() as f64,
        )),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected /proc/{pid}/stat: {stat:?}")))
        }
    }
}

/// How often the threads of `pid` that live now have gone to sleep so far (`voluntary_ctxt_switches`).
pub fn sleeps(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue }; // ended meanwhile
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += count.and_then(|text| text.trim().parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(sum)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Anonymous memory: what the process itself allocated (`RssAnon`).
    pub anonymous: u64,
    /// Pages of mapped files that are in memory (`RssFile`); the kernel can drop them.
    pub file: u64,
    /// The highest sum of both so far (`VmHWM`).
    pub peak: u64,
}

/// Memory of `pid` as `/proc/<pid>/status` has it.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/{pid}/status"))
            })
    };
    Ok(Memory { anonymous: kib("RssAnon")? * 1024, file: kib("RssFile")? * 1024, peak: kib("VmHWM")? * 1024 })
}

/// An open file of a process: what it is and the flags it was opened with (`open(2)`).
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The target of `/proc/<pid>/fd/<n>`.
    pub path: PathBuf,
    /// Flags as in `/proc/<pid>/fdinfo/<n>`, which prints them in octal.
    pub flags: u32,
}

/// Every file descriptor `pid` has open; those that close meanwhile are left out.
pub fn open_files(pid: u32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number = entry?.file_name();
        let number = number.to_string_lossy();
        let (Ok(path), Ok(info)) = (
            fs::read_link(format!("/proc/{pid}/fd/{number}")),
            fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")),
        ) else {
            continue;
        };
        let flags =
            info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        if let Some(flags) = flags {
            files.push(OpenFile { path, flags });
        }
    }
    Ok(files)
}
