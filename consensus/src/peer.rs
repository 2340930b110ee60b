//! The bytes of what members say to each other.
//!
//! A connection between two members carries frames in each direction, one after the other. All numbers are
//! little-endian. Which connection carries which message is said in [`Lane`](crate::Lane); how a connection begins, and
//! the frames that carry a snapshot's bytes, in the `node` crate.
//!
//! | offset | bytes | frame |
//! |---|---|---|
//! | 0 | 4 | length of kind and payload together: 1 to 67 108 864 |
//! | 4 | 4 | CRC-32 of the length's four bytes |
//! | 8 | 4 | CRC-32 of the kind and the payload |
//! | 12 | 1 | kind: 1 raft, 2 forward, 3 forward refused, 4 request, 5 response; from 16 on not messages |
//! | 13 | … | payload |
//!
//! The length has a checksum of its own because it is used before the payload is there: a damaged one would swallow all that
//! comes after it, heartbeats and appends, for as long as the connection stays up.
//!
//! TCP's checksum lets one damaged segment in some thousands pass; a flipped bit in an entry would be applied on this
//! member and on no other. A frame whose checksum is wrong ends the connection, as does one of an unknown kind or with
//! bytes left over: the version of the protocol is agreed on when a connection begins, and there is no other way to
//! change these tables. Nothing is sent again on the next connection, because raft repeats what is still wanted, but for
//! proposals: the leader knows those that it has taken by their sequence.
//!
//! | offset | bytes | raft |
//! |---|---|---|
//! | 0 | 1 | type: the number of raft's `MessageType`; those that never leave a member are refused |
//! | 1 | 1 | flags: 1 = reject, 2 = a snapshot follows the context, 4 = the bytes of the entries are raft's own (a read's token) and not the caller's; other bits are zero |
//! | 2 | 72 | nine times eight: to, from, term, log term, index, commit, commit term, request snapshot, reject hint |
//! | 74 | 8 | priority, signed |
//! | 82 | 4 + … | length of the context, and the context |
//! | | | the snapshot, if flagged |
//! | | 4 | number of entries |
//! | | 21 each | entries: term (8), index (8), type (1: 0 normal, 1 configuration change), length of the data (4) |
//! | | … | the data of all entries, one after the other |
//!
//! | bytes | snapshot |
//! |---|---|
//! | 8, 8 | index, term |
//! | 4 + 8 each | voters |
//! | 4 + 8 each | learners |
//! | 4 + … | raft's data, which ringd leaves empty |
//!
//! | bytes | forward |
//! |---|---|
//! | 8, 8, 8 | term, nonce of the sender's process, sequence number |
//! | 4 | number of proposals |
//! | 13 each | proposals: id (8), kind (1: 1 normal, 2 configuration change), length (4) |
//! | … | the bytes of all proposals, one after the other |
//!
//! | bytes | forward refused |
//! |---|---|
//! | 8 | nonce of the process that sent the forward |
//! | 4 | number of proposals |
//! | 17 each | id (8), reason (1, see [`DropReason`]), the leader's id if the reason is 2, else zero (8) |
//!
//! A request and a response are an id (8) and a body, which is the rest.
//!
//! Lengths and counts are checked against the bytes that are there before anything is allocated by them.

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};

use crate::{DropReason, EntryKind, Forward, ForwardRefused, Message, NodeId, PeerMessage, ProposalId, Term};

#[cfg(test)]
mod tests;

/// What precedes a frame's kind.
pub const HEADER_BYTES: usize = 12;

/// Kind and payload of a frame: at most this many bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Kinds from here on carry no [`PeerMessage`].
pub const KIND_FIRST_FOREIGN: u8 = 16;

const KIND_RAFT: u8 = 1;
const KIND_FORWARD: u8 = 2;
const KIND_FORWARD_REFUSED: u8 = 3;
const KIND_REQUEST: u8 = 4;
const KIND_RESPONSE: u8 = 5;

const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;
const FLAG_OWN_DATA: u8 = 4;

/// What a frame's bytes break: the connection they came by can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is zero or larger than allowed.
    Length(u32),
    /// A checksum is not that of the bytes.
    Checksum,
    /// No message has this kind.
    Kind(u8),
    /// The payload is not what its kind demands; which part.
    Payload(&'static str),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::Length(length) => write!(f, "a frame of {length} bytes"),
            FrameError::Checksum => f.write_str("a frame with a wrong checksum"),
            FrameError::Kind(kind) => write!(f, "a frame of unknown kind {kind}"),
            FrameError::Payload(part) => write!(f, "a frame with a bad {part}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// A frame whose checksum was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: u8,
    /// The bytes.
    pub payload: Bytes,
}

/// Puts frames together from bytes in any cut.
///
/// A frame's buffer grows with what has come, not with what its length promises.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    header: [u8; HEADER_BYTES],
    header_len: usize,
    body: Vec<u8>,
}

/// Growth of a frame's buffer until its length is there.
const GROWTH_BYTES: usize = 64 << 10;

impl Decoder {
    /// Takes frames with at most `limit` bytes of kind and payload; never more than [`FRAME_BYTES_MAX`].
    pub fn new(limit: usize) -> Decoder {
        let limit = limit.min(FRAME_BYTES_MAX);
        Decoder { limit, header: [0; HEADER_BYTES], header_len: 0, body: Vec::new() }
    }

    /// Takes bytes from the front of `input` until a frame is whole. `None`: `input` is used up.
    ///
    /// # Errors
    /// The stream is broken; no further frame can be found in it.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.header_len < HEADER_BYTES {
            let size = input.len().min(HEADER_BYTES - self.header_len);
            let (taken, rest) = input.split_at(size);
            self.header[self.header_len..self.header_len + size].copy_from_slice(taken);
            self.header_len += size;
            *input = rest;
            if self.header_len < HEADER_BYTES {
                return Ok(None);
            }
        }
        let length = self.length()?;
        let (taken, rest) = input.split_at(input.len().min(length - self.body.len()));
        if self.body.capacity() < self.body.len() + taken.len() {
            // Exactly in the end, so that entries that stay in memory hold no more than their frame.
            let grown = (self.body.len() + taken.len()).max(self.body.len() * 2).max(GROWTH_BYTES);
            self.body.reserve_exact(grown.min(length) - self.body.len());
        }
        self.body.extend_from_slice(taken);
        *input = rest;
        if self.body.len() < length {
            return Ok(None);
        }
        self.header_len = 0;
        let body = std::mem::take(&mut self.body);
        if crc32fast::hash(&body) != u32_at(&self.header, 8) {
            return Err(FrameError::Checksum);
        }
        let kind = body[0];
        Ok(Some(Frame { kind, payload: Bytes::from(body).slice(1..) }))
    }

    fn length(&self) -> Result<usize, FrameError> {
        let length = u32_at(&self.header, 0);
        let sound = crc32fast::hash(&self.header[..4]) == u32_at(&self.header, 4);
        if !sound && !planted::is("frame-length-unchecked") {
            return Err(FrameError::Checksum);
        }
        if length == 0 || length as usize > self.limit {
            return Err(FrameError::Length(length));
        }
        Ok(length as usize)
    }
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Appends a frame of `kind` whose payload `write` appends.
///
/// # Panics
/// If the payload is larger than a frame may be: whoever makes messages bounds them.
pub fn encode_frame(kind: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.push(kind);
    write(out);
    let length = out.len() - start - HEADER_BYTES;
    assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
    let length = (length as u32).to_le_bytes();
    let checksum = crc32fast::hash(&out[start + HEADER_BYTES..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&crc32fast::hash(&length).to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends `message` as one frame.
///
/// # Panics
/// As [`encode_frame`]; see [`encoded_bytes_max`].
pub fn encode(message: &PeerMessage, out: &mut Vec<u8>) {
    out.reserve(encoded_bytes_max(message));
    match message {
        PeerMessage::Raft(message) => encode_frame(KIND_RAFT, out, |out| encode_raft(message, out)),
        PeerMessage::Forward(forward) => encode_frame(KIND_FORWARD, out, |out| encode_forward(forward, out)),
        PeerMessage::ForwardRefused(refused) => {
            encode_frame(KIND_FORWARD_REFUSED, out, |out| encode_refused(refused, out));
        }
        PeerMessage::Request { id, body } => {
            encode_frame(KIND_REQUEST, out, |out| encode_body(*id, body, out))
        }
        PeerMessage::Response { id, body } => {
            encode_frame(KIND_RESPONSE, out, |out| encode_body(*id, body, out));
        }
    }
}

/// No fewer bytes than [`encode`] will append.
pub fn encoded_bytes_max(message: &PeerMessage) -> usize {
    const FIXED: usize = 160;
    FIXED
        + match message {
            PeerMessage::Raft(message) => {
                let own: usize = message.raft.entries.iter().map(|entry| entry.data.len()).sum();
                let data: usize = message.data.iter().map(Bytes::len).sum();
                let snapshot = message.raft.snapshot.as_ref().map_or(0, |snapshot| {
                    let conf = snapshot.get_metadata().get_conf_state();
                    snapshot.data.len() + 8 * (conf.voters.len() + conf.learners.len())
                });
                message.raft.context.len() + snapshot + ENTRY_BYTES * message.raft.entries.len() + own + data
            }
            PeerMessage::Forward(forward) => {
                let data: usize = forward.proposals.iter().map(|(_, _, data)| data.len()).sum();
                PROPOSAL_BYTES * forward.proposals.len() + data
            }
            PeerMessage::ForwardRefused(refused) => REFUSED_BYTES * refused.refused.len(),
            PeerMessage::Request { body, .. } | PeerMessage::Response { body, .. } => body.len(),
        }
}

/// The message in a frame. Bytes of entries and proposals share the frame's memory.
///
/// # Errors
/// An unknown kind, or a payload that breaks its table.
pub fn decode(frame: &Frame) -> Result<PeerMessage, FrameError> {
    let mut reader = Reader::new(frame.payload.clone());
    let message = match frame.kind {
        KIND_RAFT => PeerMessage::Raft(decode_raft(&mut reader)?),
        KIND_FORWARD => PeerMessage::Forward(decode_forward(&mut reader)?),
        KIND_FORWARD_REFUSED => PeerMessage::ForwardRefused(decode_refused(&mut reader)?),
        KIND_REQUEST => PeerMessage::Request { id: reader.u64("id")?, body: reader.rest() },
        KIND_RESPONSE => PeerMessage::Response { id: reader.u64("id")?, body: reader.rest() },
        kind => return Err(FrameError::Kind(kind)),
    };
    reader.end()?;
    Ok(message)
}

const ENTRY_BYTES: usize = 21;
const PROPOSAL_BYTES: usize = 13;
const REFUSED_BYTES: usize = 17;

/// Eight bytes, the lowest first.
pub fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A number of things or bytes (4 bytes), for a frame.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    // Beyond 4 GiB the frame is too large by far, and `encode_frame` says so.
    out.extend_from_slice(&(count as u32).to_le_bytes());
}

fn encode_raft(message: &Message, out: &mut Vec<u8>) {
    let raft = &message.raft;
    let own_data = message.data.len() != raft.entries.len();
    assert!(!own_data || message.data.is_empty(), "bytes for all entries or for none");
    out.push(raft.msg_type as u8);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(raft.reject, FLAG_REJECT)
            | flag(raft.snapshot.is_some(), FLAG_SNAPSHOT)
            | flag(own_data, FLAG_OWN_DATA),
    );
    for number in [
        raft.to,
        raft.from,
        raft.term,
        raft.log_term,
        raft.index,
        raft.commit,
        raft.commit_term,
        raft.request_snapshot,
        raft.reject_hint,
    ] {
        put_u64(out, number);
    }
    out.extend_from_slice(&raft.priority.to_le_bytes());
    put_count(out, raft.context.len());
    out.extend_from_slice(&raft.context);
    if let Some(snapshot) = &raft.snapshot {
        encode_snapshot(snapshot, out);
    }
    put_count(out, raft.entries.len());
    for (at, entry) in raft.entries.iter().enumerate() {
        put_u64(out, entry.term);
        put_u64(out, entry.index);
        out.push(entry.entry_type as u8);
        put_count(out, if own_data { entry.data.len() } else { message.data[at].len() });
    }
    for (at, entry) in raft.entries.iter().enumerate() {
        out.extend_from_slice(if own_data { &entry.data } else { &message.data[at] });
    }
}

fn encode_snapshot(snapshot: &eraftpb::Snapshot, out: &mut Vec<u8>) {
    let metadata = snapshot.get_metadata();
    let conf = metadata.get_conf_state();
    // Only changes of one member at a time are ever proposed, so there is no joint configuration.
    assert!(conf.voters_outgoing.is_empty() && conf.learners_next.is_empty(), "a joint configuration");
    put_u64(out, metadata.index);
    put_u64(out, metadata.term);
    for nodes in [&conf.voters, &conf.learners] {
        put_count(out, nodes.len());
        nodes.iter().for_each(|&node| put_u64(out, node));
    }
    put_count(out, snapshot.data.len());
    out.extend_from_slice(&snapshot.data);
}

fn decode_raft(reader: &mut Reader) -> Result<Message, FrameError> {
    let mut raft = eraftpb::Message::default();
    let kind = MessageType::from_i32(i32::from(reader.u8("type")?)).ok_or(FrameError::Payload("type"))?;
    if is_local(kind) {
        return Err(FrameError::Payload("type"));
    }
    raft.set_msg_type(kind);
    let flags = reader.u8("flags")?;
    let own_data = flags & FLAG_OWN_DATA != 0;
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT | FLAG_OWN_DATA) != 0 {
        return Err(FrameError::Payload("flags"));
    }
    raft.reject = flags & FLAG_REJECT != 0;
    for field in [
        &mut raft.to,
        &mut raft.from,
        &mut raft.term,
        &mut raft.log_term,
        &mut raft.index,
        &mut raft.commit,
        &mut raft.commit_term,
        &mut raft.request_snapshot,
        &mut raft.reject_hint,
    ] {
        *field = reader.u64("head")?;
    }
    raft.priority = reader.u64("head")? as i64;
    raft.context = reader.block("context")?.to_vec();
    if flags & FLAG_SNAPSHOT != 0 {
        raft.snapshot = Some(decode_snapshot(reader)?);
    }
    let mut data = Vec::new();
    decode_entries(reader, &mut raft.entries, &mut data)?;
    if own_data {
        if data.is_empty() {
            return Err(FrameError::Payload("flags"));
        }
        for (entry, data) in raft.entries.iter_mut().zip(data.drain(..)) {
            entry.data = data.to_vec();
        }
    }
    Ok(Message { raft, data })
}

/// Types that a member steps for itself; from outside they would let a peer drive its elections.
fn is_local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
    )
}

fn decode_snapshot(reader: &mut Reader) -> Result<eraftpb::Snapshot, FrameError> {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = reader.u64("snapshot")?;
    metadata.term = reader.u64("snapshot")?;
    let conf = metadata.mut_conf_state();
    for nodes in [&mut conf.voters, &mut conf.learners] {
        for _ in 0..reader.count(8, "snapshot")? {
            nodes.push(reader.u64("snapshot")?);
        }
    }
    snapshot.data = reader.block("snapshot")?.to_vec();
    Ok(snapshot)
}

fn decode_entries(
    reader: &mut Reader,
    entries: &mut Vec<eraftpb::Entry>,
    data: &mut Vec<Bytes>,
) -> Result<(), FrameError> {
    let count = reader.count(ENTRY_BYTES, "entries")?;
    let mut lengths = Vec::with_capacity(count);
    entries.reserve_exact(count);
    for _ in 0..count {
        let (term, index) = (reader.u64("entry")?, reader.u64("entry")?);
        let entry_type = match reader.u8("entry")? {
            kind @ (0 | 1) => i32::from(kind),
            _ => return Err(FrameError::Payload("entry")), // two-step configuration changes are never proposed
        };
        lengths.push(reader.u32("entry")?);
        entries.push(eraftpb::Entry { term, index, entry_type, ..Default::default() });
    }
    data.reserve_exact(count);
    for length in lengths {
        data.push(reader.take(length, "data")?);
    }
    Ok(())
}

fn encode_forward(forward: &Forward, out: &mut Vec<u8>) {
    put_u64(out, forward.term.0);
    put_u64(out, forward.boot_nonce);
    put_u64(out, forward.sequence);
    put_count(out, forward.proposals.len());
    for (id, kind, data) in &forward.proposals {
        put_u64(out, id.0);
        out.push(match kind {
            EntryKind::Normal => 1,
            EntryKind::ConfChange => 2,
        });
        put_count(out, data.len());
    }
    for (_, _, data) in &forward.proposals {
        out.extend_from_slice(data);
    }
}

fn decode_forward(reader: &mut Reader) -> Result<Forward, FrameError> {
    let term = Term(reader.u64("forward")?);
    let boot_nonce = reader.u64("forward")?;
    let sequence = reader.u64("forward")?;
    let count = reader.count(PROPOSAL_BYTES, "proposals")?;
    let mut heads = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ProposalId(reader.u64("proposal")?);
        let kind = match reader.u8("proposal")? {
            1 => EntryKind::Normal,
            2 => EntryKind::ConfChange,
            _ => return Err(FrameError::Payload("proposal")),
        };
        heads.push((id, kind, reader.u32("proposal")?));
    }
    let mut proposals = Vec::with_capacity(count);
    for (id, kind, length) in heads {
        proposals.push((id, kind, reader.take(length, "proposal")?));
    }
    Ok(Forward { term, boot_nonce, sequence, proposals })
}

fn encode_refused(refused: &ForwardRefused, out: &mut Vec<u8>) {
    put_u64(out, refused.boot_nonce);
    put_count(out, refused.refused.len());
    for (id, reason) in &refused.refused {
        put_u64(out, id.0);
        let (number, leader) = match reason {
            DropReason::NoLeader => (1, 0),
            DropReason::NotLeader(leader) => (2, leader.0),
            DropReason::LeaderTransfer => (3, 0),
            DropReason::TooManyRequests => (4, 0),
            DropReason::TooLarge => (5, 0),
            DropReason::ConfChangePending => (6, 0),
            DropReason::LeaderChanged => (7, 0),
            DropReason::OutcomeUnknown => (8, 0),
        };
        out.push(number);
        put_u64(out, leader);
    }
}

fn decode_refused(reader: &mut Reader) -> Result<ForwardRefused, FrameError> {
    let boot_nonce = reader.u64("refusals")?;
    let count = reader.count(REFUSED_BYTES, "refusals")?;
    let mut refused = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ProposalId(reader.u64("refusal")?);
        let number = reader.u8("refusal")?;
        let leader = NodeId(reader.u64("refusal")?);
        let reason = match number {
            2 => DropReason::NotLeader(leader),
            _ if leader != NodeId(0) => return Err(FrameError::Payload("refusal")),
            1 => DropReason::NoLeader,
            3 => DropReason::LeaderTransfer,
            4 => DropReason::TooManyRequests,
            5 => DropReason::TooLarge,
            6 => DropReason::ConfChangePending,
            7 => DropReason::LeaderChanged,
            8 => DropReason::OutcomeUnknown,
            _ => return Err(FrameError::Payload("refusal")),
        };
        refused.push((id, reason));
    }
    Ok(ForwardRefused { boot_nonce, refused })
}

fn encode_body(id: u64, body: &Bytes, out: &mut Vec<u8>) {
    put_u64(out, id);
    out.extend_from_slice(body);
}

/// What is left of a payload. `part` names in errors what should have been there.
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// All of it.
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    fn take(&mut self, size: usize, part: &'static str) -> Result<Bytes, FrameError> {
        if size > self.bytes.len() {
            return Err(FrameError::Payload(part));
        }
        Ok(self.bytes.split_to(size))
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], FrameError> {
        let array = *self.bytes.first_chunk::<N>().ok_or(FrameError::Payload(part))?;
        bytes::Buf::advance(&mut self.bytes, N);
        Ok(array)
    }

    /// A byte.
    ///
    /// # Errors
    /// Here and below: fewer bytes are left than it takes.
    pub fn u8(&mut self, part: &'static str) -> Result<u8, FrameError> {
        self.array::<1>(part).map(|[byte]| byte)
    }

    fn u32(&mut self, part: &'static str) -> Result<usize, FrameError> {
        self.array(part).map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    /// Eight bytes, the lowest first.
    ///
    /// # Errors
    /// See [`Reader::u8`].
    pub fn u64(&mut self, part: &'static str) -> Result<u64, FrameError> {
        self.array(part).map(u64::from_le_bytes)
    }

    /// A number (4 bytes) of things that take `each` bytes or more: no more than the bytes that are there can hold.
    ///
    /// # Errors
    /// It is more than that.
    pub fn count(&mut self, each: usize, part: &'static str) -> Result<usize, FrameError> {
        let count = self.u32(part)?;
        if count > self.bytes.len() / each {
            return Err(FrameError::Payload(part));
        }
        Ok(count)
    }

    /// A length (4 bytes), and so many bytes.
    ///
    /// # Errors
    /// See [`Reader::u8`].
    pub fn block(&mut self, part: &'static str) -> Result<Bytes, FrameError> {
        let length = self.u32(part)?;
        self.take(length, part)
    }

    /// All that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(FrameError::Payload("end")) }
    }
}
