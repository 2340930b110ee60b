//! A trace told to another raft core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::peer::{FrameError, Reader};
use consensus::trace::codec::{
    take_all, take_change, take_conf, take_flag, take_message, take_nodes, take_option, take_position,
    take_size, take_text,
};
use consensus::trace::machine::{self, Call, Compared, Machine};
use consensus::trace::{Replayed, Start as NodeStart};
use consensus::{Index, LogPosition, Message, Node, NodeId, PeerMessage, ProposalId, ReadId, ReadyNumber};
use engine::tree::{Map, PageId};
use engine::{Store, View};

use super::super::{Config, Input, Output, RaftCore, Shell};
use super::{
    KIND_APPLIED, KIND_END_TURN, KIND_INPUT_FIRST, KIND_START, KIND_TICK, KIND_VERSIONS, MAGIC, describe,
};
use crate::cores::{FromLog, PinnedSnapshot, ToRaft};
use crate::membership::Member;
use crate::propose::{self, Command, Write};
use crate::trace::bytes::{take_entries, take_time};

/// Snapshots, and stores that are built of them, are nothing in here.
pub struct Surroundings;

impl Shell for Surroundings {
    type Node = Node;
    type Received = ();
    type Store = ();
}

/// Takes a trace in pieces and tells it to a raft core of its own.
pub type Replay = machine::Replay<OtherCore>;

/// What a trace of a raft core is told to.
#[derive(Default)]
pub struct OtherCore {
    start: Option<(Config, Vec<Member>, Vec<NodeId>)>,
    node: NodeStart,
    core: Option<RaftCore<Surroundings>>,
}

impl Machine for OtherCore {
    const MAGIC: &'static [u8; 8] = &MAGIC;
    type Replayed = Replayed;

    fn take(&mut self, kind: u8, reader: &mut Reader) -> Result<Option<Call>, FrameError> {
        match (kind, &self.start) {
            (KIND_START, None) if self.core.is_none() => self.start = Some(take_start(reader)?),
            (KIND_END_TURN.., _) => return self.call(kind, reader).map(Some),
            (_, Some(_)) => self.node.take(kind, reader)?,
            (_, None) => return Err(FrameError::Kind(kind)),
        }
        Ok(None)
    }

    fn finish(self, compared: Compared) -> Option<Replayed> {
        let begun = self.start.is_some() || self.core.is_some();
        let committed = self.core.map_or(Index::default(), |core| core.node().status().committed);
        let Compared { calls, outputs, torn } = compared;
        begun.then_some(Replayed { calls, outputs, committed, torn })
    }
}

impl OtherCore {
    fn call(&mut self, kind: u8, reader: &mut Reader) -> Result<Call, FrameError> {
        let core = match &mut self.core {
            Some(core) => core,
            none => {
                let (config, members, removed) = self.start.take().ok_or(FrameError::Kind(kind))?;
                let node = self.node.node().ok_or(FrameError::Kind(kind))?;
                none.insert(RaftCore::new(node, config, members, removed))
            }
        };
        let recorded = reader.block("outputs")?;
        let now = take_time(reader, "present")?;
        let mut outputs = Vec::new();
        let told = step(core, kind, now, reader, &mut outputs)?;
        let (input, replayed) = (format!("{told} at {now:?}"), describe(core, &outputs));
        Ok(Call { input, recorded, replayed, outputs: outputs.len() })
    }
}

/// Tells the core what a call of this kind says, and how to tell it.
fn step(
    core: &mut RaftCore<Surroundings>,
    kind: u8,
    now: Duration,
    reader: &mut Reader,
    out: &mut Vec<Output<Surroundings>>,
) -> Result<String, FrameError> {
    let told = match kind {
        KIND_END_TURN => {
            reader.end()?;
            core.end_turn(now, out);
            "end of the turn".to_owned()
        }
        KIND_TICK => {
            let log_waits = take_time(reader, "tick")?;
            reader.end()?;
            core.tick(now, log_waits, out);
            format!("tick, the log waits {log_waits:?}")
        }
        KIND_APPLIED => {
            let index = Index(reader.u64("index")?);
            reader.end()?;
            core.applied(index);
            format!("applied {index}")
        }
        KIND_VERSIONS => {
            let versions = take_all(reader, (9, "versions"), |reader| {
                let member = NodeId(reader.u64("versions")?);
                let version = take_option(reader, "versions", |reader| take_text(reader, "versions"))?;
                Ok((member, version))
            })?;
            reader.end()?;
            let told = format!("versions {versions:?}");
            let versions: BTreeMap<NodeId, Option<String>> = versions.into_iter().collect();
            let message = core.look_at_versions(now, |member| versions.get(&member).cloned().flatten());
            out.extend(message.map(Output::Store));
            told
        }
        kind => {
            let (input, told) = take_input(kind, reader)?;
            reader.end()?;
            core.handle(now, input, out);
            told
        }
    };
    Ok(told)
}

/// An input of this kind, and how to tell it.
pub(in crate::raft_core) fn take_input(
    kind: u8,
    reader: &mut Reader,
) -> Result<(Input<Surroundings>, String), FrameError> {
    if let KIND_INPUT_FIRST..=48 = kind {
        let (message, told) = take_to_raft(kind, reader)?;
        return Ok((Input::Core(message), told));
    }
    Ok(match kind {
        49 => {
            let ready = ReadyNumber(reader.u64("number")?);
            (Input::Log(FromLog::Durable(ready)), format!("durable {ready}"))
        }
        50 => {
            let (peer, first) = (NodeId(reader.u64("peer")?), Index(reader.u64("index")?));
            let entries = take_option(reader, "entries", take_entries)?;
            let told = format!("fetched for {peer:?} from {first}: {entries:?}");
            (Input::Log(FromLog::Fetched(peer, first, entries)), told)
        }
        51 => {
            let index = Index(reader.u64("index")?);
            (Input::Log(FromLog::StartsAt(index)), format!("the log starts at {index}"))
        }
        52 => {
            let from = NodeId(reader.u64("sender")?);
            let message = take_message(reader)?;
            let told = format!("{from:?}: {message:?}");
            (Input::Message(from, Box::new(message)), told)
        }
        53 => {
            let peer = NodeId(reader.u64("peer")?);
            (Input::Reachable(peer), format!("{peer:?} reachable"))
        }
        54 => {
            let peer = NodeId(reader.u64("peer")?);
            (Input::Unreachable(peer), format!("{peer:?} unreachable"))
        }
        55 => {
            let (peer, ok) = (NodeId(reader.u64("peer")?), take_flag(reader, "sent")?);
            (Input::SnapshotSent(peer, ok), format!("snapshot for {peer:?} sent {ok}"))
        }
        56 => {
            let from = NodeId(reader.u64("sender")?);
            let message = Box::new(take_raft_message(reader)?);
            let told = format!("snapshot of {from:?} received: {message:?}");
            (Input::SnapshotReceived { from, message, received: () }, told)
        }
        57 => {
            let (from, index) = (NodeId(reader.u64("sender")?), Index(reader.u64("index")?));
            let message = Box::new(take_raft_message(reader)?);
            let told = format!("snapshot of {from:?} imported, {index}: {message:?}");
            (Input::Imported { from, message, index, store: () }, told)
        }
        58 => (Input::ImportFailed, "import failed".to_owned()),
        59 => {
            let ready = ReadyNumber(reader.u64("number")?);
            (Input::Renamed(ready), format!("renamed {ready}"))
        }
        kind => return Err(FrameError::Kind(kind)),
    })
}

fn take_to_raft(kind: u8, reader: &mut Reader) -> Result<(ToRaft, String), FrameError> {
    Ok(match kind {
        36 => {
            let (id, request) = (ProposalId(reader.u64("id")?), reader.u64("id")?);
            let entry = reader.rest();
            // The replay decodes what the proposer had decoded already.
            let command = propose::decode(&entry).unwrap_or(Command::Nothing);
            let told = format!("propose {id:?}, {command:?}");
            (ToRaft::Propose(id, Write { command, entry, id: request }), told)
        }
        37 => {
            let id = ReadId(reader.u64("id")?);
            (ToRaft::Read(id), format!("read {id:?}"))
        }
        38 => {
            let index = Index(reader.u64("index")?);
            (ToRaft::Checkpointed(index), format!("checkpointed {index}"))
        }
        39 => {
            let index = Index(reader.u64("index")?);
            let change = take_option(reader, "change", take_change)?;
            let told = format!("changed at {index}: {change:?}");
            (ToRaft::ConfChange(index, change), told)
        }
        40 => {
            let (id, change) = (ProposalId(reader.u64("id")?), take_change(reader)?);
            let told = format!("propose {id:?}, {change:?}");
            (ToRaft::ProposeConfChange(id, change), told)
        }
        41 => {
            let (id, to) = (ProposalId(reader.u64("id")?), NodeId(reader.u64("peer")?));
            (ToRaft::TransferLeader(id, to), format!("transfer {id:?} to {to:?}"))
        }
        42 => (ToRaft::HandOver, "hand over".to_owned()),
        43 => {
            let (members, removed) = take_members(reader)?;
            let told = format!("{members:?}, removed {removed:?}");
            (ToRaft::Members(members, removed), told)
        }
        44 => {
            let version = String::from_utf8(reader.rest().to_vec());
            let version = version.map_err(|_| FrameError::Payload("version"))?;
            let told = format!("cluster version {version:?}");
            (ToRaft::ClusterVersion(version), told)
        }
        45 => {
            let (to, id) = (NodeId(reader.u64("peer")?), ProposalId(reader.u64("id")?));
            (ToRaft::PeerRequest(to, id, reader.rest()), format!("ask {to:?}, {id:?}"))
        }
        46 => {
            let (to, number) = (NodeId(reader.u64("peer")?), reader.u64("number")?);
            (ToRaft::PeerResponse(to, number, reader.rest()), format!("answer {to:?}, {number:x}"))
        }
        47 => {
            let peer = NodeId(reader.u64("peer")?);
            let (position, conf) = (take_position(reader, "position")?, take_conf(reader)?);
            let LogPosition { index, term } = position;
            let told = format!("snapshot pinned for {peer:?}, {index}@{term}, {conf:?}");
            let view = empty_view().map_err(|()| FrameError::Payload("position"))?;
            (ToRaft::SnapshotPinned(Box::new(PinnedSnapshot { peer, position, conf, view })), told)
        }
        _ => {
            let ready = ReadyNumber(reader.u64("number")?);
            (ToRaft::SnapshotInstalled(ready), format!("snapshot installed {ready}"))
        }
    })
}

/// The core hands versions on without a look at them.
fn empty_view() -> Result<Arc<View>, ()> {
    struct NoFile;
    impl Map for NoFile {
        fn pages(&self, _: PageId, _: u32) -> Option<&[u8]> {
            None
        }
    }
    let config = engine::Config { tree: engine::tree::Config::default(), lease_ttl_s_min: 1 };
    Store::create(config, Arc::new(NoFile)).publish().map_err(drop)
}

fn take_start(reader: &mut Reader) -> Result<(Config, Vec<Member>, Vec<NodeId>), FrameError> {
    const PART: &str = "configuration";
    let config = Config {
        own: NodeId(reader.u64(PART)?),
        election_timeout: take_time(reader, PART)?,
        request_timeout: take_time(reader, PART)?,
        orphan_bytes_max: take_size(reader, PART)?,
        conf_changes_open_max: take_size(reader, PART)?,
    };
    let (members, removed) = take_members(reader)?;
    Ok((config, members, removed))
}

fn take_members(reader: &mut Reader) -> Result<(Vec<Member>, Vec<NodeId>), FrameError> {
    let members = take_all(reader, (4, "members"), |reader| {
        Member::decode(&reader.block("members")?).map_err(|_| FrameError::Payload("members"))
    })?;
    Ok((members, take_nodes(reader)?))
}

fn take_raft_message(reader: &mut Reader) -> Result<Message, FrameError> {
    match take_message(reader)? {
        PeerMessage::Raft(message) => Ok(message),
        _ => Err(FrameError::Payload("message")),
    }
}
