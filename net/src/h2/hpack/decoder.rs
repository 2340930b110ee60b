//! Decoding of header blocks.

use crate::h2::field::Field;
use crate::h2::hpack::table::{ENTRY_OVERHEAD, Entry, STATIC, Table};
use crate::h2::hpack::{huffman, integer};
use crate::h2::limits::{HEADER_LIST_SIZE_FATAL, HEADER_TABLE_SIZE};

/// A block that cannot be decoded. The connection is lost, for the table is no longer the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// RFC 7541 was broken.
    Malformed(&'static str),
    /// More than [`HEADER_LIST_SIZE_FATAL`]; indexed fields count each time they are used.
    TooLarge,
}

impl From<integer::Malformed> for DecodeError {
    fn from(_: integer::Malformed) -> DecodeError {
        DecodeError::Malformed("integer")
    }
}

/// The receiving end of header compression.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: Table::new(HEADER_TABLE_SIZE), name: Vec::new(), value: Vec::new() }
    }
}

/// Scratch space kept from one block to the next.
const SCRATCH_KEPT: usize = 1024;

impl Decoder {
    /// Changes whenever the dynamic table does.
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// Bytes in the dynamic table.
    pub fn table_size(&self) -> usize {
        self.table.size()
    }

    /// Decodes one whole block and gives its fields to `on` in order. Returns the size of the list (RFC 9113 6.5.2).
    pub fn decode(
        &mut self,
        block: &[u8],
        mut on: impl FnMut(Field, &[u8], &[u8]),
    ) -> Result<usize, DecodeError> {
        let mut rest = self.size_updates(block)?;
        let mut list_size = 0;
        while let Some(&first) = rest.first() {
            let size = if first & 0x80 != 0 {
                let index = integer::decode(7, &mut rest)?;
                let (field, name, value) = lookup(&self.table, index)?;
                on(field, name, value);
                name.len() + value.len()
            } else {
                let size = self.literal(first, &mut rest, &mut on)?;
                self.trim_scratch();
                size
            };
            list_size += size + ENTRY_OVERHEAD;
            if list_size > HEADER_LIST_SIZE_FATAL {
                return Err(DecodeError::TooLarge);
            }
        }
        Ok(list_size)
    }

    // RFC 7541 4.2: size updates stand at the beginning of a block, at most two of them.
    fn size_updates<'b>(&mut self, block: &'b [u8]) -> Result<&'b [u8], DecodeError> {
        let mut rest = block;
        let mut count = 0;
        while let Some(&first) = rest.first()
            && first & 0xe0 == 0x20
        {
            let size = integer::decode(5, &mut rest)?;
            count += 1;
            if size > HEADER_TABLE_SIZE || count > 2 {
                return Err(DecodeError::Malformed("dynamic table size update"));
            }
            self.table.resize(size);
        }
        Ok(rest)
    }

    fn literal(
        &mut self,
        first: u8,
        rest: &mut &[u8],
        on: &mut impl FnMut(Field, &[u8], &[u8]),
    ) -> Result<usize, DecodeError> {
        let (bits, indexed) = match first {
            0x40..=0x7f => (6, true),
            0x00..=0x1f => (4, false), // without indexing, and never indexed
            _ => return Err(DecodeError::Malformed("size update inside a block")),
        };
        let index = integer::decode(bits, rest)?;
        let (named, name) = if index == 0 {
            (None, string(rest, &mut self.name)?)
        } else {
            let (field, name, _) = lookup(&self.table, index)?;
            (Some(field), name)
        };
        let value = string(rest, &mut self.value)?;
        let field = match named {
            // A malformed entry may have a good name with a bad value.
            Some(Field::Malformed) | None => Field::classify(name, value),
            Some(field) => field.with_value(value),
        };
        on(field, name, value);
        let size = name.len() + value.len();
        if indexed {
            let entry = Entry::new(field, name, value);
            self.table.insert(entry);
        }
        Ok(size)
    }

    fn trim_scratch(&mut self) {
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > SCRATCH_KEPT {
                *scratch = Vec::new();
            }
        }
    }
}

fn lookup(table: &Table, index: usize) -> Result<(Field, &[u8], &[u8]), DecodeError> {
    if index == 0 {
        return Err(DecodeError::Malformed("index 0"));
    }
    if let Some(&(name, value)) = STATIC.get(index - 1) {
        return Ok((STATIC_FIELDS[index - 1], name.as_bytes(), value.as_bytes()));
    }
    table.entry(index - 1 - STATIC.len()).ok_or(DecodeError::Malformed("index out of range"))
}

static STATIC_FIELDS: [Field; 61] = {
    let mut fields = [Field::Other; 61];
    let mut at = 0;
    while at < 61 {
        fields[at] = static_field(at + 1);
        at += 1;
    }
    fields
};

const fn static_field(index: usize) -> Field {
    match index {
        1 => Field::Authority,
        2 | 3 => Field::Method,
        4 | 5 => Field::Path,
        6 | 7 => Field::Scheme,
        8..=14 => Field::Status,
        23 => Field::Authorization,
        28 => Field::ContentLength,
        31 => Field::ContentType,
        38 => Field::Host,
        57 => Field::ConnectionSpecific, // transfer-encoding
        _ => Field::Other,
    }
}

// RFC 7541 5.2. A plain string is borrowed from the block, a Huffman-coded one is decoded into `scratch`.
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    let coded = rest.first().is_some_and(|b| b & 0x80 != 0);
    let size = integer::decode(7, rest)?;
    let (bytes, next) =
        rest.split_at_checked(size).ok_or(DecodeError::Malformed("string beyond the block"))?;
    *rest = next;
    if !coded {
        return Ok(bytes);
    }
    scratch.clear();
    huffman::decode(bytes, scratch).map_err(|_| DecodeError::Malformed("Huffman code"))?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_fields_are_those_that_classify_finds() {
        for (at, (name, value)) in STATIC.iter().enumerate() {
            assert_eq!(STATIC_FIELDS[at], Field::classify(name.as_bytes(), value.as_bytes()), "{name}");
        }
    }
}
