//! Watches: every event once, in order, whole revisions, nothing left out, no progress mark ahead of an event.
//!
//! Each watcher has a cursor: all changes before it have been delivered. What arrives must be the model's next changes
//! that the watcher wants, in full; a progress mark at R says that there is none left up to R.

use std::collections::BTreeSet;

use net::pb::etcdserverpb as pb;
use net::pb::mvccpb::Event;
use pb::watch_create_request::FilterType;
use rustc_hash::FxHashMap;

use super::{Failure, fail};
use crate::model::{Change, Model};

/// A watcher of a stream.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// As it was asked for; its start revision is where it goes on.
    pub request: pb::WatchCreateRequest,
    /// Everything before this revision has arrived. `None` until the creation was answered.
    pub next: Option<i64>,
    /// Events of a revision of which a fragment has arrived.
    fragment: Vec<Event>,
}

/// See the module's header.
#[derive(Default)]
pub struct Watches {
    watchers: FxHashMap<(u64, i64), Watcher>,
    /// Creations that are not answered yet, in the order of requests, by stream.
    asked: FxHashMap<u64, Vec<pb::WatchCreateRequest>>,
    /// Watchers that a compaction has ended, by stream: as in etcd they keep their ids until the stream ends or the client, who
    /// may not know yet, cancels them.
    compacted: FxHashMap<u64, BTreeSet<i64>>,
    /// Events checked.
    pub checked: u64,
}

impl Watches {
    /// A client asks for a watcher; the request carries its id.
    pub fn ask(&mut self, stream: u64, request: pb::WatchCreateRequest) {
        self.asked.entry(stream).or_default().push(request);
    }

    /// The stream is over. Gives its watchers as they would go on.
    pub fn close(&mut self, stream: u64) -> Vec<pb::WatchCreateRequest> {
        let asked = self.asked.remove(&stream).unwrap_or_default();
        self.compacted.remove(&stream);
        let mut gone: Vec<_> = self.watchers.extract_if(|(of, _), _| *of == stream).collect();
        gone.sort_by_key(|((_, id), _)| *id);
        let resumed = gone.into_iter().map(|(_, watcher)| {
            let start_revision = watcher.next.unwrap_or(watcher.request.start_revision);
            pb::WatchCreateRequest { start_revision, ..watcher.request }
        });
        resumed.chain(asked).collect()
    }

    /// Ids of a stream's watchers, ascending.
    pub fn ids(&self, stream: u64) -> Vec<i64> {
        let mut ids: Vec<i64> =
            self.watchers.keys().filter(|(of, _)| *of == stream).map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Watchers that a member has to remember for a stream.
    pub fn remembered(&self, stream: u64) -> usize {
        self.ids(stream).len() + self.compacted.get(&stream).map_or(0, BTreeSet::len)
    }

    /// A response has arrived.
    pub fn response(
        &mut self,
        model: &Model,
        stream: u64,
        response: pb::WatchResponse,
    ) -> Result<(), Failure> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if revision > model.revision {
            return fail(
                "watch",
                format!("revision {revision} in a header, {} is committed", model.revision),
            );
        }
        if response.created {
            return self.created(stream, &response, revision);
        }
        if response.canceled {
            return self.canceled(model, stream, &response);
        }
        if response.events.is_empty() && !response.fragment {
            let ids = if response.watch_id == -1 { self.ids(stream) } else { vec![response.watch_id] };
            return ids.into_iter().try_for_each(|id| self.progress(model, stream, id, revision));
        }
        let Some(watcher) = self.watchers.get_mut(&(stream, response.watch_id)) else {
            return fail("watch", format!("events for watcher {}, which is none", response.watch_id));
        };
        watcher.fragment.extend(response.events);
        if response.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut watcher.fragment);
        self.checked += events.len() as u64;
        watcher.events(model, &events).map_err(|what| Failure {
            checker: "watch",
            what: format!("stream {stream} watcher {}: {what}", response.watch_id),
        })
    }

    fn created(&mut self, stream: u64, response: &pb::WatchResponse, revision: i64) -> Result<(), Failure> {
        let asked = self.asked.entry(stream).or_default();
        if asked.is_empty() {
            return fail("watch", "a watcher is created that nobody asked for");
        }
        let request = asked.remove(0);
        if response.canceled {
            return Ok(()); // refused
        }
        if request.watch_id != response.watch_id {
            return fail(
                "watch",
                format!("watcher {} is created, {} was asked for", response.watch_id, request.watch_id),
            );
        }
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let watcher = Watcher { request, next: Some(next), fragment: Vec::new() };
        self.watchers.insert((stream, response.watch_id), watcher);
        Ok(())
    }

    fn canceled(&mut self, model: &Model, stream: u64, response: &pb::WatchResponse) -> Result<(), Failure> {
        let Some(watcher) = self.watchers.remove(&(stream, response.watch_id)) else {
            self.compacted.entry(stream).or_default().remove(&response.watch_id);
            return Ok(());
        };
        let compact = response.compact_revision;
        let next = watcher.next.unwrap_or(0);
        if compact > 0 {
            self.compacted.entry(stream).or_default().insert(response.watch_id);
        }
        if compact > 0 && (compact > model.compact_revision || next >= compact) {
            return fail(
                "watch",
                format!(
                    "a watcher at {next} is cancelled by compaction at {compact}, which is {}",
                    model.compact_revision
                ),
            );
        }
        Ok(())
    }

    fn progress(&mut self, model: &Model, stream: u64, id: i64, revision: i64) -> Result<(), Failure> {
        let Some(watcher) = self.watchers.get_mut(&(stream, id)) else { return Ok(()) };
        let next = watcher.next.unwrap_or(0);
        let missed = watcher.wanted(model).next().filter(|change| change.main <= revision);
        if let Some(change) = missed {
            return fail(
                "watch",
                format!(
                    "stream {stream} watcher {id}: progress at {revision}, but revision {} has not arrived",
                    change.main
                ),
            );
        }
        if watcher.request.start_revision > revision + 1 && next > revision + 1 {
            return fail(
                "watch",
                format!("stream {stream} watcher {id} starts at {next} and hears of progress at {revision}"),
            );
        }
        watcher.next = Some(next.max(revision + 1));
        Ok(())
    }

    /// After all faults: every watcher has everything.
    pub fn check_complete(&self, model: &Model) -> Result<(), Failure> {
        let mut all: Vec<_> = self.watchers.iter().collect();
        all.sort_by_key(|(key, _)| **key);
        for ((stream, id), watcher) in all {
            if let Some(change) = watcher.wanted(model).next() {
                return fail(
                    "watch",
                    format!(
                        "stream {stream} watcher {id} has never been sent revision {} of {}",
                        change.main, model.revision
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Watcher {
    fn wanted<'m>(&'m self, model: &'m Model) -> impl Iterator<Item = &'m Change> {
        let request = &self.request;
        let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
        let (no_put, no_delete) = (filtered(FilterType::Noput), filtered(FilterType::Nodelete));
        let from = self.next.unwrap_or(i64::MAX);
        model.changes_from(&request.key, &request.range_end, from).filter(move |change| {
            let is_put = change.event.r#type == 0;
            !(is_put && no_put || !is_put && no_delete)
        })
    }

    fn events(&mut self, model: &Model, events: &[Event]) -> Result<(), String> {
        let mut last = 0;
        let mut wanted = self.wanted(model);
        for found in events {
            let found_at = found.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let Some(expected) = wanted.next() else {
                return Err(format!("an event of revision {found_at} after all it should get"));
            };
            if expected.main != found_at {
                return Err(format!("an event of revision {found_at}, the next one is of {}", expected.main));
            }
            let mut event = expected.event.clone();
            // Where the previous row is compacted there is none to show.
            let compacted = expected.main <= model.compact_revision;
            if !self.request.prev_kv || (compacted && found.prev_kv.is_none()) {
                event.prev_kv = None;
            }
            if event != *found {
                return Err(format!("expected {event:?}, got {found:?}"));
            }
            last = expected.main;
        }
        if let Some(left) = wanted.next()
            && left.main == last
        {
            return Err(format!("revision {last} comes in parts"));
        }
        drop(wanted);
        self.next = Some(last + 1);
        Ok(())
    }
}
