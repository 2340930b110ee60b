//! Watchers and how events reach them: one hub per client core.
//!
//! The store core publishes views; `history` in them is the list of all events. So a hub needs no queue of events: it
//! remembers up to which revision it has *dispatched*, and every new view is read from there on. A watcher that has
//! everything up to there is *synced* and hears of each new revision in one response. One that starts in the past, or
//! whose stream takes no more, is a position in history and reads on from there when it can: memory for a slow client
//! is bounded by its stream's output limit, one number per watcher, and a response of at most a mebibyte: larger ones
//! are read from the store while they are sent ([`LargeResponse`]).
//!
//! Fan-out is the hot path. An event is looked up once ([`index`]), encoded once (with and without its previous row),
//! and copied into each response; watchers with the same id on different streams share the whole response.
//!
//! Catching up goes in waves, as etcd's `syncWatchers` does: up to [`WAVE_WATCHERS_MAX`] watchers, those that are
//! farthest behind, share one scan of history, bounded in rows and bytes, that never ends inside a revision.
//!
//! The rules that clients see are etcd's (`v3rpc/watch.go`, `mvcc/watchable_store.go`); the tests name them.
//!
//! How to drive it, each turn of the core: [`Hub::set_view`] with the newest view *before* the turn's requests, so that
//! a client that has its put acknowledged finds it in the past; then [`Hub::open`], [`Hub::handle`], [`Hub::close`];
//! then [`Hub::advance`] until it answers false or the turn is over. While [`Hub::is_waiting`] it is also called when a
//! stream has been written out, and [`Hub::handle_timeout`] when [`Hub::next_timeout`] comes.

mod encode;

mod index;

/// Responses that are pulled.
mod large;

mod watcher;

/// New events to synced watchers, old ones to those that lag.
mod dispatch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::View;
use net::pb::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use rustc_hash::FxHashMap;

use crate::answer::Identity;
use crate::api::Error;
use encode::Head;
use index::{Index, Span};
pub use large::LargeResponse;
use watcher::{Slab, State, Watcher};

/// etcd's `InvalidWatchID`: answers that are about no watcher or about all of a stream.
const NO_WATCH_ID: i64 = -1;

/// The shortest progress interval (etcd `minWatchProgressInterval`).
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Output of a stream, not yet written to its socket, at which its watchers wait.
pub const STREAM_QUEUED_BYTES_MAX: usize = 256 * 1024;

/// The most watchers that share a scan of history (etcd `maxWatchersPerSync`).
pub const WAVE_WATCHERS_MAX: usize = 512;

/// A call of Watch; the number is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Settings of a hub.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who answers.
    pub identity: Identity,
    /// A response of this size is split if its watcher allows it: `--max-request-bytes` plus 512 KiB.
    pub fragment_bytes_max: usize,
    /// `--watch-progress-notify-interval`, raised to [`PROGRESS_INTERVAL_MIN`]; each stream adds up to a tenth.
    pub progress_interval: Duration,
    /// What all watchers together may cost in memory.
    pub watchers_bytes_max: usize,
    /// For jitter and hashing.
    pub seed: u64,
}

impl Config {
    /// etcd's defaults.
    pub fn new(identity: Identity, seed: u64) -> Config {
        Config {
            identity,
            fragment_bytes_max: 1_572_864 + 524_288,
            progress_interval: Duration::from_secs(600),
            watchers_bytes_max: 256 << 20,
            seed,
        }
    }
}

/// Where responses go.
pub trait Sink {
    /// Queues one encoded WatchResponse on a stream.
    fn send(&mut self, stream: StreamId, message: &[u8]);

    /// Queues one WatchResponse whose bytes are to be pulled.
    fn send_large(&mut self, stream: StreamId, response: LargeResponse);

    /// Bytes queued on a stream and not yet handed to its socket, those to be pulled included.
    fn queued_bytes(&self, stream: StreamId) -> usize;
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Open Watch calls.
    pub streams: usize,
    /// Watchers in all.
    pub watchers: usize,
    /// Watchers that read history.
    pub lagging: usize,
    /// Events sent since the start.
    pub events: u64,
}

/// All Watch calls of one client core.
pub struct Hub {
    config: Config,
    view: Arc<View>,
    raft_term: u64,
    /// Every synced watcher has all events up to this revision.
    dispatched: i64,
    index: Index,
    /// The watchers of the current catch-up wave.
    wave: Index,
    watchers: Slab,
    watchers_bytes: usize,
    streams: FxHashMap<StreamId, Stream>,
    /// `Lagging` watchers by `next`.
    lagging: BTreeSet<(i64, u32)>,
    /// Streams with `Parked` watchers.
    parked: BTreeSet<StreamId>,
    /// When each stream's progress is due.
    ticks: BTreeSet<(Duration, StreamId)>,
    draws: u64,
    events: u64,
    scratch: dispatch::Scratch,
}

struct Stream {
    watchers: FxHashMap<i64, u32>,
    /// Watchers with `progress_notify`, by id.
    notify: BTreeMap<i64, u32>,
    /// The next id to give out, if it is free.
    next_id: i64,
    /// How many watchers are `Synced`.
    synced: usize,
    /// Revisions before which no progress is told, and how many watchers have each: [`Watcher::begins`].
    beginnings: BTreeMap<i64, u32>,
    /// `Parked` watchers by `next`.
    parked: BTreeSet<(i64, u32)>,
    interval: Duration,
    tick: Duration,
}

impl Hub {
    /// A hub that begins at `view`, in Raft's term `raft_term`.
    pub fn new(config: Config, view: Arc<View>, raft_term: u64) -> Hub {
        Hub {
            index: Index::new(mix(config.seed)),
            wave: Index::new(mix(config.seed)),
            draws: config.seed,
            dispatched: view.revision(),
            view,
            raft_term,
            watchers: Slab::default(),
            watchers_bytes: 0,
            streams: FxHashMap::default(),
            lagging: BTreeSet::new(),
            parked: BTreeSet::new(),
            ticks: BTreeSet::new(),
            events: 0,
            scratch: dispatch::Scratch::default(),
            config,
        }
    }

    /// A newer view; its events are dispatched by [`Hub::advance`]. An older one is ignored.
    pub fn set_view(&mut self, view: Arc<View>, raft_term: u64) {
        self.raft_term = raft_term;
        if view.applied().index >= self.view.applied().index {
            let jump = view.applied().index > self.view.applied().index + 20;
            if jump && planted::is("watch-skips-after-snapshot") {
                self.dispatched = view.revision();
            }
            self.view = view;
        }
    }

    /// A Watch call begins.
    pub fn open(&mut self, now: Duration, stream: StreamId) {
        self.draws = self.draws.wrapping_add(1);
        let interval = self.config.progress_interval.max(PROGRESS_INTERVAL_MIN);
        let jitter_ns = mix(self.draws) % (interval.as_nanos() as u64 / 10).max(1);
        let interval = interval + Duration::from_nanos(jitter_ns);
        let tick = now + interval;
        let fresh = Stream {
            watchers: FxHashMap::default(),
            notify: BTreeMap::new(),
            next_id: 0,
            synced: 0,
            beginnings: BTreeMap::new(),
            parked: BTreeSet::new(),
            interval,
            tick,
        };
        if self.streams.insert(stream, fresh).is_none() {
            self.ticks.insert((tick, stream));
        }
    }

    /// A Watch call ends, for whatever reason. Unknown ones are ignored.
    pub fn close(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(&stream) else { return };
        let mut ids: Vec<i64> = state.watchers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.remove(stream, id);
        }
        if let Some(state) = self.streams.remove(&stream) {
            self.ticks.remove(&(state.tick, stream));
        }
        self.parked.remove(&stream);
    }

    /// One request of a Watch call. What it asks for is answered at once; events follow by [`Hub::advance`].
    pub fn handle(&mut self, stream: StreamId, request: RequestUnion, sink: &mut impl Sink) {
        if !self.streams.contains_key(&stream) {
            return;
        }
        match request {
            RequestUnion::CreateRequest(create) => self.create(stream, create, sink),
            RequestUnion::CancelRequest(cancel) => self.cancel(stream, cancel.watch_id, sink),
            RequestUnion::ProgressRequest(_) => self.progress_all(stream, sink),
        }
    }

    /// When [`Hub::handle_timeout`] has to be called.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.ticks.first().map(|(tick, _)| *tick)
    }

    /// Sends the progress notices that are due at `now`. etcd: a watcher that is synced and has had no event since the
    /// stream's last tick gets one.
    pub fn handle_timeout(&mut self, now: Duration, sink: &mut impl Sink) {
        while let Some(&(tick, stream)) = self.ticks.first()
            && tick <= now
        {
            self.ticks.remove(&(tick, stream));
            let Some(state) = self.streams.get_mut(&stream) else { continue };
            state.tick = (tick + state.interval).max(now);
            self.ticks.insert((state.tick, stream));
            let header = self.config.identity.header(self.dispatched, self.raft_term);
            for (&id, &at) in &state.notify {
                let watcher = &mut self.watchers[at];
                let synced = watcher.state == State::Synced && self.dispatched >= watcher.begins;
                if watcher.progress_due && synced {
                    send(sink, stream, &Head { header, watch_id: id, ..Default::default() });
                }
                watcher.progress_due = true;
            }
        }
    }

    /// Whether a stream that takes nothing holds up watchers: [`Hub::advance`] is worth a call when one has been
    /// written out.
    pub fn is_waiting(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        Figures {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            lagging: self.lagging.len()
                + self.parked.iter().map(|stream| self.streams[stream].parked.len()).sum::<usize>(),
            events: self.events,
        }
    }

    fn create(&mut self, stream: StreamId, request: pb::WatchCreateRequest, sink: &mut impl Sink) {
        let header = self.config.identity.header(self.view.revision(), self.raft_term);
        let refuse = |sink: &mut _, cancel_reason: &str| {
            let head = Head {
                header,
                watch_id: NO_WATCH_ID,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            send(sink, stream, &head);
        };
        if request.start_revision < 0 {
            return refuse(sink, Error::Compacted.text());
        }
        let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
        let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
        let Some(span) = Span::new(request.key, request.range_end) else {
            return refuse(sink, "mvcc: watcher range is empty");
        };
        let state = self.streams.get_mut(&stream).expect("the caller has looked");
        let Some(id) = state.take_id(request.watch_id) else {
            return refuse(sink, "mvcc: duplicate watch ID provided on the WatchStream");
        };
        let revision = self.view.revision();
        let start = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let synced = start > self.dispatched;
        // No progress before its start, nor before the revision that the answer to its creation names.
        let begins = match request.start_revision > revision {
            true => start,
            false if revision > self.dispatched => revision,
            false => 0,
        };
        let watcher = Watcher {
            stream,
            id,
            span,
            state: if synced { State::Synced } else { State::Lagging },
            next: start,
            begins,
            slot: 0,
            wave: 0,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            no_put,
            no_delete,
            progress_notify: request.progress_notify,
            progress_due: true,
        };
        if self.watchers_bytes + watcher.cost_bytes() > self.config.watchers_bytes_max {
            return refuse(sink, Error::TooManyRequests.text());
        }
        send(sink, stream, &Head { header, watch_id: id, created: true, ..Default::default() });
        self.insert(watcher);
    }

    /// etcd: an unknown id gets no answer; one that a compaction has cancelled already gets one.
    fn cancel(&mut self, stream: StreamId, id: i64, sink: &mut impl Sink) {
        if self.remove(stream, id) {
            let header = self.config.identity.header(self.view.revision(), self.raft_term);
            send(sink, stream, &Head { header, watch_id: id, canceled: true, ..Default::default() });
        }
    }

    /// etcd `progressIfSync`: one answer for the stream if all its watchers are synced and have begun, else none.
    fn progress_all(&mut self, stream: StreamId, sink: &mut impl Sink) {
        let ahead = planted::is("progress-ahead-of-events");
        let dispatched = if ahead { self.view.revision() } else { self.dispatched };
        let state = self.streams.get_mut(&stream).expect("the caller has looked");
        while state.beginnings.first_key_value().is_some_and(|(&start, _)| start <= dispatched) {
            state.beginnings.pop_first();
        }
        let all_synced = state.synced == state.watchers.len() && state.beginnings.is_empty();
        if all_synced && !state.watchers.is_empty() {
            let header = self.config.identity.header(dispatched, self.raft_term);
            send(sink, stream, &Head { header, watch_id: NO_WATCH_ID, ..Default::default() });
        }
    }

    fn insert(&mut self, watcher: Watcher) {
        self.watchers_bytes += watcher.cost_bytes();
        let (stream, id, next) = (watcher.stream, watcher.id, watcher.next);
        let (synced, begins, notify) =
            (watcher.state == State::Synced, watcher.begins, watcher.progress_notify);
        let at = self.watchers.insert(watcher);
        let watcher = &mut self.watchers[at];
        let group = self.index.group_mut(&watcher.span);
        watcher.slot = group.len() as u32;
        group.push(at);
        let state = self.streams.get_mut(&stream).expect("watchers belong to open streams");
        state.watchers.insert(id, at);
        if notify {
            state.notify.insert(id, at);
        }
        if begins > 0 {
            *state.beginnings.entry(begins).or_default() += 1;
        }
        if synced {
            state.synced += 1;
        } else {
            self.lagging.insert((next, at));
        }
    }

    /// Forgets a watcher; false if there is none of this id.
    fn remove(&mut self, stream: StreamId, id: i64) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        let Some(at) = state.watchers.remove(&id) else { return false };
        state.notify.remove(&id);
        let begins = self.watchers[at].begins;
        if let Some(count) = state.beginnings.get_mut(&begins) {
            *count -= 1;
            if *count == 0 {
                state.beginnings.remove(&begins);
            }
        }
        if self.watchers[at].state != State::Compacted {
            self.unindex(at);
        }
        self.leave_state(at);
        let watcher = self.watchers.remove(at);
        self.watchers_bytes -= watcher.cost_bytes();
        true
    }

    /// Takes a watcher out of its index group.
    fn unindex(&mut self, at: u32) {
        let watcher = &self.watchers[at];
        let group = self.index.group_mut(&watcher.span);
        let slot = watcher.slot;
        group.swap_remove(slot as usize);
        match group.get(slot as usize).copied() {
            Some(moved) => self.watchers[moved].slot = slot,
            None if group.is_empty() => self.index.drop_empty(&self.watchers[at].span),
            None => {}
        }
    }

    /// Takes a watcher out of the set that its state keeps it in.
    fn leave_state(&mut self, at: u32) {
        let Watcher { stream, state, next, .. } = self.watchers[at];
        let home = self.streams.get_mut(&stream).expect("watchers belong to open streams");
        match state {
            State::Synced => home.synced -= 1,
            State::Lagging => {
                self.lagging.remove(&(next, at));
            }
            State::Parked => {
                home.parked.remove(&(next, at));
                if home.parked.is_empty() {
                    self.parked.remove(&stream);
                }
            }
            State::Compacted => {}
        }
    }

    /// Moves a watcher to another state, or to another position in the same.
    fn enter_state(&mut self, at: u32, state: State, next: i64) {
        self.leave_state(at);
        let watcher = &mut self.watchers[at];
        watcher.state = state;
        watcher.next = next;
        let stream = watcher.stream;
        let home = self.streams.get_mut(&stream).expect("watchers belong to open streams");
        match state {
            State::Synced => home.synced += 1,
            State::Lagging => {
                self.lagging.insert((next, at));
            }
            State::Parked => {
                home.parked.insert((next, at));
                self.parked.insert(stream);
            }
            State::Compacted => {}
        }
    }
}

impl Stream {
    /// etcd `WatchStream.Watch`: 0 takes the next id that is free, any other is taken as given.
    fn take_id(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.watchers.contains_key(&asked)).then_some(asked);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }
}

fn send(sink: &mut impl Sink, stream: StreamId, head: &Head<'_>) {
    let mut message = Vec::with_capacity(64 + head.cancel_reason.len());
    head.encode(&mut message);
    sink.send(stream, &message);
}

/// A number that looks random, the same for the same input (splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests;
