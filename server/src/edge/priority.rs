//! What a core's thread asks of the kernel's schedulers: to run soon after it wakes, and to be written for first.
//!
//! A pinned thread can't move to an idle CPU, so on a machine with other work it waits for whoever runs on its own. Three
//! things shorten that wait: the round-robin real-time class (`SCHED_RR`, lowest priority; permitted to root, with
//! `CAP_SYS_NICE` and with `RLIMIT_RTPRIO`), a lower nice value (permitted to root and with `CAP_SYS_NICE`), and a shorter
//! slice (Linux 6.12 and newer, permitted to all), which gives a waking thread an earlier deadline.
//!
//! Nice values and slices are compared only within one group of the scheduler; every session (autogroup) and every cgroup
//! is such a group. The real-time class comes before all of them. It is for an executor that has a CPU of its own and no
//! role but `log` and `raft`, whose turns are short by design: never for one that serves clients. The kernel keeps 5 % of
//! each CPU for everybody else, whatever happens. Nothing of this is needed for
//! correctness; what could be had is said at start.
//!
//! The log's writes ask for the real-time class of I/O (`ioprio_set(2)`; permitted to root and with `CAP_SYS_NICE`), else
//! for the highest best-effort level, which everybody may have. The I/O schedulers `mq-deadline` and `bfq` dispatch them
//! before what others have queued; `none` and `kyber` look at no priority. Background threads do the opposite (see
//! [`super::background`]).

use crate::placement::Role;

/// Nice value of the cores that keep the cluster alive.
const NICE_VITAL: i32 = -15;

/// Nice value of the others: the usual one. An executor that comes before its own clients on the same machine answers each
/// request as it comes instead of all that have come: with -12 a put at 10 connections × 100 took 1.5 times the CPU.
const NICE_OTHER: i32 = 0;

/// Slice of the vital cores, in nanoseconds: the smallest the kernel takes. Their turns are shorter than that.
const SLICE_VITAL_NS: u64 = 100_000;

/// Slice of the others, in nanoseconds: it makes them run soon after they wake, also among busy neighbours. They run long
/// turns; a tiny slice would only cost switches.
const SLICE_OTHER_NS: u64 = 500_000;

/// `IOPRIO_CLASS_RT`, level 4: before all that is not real-time.
const IO_REALTIME: libc::c_int = (1 << 13) | 4;

/// `IOPRIO_CLASS_BE`, level 0.
const IO_BEST_EFFORT_HIGHEST: libc::c_int = 2 << 13;

/// `struct sched_attr` of `sched_setattr(2)`, first version.
#[repr(C)]
#[derive(Default)]
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

/// Asks for the calling thread, according to the roles it has and whether it is bound to a CPU.
pub fn raise(roles: &[Role], is_bound: bool) {
    let is_vital = |role: &Role| matches!(role, Role::Log | Role::Raft);
    let vital = roles.iter().any(is_vital);
    let (nice, slice) = if vital { (NICE_VITAL, SLICE_VITAL_NS) } else { (NICE_OTHER, SLICE_OTHER_NS) };
    let outcome = if is_bound && roles.iter().all(is_vital) && set_realtime().is_ok() {
        "real-time, round robin"
    } else if set(nice, slice).is_ok() {
        "nice and slice"
    } else if set(0, slice).is_ok() {
        "slice only: lowering nice needs CAP_SYS_NICE"
    } else {
        "nothing: the kernel refuses"
    };
    let io = match roles.contains(&Role::Log) {
        true => raise_io(),
        false => "as it was",
    };
    tracing::info!(roles = ?roles, nice, slice_us = slice / 1000, granted = outcome, io, "scheduling of an executor");
}

fn raise_io() -> &'static str {
    if set_io(IO_REALTIME).is_ok() {
        "real-time"
    } else if set_io(IO_BEST_EFFORT_HIGHEST).is_ok() {
        "highest best-effort: real-time needs CAP_SYS_NICE"
    } else {
        "as it was: the kernel refuses"
    }
}

fn set_io(priority: libc::c_int) -> std::io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set takes three integers and touches no memory of ours; 0 means the calling thread.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn set(nice: i32, slice_ns: u64) -> std::io::Result<()> {
    const SCHED_OTHER: u32 = 0;
    set_scheduler(SchedAttr { policy: SCHED_OTHER, nice, runtime: slice_ns, ..SchedAttr::default() })
}

fn set_realtime() -> std::io::Result<()> {
    const SCHED_RR: u32 = 2;
    set_scheduler(SchedAttr { policy: SCHED_RR, priority: 1, ..SchedAttr::default() })
}

fn set_scheduler(attr: SchedAttr) -> std::io::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attr };
    // SAFETY: the kernel reads `attr.size` bytes behind the pointer, which is the size of the structure; 0 means the
    // calling thread and no flags.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ioprio_get(2)` of the calling thread.
    fn io_priority() -> libc::c_long {
        // SAFETY: ioprio_get takes two integers; 1 is IOPRIO_WHO_PROCESS, 0 the calling thread.
        unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) }
    }

    #[test]
    fn the_logs_thread_writes_before_others_and_no_other_thread_does() {
        let after = |roles: &'static [Role]| {
            std::thread::spawn(move || {
                raise(roles, false);
                io_priority()
            })
        };
        let log = after(&[Role::Log, Role::Raft]).join().expect("no panic");
        let high = [IO_REALTIME, IO_BEST_EFFORT_HIGHEST].map(libc::c_long::from);
        assert!(high.contains(&log), "{log:#x}");
        let store = after(&[Role::Store, Role::Client]).join().expect("no panic");
        assert_eq!(store, std::thread::spawn(io_priority).join().expect("no panic"));
    }

    #[test]
    fn only_a_bound_thread_without_client_work_may_be_real_time() {
        // roles, bound, may be real-time
        let cases: [(&'static [Role], bool, bool); 4] = [
            (&[Role::Log, Role::Raft], true, true),
            (&[Role::Log, Role::Raft], false, false),
            (&[Role::Log, Role::Raft, Role::Store, Role::Client], true, false),
            (&[Role::Store], true, false),
        ];
        for (roles, is_bound, may_be) in cases {
            let policy = std::thread::spawn(move || {
                raise(roles, is_bound);
                // SAFETY: sched_getscheduler takes an integer; 0 is the calling thread.
                unsafe { libc::sched_getscheduler(0) }
            });
            let policy = policy.join().expect("no panic");
            assert!(
                policy == libc::SCHED_OTHER || may_be && policy == libc::SCHED_RR,
                "{roles:?} {is_bound}"
            );
        }
    }
}
