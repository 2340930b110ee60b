//! What a node says, as text that is the same if and only if the node says the same.
//!
//! Bytes of clients are told as their number and CRC-32: a trace is to show whether they are the same, not to hold them twice.

use std::fmt::Write;

use bytes::Bytes;

use crate::peer;
use crate::{Append, Entry, Envelope, Fetch, InstallSnapshot, LogPosition, Output, PeerMessage};

/// One line for each output.
pub fn describe(outputs: &[Output]) -> String {
    lines(outputs, line)
}

/// One line for each output of a machine, as `line` tells it.
pub fn lines<T>(outputs: &[T], mut line: impl FnMut(&T, &mut String) -> std::fmt::Result) -> String {
    let mut text = String::new();
    for output in outputs {
        line(output, &mut text).expect("a string takes all");
        text.push('\n');
    }
    text
}

/// How bytes are told.
pub fn told(bytes: &[u8]) -> String {
    format!("{} bytes, crc {:08x}", bytes.len(), crc32fast::hash(bytes))
}

/// A message, as the bytes of its frame.
pub fn message(message: &PeerMessage) -> String {
    let mut frame = Vec::new();
    peer::encode(message, &mut frame);
    told(&frame)
}

fn line(output: &Output, out: &mut String) -> std::fmt::Result {
    match output {
        Output::Append(append) => self::append(append, out),
        Output::Send(envelope) => send(envelope, out),
        Output::SingleVoter(index) => write!(out, "single voter {index:?}"),
        Output::Commit(committed) => {
            write!(out, "commit ")?;
            entries(committed.iter(), out)
        }
        Output::ReadReady(read, index) => write!(out, "read {read} ready at {index}"),
        Output::ReadDropped(read) => write!(out, "read {read} dropped"),
        Output::ProposalDropped(id, reason) => write!(out, "proposal {id} dropped: {reason:?}"),
        Output::Role(change) => write!(out, "{change:?}"),
        Output::ConfState(conf) => write!(out, "{conf:?}"),
        Output::Fetch(fetch) => self::fetch(fetch, out),
        Output::SnapshotWanted(peer) => write!(out, "snapshot wanted for {peer:?}"),
        Output::SnapshotUnwanted(peer) => write!(out, "snapshot unwanted for {peer:?}"),
        Output::InstallSnapshot(InstallSnapshot { ready, position, conf, hard_state }) => {
            write!(out, "install snapshot {ready}, {position:?}, {conf:?}, {hard_state:?}")
        }
        Output::SnapshotIgnored(position) => write!(out, "snapshot ignored {position:?}"),
        Output::AcknowledgedLost { acknowledged, last } => {
            write!(out, "acknowledged {acknowledged} is lost, the last is {last:?}")
        }
    }
}

/// What the log is to write.
///
/// # Errors
/// Here and below: `out` has none to give.
pub fn append(append: &Append, out: &mut String) -> std::fmt::Result {
    let Append { ready, hard_state, entries: appended, reset } = append;
    write!(out, "append {ready}, {hard_state:?}, reset {reset:?}, ")?;
    entries(appended.iter(), out)
}

/// What the log is to read.
///
/// # Errors
/// See [`append`].
pub fn fetch(fetch: &Fetch, out: &mut String) -> std::fmt::Result {
    let Fetch { peer, first, last, bytes_max, terms } = fetch;
    write!(out, "fetch for {peer:?} {first}..={last}, {bytes_max} bytes, terms {terms:?}")
}

/// First and last position, how many, and a checksum of all that they are.
///
/// # Errors
/// See [`append`].
pub fn entries<'e>(entries: impl ExactSizeIterator<Item = &'e Entry>, out: &mut String) -> std::fmt::Result {
    let count = entries.len();
    let mut ends: Option<(LogPosition, LogPosition)> = None;
    let mut crc = crc32fast::Hasher::new();
    let mut bytes = 0;
    for entry in entries {
        ends = Some((ends.map_or(entry.position(), |(first, _)| first), entry.position()));
        let Entry { index, term, kind, data, proposal } = entry;
        let proposal = proposal.map_or([0; 9], |id| {
            let mut known = [1; 9];
            known[1..].copy_from_slice(&id.0.to_le_bytes());
            known
        });
        crc.update(&index.0.to_le_bytes());
        crc.update(&term.0.to_le_bytes());
        crc.update(&[*kind as u8]);
        crc.update(&proposal);
        crc.update(&(data.len() as u64).to_le_bytes());
        crc.update(data);
        bytes += data.len();
    }
    let Some((first, last)) = ends else { return write!(out, "no entries") };
    write!(
        out,
        "{} entries {}@{}..={}@{}, {bytes} bytes, crc {:08x}",
        count,
        first.index,
        first.term,
        last.index,
        last.term,
        crc.finalize()
    )
}

/// What is to be sent.
///
/// # Errors
/// See [`append`].
pub fn send(envelope: &Envelope, out: &mut String) -> std::fmt::Result {
    let Envelope { to, message: sent } = envelope;
    write!(out, "send {to:?} ")?;
    match &**sent {
        PeerMessage::Raft(message) => {
            let raft = &message.raft;
            write!(
                out,
                "{:?} term {}, log term {}, index {}, commit {}, {} entries, reject {}, ",
                raft.get_msg_type(),
                raft.term,
                raft.log_term,
                raft.index,
                raft.commit,
                raft.entries.len(),
                raft.reject
            )?;
        }
        PeerMessage::Forward(forward) => {
            write!(out, "forward {} of {} proposals, ", forward.sequence, forward.proposals.len())?;
        }
        PeerMessage::ForwardRefused(refused) => write!(out, "refused {:?}, ", refused.refused)?,
        PeerMessage::Request { id, body } => write!(out, "request {id}, {}, ", bytes(body))?,
        PeerMessage::Response { id, body } => write!(out, "response {id}, {}, ", bytes(body))?,
    }
    out.write_str(&message(sent))
}

fn bytes(bytes: &Bytes) -> String {
    format!("{} bytes", bytes.len())
}
