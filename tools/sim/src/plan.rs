//! A run, written down: the configuration of a world, what its clients will ask, and what will go wrong.
//!
//! All of it follows from the seed, but it is data before the run begins, so that a failing run can be shrunk by leaving
//! things out: nothing that stays is drawn anew. What an operation needs to know about the moment (the newest revision a
//! client has seen, the leases it holds) is looked up when its time has come; its other details come from its own `draw`.

use net::h2::limits::STREAM_WINDOW;
use serde::{Deserialize, Serialize};

use crate::queue::{MS, S, Time, US};
use crate::rng::Rng;

mod keepers;
mod lanes;
mod long;
mod questions;
pub mod space;
mod tiny;

pub use tiny::Tiny;

/// Worlds whose members talk in bytes, of 1000.
const WIRE_WORLDS: usize = 150;

/// Worlds in which more disks lie than a cluster can bear, of 1000.
const RECKLESS_WORLDS: usize = 60;

/// Worlds whose members come and go in which disks lie, of 1000 of those.
const LYING_MEMBERSHIPS: usize = 400;

/// Worlds that live long, of 1000.
const LONG_WORLDS: usize = 300;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where everything comes from, and what the run still draws from: latencies, losses, what a power cut keeps.
    pub seed: u64,
    /// The world.
    pub config: Config,
    /// What clients ask, in the order of time.
    pub ops: Vec<Op>,
    /// What goes wrong, in the order of time.
    pub faults: Vec<Fault>,
}

/// The world of a seed. Whole features and kinds of fault are on or off in it, and limits are tiny, so that what is rare
/// in production is common here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Voters that the cluster begins with.
    pub members: usize,
    /// How long faults and load go on, in nanoseconds.
    pub safety: Time,
    /// Between two ticks of raft; a leader's heartbeat is due at each.
    pub tick: Time,
    /// Ticks without a leader after which a follower campaigns.
    pub election_ticks: usize,
    /// Clients that read and write, one request at a time each.
    pub clients: usize,
    /// Watch streams.
    pub watchers: usize,
    /// Distinct keys.
    pub keys: usize,
    /// Clients go to the next member after a failure, instead of coming back to theirs.
    pub fail_over: bool,
    /// What a message between members takes at least, and what it takes longer on average.
    pub latency: (Time, Time),
    /// Messages lost, of 1000.
    pub loss: usize,
    /// Messages delivered twice, of 1000.
    pub duplicates: usize,
    /// Old messages delivered once more, much later, of 1000.
    pub replays: usize,
    /// Messages of one sender overtake each other.
    pub reorder: bool,
    /// What a log write takes at least, and what it takes longer on average.
    pub write: (Time, Time),
    /// Log writes that take 50 times as long, of 1000.
    pub slow_writes: usize,
    /// What handing something from one core to another takes on average.
    pub handover: Time,
    /// Handovers that take 100 times as long (a busy core), of 1000.
    pub slow_handovers: usize,
    /// Sizes of the first segment of the log, of the others, of a batch, in bytes.
    pub log_sizes: (u64, u64, usize),
    /// Between two checkpoints.
    pub checkpoint: Time,
    /// What one step of a checkpoint takes on average.
    pub checkpoint_step: Time,
    /// Rows that one slice of a compaction looks at.
    pub compaction_rows: usize,
    /// Bytes of applied entries that raft keeps for members that lag.
    pub cache_bytes: usize,
    /// Entries applied before a version is published, at most.
    pub apply_batch: usize,
    /// Bytes of watch responses on their way to a client at which its watchers wait.
    pub watch_buffer: usize,
    /// Interval of progress notices.
    pub progress: Time,
    /// Rate of each member's clock in thousandths.
    pub clock_rates: Vec<u64>,
    /// No clock runs faster: what leases are judged by.
    pub clock_rate_max: u64,
    /// Shortest time to live of a lease, in seconds.
    pub lease_ttl_min: i64,
    /// The rules of the membership, if it changes in this world.
    #[serde(default)]
    pub membership: Option<Membership>,
    /// Members talk in bytes, over connections, and so many of 1000 frames are damaged on their way; otherwise whole messages
    /// are handed over.
    #[serde(default)]
    pub wire: Option<usize>,
    /// They do so over HTTP/2, and so many bytes may be sent on a stream before they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<u32>,
    /// How long a call may wait for other cores of its member; otherwise as long as the server lets it.
    #[serde(default)]
    pub request_timeout: Option<Time>,
    /// So many of 1000 questions of a client core find no room on their way to another core.
    #[serde(default)]
    pub no_room: usize,
    /// Bounds of the machines that are far below production's.
    #[serde(default)]
    pub tiny: Option<Tiny>,
    /// Disks lie without regard for how many others have: nobody promises that such a cluster goes on, but what it says must be
    /// right, as long as it says anything.
    #[serde(default)]
    pub reckless: bool,
    /// A world that lives long, with no more operations and faults than others.
    #[serde(default)]
    pub long: bool,
    /// A world of [`keepers`].
    #[serde(default)]
    pub keepers: bool,
    /// Leases live so many times as long as clients of other worlds ask for.
    #[serde(default = "once")]
    pub ttl_scale: i64,
    /// What the members' stores go by.
    #[serde(default)]
    pub store: space::Flags,
}

fn once() -> i64 {
    1
}

/// A world whose members come and go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// Hosts behind the first members, on which members that are added run.
    pub spares: usize,
    /// `--strict-reconfig-check`.
    pub strict: bool,
    /// `--max-learners`.
    pub max_learners: usize,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpKind {
    /// Puts a key, sometimes with a lease, sometimes asking for the previous row.
    Put,
    /// Deletes a key or a range.
    Delete,
    /// As Kubernetes writes: create, update or delete under the condition that the key is still what was last seen.
    Cas,
    /// A transaction of several operations, sometimes nested.
    Txn,
    /// A linearizable read.
    Get,
    /// A serializable read.
    Serializable,
    /// A read at an older, or a future, revision.
    Past,
    /// A page of a list at the revision of its first page.
    List,
    /// Compacts some revisions before the newest one seen.
    Compact,
    /// Grants a lease.
    Grant,
    /// Revokes one.
    Revoke,
    /// Keeps one alive.
    KeepAlive,
    /// Asks how long one lives.
    TimeToLive,
    /// Opens a watch from somewhere.
    Watch,
    /// Cancels one.
    CancelWatch,
    /// Asks for a progress notice.
    Progress,
    /// Hands over leadership.
    MoveLeader,
    /// Adds a voter; sometimes under a URL that another has.
    MemberAdd,
    /// Adds a learner.
    LearnerAdd,
    /// Removes a member, or one that is none.
    MemberRemove,
    /// Gives a member other peer URLs; sometimes those of another.
    MemberUpdate,
    /// Makes a voter of a learner.
    MemberPromote,
    /// Lists the members, linearizable or not.
    MemberList,
    /// Lists the alarms.
    Alarms,
    /// Takes an alarm off that it has seen; lists them if it has seen none.
    Disarm,
    /// Has a member's tree file cut.
    Defragment,
    /// Asks a member how it is.
    Status,
    /// Asks for the hash of the history up to some revision.
    HashKv,
    /// Lists the leases.
    Leases,
}

impl OpKind {
    /// Whether a watch client does it.
    pub fn is_watch(self) -> bool {
        matches!(self, OpKind::Watch | OpKind::CancelWatch | OpKind::Progress)
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Op {
    /// When, if the client is free by then.
    pub at: Time,
    /// Which client; watch operations count watchers instead.
    pub client: usize,
    /// What.
    pub kind: OpKind,
    /// Its details.
    pub draw: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// kill -9; the process starts again after `lasts`.
    Kill,
    /// The power fails; the process starts again after `lasts`.
    PowerCut,
    /// The process stands still (SIGSTOP).
    Pause,
    /// Writes of the log don't complete.
    DiskStall,
    /// Nothing gets through between this member and the others.
    Isolate,
    /// Nothing gets from this member to the others, but they are heard.
    Mute,
    /// Nothing gets from the others to this member.
    Deaf,
    /// The members are split in two by the bits of `draw`.
    Split,
    /// Nothing gets through between this member and the next one.
    CutLink,
    /// What this member sends is delivered when this ends, all at once.
    Clog,
    /// The next write of the log fails, which ends the process.
    WriteError,
    /// The power fails at the next moment of the kind that `draw` names, while something is half done:
    /// [`crate::member::Moment`].
    CutAtMoment,
    /// The power fails, and a bit of what was durable turns over. The member may refuse to start, or to go on; it must not
    /// be wrong. How many may lie, the world knows.
    Flip,
    /// The same, with a write that the disk had said was durable and that never was.
    LostWrite,
    /// The same, with a block that the disk has written to another place.
    MisdirectedWrite,
    /// The same, with something that is read as it was before its last write, until the power fails again.
    StaleRead,
    /// The disk of log and tree is full, but for the bytes that `draw` leaves.
    DiskFull,
}

impl FaultKind {
    /// All of them, in their order.
    pub const ALL: [FaultKind; 17] = {
        use FaultKind::*;
        [
            Kill,
            PowerCut,
            Pause,
            DiskStall,
            Isolate,
            Mute,
            Deaf,
            Split,
            CutLink,
            Clog,
            WriteError,
            CutAtMoment,
            Flip,
            LostWrite,
            MisdirectedWrite,
            StaleRead,
            DiskFull,
        ]
    };

    /// Whether the disk lies.
    pub fn is_lie(self) -> bool {
        use FaultKind::*;
        matches!(self, Flip | LostWrite | MisdirectedWrite | StaleRead)
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at: Time,
    /// How long it lasts.
    pub lasts: Time,
    /// What.
    pub kind: FaultKind,
    /// Which member.
    pub node: usize,
    /// Its details.
    pub draw: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Plan {
        Plan::draw_for(seed, None)
    }

    /// The plan of a seed, with as many members as given.
    pub fn draw_for(seed: u64, members: Option<usize>) -> Plan {
        let mut config = Config::draw(&mut Rng::of(seed, "config", 0), members);
        let wire = &mut Rng::of(seed, "wire", 0);
        config.wire = wire.permille(WIRE_WORLDS).then(|| wire.pick(&[0, 1, 20]));
        config.tiny = Tiny::draw(&mut Rng::of(seed, "tiny", 0));
        lanes::draw(&mut config, &mut Rng::of(seed, "http2", 0));
        let leases = &mut Rng::of(seed, "leases", 0);
        if keepers::draws(&config, leases) {
            let config = keepers::config(config);
            let (ops, faults) = (keepers::ops(&config, leases), keepers::faults(&config, leases));
            return Plan { seed, config, ops, faults };
        }
        let long = &mut Rng::of(seed, "long", 0);
        let ops = draw_ops(&config, &mut Rng::of(seed, "workload", 0));
        let faults = draw_faults(&config, &mut Rng::of(seed, "faults", 0));
        let mut plan = Plan { seed, config, ops, faults };
        plan.draw_membership(&mut Rng::of(seed, "membership", 0));
        questions::draw(&mut plan, &mut Rng::of(seed, "questions", 0));
        plan.config.no_room = questions::no_room(&mut Rng::of(seed, "rings", 0));
        plan.draw_recklessness(&mut Rng::of(seed, "reckless", 0));
        if long.permille(LONG_WORLDS) {
            long::stretch(&mut plan, long);
        }
        space::draw(&mut plan, &mut Rng::of(seed, "space", 0));
        plan
    }

    /// Three members, light load, nothing goes wrong: what speed is measured with.
    pub fn light(seed: u64, safety: Time) -> Plan {
        let mut config = Config::draw(&mut Rng::of(seed, "config", 0), Some(3));
        config = Config {
            safety,
            tick: 100 * MS,
            election_ticks: 10,
            clients: 3,
            watchers: 2,
            clock_rates: vec![1000; 3],
            loss: 0,
            slow_handovers: 0,
            ..config
        };
        let mut rng = Rng::of(seed, "workload", 0);
        let mut ops = draw_ops(&config, &mut rng);
        ops.retain(|op| op.draw % 4 == 0);
        Plan { seed, config, ops, faults: Vec::new() }
    }

    /// What kind of world it is; several names go together.
    pub fn kinds(&self) -> Vec<&'static str> {
        let config = &self.config;
        let all = [
            (config.long, "long"),
            (!config.long, "short"),
            (config.members == 1, "one member"),
            (config.members == 3, "three members"),
            (config.members == 5, "five members"),
            (config.membership.is_some(), "members come and go"),
            (config.wire.is_some(), "members talk in bytes"),
            (config.http2.is_some(), "members talk over HTTP/2"),
            (config.http2.is_some_and(|window| window < STREAM_WINDOW), "tiny windows"),
            (config.keepers, "keepers of leases"),
            (config.tiny.is_some(), "tiny bounds"),
            (config.reckless, "more lies than allowed"),
            (config.store.quota.is_some(), "a small quota"),
            (self.faults.is_empty(), "no faults"),
            (self.faults.iter().any(|fault| fault.kind.is_lie()), "disks may lie"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
    }

    /// As it is kept in a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names only")
    }

    /// Undoes [`Plan::to_json`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(text: &str) -> Result<Plan, String> {
        serde_json::from_str(text).map_err(|error| format!("no plan: {error}"))
    }

    /// A short name of the configuration.
    pub fn config_hash(&self) -> String {
        let text = serde_json::to_string(&self.config).expect("numbers and names only");
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{:08x}", hash >> 32)
    }
}

impl Config {
    fn draw(rng: &mut Rng, members: Option<usize>) -> Config {
        let drawn = rng.weighted(&[(2, 1), (6, 3), (2, 5)]);
        let members = members.unwrap_or(drawn);
        let on = |rng: &mut Rng, of: usize| rng.permille(of);
        let drift = on(rng, 500);
        let rate = |rng: &mut Rng| if drift { rng.between(800, 1200) as u64 } else { 1000 };
        let clock_rates = (0..members).map(|_| rate(rng)).collect();
        let tick = rng.pick(&[10, 20, 50, 100]) * MS;
        let log_sizes = rng.pick(&[
            (16 << 10, 24 << 10, 4 << 10),
            (32 << 10, 64 << 10, 8 << 10),
            (64 << 10, 256 << 10, 16 << 10),
        ]);
        Config {
            members,
            safety: rng.between(100, 600) as Time * tick,
            tick,
            election_ticks: rng.pick(&[5, 10]),
            clients: rng.between(1, 5),
            watchers: if on(rng, 800) { rng.between(1, 4) } else { 0 },
            keys: rng.between(2, 24),
            fail_over: on(rng, 500),
            latency: (rng.between(20, 500) as Time * US, rng.between(10, 2000) as Time * US),
            loss: if on(rng, 400) { rng.between(1, 200) } else { 0 },
            duplicates: if on(rng, 400) { rng.between(1, 200) } else { 0 },
            replays: if on(rng, 400) { rng.between(1, 200) } else { 0 },
            reorder: on(rng, 400),
            write: (rng.between(30, 200) as Time * US, rng.between(10, 2000) as Time * US),
            slow_writes: if on(rng, 300) { rng.between(1, 50) } else { 0 },
            handover: rng.between(1, 60) as Time * US,
            slow_handovers: if on(rng, 400) { rng.between(1, 30) } else { 0 },
            log_sizes,
            checkpoint: rng.between(1, 40) as Time * tick,
            checkpoint_step: rng.weighted(&[(3, 100), (3, 1000), (2, 20_000)]) * US,
            compaction_rows: rng.pick(&[1, 3, 10, 200]),
            cache_bytes: rng.pick(&[0, 4 << 10, 64 << 10, 8 << 20]),
            apply_batch: rng.pick(&[1, 2, 10, 4096]),
            watch_buffer: rng.pick(&[1, 500, 256 << 10]),
            progress: rng.between(1, 20) as Time * 100 * MS,
            clock_rates,
            clock_rate_max: 1200,
            lease_ttl_min: rng.pick(&[1, 1, 2]),
            membership: None,
            wire: None,
            http2: None,
            request_timeout: None,
            no_room: 0,
            tiny: None,
            reckless: false,
            long: false,
            keepers: false,
            ttl_scale: 1,
            store: space::Flags::default(),
        }
    }

    /// Hosts: those of the first members, and spares.
    pub fn hosts(&self) -> usize {
        self.members + self.membership.map_or(0, |membership| membership.spares)
    }

    /// An election timeout.
    pub fn election(&self) -> Time {
        self.tick * self.election_ticks as Time
    }
}

/// Kinds of operations with their weights.
type Mix = &'static [(usize, OpKind)];

/// As Kubernetes does it.
const KUBERNETES: Mix = &[
    (30, OpKind::Cas),
    (15, OpKind::Get),
    (8, OpKind::List),
    (4, OpKind::Serializable),
    (3, OpKind::Compact),
    (2, OpKind::Grant),
    (3, OpKind::KeepAlive),
    (1, OpKind::Past),
];

/// Of everything something.
const GENERAL: Mix = &[
    (20, OpKind::Put),
    (8, OpKind::Delete),
    (8, OpKind::Cas),
    (12, OpKind::Txn),
    (12, OpKind::Get),
    (6, OpKind::Serializable),
    (6, OpKind::Past),
    (3, OpKind::List),
    (4, OpKind::Compact),
    (4, OpKind::Grant),
    (3, OpKind::Revoke),
    (6, OpKind::KeepAlive),
    (2, OpKind::TimeToLive),
    (1, OpKind::MoveLeader),
];

/// Leases that others end while they are kept alive.
const LEASES: Mix = &[
    (10, OpKind::Put),
    (10, OpKind::Get),
    (20, OpKind::Grant),
    (15, OpKind::Revoke),
    (40, OpKind::KeepAlive),
    (5, OpKind::TimeToLive),
    (2, OpKind::MoveLeader),
];

const WATCHES: Mix = &[(10, OpKind::Watch), (2, OpKind::CancelWatch), (3, OpKind::Progress)];

const MEMBERSHIP: Mix = &[
    (8, OpKind::MemberAdd),
    (6, OpKind::LearnerAdd),
    (8, OpKind::MemberRemove),
    (2, OpKind::MemberUpdate),
    (8, OpKind::MemberPromote),
    (4, OpKind::MemberList),
    (2, OpKind::MoveLeader),
];

/// Kinds of faults with their weights, for a member that is alone.
const ALONE: &[(usize, FaultKind)] = &[
    (4, FaultKind::Kill),
    (6, FaultKind::PowerCut),
    (2, FaultKind::Pause),
    (2, FaultKind::DiskStall),
    (1, FaultKind::WriteError),
    (4, FaultKind::CutAtMoment),
    (2, FaultKind::DiskFull),
];

/// The same for members that are several.
const TOGETHER: &[(usize, FaultKind)] = &[
    (4, FaultKind::Kill),
    (6, FaultKind::PowerCut),
    (3, FaultKind::Pause),
    (3, FaultKind::DiskStall),
    (4, FaultKind::Isolate),
    (2, FaultKind::Mute),
    (2, FaultKind::Deaf),
    (3, FaultKind::Split),
    (2, FaultKind::CutLink),
    (2, FaultKind::Clog),
    (1, FaultKind::WriteError),
    (3, FaultKind::CutAtMoment),
    (1, FaultKind::Flip),
    (1, FaultKind::LostWrite),
    (1, FaultKind::MisdirectedWrite),
    (1, FaultKind::StaleRead),
    (2, FaultKind::DiskFull),
];

impl Plan {
    /// In a part of the worlds members come and go. What is drawn for that changes nothing else of the world.
    fn draw_membership(&mut self, rng: &mut Rng) {
        if !rng.permille(250) {
            return;
        }
        let config = &mut self.config;
        let strict = rng.permille(300);
        let spares = rng.between(1, 3);
        config.membership = Some(Membership { spares, strict, max_learners: rng.between(1, 2) });
        while config.clock_rates.len() < config.hosts() {
            config.clock_rates.push(rng.pick(&config.clock_rates));
        }
        // The strict rules want links that were up for five seconds.
        if strict {
            config.safety = config.safety.max(20 * S);
        }
        self.ask_now_and_then((4, 24), MEMBERSHIP, rng);
        self.faults = draw_faults(&self.config, rng);
        if !Rng::of(self.seed, "lies", 0).permille(LYING_MEMBERSHIPS) {
            self.faults.retain(|fault| !fault.kind.is_lie());
        }
    }

    /// Some client asks something of these kinds, as often on average as is drawn from `times`.
    fn ask_now_and_then(&mut self, times: (usize, usize), kinds: &[(usize, OpKind)], rng: &mut Rng) {
        let config = &self.config;
        let pace = config.safety / rng.between(times.0, times.1) as Time;
        let mut at = rng.exponential(pace);
        while at < config.safety {
            let client = rng.below(config.clients);
            self.ops.push(Op { at, client, kind: rng.weighted(kinds), draw: rng.next() });
            at += rng.exponential(pace) + US;
        }
        self.ops.sort_by_key(|op| op.at);
    }

    /// In few worlds disks lie as often as they like.
    fn draw_recklessness(&mut self, rng: &mut Rng) {
        if !rng.permille(RECKLESS_WORLDS) {
            return;
        }
        self.config.reckless = true;
        let kinds =
            [FaultKind::Flip, FaultKind::LostWrite, FaultKind::MisdirectedWrite, FaultKind::StaleRead];
        let election = self.config.election() as usize;
        for _ in 0..rng.between(2, 8) {
            self.faults.push(Fault {
                at: rng.below(self.config.safety as usize) as Time,
                lasts: rng.below(2 * election) as Time + US,
                kind: rng.pick(&kinds),
                node: rng.below(self.config.hosts()),
                draw: rng.next(),
            });
        }
        self.faults.sort_by_key(|fault| fault.at);
    }
}

fn draw_ops(config: &Config, rng: &mut Rng) -> Vec<Op> {
    let mixes = [(4, KUBERNETES), (5, GENERAL), (1, LEASES)];
    let mut mix: Vec<(usize, OpKind)> = rng.weighted(&mixes).to_vec();
    // A swarm: some kinds are left out altogether, but never all writes.
    mix.retain(|(_, kind)| matches!(kind, OpKind::Cas | OpKind::Put | OpKind::Get) || !rng.permille(250));
    let mut ops = Vec::new();
    // Mean time between two operations of a client, in ticks.
    let pace = rng.pick(&[1, 2, 4]) * config.tick / 4;
    for client in 0..config.clients {
        let mut at = rng.exponential(pace);
        while at < config.safety {
            ops.push(Op { at, client, kind: rng.weighted(&mix), draw: rng.next() });
            at += rng.exponential(pace) + US;
        }
    }
    for client in 0..config.watchers {
        let mut at = rng.exponential(pace);
        while at < config.safety {
            ops.push(Op { at, client, kind: rng.weighted(WATCHES), draw: rng.next() });
            at += rng.exponential(pace * 16) + US;
        }
    }
    ops.sort_by_key(|op| op.at);
    ops
}

fn draw_faults(config: &Config, rng: &mut Rng) -> Vec<Fault> {
    let all = if config.hosts() == 1 { ALONE } else { TOGETHER };
    let mut kinds: Vec<(usize, FaultKind)> = all.to_vec();
    kinds.retain(|_| !rng.permille(300));
    if kinds.is_empty() || rng.permille(50) {
        return Vec::new();
    }
    let election = config.election();
    let between = rng.pick(&[1, 2, 4, 10]) * election;
    let mut faults = Vec::new();
    let mut at = rng.exponential(between);
    while at < config.safety {
        let lasts = rng.weighted(&[(3, election / 10), (4, election), (3, 4 * election)]);
        let fault = Fault {
            at,
            lasts: rng.exponential(lasts) + US,
            kind: rng.weighted(&kinds),
            node: rng.below(config.hosts()),
            draw: rng.next(),
        };
        faults.push(fault);
        at += rng.exponential(between) + US;
    }
    debug_assert!(at < 10_000 * S);
    faults
}
