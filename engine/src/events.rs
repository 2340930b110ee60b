//! The order of events, read forward for watches.
//!
//! `history` is the list of events. A watch is a position in it; what it misses it reads later.

use crossbeam::epoch::Guard;

use crate::history::State;
use crate::row::{self, BadRow, HistoryRow, KeyValue};
use crate::tree::{Cursor, Damage, Reader, Table};
use crate::types::Revision;
use crate::view::View;

/// `Event.EventType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A put.
    Put,
    /// A deletion.
    Delete,
}

/// One change of one key.
#[derive(Clone, Copy, Debug)]
pub struct Event<'g> {
    /// Its place in the order of events; `main` is the event's `mod_revision`.
    pub revision: Revision,
    /// Put or deletion.
    pub kind: EventKind,
    /// The key.
    pub key: &'g [u8],
    /// The stored `KeyValue`; of a deletion it holds the key alone. See [`Event::encode_kv`].
    row: &'g [u8],
    created: bool,
    previous: Option<Revision>,
}

impl Event<'_> {
    /// A put that created its key: such an event has no `prev_kv`.
    pub fn is_create(&self) -> bool {
        self.created
    }

    /// Length of what [`Event::encode_kv`] appends.
    pub fn kv_len(&self) -> usize {
        match self.kind {
            EventKind::Put => self.row.len(),
            EventKind::Delete => self.tombstone().encoded_len(),
        }
    }

    /// Appends the event's `kv`, an encoded `mvccpb.KeyValue`: of a put the row, of a deletion the
    /// key and the deleting revision.
    pub fn encode_kv(&self, out: &mut Vec<u8>) {
        match self.kind {
            EventKind::Put => out.extend_from_slice(self.row),
            EventKind::Delete => self.tombstone().encode(out),
        }
    }

    /// The bytes that [`Event::encode_kv`] appends, where they are stored so: of a put.
    pub fn stored_kv(&self) -> Option<&[u8]> {
        (self.kind == EventKind::Put).then_some(self.row)
    }

    fn tombstone(&self) -> KeyValue<'_> {
        KeyValue { key: self.key, mod_revision: self.revision.main, ..KeyValue::default() }
    }
}

/// Events in order. Not an iterator, since each step can meet damage.
pub struct Events<'g> {
    rows: Cursor<'g>,
    from: Revision,
    started: bool,
}

impl<'g> Events<'g> {
    /// The next event; `None` after the view's last one.
    #[allow(clippy::should_implement_trait)] // it can fail
    pub fn next(&mut self) -> Result<Option<Event<'g>>, Damage> {
        let found = if self.started {
            self.rows.next()?
        } else {
            self.started = true;
            self.rows.seek(&row::history_key(self.from))?
        };
        if !found {
            return Ok(None);
        }
        decode(self.rows.key(), self.rows.value()?).map(Some).map_err(|bad| bad.of(Table::History))
    }
}

fn decode<'g>(key: &[u8], value: &'g [u8]) -> Result<Event<'g>, BadRow> {
    let HistoryRow { deleted, created, previous, kv } = HistoryRow::decode(value)?;
    Ok(Event {
        revision: row::decode_history_key(key)?,
        kind: if deleted { EventKind::Delete } else { EventKind::Put },
        key: row::key_of(kv)?,
        row: kv,
        created,
        previous,
    })
}

impl View {
    /// Events from `from` on, inclusive. Below the compact revision the list has holes, so the
    /// caller must have compared `from.main` with it.
    pub fn events<'g>(&'g self, guard: &'g Guard, from: Revision) -> Events<'g> {
        let state: State<Reader<'g>> = self.state(guard);
        Events { rows: state.source.cursor(Table::History), from, started: false }
    }

    /// The encoded `mvccpb.KeyValue` that an event replaced or deleted: the key's state one revision
    /// before. `None` for a creation, and where that revision is compacted.
    pub fn prev_kv<'g>(&'g self, guard: &'g Guard, event: &Event<'_>) -> Result<Option<&'g [u8]>, Damage> {
        self.prev_kv_from(guard, event, self.compact_revision())
    }

    /// [`View::prev_kv`] for a watcher to which history begins at `first`, which must not lie before
    /// [`View::history_intact_from`]: one that is up to date is not hurt by a compaction that was
    /// applied in the same batch as the event.
    pub fn prev_kv_from<'g>(
        &'g self,
        guard: &'g Guard,
        event: &Event<'_>,
        first: i64,
    ) -> Result<Option<&'g [u8]>, Damage> {
        assert!(first >= self.history_intact_from(), "rows before the intact ones may be gone");
        let before = event.revision.main - 1;
        if event.created || before < first {
            return Ok(None);
        }
        let state = self.state(guard);
        match state.locate_older(event.previous, before)? {
            Some(located) => Ok(Some(state.live_row(located.revision)?.kv)),
            None => Ok(None),
        }
    }
}
