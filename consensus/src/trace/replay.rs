//! A trace told to another node.

use super::codec::{
    take_all, take_change, take_conf, take_entry_kind, take_flag, take_message, take_option, take_position,
    take_size,
};
use super::machine::{self, Call, Compared, Machine};
use super::{KIND_ENTRIES, KIND_FLUSH, KIND_START, MAGIC, describe};
use crate::log::State;
use crate::peer::{FrameError, Reader};
use crate::{
    ConfState, Config, Entry, HardState, Index, Input, LogPosition, Node, NodeId, ProposalId, ReadId,
    ReadyNumber, Term,
};

/// What a replay has compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Calls of the machine.
    pub calls: u64,
    /// Outputs of the machine, all the same.
    pub outputs: u64,
    /// Entries among the inputs and outputs were committed up to here.
    pub committed: Index,
    /// The trace ends in the middle of a frame, as one of a killed process may.
    pub torn: bool,
}

/// Takes a trace in pieces and tells it to a node of its own.
pub type Replay = machine::Replay<OtherNode>;

/// What a trace of a node is told to.
#[derive(Default)]
pub struct OtherNode {
    start: Start,
    node: Option<Node>,
}

/// What a node begins with, from the frames of a trace.
#[derive(Default)]
pub struct Start {
    parts: Option<(Config, State, LogPosition, ConfState)>,
}

impl Start {
    /// Takes one of the frames that [`encode_start`](super::encode_start) wrote, by its kind and its payload, of which nothing may
    /// be left afterwards.
    ///
    /// # Errors
    /// It is none of these, damaged, or out of order.
    pub fn take(&mut self, kind: u8, reader: &mut Reader) -> Result<(), FrameError> {
        match (kind, &mut self.parts) {
            (KIND_START, parts @ None) => *parts = Some(take_start(reader)?),
            (KIND_ENTRIES, Some((_, state, ..))) => state.entries.extend(take_entries(reader)?),
            (kind, _) => return Err(FrameError::Kind(kind)),
        }
        Ok(())
    }

    /// The node, once the start has been taken.
    pub fn node(&mut self) -> Option<Node> {
        let (config, state, applied, conf) = self.parts.take()?;
        Some(Node::new(config, state, applied, conf))
    }
}

impl Machine for OtherNode {
    const MAGIC: &'static [u8; 8] = &MAGIC;
    type Replayed = Replayed;

    fn take(&mut self, kind: u8, reader: &mut Reader) -> Result<Option<Call>, FrameError> {
        match kind {
            KIND_FLUSH.. if self.has_begun() => self.call(kind, reader).map(Some),
            _ if self.node.is_some() => Err(FrameError::Kind(kind)),
            _ => self.start.take(kind, reader).map(|()| None),
        }
    }

    fn finish(self, compared: Compared) -> Option<Replayed> {
        let begun = self.has_begun();
        let committed = self.node.map_or(Index::default(), |node| node.status().committed);
        let Compared { calls, outputs, torn } = compared;
        begun.then_some(Replayed { calls, outputs, committed, torn })
    }
}

impl OtherNode {
    fn has_begun(&self) -> bool {
        self.start.parts.is_some() || self.node.is_some()
    }

    fn call(&mut self, kind: u8, reader: &mut Reader) -> Result<Call, FrameError> {
        let recorded = reader.block("outputs")?;
        let told = take_input(kind, reader)?;
        reader.end()?;
        let input = told.as_ref().map_or("flush".to_owned(), |input| format!("{input:?}"));
        let node = match &mut self.node {
            Some(node) => node,
            none => none.insert(self.start.node().ok_or(FrameError::Kind(kind))?),
        };
        let mut outputs = Vec::new();
        match told {
            Some(input) => node.step(input, &mut outputs),
            None => node.flush(&mut outputs),
        }
        Ok(Call { input, recorded, replayed: describe(&outputs), outputs: outputs.len() })
    }
}

fn take_start(reader: &mut Reader) -> Result<(Config, State, LogPosition, ConfState), FrameError> {
    let size = |reader: &mut Reader| take_size(reader, "configuration");
    let config = Config {
        id: NodeId(reader.u64("configuration")?),
        seed: reader.u64("configuration")?,
        boot_nonce: reader.u64("configuration")?,
        heartbeat_ticks: size(reader)?,
        election_ticks: size(reader)?,
        proposal_bytes_limit: size(reader)?,
        entry_bytes_max: size(reader)?,
        append_bytes: size(reader)?,
        cache_bytes_limit: size(reader)?,
        reads_limit: size(reader)?,
        peer_bytes_in_flight: size(reader)?,
        fetch_bytes: size(reader)?,
    };
    let hard_state = HardState {
        term: Term(reader.u64("hard state")?),
        vote: NodeId(reader.u64("hard state")?),
        commit: Index(reader.u64("hard state")?),
    };
    let applied = take_position(reader, "position")?;
    let unwritten = take_flag(reader, "flag")?;
    Ok((config, State { hard_state, entries: Vec::new(), unwritten }, applied, take_conf(reader)?))
}

/// What a frame of this kind says; `None` for a flush.
pub(super) fn take_input(kind: u8, reader: &mut Reader) -> Result<Option<Input>, FrameError> {
    let input = match kind {
        KIND_FLUSH => return Ok(None),
        33 => Input::Tick,
        34 => Input::Campaign,
        35 => {
            let from = NodeId(reader.u64("sender")?);
            Input::Receive(from, Box::new(take_message(reader)?))
        }
        36 => Input::Propose(ProposalId(reader.u64("id")?), reader.rest()),
        37 => Input::ProposeConfChange(ProposalId(reader.u64("id")?), take_change(reader)?),
        38 => {
            let index = Index(reader.u64("index")?);
            Input::ApplyConfChange(index, take_option(reader, "flag", take_change)?)
        }
        39 => Input::ReadIndex(ReadId(reader.u64("id")?)),
        40 => Input::Durable(ReadyNumber(reader.u64("number")?)),
        41 => Input::Applied(Index(reader.u64("index")?)),
        42 => Input::LogStartsAt(Index(reader.u64("index")?)),
        43 => {
            let (peer, first) = (NodeId(reader.u64("peer")?), Index(reader.u64("index")?));
            Input::Fetched(peer, first, take_option(reader, "flag", take_entries)?)
        }
        44 => Input::SnapshotPinned {
            peer: NodeId(reader.u64("peer")?),
            position: take_position(reader, "position")?,
            conf: take_conf(reader)?,
        },
        45 => Input::SnapshotSent(NodeId(reader.u64("peer")?), take_flag(reader, "flag")?),
        46 => Input::SnapshotInstalled(ReadyNumber(reader.u64("number")?)),
        47 => Input::TransferLeader(take_option(reader, "flag", |reader| reader.u64("peer").map(NodeId))?),
        48 => Input::Unreachable(NodeId(reader.u64("peer")?)),
        49 => Input::LogStalled(take_flag(reader, "flag")?),
        50 => Input::SnapshotUnpinned(NodeId(reader.u64("peer")?)),
        kind => return Err(FrameError::Kind(kind)),
    };
    Ok(Some(input))
}

fn take_entries(reader: &mut Reader) -> Result<Vec<Entry>, FrameError> {
    take_all(reader, (super::ENTRY_BYTES, "entries"), |reader| {
        let LogPosition { index, term } = take_position(reader, "position")?;
        let kind = take_entry_kind(reader, "entry")?;
        Ok(Entry { index, term, kind, data: reader.block("entry")?, proposal: None })
    })
}
