//! New events to synced watchers, old ones to those that lag.
//!
//! Both read `history` forward, one revision at a time, collect *hits* (watcher, event), and then answer watcher by
//! watcher. All events of a revision reach a watcher in one response. What a turn may do is bounded; what one revision
//! needs is not, so a revision with very many hits sends the watchers that do not fit back to their position, from
//! where they are served in smaller groups.

use std::sync::Arc;

use crossbeam::epoch::Guard;
use engine::tree::Damage;
use engine::{Event, Revision, View};

use super::encode::{Batch, Head, fragment_len};
use super::watcher::State;
use super::{Hub, LargeResponse, STREAM_QUEUED_BYTES_MAX, Sink, StreamId, WAVE_WATCHERS_MAX, send};

/// Rows read by one step.
const STEP_ROWS_MAX: usize = 8192;

/// Bytes of encoded events after which a step ends.
const STEP_BYTES_MAX: usize = 1 << 20;

/// The most revisions in one catch-up response (etcd `watchBatchMaxRevs`).
const RESPONSE_REVISIONS_MAX: usize = 1000;

/// The most (watcher, event) pairs held.
const HITS_MAX: usize = 1 << 20;

/// Watchers of one stream that go on when it takes output again; more follow while it does.
const UNPARK_MAX: usize = 64;

/// Buffers that are kept between calls.
#[derive(Default)]
pub(super) struct Scratch {
    batch: Batch,
    hits: Vec<(u32, u32)>,
    message: Vec<u8>,
    /// The event, watch id and kind of previous row that `message` holds, if it is a response of one event.
    message_of: Option<(u32, i64, bool)>,
    members: Vec<u32>,
    waves: u64,
}

impl Scratch {
    fn clear(&mut self) {
        self.batch.clear();
        self.hits.clear();
        self.message_of = None;
    }
}

/// Who takes part in a collection.
#[derive(Clone, Copy)]
enum Audience {
    Synced,
    Wave(u64),
}

impl Audience {
    /// Where history begins for its members: a compaction in the same view takes nothing from those who were up to date
    /// before it.
    fn history_from(self, view: &View) -> i64 {
        match self {
            Audience::Synced => view.history_intact_from(),
            Audience::Wave(_) => view.compact_revision(),
        }
    }
}

impl Hub {
    /// Does a bounded piece of work: dispatches new events, lets streams that take output again go on, and serves one
    /// wave of lagging watchers. True if there is more to do now.
    ///
    /// # Errors
    /// The store is damaged; nothing may be answered from it.
    pub fn advance(&mut self, guard: &Guard, sink: &mut impl Sink) -> Result<bool, Damage> {
        let view = self.view.clone();
        if self.watchers.is_empty() {
            self.dispatched = self.dispatched.max(view.revision());
        } else if self.dispatched < view.revision() {
            self.dispatch_new(&view, guard, sink)?;
        }
        self.unpark(sink);
        if !self.lagging.is_empty() {
            self.cancel_compacted(&view, sink);
            self.catch_up(&view, guard, sink)?;
        }
        Ok(self.dispatched < view.revision() || !self.lagging.is_empty())
    }

    fn dispatch_new(&mut self, view: &Arc<View>, guard: &Guard, sink: &mut impl Sink) -> Result<(), Damage> {
        self.skip_compacted(view);
        let mut events = view.events(guard, Revision::start_of(self.dispatched + 1));
        let mut current = 0;
        let mut rows = 0;
        let mut bytes = 0;
        self.scratch.clear();
        while let Some(event) = events.next()? {
            if event.revision.main != current {
                bytes += self.scratch.batch.size();
                self.finish_revision(current, sink);
                if rows >= STEP_ROWS_MAX || bytes >= STEP_BYTES_MAX {
                    return Ok(());
                }
                current = event.revision.main;
            }
            self.collect(view, guard, &event, Audience::Synced)?;
            rows += 1;
        }
        self.finish_revision(current, sink);
        self.dispatched = view.revision();
        Ok(())
    }

    /// A hub that slept over a compaction has holes before it: its watchers are sent back to their positions, where
    /// they learn that those are compacted.
    fn skip_compacted(&mut self, view: &View) {
        let first = view.history_intact_from();
        if self.dispatched + 1 >= first {
            return;
        }
        let behind: Vec<(u32, i64)> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.state == State::Synced && watcher.next < first)
            .map(|(at, watcher)| (at, watcher.next.max(self.dispatched + 1)))
            .collect();
        for (at, next) in behind {
            self.enter_state(at, State::Lagging, next);
        }
        self.dispatched = first - 1;
    }

    fn finish_revision(&mut self, revision: i64, sink: &mut impl Sink) {
        if revision == 0 {
            return;
        }
        self.deliver(Audience::Synced, revision, sink);
        self.scratch.clear();
        self.dispatched = revision;
    }

    /// Notes who of the audience wants an event, and encodes it if anybody does.
    fn collect(
        &mut self,
        view: &View,
        guard: &Guard,
        event: &Event<'_>,
        audience: Audience,
    ) -> Result<(), Damage> {
        let revision = event.revision.main;
        let number = self.scratch.batch.len();
        let (watchers, hits) = (&mut self.watchers, &mut self.scratch.hits);
        let before = hits.len();
        let mut prev_kv = false;
        let mut too_many: Vec<u32> = Vec::new();
        let index = match audience {
            Audience::Synced => &self.index,
            Audience::Wave(_) => &self.wave,
        };
        index.matches(event.key, |group| {
            for &at in group {
                let watcher = &watchers[at];
                let takes_part = match audience {
                    Audience::Synced => watcher.state == State::Synced,
                    Audience::Wave(wave) => watcher.wave == wave,
                };
                if !takes_part || watcher.next > revision || !watcher.wants(event.kind) {
                    continue;
                }
                // The first watcher always fits, so that every call gets on.
                let fits = hits.len() < HITS_MAX || hits.first().is_some_and(|(first, _)| *first == at);
                if fits {
                    prev_kv |= watcher.prev_kv;
                    hits.push((at, number));
                } else {
                    too_many.push(at);
                }
            }
        });
        for at in too_many {
            self.put_off(at, revision, audience);
        }
        if self.scratch.hits.len() > before {
            let first = audience.history_from(view);
            self.scratch.batch.push(view, guard, event, prev_kv.then_some(first))?;
        }
        Ok(())
    }

    /// Takes a watcher out of the collection; what it was to get it reads later from its position.
    fn put_off(&mut self, at: u32, revision: i64, audience: Audience) {
        match audience {
            Audience::Synced => self.enter_state(at, State::Lagging, revision),
            Audience::Wave(_) => self.watchers[at].wave = 0,
        }
    }

    /// Sends each watcher that still takes part its events, in one response.
    fn deliver(&mut self, audience: Audience, header_revision: i64, sink: &mut impl Sink) {
        let mut hits = std::mem::take(&mut self.scratch.hits);
        if self.scratch.batch.len() > 1 {
            hits.sort_unstable();
        }
        for group in hits.chunk_by(|a, b| a.0 == b.0) {
            let at = group[0].0;
            let watcher = &self.watchers[at];
            let (takes_part, next) = match audience {
                Audience::Synced => (watcher.state == State::Synced, header_revision),
                Audience::Wave(wave) => (watcher.wave == wave, watcher.next),
            };
            if !takes_part {
                continue;
            }
            if sink.queued_bytes(watcher.stream) >= STREAM_QUEUED_BYTES_MAX {
                self.enter_state(at, State::Parked, next);
            } else {
                self.send_events(at, group, audience, header_revision, sink);
            }
        }
        hits.clear();
        self.scratch.hits = hits;
    }

    fn send_events(
        &mut self,
        at: u32,
        hits: &[(u32, u32)],
        audience: Audience,
        header_revision: i64,
        sink: &mut impl Sink,
    ) {
        let watcher = &mut self.watchers[at];
        watcher.progress_due = false;
        self.events += hits.len() as u64;
        let (stream, prev_kv) = (watcher.stream, watcher.prev_kv);
        let Scratch { batch, message, message_of, .. } = &mut self.scratch;
        let this = (hits.len() == 1).then_some((hits[0].1, watcher.id, prev_kv));
        if this.is_some() && *message_of == this {
            return sink.send(stream, message);
        }
        let header = self.config.identity.header(header_revision, self.raft_term);
        let head = Head { header, watch_id: watcher.id, ..Default::default() };
        let prev_from = prev_kv.then(|| audience.history_from(&self.view));
        let response = Response { batch, view: &self.view, prev_from, stream };
        message.clear();
        head.encode(message);
        let fragments = watcher.fragment
            && hits.len() >= 2
            && message.len() + response.events_len(hits) >= self.config.fragment_bytes_max;
        if fragments {
            *message_of = None;
            return response.send_fragments(head, hits, self.config.fragment_bytes_max, message, sink);
        }
        *message_of = if response.send(hits, message, sink) { this } else { None };
    }

    /// Lets watchers go on whose streams take output again: the farthest behind first, a few per stream and step.
    fn unpark(&mut self, sink: &mut impl Sink) {
        if self.parked.is_empty() {
            return;
        }
        let streams: Vec<StreamId> = self.parked.iter().copied().collect();
        for stream in streams {
            if sink.queued_bytes(stream) >= STREAM_QUEUED_BYTES_MAX / 2 {
                continue;
            }
            let parked = self.streams[&stream].parked.iter().take(UNPARK_MAX).copied();
            for (next, at) in parked.collect::<Vec<_>>() {
                self.enter_state(at, State::Lagging, next);
            }
        }
    }

    /// Cancels watchers whose position has been compacted.
    fn cancel_compacted(&mut self, view: &View, sink: &mut impl Sink) {
        let compact_revision = view.compact_revision();
        for _ in 0..WAVE_WATCHERS_MAX {
            let Some(&(next, at)) = self.lagging.first() else { return };
            if next >= compact_revision {
                return;
            }
            let watcher = &self.watchers[at];
            // etcd: the header of this one response has revision 0.
            let header = self.config.identity.header(0, self.raft_term);
            let head =
                Head { header, watch_id: watcher.id, canceled: true, compact_revision, ..Default::default() };
            send(sink, watcher.stream, &head);
            self.unindex(at);
            self.enter_state(at, State::Compacted, next);
        }
    }

    /// Serves the watchers that are farthest behind from one scan of history.
    fn catch_up(&mut self, view: &Arc<View>, guard: &Guard, sink: &mut impl Sink) -> Result<(), Damage> {
        let Some(&(first, _)) = self.lagging.first() else { return Ok(()) };
        if first < view.compact_revision() {
            return Ok(()); // more to cancel first
        }
        self.scratch.clear();
        self.scratch.waves += 1;
        let wave = self.scratch.waves;
        let mut members = std::mem::take(&mut self.scratch.members);
        members.clear();
        members.extend(self.lagging.iter().take(WAVE_WATCHERS_MAX).map(|&(_, at)| at));
        // An index of their own, so that a wave costs what its members cost, however many others want the same keys.
        self.wave.clear();
        for &at in &members {
            let watcher = &mut self.watchers[at];
            watcher.wave = wave;
            self.wave.group_mut(&watcher.span).push(at);
        }
        let end = self.scan(view, guard, first, wave)?;
        self.deliver(Audience::Wave(wave), self.dispatched, sink);
        self.scratch.clear();
        for &at in &members {
            let watcher = &self.watchers[at];
            if watcher.wave != wave || watcher.state != State::Lagging || watcher.next > end {
                continue;
            }
            let state = if end >= self.dispatched { State::Synced } else { State::Lagging };
            self.enter_state(at, state, end + 1);
        }
        self.scratch.members = members;
        Ok(())
    }

    /// Collects events from `first` on; answers the last revision that was read whole.
    fn scan(&mut self, view: &Arc<View>, guard: &Guard, first: i64, wave: u64) -> Result<i64, Damage> {
        let mut events = view.events(guard, Revision::start_of(first));
        let (mut current, mut rows, mut revisions, mut hits) = (0, 0, 0, 0);
        while let Some(event) = events.next()? {
            let revision = event.revision.main;
            if revision > self.dispatched {
                break;
            }
            if revision != current {
                revisions += usize::from(self.scratch.hits.len() > hits);
                hits = self.scratch.hits.len();
                let full = rows >= STEP_ROWS_MAX
                    || revisions >= RESPONSE_REVISIONS_MAX
                    || hits >= HITS_MAX
                    || self.scratch.batch.size() >= STEP_BYTES_MAX;
                if full {
                    return Ok(current);
                }
                current = revision;
            }
            self.collect(view, guard, &event, Audience::Wave(wave))?;
            rows += 1;
        }
        Ok(self.dispatched)
    }
}

/// What the responses to one watcher are made of.
struct Response<'a> {
    batch: &'a Batch,
    view: &'a Arc<View>,
    /// Where history begins for previous rows, if they are wanted.
    prev_from: Option<i64>,
    stream: StreamId,
}

impl Response<'_> {
    fn events_len(&self, hits: &[(u32, u32)]) -> usize {
        hits.iter().map(|&(_, event)| self.batch.event_len(event, self.prev_from.is_some())).sum()
    }

    /// Sends these events behind the head that `message` holds. True: `message` is the whole response.
    fn send(&self, hits: &[(u32, u32)], message: &mut Vec<u8>, sink: &mut impl Sink) -> bool {
        let head_len = message.len();
        for &(_, event) in hits {
            let Some(bytes) = self.batch.event(event, self.prev_from.is_some()) else {
                message.truncate(head_len);
                self.send_large(hits, message, sink);
                return false;
            };
            message.extend_from_slice(bytes);
        }
        sink.send(self.stream, message);
        true
    }

    fn send_large(&self, hits: &[(u32, u32)], head: &[u8], sink: &mut impl Sink) {
        let events = hits.iter().map(|&(_, event)| self.batch.revision(event)).collect();
        let len = (head.len() + self.events_len(hits)) as u64;
        let response = LargeResponse::new(self.view.clone(), head.to_vec(), events, self.prev_from, len);
        sink.send_large(self.stream, response);
    }

    /// etcd `sendFragments`: every part but the last says that more follow.
    fn send_fragments(
        &self,
        mut head: Head<'_>,
        hits: &[(u32, u32)],
        limit: usize,
        message: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) {
        let prev_kv = self.prev_from.is_some();
        let mut rest = hits;
        while !rest.is_empty() {
            message.clear();
            head.fragment = true;
            head.encode(message);
            let lens = rest.iter().map(|&(_, event)| self.batch.event_len(event, prev_kv));
            let (part, after) = rest.split_at(fragment_len(message.len(), lens, limit));
            if after.is_empty() {
                message.clear();
                head.fragment = false;
                head.encode(message);
            }
            self.send(part, message, sink);
            rest = after;
        }
    }
}
