//! How traces of both cores write down and read times and entries, and how they describe clients' bytes.
//! The rest of what they write is as in every trace ([`consensus::trace::codec`]).

use std::fmt::{self, Write as _};
use std::time::Duration;

use consensus::peer::{FrameError, Reader};
use consensus::trace::codec::{
    put_block, put_entry_kind, put_option, put_u64, take_all, take_entry_kind, take_option, take_position,
};
use consensus::trace::describe::told;
use consensus::{Entry, LogPosition, ProposalId};

use crate::cores::ToClient;

/// Of an entry, without its data: index, term, kind, whether it was proposed here, length.
const ENTRY_BYTES: usize = 22;

/// A time, in nanoseconds.
pub(crate) fn put_time(out: &mut Vec<u8>, time: Duration) {
    put_u64(out, time.as_nanos() as u64);
}

/// See [`put_time`].
pub(crate) fn take_time(reader: &mut Reader, part: &'static str) -> Result<Duration, FrameError> {
    reader.u64(part).map(Duration::from_nanos)
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let Entry { index, term, kind, data, proposal } = entry;
    put_u64(out, index.0);
    put_u64(out, term.0);
    put_entry_kind(out, *kind);
    put_option(out, *proposal, |out, id| put_u64(out, id.0));
    put_block(out, data);
}

pub(crate) fn take_entries(reader: &mut Reader) -> Result<Vec<Entry>, FrameError> {
    const PART: &str = "entries";
    take_all(reader, (ENTRY_BYTES, PART), |reader| {
        let LogPosition { index, term } = take_position(reader, PART)?;
        let kind = take_entry_kind(reader, PART)?;
        let proposal = take_option(reader, PART, |reader| reader.u64(PART).map(ProposalId))?;
        Ok(Entry { index, term, kind, data: reader.block(PART)?, proposal })
    })
}

/// How flags are told.
pub(crate) fn told_flags<const N: usize>(flags: [bool; N]) -> String {
    flags.map(|flag| if flag { '1' } else { '0' }).iter().collect()
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
