//! A world: members, their disks, their clients, and what they go through.
//!
//! Three phases. *Safety*: load and faults, as the plan says; everything that can be checked is checked at once.
//! *Liveness*: faults stop, every process runs; within bounded time every request must end, a write of every client must
//! succeed, and all members and watchers must have everything. *Audit*: the power fails everywhere, every member starts
//! from what its disk holds, its tree is verified page by page, and what all of them then hold is the model's state.

use bytes::Bytes;
use consensus::log::SegmentReader;
use net::grpc::Method;
use node::api::Error;

use crate::audit;
use crate::check::{Failure, fail};
use crate::client::Client;
use crate::disk::Disk;
use crate::env::{Env, Event, NodeNumber, Request, RequestBody, Wake};
use crate::member::{Healing, LOST, Member, Moment, node_id};
use crate::network::Letter;
use crate::plan::{FaultKind, Op, Plan};
use crate::queue::{MS, S, Time};
use crate::replayed::Life;
use crate::rng::Rng;
use crate::story::Story;
use crate::watcher::WatchClient;
use crate::wire::Segment;
use crate::wire::snapshots::{Came, Piece};

mod counters;
mod faults;
mod healing;
mod lanes;
mod lies;
mod membership;
mod operator;
mod resources;
mod streams;

pub use counters::Counters;

/// Election timeouts within which a healed cluster must have done everything.
const LIVENESS_ELECTIONS: Time = 60;

/// Requests of each client that must succeed in the liveness phase.
const PROBES: usize = 2;

/// Events of one run before it counts as one that never ends.
const EVENTS_MAX: u64 = 50_000_000;

/// A member as the world sees it.
struct Host {
    disk: Disk,
    member: Option<Member>,
    /// In place of it while it is repaired.
    healing: Option<Box<Healing>>,
    life: u32,
    /// What happens to it waits until then.
    paused_until: Time,
    /// What has happened to it meanwhile, in order.
    held: Vec<Event>,
    /// The power fails at the next such moment; what is half done then comes from this number, and it starts again so much
    /// later.
    armed: Option<(Moment, u64, Time)>,
    /// Its disk has lied: it may stop, until it is repaired.
    flipped: bool,
    /// It has found out.
    found_out: bool,
    /// Since the faults ended, or it started for the audit, it was once done with everything.
    rested: bool,
    /// It has stopped because of that, for good, for there is nobody to repair it.
    broken: bool,
    rng: Rng,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What has happened in it.
    pub counters: Counters,
    /// Hash of everything that has happened.
    pub trace: u64,
    /// What went wrong, if anything did, and when.
    pub failure: Option<(Time, Failure)>,
}

/// See the module's header.
pub struct World {
    plan: Plan,
    env: Env,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    watchers: Vec<WatchClient>,
    /// The operation of each request under way, with its client.
    ops: u64,
    streams: u64,
    /// What each open request asked.
    open: rustc_hash::FxHashMap<u64, (usize, Method, Bytes)>,
    stream_owner: rustc_hash::FxHashMap<u64, usize>,
    healed: bool,
    operator: operator::Operator,
    events: u64,
    crashes: u64,
    repairs: u64,
    lies: u64,
    found_out: u64,
    /// More disks have lied than a cluster can bear; see `world/lies.rs`.
    beyond: bool,
    /// And so it was not waited for what would never come.
    gave_up: bool,
    /// Changes of the membership of which it is known whether they left the liars a minority.
    changes_judged: u64,
    faults: [u64; FaultKind::ALL.len()],
    /// What was written down of lives that are over.
    lives: Vec<Life>,
}

type Done = Result<(), Failure>;

impl World {
    /// The world of a plan.
    pub fn new(plan: &Plan, story: Story) -> World {
        let config = &plan.config;
        let mut env = Env::new(plan.seed, config, story);
        for (number, op) in plan.ops.iter().enumerate() {
            env.queue.planned(op.at, op.draw, Event::Op(number));
        }
        for (number, fault) in plan.faults.iter().enumerate() {
            env.queue.planned(fault.at, fault.draw, Event::Fault(number));
        }
        let host = |number| Host {
            disk: Disk::default(),
            member: None,
            healing: None,
            life: 0,
            paused_until: 0,
            held: Vec::new(),
            armed: None,
            flipped: false,
            found_out: false,
            rested: false,
            broken: false,
            rng: Rng::of(plan.seed, "host", number),
        };
        for number in 0..config.members {
            env.queue.at(0, Event::Boot(number));
        }
        World {
            env,
            hosts: (0..config.hosts() as u64).map(host).collect(),
            clients: (0..config.clients).map(|number| Client::new(number, number % config.members)).collect(),
            watchers: (0..config.watchers).map(|number| WatchClient::new(number % config.members)).collect(),
            ops: 0,
            streams: 0,
            open: rustc_hash::FxHashMap::default(),
            stream_owner: rustc_hash::FxHashMap::default(),
            healed: false,
            operator: operator::Operator::default(),
            events: 0,
            crashes: 0,
            repairs: 0,
            lies: 0,
            found_out: 0,
            beyond: false,
            gave_up: false,
            changes_judged: 0,
            faults: [0; FaultKind::ALL.len()],
            lives: Vec::new(),
            plan: plan.clone(),
        }
    }

    /// Writes down what members are told.
    pub fn record(&mut self) {
        self.env.records = true;
    }

    /// What was written down.
    pub fn into_lives(mut self) -> Vec<Life> {
        for host in self.hosts.iter_mut().filter(|_| self.env.records) {
            let lied = host.flipped;
            self.lives.extend(host.member.take().map(|member| Life::of(member, lied)));
        }
        self.lives
    }

    /// Lives it through.
    pub fn run(&mut self) -> Ended {
        let result = self.phases();
        let now = self.env.queue.now();
        Ended {
            counters: self.counters(),
            trace: self.env.trace,
            failure: result.err().map(|failure| (now, failure)),
        }
    }

    fn phases(&mut self) -> Done {
        self.run_until(self.plan.config.safety)?;
        self.heal();
        self.live()?;
        self.audit()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        Counters {
            simulated: self.env.queue.now(),
            events: self.events,
            crashes: self.crashes,
            repairs: self.repairs,
            entries: self.env.oracle.log.len() as u64,
            revisions: self.env.oracle.model.revision as u64,
            answers: self.env.oracle.answers.checked,
            watched: self.env.oracle.watches.checked,
            changes: self.env.oracle.members.changes(),
            letters: self.env.network.sent,
            damaged: self.env.network.noticed(),
            opened: self.env.network.opened(),
            resumed: self.env.network.resumed(),
            leaders: self.env.oracle.raft.terms_led(),
            snapshots: self.env.oracle.snapshots,
            no_space: self.env.oracle.seen.no_space,
            cuts: self.env.oracle.seen.cuts,
            lease_checkpoints: self.env.oracle.seen.lease_checkpoints,
            own_compactions: self.env.oracle.seen.own_compactions,
            expiries: self.env.oracle.leases.expired,
            operated: self.operator.rounds,
            lies: self.lies,
            found_out: self.found_out,
            beyond: self.beyond.into(),
            lived_on: (self.beyond && !self.gave_up).into(),
            faults: self.faults,
        }
    }

    /// The story so far.
    pub fn story(&self) -> &Story {
        &self.env.story
    }

    fn run_until(&mut self, end: Time) -> Done {
        while let Some(event) = self.env.queue.pop(end) {
            self.events += 1;
            if self.events > EVENTS_MAX {
                return fail("liveness", "the world never comes to rest");
            }
            self.happen(event)?;
            self.see_to_lanes()?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Done {
        let now = self.env.queue.now();
        self.env.trace(now);
        match event {
            Event::Wake(number, life, wake) => self.wake(number, life, wake)?,
            Event::Letter(letter) => {
                let host = &mut self.hosts[letter.to];
                if host.paused_until > now {
                    host.held.push(Event::Letter(letter));
                    return Ok(());
                }
                self.letter(*letter)?;
            }
            Event::Hello { from, to } => self.hello(from, to),
            Event::Removed(number, life) => {
                if self.hosts[number].life == life && self.hosts[number].member.is_some() {
                    self.leave(number, "a peer says that it was removed");
                }
            }
            Event::Bytes(segment) => {
                let host = &mut self.hosts[segment.to];
                if host.paused_until > now || !host.held.is_empty() {
                    host.held.push(Event::Bytes(segment)); // in order
                    return Ok(());
                }
                self.bytes(&segment)?;
            }
            Event::Chunk(chunk) => {
                let host = &mut self.hosts[chunk.to()];
                if host.paused_until > now || !host.held.is_empty() {
                    host.held.push(Event::Chunk(chunk)); // in order
                    return Ok(());
                }
                self.chunk(*chunk)?;
            }
            Event::SnapshotBytes(piece) => {
                let host = &mut self.hosts[piece.to()];
                if host.paused_until > now || !host.held.is_empty() {
                    host.held.push(Event::SnapshotBytes(piece)); // in order
                    return Ok(());
                }
                self.snapshot_bytes(&piece)?;
            }
            Event::Unreachable { from, to } => {
                let host = &mut self.hosts[from.0];
                if let (Some(member), true) = (&mut host.member, host.life == from.1) {
                    member.unreachable(&mut self.env, to);
                }
            }
            Event::SnapshotSent { from, to, ok } => {
                let host = &mut self.hosts[from.0];
                if let (Some(member), true) = (&mut host.member, host.life == from.1) {
                    member.snapshot_sent(&mut self.env, to, ok);
                }
            }
            Event::Request(request) => self.request(*request)?,
            Event::Answer { op, from, result } => self.answer(op, from, &result)?,
            Event::WatchMessage { stream, message } => self.watch_message(stream, &message)?,
            Event::Op(number) => self.op(self.plan.ops[number]),
            Event::GiveUp { client, op } => self.give_up(client, op),
            Event::Fault(number) => self.fault(number),
            Event::FaultOver(number) => self.fault_over(number),
            Event::Boot(number) => self.boot(number)?,
            Event::Resume(number) => {
                if self.hosts[number].paused_until <= now {
                    std::mem::take(&mut self.hosts[number].held)
                        .into_iter()
                        .try_for_each(|held| self.happen(held))?;
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, segment: &Segment) -> Done {
        let (messages, closed) = self.env.network.receive(segment)?;
        for message in messages {
            self.letter(Letter { from: segment.from, to: segment.to, message, snapshot: None })?;
        }
        if closed {
            let (from, to) = (segment.from, segment.to);
            self.env.queue.after(self.plan.config.latency.0, Event::Unreachable { from, to });
        }
        Ok(())
    }

    fn snapshot_bytes(&mut self, piece: &Piece) -> Done {
        let host = &self.hosts[piece.to()];
        if host.member.is_none() && host.healing.is_none() {
            self.env.abandon_snapshot(piece.way); // connection refused
            return Ok(());
        }
        match self.env.network.snapshots().receive(self.env.queue.now(), piece)? {
            Came::Pieces(pieces) => self.env.send_pieces(piece.way, pieces),
            Came::Whole(letter) => self.letter(letter)?,
            Came::Nothing => self.env.snapshot_failed(piece.way),
        }
        Ok(())
    }

    fn letter(&mut self, letter: Letter) -> Done {
        if self.hosts[letter.to].healing.is_some() {
            return self.letter_to_healing(letter);
        }
        let Letter { from, to, message, snapshot } = letter;
        let is_snapshot = snapshot.is_some();
        if !self.is_let_in(from, to) {
            return Ok(());
        }
        let arrived = match (&mut self.hosts[to].member, snapshot) {
            (Some(member), None) => {
                member.receive(&mut self.env, from.0, message);
                true
            }
            (Some(member), Some(bytes)) => {
                member.receive_snapshot(&mut self.env, from.0, message, bytes);
                true
            }
            (None, _) => false,
        };
        if is_snapshot {
            let takes = self.env.takes(self.plan.config.latency);
            self.env.queue.after(takes, Event::SnapshotSent { from, to, ok: arrived });
        }
        Ok(())
    }

    fn wake(&mut self, number: NodeNumber, life: u32, wake: Wake) -> Done {
        let host = &mut self.hosts[number];
        if life != host.life {
            return Ok(());
        }
        if host.paused_until > self.env.queue.now() {
            host.held.push(Event::Wake(number, life, wake));
            return Ok(());
        }
        if wake == Wake::Tick {
            self.tend_lanes(number)?;
        }
        let host = &mut self.hosts[number];
        if host.healing.is_some() {
            return self.wake_healing(number, wake);
        }
        let Some(member) = &mut host.member else { return Ok(()) };
        self.env.trace((number as u64) << 8 | wake as u64);
        let done = member.woken(&mut self.env, &mut host.disk, wake);
        self.start_added();
        self.judge_liars();
        if wake == Wake::Tick {
            self.check_books_bounded(number)?;
        }
        match self.may_stop(number, done) {
            Err(Failure { checker: "write-error", .. }) => {
                self.crash(number, false, 1);
                let after = self.plan.config.election();
                self.env.queue.after(after, Event::Boot(number));
                Ok(())
            }
            Ok(()) => {
                self.cut_at_moment(number);
                Ok(())
            }
            done => done,
        }
    }

    /// The power fails if this is the moment that a fault has waited for.
    fn cut_at_moment(&mut self, number: NodeNumber) {
        let host = &mut self.hosts[number];
        let (Some((moment, draw, lasts)), Some(member)) = (host.armed, &host.member) else { return };
        if member.is_at(moment) && !self.healed {
            host.armed = None;
            self.crash(number, true, draw);
            self.env.queue.after(lasts, Event::Boot(number));
        }
    }

    fn boot(&mut self, number: NodeNumber) -> Done {
        let host = &mut self.hosts[number];
        if host.member.is_some() || host.healing.is_some() || host.broken {
            return Ok(());
        }
        let mut remotes = Vec::new();
        if number >= self.plan.config.members && host.disk.tree.is_empty() {
            let begins = host.disk.log.is_empty();
            match self.remotes(number, begins) {
                Some(found) => remotes = found,
                None if !begins => {}
                None if self.belongs(number) => {
                    self.env.queue.after(self.plan.config.election(), Event::Boot(number));
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
        let host = &mut self.hosts[number];
        host.life += 1;
        host.paused_until = 0;
        self.env.queue.at(self.env.queue.now(), Event::Resume(number));
        let nonce = host.rng.next();
        let now = self.env.queue.now();
        let life = host.life;
        self.env.story.tell(now, || format!("member {number}.{life}"), || "starts".to_owned());
        self.env.network.lanes().into_iter().for_each(|lanes| lanes.reset(number, true));
        if self.heal_member(number, nonce, None)? {
            return Ok(());
        }
        let host = &mut self.hosts[number];
        match Member::boot(&mut self.env, &mut host.disk, number, life, nonce, remotes) {
            Ok(member) => host.member = Some(member),
            Err(failure @ Failure { checker: "halt", .. }) if host.flipped => {
                self.heal_member(number, nonce, Some(failure))?;
            }
            Err(failure) => self.may_stop(number, Err(failure))?,
        }
        Ok(())
    }

    /// A member whose disk has lied may stop instead of going on. Its next start repairs it, if that is possible.
    fn may_stop(&mut self, number: NodeNumber, done: Done) -> Done {
        match done {
            Err(Failure { checker: "halt", what }) if self.hosts[number].flipped => {
                let now = self.env.queue.now();
                self.env.story.tell(now, || format!("member {number}"), || format!("is damaged: {what}"));
                self.crash(number, false, 1);
                self.hosts[number].disk.is_tree_damaged = true;
                self.env.queue.after(self.plan.config.election(), Event::Boot(number));
                Ok(())
            }
            Err(Failure { checker: LOST, what }) if self.hosts[number].flipped => {
                self.break_for_good(number, &what);
                Ok(())
            }
            done => done,
        }
    }

    /// Ends a process. Its clients lose their connections.
    fn crash(&mut self, number: NodeNumber, power: bool, draw: u64) {
        let host = &mut self.hosts[number];
        let member = host.member.take();
        if member.is_none() & host.healing.take().is_none() {
            return;
        }
        let lied = host.flipped;
        self.lives.extend(member.filter(|_| self.env.records).map(|member| Life::of(member, lied)));
        for way in self.env.network.reset(number, !power) {
            if way.0.0 != number {
                self.env.snapshot_failed(way);
            }
        }
        self.crashes += 1;
        let rng = &mut Rng::new(draw ^ host.rng.next());
        match power {
            true => host.disk.cut_power(rng),
            false => host.disk.kill(rng),
        }
        let now = self.env.queue.now();
        let what = if power { "loses power" } else { "is killed" };
        self.env.story.tell(now, || format!("member {number}"), || what.to_owned());
        for client in 0..self.clients.len() {
            if self.clients[client].member == number
                && let Some(op) = self.clients[client].busy
            {
                self.env.queue.after(MS, Event::GiveUp { client, op });
            }
        }
        for client in 0..self.watchers.len() {
            if self.watchers[client].member == number {
                self.break_stream(client);
            }
        }
    }

    fn request(&mut self, request: Request) -> Done {
        let (number, life) = request.to;
        let host = &mut self.hosts[number];
        if host.paused_until > self.env.queue.now() {
            host.held.push(Event::Request(Box::new(request)));
            return Ok(());
        }
        match &mut host.member {
            Some(member) if host.life == life => {
                let done = member.request(&mut self.env, request.body);
                self.may_stop(number, done)
            }
            _ => Ok(()),
        }
    }

    fn op(&mut self, op: Op) {
        match op.kind {
            kind if kind.is_watch() => self.watch_op(&op),
            _ => {
                self.clients[op.client].enqueue(op);
                self.next_op(op.client);
            }
        }
    }

    /// The next request of a client that has none under way.
    fn next_op(&mut self, client: usize) {
        while self.clients[client].busy.is_none() && !self.healed {
            let Some(op) = self.clients[client].waiting.pop_front() else { return };
            if let Some((method, message)) = self.clients[client].request(&op, &self.plan.config) {
                self.ask(client, method, message);
            }
        }
    }

    fn ask(&mut self, client: usize, method: Method, message: Bytes) {
        let own = self.clients[client].member;
        let to = if method == Method::MaintenanceMoveLeader { self.leader().unwrap_or(own) } else { own };
        self.ask_at(client, to, method, message);
    }

    /// A client's request, which needn't go to the member where it is connected otherwise; its number.
    fn ask_at(&mut self, client: usize, to: NodeNumber, method: Method, message: Bytes) -> u64 {
        self.ops += 1;
        let (op, now) = (self.ops, self.env.queue.now());
        self.clients[client].busy = Some(op);
        self.env.oracle.asked(op, client, method, message.clone(), now);
        self.open.insert(op, (client, method, message.clone()));
        let patience = 4 * self.plan.config.election() + S;
        self.env.story.tell(
            now,
            || format!("client {client}"),
            || format!("#{op} {method:?} to member {to}"),
        );
        if self.hosts[to].member.is_none() {
            // Connection refused.
            self.env.queue.after(self.plan.config.election() / 10, Event::GiveUp { client, op });
            return op;
        }
        let request =
            Request { to: (to, self.hosts[to].life), body: RequestBody::Call { op, method, message } };
        let takes = self.env.takes(self.plan.config.latency);
        self.env.queue.after(takes, Event::Request(Box::new(request)));
        self.env.queue.after(patience, Event::GiveUp { client, op });
        op
    }

    /// One who believes that it leads.
    fn leader(&self) -> Option<NodeNumber> {
        self.hosts.iter().position(|host| host.member.as_ref().is_some_and(Member::leads))
    }

    fn answer(&mut self, op: u64, from: (NodeNumber, u32), result: &Result<Bytes, Error>) -> Done {
        let Some((client, method, message)) = self.open.remove(&op) else { return Ok(()) };
        let now = self.env.queue.now();
        self.env.story.tell(
            now,
            || format!("client {client}"),
            || match result {
                Ok(bytes) => format!("#{op} answered, {} bytes", bytes.len()),
                Err(error) => format!("#{op} {error:?}"),
            },
        );
        self.env.trace(op ^ result.as_ref().map_or(1, |bytes| bytes.len() as u64) << 32);
        self.env.oracle.answered(now, from, op, result)?;
        let is_operators = self.operator_answered(op, result);
        let state = &mut self.clients[client];
        state.learn(method, &message, result);
        state.busy = None;
        if self.healed && !is_operators {
            state.probed += usize::from(result.is_ok());
        }
        if result.is_err() && self.plan.config.fail_over && !self.healed {
            state.member = (state.member + 1) % self.hosts.len();
        }
        self.next_op(client);
        Ok(())
    }

    fn give_up(&mut self, client: usize, op: u64) {
        if self.clients[client].busy != Some(op) {
            return;
        }
        self.open.remove(&op);
        self.env.oracle.answers.give_up(op);
        let now = self.env.queue.now();
        self.env.story.tell(now, || format!("client {client}"), || format!("#{op} gives up"));
        let state = &mut self.clients[client];
        state.busy = None;
        let is_gone =
            self.hosts[state.member].broken || !self.env.oracle.members.has(node_id(state.member).0);
        if (self.plan.config.fail_over && !self.healed) || is_gone {
            state.member = (state.member + 1) % self.hosts.len();
        }
        self.next_op(client);
    }

    /// No faults any more: whatever is down starts, whatever is cut is mended.
    fn heal(&mut self) {
        self.healed = true;
        self.hosts.iter_mut().for_each(|host| host.rested = false);
        let now = self.env.queue.now();
        self.env.story.tell(now, || "world".to_owned(), || "all faults end".to_owned());
        self.env.network.heal();
        if !self.keeps_quota() && self.env.config.store.quota.take().is_some() {
            // The operator gives all a larger quota, for which they must be started anew.
            (0..self.hosts.len()).for_each(|number| self.crash(number, false, 1));
        }
        for number in 0..self.hosts.len() {
            self.hosts[number].paused_until = 0;
            self.hosts[number].disk.make_room();
            self.env.queue.at(now, Event::Resume(number));
            if let Some(member) = &mut self.hosts[number].member {
                member.heal_disk();
            }
            self.env.queue.at(now, Event::Boot(number));
        }
        self.clients.iter_mut().for_each(|client| client.waiting.clear());
    }

    /// Everything must get done in bounded time.
    fn live(&mut self) -> Done {
        let step = self.plan.config.election();
        // A member without anything else to do has room again when it has made a checkpoint, at the latest.
        let checkpoint = self.plan.config.checkpoint * 2;
        let end = self.env.queue.now() + LIVENESS_ELECTIONS * step + 20 * S + checkpoint;
        loop {
            self.leave_those_that_do_not_vote();
            self.operate();
            for client in 0..self.clients.len() {
                if self.clients[client].busy.is_none() && self.clients[client].probed < PROBES {
                    let (method, message) = self.clients[client].probe();
                    self.ask(client, method, message);
                }
            }
            for client in 0..self.watchers.len() {
                if !self.watchers[client].resume.is_empty() {
                    self.open_stream(client);
                }
            }
            let until = self.env.queue.now() + step;
            self.run_until(until)?;
            let settled = self.is_settled().and_then(|()| self.are_books_closed());
            if settled.is_ok() {
                return Ok(());
            }
            if self.env.queue.now() > end && self.beyond {
                self.gave_up = true;
                return Ok(());
            }
            if self.env.queue.now() > end {
                let members: Vec<_> = self.hosts.iter().map(|host| self.describe(host)).collect();
                return settled.map_err(|failure| Failure {
                    what: format!("{} {members:#?}", failure.what),
                    ..failure
                });
            }
        }
    }

    fn is_settled(&self) -> Done {
        self.check_room()?;
        let waits = |client: &Client| client.probed < PROBES || client.busy.is_some();
        if let Some(client) = self.clients.iter().find(|client| waits(client)) {
            let member = client.member;
            return fail("liveness", format!("no write or no read succeeds at member {member}"));
        }
        let last = self.env.oracle.log.len() as u64;
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.broken) {
            if !self.belongs(number) {
                self.check_gone(number)?;
                continue;
            }
            let applied = host.member.as_ref().map_or(0, Member::applied);
            if applied != last {
                return fail("liveness", format!("member {number} has applied {applied} of {last}"));
            }
        }
        self.env.oracle.watches.check_complete(&self.env.oracle.model)
    }

    /// The power fails everywhere; what is found afterwards is everything.
    fn audit(&mut self) -> Done {
        for number in 0..self.hosts.len() {
            let draw = self.hosts[number].rng.next();
            self.crash(number, true, draw);
        }
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if host.flipped {
                self.env.queue.after(MS, Event::Boot(number));
                continue; // it may be found out at any time
            }
            audit::check_tree(number, &host.disk)?;
            let joined = number < self.plan.config.members || !host.disk.tree.is_empty();
            debug_assert!(!joined || !host.disk.log.image().segments().is_empty());
            self.env.queue.after(MS, Event::Boot(number));
        }
        self.clients.iter_mut().for_each(|client| client.probed = 0);
        self.hosts.iter_mut().for_each(|host| host.rested = false);
        self.live()?;
        let sound =
            self.hosts.iter().enumerate().filter(|(number, host)| !host.flipped && self.belongs(*number));
        let mut members: Vec<&Member> = sound.filter_map(|(_, host)| host.member.as_ref()).collect();
        if self.gave_up {
            let last = self.env.oracle.log.len() as u64;
            members.retain(|member| member.applied() == last);
        }
        audit::check_state(&members, &self.env.oracle.model, &self.env.oracle.members)
    }
}
