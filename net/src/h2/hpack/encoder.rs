//! Encoding of header blocks.

use crate::h2::field::Field;
use crate::h2::hpack::table::{Entry, STATIC, Table};
use crate::h2::hpack::{huffman, integer};
use crate::h2::limits::HEADER_TABLE_SIZE;

/// A field to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, in lower case.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// How it may be compressed.
    pub indexing: Indexing,
}

/// How a field may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// It comes again: keep it in the dynamic table.
    Incremental,
    /// It varies: send it as it is.
    Without,
    /// It is a secret: nobody may ever put it into a table (RFC 7541 7.1.3).
    Never,
}

impl<'a> Header<'a> {
    /// A field that comes again.
    pub const fn new(name: &'a [u8], value: &'a [u8]) -> Header<'a> {
        Header { name, value, indexing: Indexing::Incremental }
    }

    /// A field that varies.
    pub const fn varying(name: &'a [u8], value: &'a [u8]) -> Header<'a> {
        Header { name, value, indexing: Indexing::Without }
    }
}

/// The sending end of header compression.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// Table sizes to be announced at the next block: the smallest since the last one, and the last.
    updates: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { table: Table::new(HEADER_TABLE_SIZE), updates: None }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE. We never use more than [`HEADER_TABLE_SIZE`].
    pub fn handle_table_size(&mut self, size: u32) {
        let size = (size as usize).min(HEADER_TABLE_SIZE);
        let current = self.updates.map_or(self.table.size_max(), |(_, last)| last);
        if size != current {
            let smallest = self.updates.map_or(size, |(smallest, _)| smallest.min(size));
            self.updates = Some((smallest, size));
        }
    }

    /// Bytes in the dynamic table.
    pub fn table_size(&self) -> usize {
        self.table.size()
    }

    /// Appends the block of `headers`. Blocks must be sent in the order in which they were encoded.
    pub fn encode<'h>(&mut self, headers: impl IntoIterator<Item = Header<'h>>, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.updates.take() {
            if smallest < last {
                self.update_size(smallest, out);
            }
            self.update_size(last, out);
        }
        for header in headers {
            self.encode_field(header, out);
        }
    }

    fn update_size(&mut self, size: usize, out: &mut Vec<u8>) {
        self.table.resize(size);
        integer::encode(5, 0x20, size, out);
    }

    fn encode_field(&mut self, header: Header<'_>, out: &mut Vec<u8>) {
        let Header { name, value, indexing } = header;
        let found = self.find(name, value);
        if let (Some((index, true)), true) = (found, indexing != Indexing::Never) {
            integer::encode(7, 0x80, index, out);
            return;
        }
        let name_index = found.map_or(0, |(index, _)| index);
        match indexing {
            Indexing::Incremental => integer::encode(6, 0x40, name_index, out),
            Indexing::Without => integer::encode(4, 0x00, name_index, out),
            Indexing::Never => integer::encode(4, 0x10, name_index, out),
        }
        if name_index == 0 {
            string(name, out);
        }
        string(value, out);
        if indexing == Indexing::Incremental {
            self.table.insert(Entry::new(Field::Other, name, value));
        }
    }

    fn find(&self, name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
        let mut by_name = None;
        for (at, (n, v)) in STATIC.iter().enumerate() {
            if n.as_bytes() == name {
                if v.as_bytes() == value {
                    return Some((at + 1, true));
                }
                by_name.get_or_insert((at + 1, false));
            }
        }
        match self.table.find(name, value) {
            Some((index, true)) => Some((index + STATIC.len() + 1, true)),
            Some((index, false)) => by_name.or(Some((index + STATIC.len() + 1, false))),
            None => by_name,
        }
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(bytes);
    if coded < bytes.len() {
        integer::encode(7, 0x80, coded, out);
        huffman::encode(bytes, out);
    } else {
        integer::encode(7, 0, bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

/// A block that is sent again and again: encoded once and then copied, for as long as the table stands.
#[derive(Debug)]
pub struct Prepared {
    headers: &'static [Header<'static>],
    generation: Option<u64>,
    bytes: Vec<u8>,
}

impl Prepared {
    /// The block of these headers.
    pub fn new(headers: &'static [Header<'static>]) -> Prepared {
        Prepared { headers, generation: None, bytes: Vec::new() }
    }

    /// Appends the block.
    #[inline]
    pub fn encode(&mut self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        if self.generation == Some(encoder.table.generation()) && encoder.updates.is_none() {
            out.extend_from_slice(&self.bytes);
        } else {
            self.encode_afresh(encoder, out);
        }
    }

    #[cold]
    fn encode_afresh(&mut self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let updating = encoder.updates.is_some();
        let generation = encoder.table.generation();
        let from = out.len();
        encoder.encode(self.headers.iter().copied(), out);
        // Only a block that left the table as it was may be said again in the same bytes.
        self.generation = None;
        if !updating && encoder.table.generation() == generation {
            self.generation = Some(generation);
            self.bytes.clear();
            self.bytes.extend_from_slice(&out[from..]);
        }
    }
}
