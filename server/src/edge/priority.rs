//! What a core's thread asks of the kernel's scheduler: to run soon after it wakes.
//!
//! A pinned thread can't move to an idle CPU, so on a machine with other work it waits for whoever runs on its own. Two
//! things shorten that wait: a lower nice value (permitted to root and with `CAP_SYS_NICE`), and a shorter slice (Linux
//! 6.12 and newer, permitted to all), which gives a waking thread an earlier deadline. Neither is needed for
//! correctness; what could be had is said at start.

use crate::placement::Role;

/// Nice value of the cores that keep the cluster alive.
const NICE_VITAL: i32 = -15;

/// Nice value of the others.
const NICE_OTHER: i32 = -5;

/// Slice of the vital cores, in nanoseconds: the smallest the kernel takes. Their turns are shorter than that.
const SLICE_VITAL_NS: u64 = 100_000;

/// Slice of the others, in nanoseconds. They run long turns; a tiny slice would only cost switches.
const SLICE_OTHER_NS: u64 = 500_000;

/// `struct sched_attr` of `sched_setattr(2)`, first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for the calling thread, according to the roles it has.
pub fn raise(roles: &[Role]) {
    let vital = roles.contains(&Role::Log) || roles.contains(&Role::Raft);
    let (nice, slice) = if vital { (NICE_VITAL, SLICE_VITAL_NS) } else { (NICE_OTHER, SLICE_OTHER_NS) };
    let outcome = match set(nice, slice) {
        Ok(()) => "nice and slice",
        Err(_) => match set(0, slice) {
            Ok(()) => "slice only: lowering nice needs CAP_SYS_NICE",
            Err(_) => "nothing: the kernel refuses",
        },
    };
    tracing::info!(roles = ?roles, nice, slice_us = slice / 1000, granted = outcome, "scheduling of an executor");
}

fn set(nice: i32, slice_ns: u64) -> std::io::Result<()> {
    const SCHED_OTHER: u32 = 0;
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: SCHED_OTHER,
        flags: 0,
        nice,
        priority: 0,
        runtime: slice_ns,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `attr.size` bytes behind the pointer, which is the size of the structure; 0 means the
    // calling thread and no flags.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
