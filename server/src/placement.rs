//! Which role runs on which CPU: a pure function from what the machine leaves us to a plan.
//!
//! Two roles keep a cluster alive: `log` and `raft`. They share nothing with the rest as soon as there is a second CPU.
//! From four CPUs on every role has its own, and each further CPU is one more client core:
//!
//! ```text
//! 1   {log raft store client}
//! 2   {log raft} {store client}
//! 3   {log raft} {store} {client}
//! 4   {log} {raft} {store} {client}
//! 8   {log} {raft} {store} {client} ×5
//! ```
//!
//! A cgroup's CPU quota counts as well as affinity does: with eight CPUs and a quota of two, eight pinned executors
//! would be throttled together, heartbeats among them, in every period. So the quota, rounded down, bounds the number of
//! executors, and the plan says that it did.
//!
//! Not here: reading affinity and cgroups (`sys::machine`), starting executors (`edge`).

use std::fmt;

/// What an executor is for. The order is the order in which CPUs are given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Owns the log segments: group commit with direct writes.
    Log,
    /// Owns the consensus node: ticks, heartbeats, votes.
    Raft,
    /// Owns the store, the single writer; leases, checkpoint pacing.
    Store,
    /// Owns client connections, reads and watch fan-out. The only role that exists more than once.
    Client,
}

impl Role {
    /// Name as printed in plans and as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Role::Log => "log",
            Role::Raft => "raft",
            Role::Store => "store",
            Role::Client => "client",
        }
    }
}

/// CPU bandwidth of the cgroup: `quota_us` of CPU time in each `period_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// CPU time per period, in microseconds.
    pub quota_us: u64,
    /// Length of a period, in microseconds.
    pub period_us: u64,
}

/// What the machine leaves to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that affinity and cpuset allow, ascending. Never empty.
    pub cpus: Vec<usize>,
    /// The tightest CPU quota of the cgroups this process is in.
    pub quota: Option<Quota>,
}

/// Whether executors are bound to CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pinning {
    /// One executor per CPU, bound to it.
    #[default]
    Auto,
    /// The same executors, not bound: for tests and machines shared with others.
    Unpinned,
}

/// What the flags say about placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `--ringd-placement`
    pub pinning: Pinning,
    /// `--ringd-executors`: at most so many executors; 0 = as many as there are CPUs.
    pub executors_max: usize,
}

/// One executor: a thread with its own event loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// The CPU it is bound to; `None` = not bound.
    pub cpu: Option<usize>,
    /// Its roles, ascending; never empty.
    pub roles: Vec<Role>,
}

impl Executor {
    /// Whether this executor has that role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Thread name and metric label: roles joined by `+`, e.g. `log+raft`.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        names.join("+")
    }
}

/// Who runs where. `log`, `raft` and `store` are in exactly one executor each, `client` in at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The executors; index 0 always has `log`.
    pub executors: Vec<Executor>,
    /// What an operator should know: shrunk by a quota, not pinned …
    pub notes: Vec<String>,
}

impl Plan {
    /// Position of the one executor with `role`; for `Client` the first of them.
    pub fn executor_of(&self, role: Role) -> usize {
        self.executors.iter().position(|executor| executor.has(role)).expect("a plan holds every role")
    }

    /// Positions of the executors that serve clients, ascending.
    pub fn clients(&self) -> Vec<usize> {
        (0..self.executors.len()).filter(|&at| self.executors[at].has(Role::Client)).collect()
    }
}

impl fmt::Display for Plan {
    /// One line: `{log raft}@0 {store client}@1`; unbound executors have no `@`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, executor) in self.executors.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{{{}}}", executor.name().replace('+', " "))?;
            if let Some(cpu) = executor.cpu {
                write!(f, "@{cpu}")?;
            }
        }
        Ok(())
    }
}

/// The plan for a machine. Every machine has one; odd ones get notes.
///
/// # Panics
/// If `machine.cpus` is empty: a running thread has at least one CPU.
pub fn plan(machine: &Machine, options: Options) -> Plan {
    assert!(!machine.cpus.is_empty(), "a process runs on at least one CPU");
    let mut notes = Vec::new();
    let count = executor_count(machine, options, &mut notes);
    if options.pinning == Pinning::Unpinned {
        notes.push("executors are not bound to CPUs (--ringd-placement=unpinned)".into());
    }
    let executors = roles_for(count)
        .into_iter()
        .zip(&machine.cpus)
        .map(|(roles, &cpu)| Executor { cpu: (options.pinning == Pinning::Auto).then_some(cpu), roles })
        .collect();
    Plan { executors, notes }
}

/// How many executors affinity, quota and flags leave; at least one.
fn executor_count(machine: &Machine, options: Options, notes: &mut Vec<String>) -> usize {
    let mut count = machine.cpus.len();
    if let Some(Quota { quota_us, period_us }) = machine.quota {
        let whole = usize::try_from(quota_us / period_us.max(1)).unwrap_or(usize::MAX);
        if whole < count {
            notes.push(format!(
                "the cgroup's CPU quota ({quota_us} of {period_us} µs) leaves {} of {count} CPUs; a quota throttles \
                 heartbeats too: give whole CPUs by cpuset instead",
                whole.max(1),
            ));
            if whole == 0 {
                notes.push("the quota is below one CPU: expect late heartbeats".into());
            }
            count = whole.max(1);
        }
    }
    if options.executors_max != 0 && options.executors_max < count {
        count = options.executors_max;
        notes.push(format!("limited to {count} executors (--ringd-executors)"));
    }
    count
}

/// The roles of each of `count` executors.
fn roles_for(count: usize) -> Vec<Vec<Role>> {
    use Role::{Client, Log, Raft, Store};
    match count {
        0 | 1 => vec![vec![Log, Raft, Store, Client]],
        2 => vec![vec![Log, Raft], vec![Store, Client]],
        3 => vec![vec![Log, Raft], vec![Store], vec![Client]],
        _ => {
            let mut all = vec![vec![Log], vec![Raft], vec![Store]];
            all.resize(count, vec![Client]);
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Machine, Options, Pinning, Plan, Quota, Role, plan};

    fn machine(cpus: &str, quota: Option<(u64, u64)>) -> Machine {
        let cpus = crate::sys::machine::parse_cpu_list(cpus).expect("a list in the table");
        Machine { cpus, quota: quota.map(|(quota_us, period_us)| Quota { quota_us, period_us }) }
    }

    fn check_complete(plan: &Plan) {
        for role in [Role::Log, Role::Raft, Role::Store] {
            assert_eq!(plan.executors.iter().filter(|executor| executor.has(role)).count(), 1, "{plan}");
        }
        assert!(!plan.clients().is_empty(), "{plan}");
        assert_eq!(plan.executor_of(Role::Log), 0, "{plan}");
    }

    #[test]
    fn every_machine_gets_its_plan() {
        // usable CPUs, quota, executors max, plan, notes
        let cases = [
            ("0", None, 0, "{log raft store client}@0", 0),
            ("0-1", None, 0, "{log raft}@0 {store client}@1", 0),
            ("0-2", None, 0, "{log raft}@0 {store}@1 {client}@2", 0),
            ("0-3", None, 0, "{log}@0 {raft}@1 {store}@2 {client}@3", 0),
            (
                "0-7",
                None,
                0,
                "{log}@0 {raft}@1 {store}@2 {client}@3 {client}@4 {client}@5 {client}@6 {client}@7",
                0,
            ),
            // cpusets with gaps
            ("5", None, 0, "{log raft store client}@5", 0),
            ("2,6", None, 0, "{log raft}@2 {store client}@6", 0),
            ("1,3,8-9", None, 0, "{log}@1 {raft}@3 {store}@8 {client}@9", 0),
            // quotas: whole CPUs only, rounded down, at least one
            ("0-7", Some((200_000, 100_000)), 0, "{log raft}@0 {store client}@1", 1),
            ("0-7", Some((350_000, 100_000)), 0, "{log raft}@0 {store}@1 {client}@2", 1),
            ("0-7", Some((50_000, 100_000)), 0, "{log raft store client}@0", 2),
            ("0-1", Some((200_000, 100_000)), 0, "{log raft}@0 {store client}@1", 0),
            ("0-1", Some((900_000, 100_000)), 0, "{log raft}@0 {store client}@1", 0),
            ("4,7", Some((100_000, 100_000)), 0, "{log raft store client}@4", 1),
            ("0-1", Some((1, 0)), 0, "{log raft store client}@0", 1),
            // fewer executors by flag
            ("0-7", None, 2, "{log raft}@0 {store client}@1", 1),
            ("0-1", None, 1, "{log raft store client}@0", 1),
            ("0-1", None, 9, "{log raft}@0 {store client}@1", 0),
        ];
        for (cpus, quota, executors_max, want, notes) in cases {
            let got = plan(&machine(cpus, quota), Options { executors_max, ..Options::default() });
            assert_eq!(got.to_string(), want, "cpus={cpus} quota={quota:?} max={executors_max}");
            assert_eq!(got.notes.len(), notes, "cpus={cpus} quota={quota:?}: {:?}", got.notes);
            check_complete(&got);
        }
    }

    #[test]
    fn sixty_four_cpus_have_sixty_one_client_cores() {
        let got = plan(&machine("0-63", None), Options::default());
        check_complete(&got);
        assert_eq!(got.executors.len(), 64);
        assert_eq!(got.clients(), (3..64).collect::<Vec<_>>());
        assert!(got.executors.iter().enumerate().all(|(at, executor)| executor.cpu == Some(at)));
    }

    #[test]
    fn unpinned_keeps_the_roles_and_binds_nothing() {
        let options = Options { pinning: Pinning::Unpinned, executors_max: 0 };
        let got = plan(&machine("0-1", None), options);
        assert_eq!(got.to_string(), "{log raft} {store client}");
        assert_eq!(got.notes.len(), 1);
    }

    #[test]
    fn names_are_short_enough_for_threads() {
        for executor in plan(&machine("0", None), Options::default()).executors {
            assert_eq!(executor.name(), "log+raft+store+client");
        }
    }
}
