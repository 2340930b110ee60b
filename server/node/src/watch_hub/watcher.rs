//! One watcher and the slab that holds them all.

use std::ops::{Index, IndexMut};

use engine::EventKind;

use super::StreamId;
use super::index::Span;

/// Where a watcher stands.
///
/// ```text
///            create(start > dispatched)          create(start in the past)
///                   │                                    │
///                   ▼      stream full                   ▼      stream full
///                Synced ───────────────► Parked ◄─────Lagging ──► Compacted
///                   ▲                       └────────────►│   overtaken by a compaction
///                   └───────── caught up ─────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Has everything that was dispatched; the next event comes with a new view.
    Synced,
    /// Reads history from `next` on.
    Lagging,
    /// As `Lagging`, but its stream takes nothing at the moment.
    Parked,
    /// Cancelled by a compaction; keeps its id until the client cancels it too.
    Compacted,
}

/// One watcher.
pub(super) struct Watcher {
    pub stream: StreamId,
    pub id: i64,
    pub span: Span,
    pub state: State,
    /// Events before this revision have been sent or are not wanted. Of a synced watcher it may lie behind.
    pub next: i64,
    /// No progress is told of it before this revision has been dispatched: the start that was asked for, if that lay in the
    /// future, or the newest revision when it was made, if that was not dispatched yet; else 0.
    pub begins: i64,
    /// Its place in its index group.
    pub slot: u32,
    /// The catch-up wave it takes part in.
    pub wave: u64,
    pub prev_kv: bool,
    pub fragment: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub progress_notify: bool,
    /// The next tick of the stream sends a progress notice.
    pub progress_due: bool,
}

impl Watcher {
    pub fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }

    /// What it is charged where memory is bounded: itself, its keys, and its places in maps and sets.
    pub fn cost_bytes(&self) -> usize {
        size_of::<Watcher>() + self.span.key_bytes() + 192
    }
}

/// All watchers of a hub, by a number that is reused.
#[derive(Default)]
pub(super) struct Slab {
    slots: Vec<Option<Watcher>>,
    free: Vec<u32>,
}

impl Slab {
    pub fn insert(&mut self, watcher: Watcher) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(watcher);
                at
            }
            None => {
                self.slots.push(Some(watcher));
                self.slots.len() as u32 - 1
            }
        }
    }

    pub fn remove(&mut self, at: u32) -> Watcher {
        let watcher = self.slots[at as usize].take().expect("a watcher is removed once");
        self.free.push(at);
        if self.free.len() == self.slots.len() {
            *self = Slab::default();
        }
        watcher
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Watcher)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at as u32, slot.as_ref()?)))
    }
}

impl Index<u32> for Slab {
    type Output = Watcher;

    fn index(&self, at: u32) -> &Watcher {
        self.slots[at as usize].as_ref().expect("numbers of watchers are dropped with them")
    }
}

impl IndexMut<u32> for Slab {
    fn index_mut(&mut self, at: u32) -> &mut Watcher {
        self.slots[at as usize].as_mut().expect("numbers of watchers are dropped with them")
    }
}
