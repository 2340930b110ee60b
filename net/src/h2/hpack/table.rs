//! The static table (RFC 7541, appendix A) and the dynamic table.

use std::collections::VecDeque;

use crate::h2::field::Field;

/// The static table; index 1 is its first entry.
pub static STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What a field costs in a table or in a list, beyond its bytes (RFC 7541 4.1).
pub const ENTRY_OVERHEAD: usize = 32;

/// An entry of a dynamic table, made before the table changes: its name may be borrowed from an entry that goes.
#[derive(Debug)]
pub struct Entry {
    field: Field,
    name_len: usize,
    bytes: Box<[u8]>, // name, then value
}

impl Entry {
    /// A copy of `name` and `value`.
    pub fn new(field: Field, name: &[u8], value: &[u8]) -> Entry {
        Entry { field, name_len: name.len(), bytes: [name, value].concat().into_boxed_slice() }
    }
}

/// A dynamic table: newest first, bounded in bytes.
#[derive(Debug)]
pub struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
    generation: u64,
}

impl Table {
    /// An empty table of at most `size_max` bytes.
    pub fn new(size_max: usize) -> Table {
        Table { entries: VecDeque::new(), size: 0, size_max, generation: 0 }
    }

    /// Changes whenever the table does.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes in the table, as RFC 7541 4.1 counts.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bound.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// Sets the bound and evicts what no longer fits.
    pub fn resize(&mut self, size_max: usize) {
        self.generation += 1;
        self.size_max = size_max;
        self.evict(size_max);
    }

    /// Adds an entry; one that is larger than the table empties it (RFC 7541 4.4).
    pub fn insert(&mut self, entry: Entry) {
        self.generation += 1;
        let size = entry.bytes.len() + ENTRY_OVERHEAD;
        if size > self.size_max {
            self.evict(0);
            return;
        }
        self.evict(self.size_max - size);
        self.entries.push_front(entry);
        self.size += size;
    }

    fn evict(&mut self, size_max: usize) {
        while self.size > size_max {
            let Some(entry) = self.entries.pop_back() else { break };
            self.size -= entry.bytes.len() + ENTRY_OVERHEAD;
        }
    }

    /// The entry with a dynamic index (0 is the newest).
    pub fn entry(&self, index: usize) -> Option<(Field, &[u8], &[u8])> {
        let entry = self.entries.get(index)?;
        let (name, value) = entry.bytes.split_at(entry.name_len);
        Some((entry.field, name, value))
    }

    /// Where `name` with `value` is, or else where `name` is: (dynamic index, value matches).
    pub fn find(&self, name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
        let mut by_name = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let (n, v) = entry.bytes.split_at(entry.name_len);
            if n == name {
                if v == value {
                    return Some((index, true));
                }
                by_name.get_or_insert((index, false));
            }
        }
        by_name
    }
}
