//! How numbers, texts and entries are written, read and described.

use std::fmt::{self, Write as _};

use consensus::peer::{FrameError, Reader};
use consensus::{Entry, EntryKind, Index, ProposalId, Term};

use crate::cores::ToClient;

/// Of an entry, without its data: index, term, kind, whether it was proposed here, length.
const ENTRY_BYTES: usize = 22;

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// How many follow. A frame is far too small for so many that this could be less than there are.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u32).to_le_bytes());
}

pub(crate) fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    number.iter().for_each(|number| put_u64(out, *number));
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let Entry { index, term, kind, data, proposal } = entry;
    put_u64(out, index.0);
    put_u64(out, term.0);
    out.push(match kind {
        EntryKind::Normal => 1,
        EntryKind::ConfChange => 2,
    });
    put_option(out, proposal.map(|id| id.0));
    put_block(out, data);
}

pub(crate) fn take_size(reader: &mut Reader, part: &'static str) -> Result<usize, FrameError> {
    usize::try_from(reader.u64(part)?).map_err(|_| FrameError::Payload(part))
}

pub(crate) fn take_flag(reader: &mut Reader, part: &'static str) -> Result<bool, FrameError> {
    match reader.u8(part)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FrameError::Payload(part)),
    }
}

pub(crate) fn take_option(reader: &mut Reader, part: &'static str) -> Result<Option<u64>, FrameError> {
    take_flag(reader, part)?.then(|| reader.u64(part)).transpose()
}

pub(crate) fn take_text(reader: &mut Reader, part: &'static str) -> Result<String, FrameError> {
    String::from_utf8(reader.block(part)?.to_vec()).map_err(|_| FrameError::Payload(part))
}

/// A number of things, and each of them; `bytes`: the fewest that one takes.
pub(crate) fn take_all<T>(
    reader: &mut Reader,
    (bytes, part): (usize, &'static str),
    mut take: impl FnMut(&mut Reader) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    let count = reader.count(bytes, part)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(take(reader)?);
    }
    Ok(all)
}

pub(crate) fn take_entries(reader: &mut Reader) -> Result<Vec<Entry>, FrameError> {
    const PART: &str = "entries";
    take_all(reader, (ENTRY_BYTES, PART), |reader| {
        let (index, term) = (Index(reader.u64(PART)?), Term(reader.u64(PART)?));
        let kind = match reader.u8(PART)? {
            1 => EntryKind::Normal,
            2 => EntryKind::ConfChange,
            _ => return Err(FrameError::Payload(PART)),
        };
        let proposal = take_option(reader, PART)?.map(ProposalId);
        Ok(Entry { index, term, kind, data: reader.block(PART)?, proposal })
    })
}

/// How bytes are told: a trace is to show whether they are the same, not to hold them twice.
pub(crate) fn told(bytes: &[u8]) -> String {
    format!("{} bytes, crc {:08x}", bytes.len(), crc32fast::hash(bytes))
}

/// What the raft core tells a client core. (The store core's own is told by its trace.)
pub(crate) fn told_to_client(message: &ToClient, out: &mut String) -> fmt::Result {
    match message {
        ToClient::Dropped(id, reason) => write!(out, "{:x} dropped: {reason:?}", id.0),
        ToClient::ReadIndex(id, index) => write!(out, "read {:x}: {index:?}", id.0),
        ToClient::Transferred(id) => write!(out, "{:x} transferred", id.0),
        ToClient::PeerRequest(from, number, body) => {
            write!(out, "{from:?} asks {number:x}, {}", told(body))
        }
        ToClient::PeerResponse(id, body) => write!(out, "answer to {:x}, {}", id.0, told(body)),
        ToClient::Published(_) | ToClient::Outcomes(_) | ToClient::Compacting(_) | ToClient::Answers(_) => {
            write!(out, "of the store")
        }
    }
}
