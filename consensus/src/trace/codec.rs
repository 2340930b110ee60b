//! How traces write down what they have in common, and how it is read back.
//!
//! A *block* is its length (4 bytes) and its bytes, an *option* is a byte 0, or 1 and what there is; several things are their number
//! (4 bytes) and each of them. `part` names in errors what should have been there, as [`Reader`]'s.
//!
//! # Errors
//! What does not read as it is written here is refused with [`FrameError::Payload`] of its part; bytes that are not there take no memory.

pub use crate::peer::{put_count, put_u64};

use crate::peer::{self, Decoder, FRAME_BYTES_MAX, FrameError, Reader};
use crate::{ConfChange, ConfState, EntryKind, Index, LogPosition, NodeId, PeerMessage, Term};

/// All that goes in with a call of this kind is a number.
pub fn number(kind: u8, number: u64, out: &mut Vec<u8>) -> u8 {
    put_u64(out, number);
    kind
}

/// A block.
pub fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// An option, of which `put` writes what there is.
pub fn put_option<T>(out: &mut Vec<u8>, option: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(option.is_some()));
    if let Some(value) = option {
        put(out, value);
    }
}

/// Several things, each of which `put` writes.
pub fn put_all<T>(out: &mut Vec<u8>, all: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    put_count(out, all.len());
    all.iter().for_each(|one| put(out, one));
}

/// Index, then term.
pub fn put_position(out: &mut Vec<u8>, position: LogPosition) {
    put_u64(out, position.index.0);
    put_u64(out, position.term.0);
}

/// Voters, then learners.
pub fn put_conf(out: &mut Vec<u8>, conf: &ConfState) {
    put_nodes(out, &conf.voters);
    put_nodes(out, &conf.learners);
}

/// Nodes by their number.
pub fn put_nodes(out: &mut Vec<u8>, nodes: &[NodeId]) {
    put_all(out, nodes, |out, node| put_u64(out, node.0));
}

/// 1 for a normal entry, 2 for a configuration change.
pub fn put_entry_kind(out: &mut Vec<u8>, kind: EntryKind) {
    out.push(match kind {
        EntryKind::Normal => 1,
        EntryKind::ConfChange => 2,
    });
}

/// A number of bytes or things.
pub fn take_size(reader: &mut Reader, part: &'static str) -> Result<usize, FrameError> {
    usize::try_from(reader.u64(part)?).map_err(|_| FrameError::Payload(part))
}

/// A byte that is 0 or 1.
pub fn take_flag(reader: &mut Reader, part: &'static str) -> Result<bool, FrameError> {
    match reader.u8(part)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FrameError::Payload(part)),
    }
}

/// See [`put_option`].
pub fn take_option<T>(
    reader: &mut Reader,
    part: &'static str,
    take: impl FnOnce(&mut Reader) -> Result<T, FrameError>,
) -> Result<Option<T>, FrameError> {
    take_flag(reader, part)?.then(|| take(reader)).transpose()
}

/// A block of UTF-8.
pub fn take_text(reader: &mut Reader, part: &'static str) -> Result<String, FrameError> {
    String::from_utf8(reader.block(part)?.to_vec()).map_err(|_| FrameError::Payload(part))
}

/// See [`put_all`]; `bytes`: the fewest that one takes.
pub fn take_all<T>(
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

/// See [`put_position`].
pub fn take_position(reader: &mut Reader, part: &'static str) -> Result<LogPosition, FrameError> {
    Ok(LogPosition { index: Index(reader.u64(part)?), term: Term(reader.u64(part)?) })
}

/// See [`put_conf`].
pub fn take_conf(reader: &mut Reader) -> Result<ConfState, FrameError> {
    Ok(ConfState { voters: take_nodes(reader)?, learners: take_nodes(reader)? })
}

/// See [`put_nodes`].
pub fn take_nodes(reader: &mut Reader) -> Result<Vec<NodeId>, FrameError> {
    take_all(reader, (8, "members"), |reader| reader.u64("members").map(NodeId))
}

/// See [`put_entry_kind`].
pub fn take_entry_kind(reader: &mut Reader, part: &'static str) -> Result<EntryKind, FrameError> {
    match reader.u8(part)? {
        1 => Ok(EntryKind::Normal),
        2 => Ok(EntryKind::ConfChange),
        _ => Err(FrameError::Payload(part)),
    }
}

/// All that is left: a change as in an entry.
pub fn take_change(reader: &mut Reader) -> Result<ConfChange, FrameError> {
    ConfChange::decode(&reader.rest()).map_err(|_| FrameError::Payload("change"))
}

/// All that is left: one message as its frame between peers. Its own errors are those of [`peer::decode`].
pub fn take_message(reader: &mut Reader) -> Result<PeerMessage, FrameError> {
    let bytes = reader.rest();
    let mut rest = &bytes[..];
    match Decoder::new(FRAME_BYTES_MAX).next(&mut rest)? {
        Some(frame) if rest.is_empty() => peer::decode(&frame),
        _ => Err(FrameError::Payload("message")),
    }
}
