//! A trace told to another store core.

use std::sync::Arc;
use std::time::Duration;

use consensus::peer::{FrameError, Reader};
use consensus::trace::codec::{take_all, take_flag, take_option, take_size, take_text};
use consensus::trace::machine::{self, Call, Compared, Machine};
use consensus::{Index, NodeId, ProposalId, ReadId, ReadyNumber, Term};
use engine::Store;
use engine::tree::{Checkpoint, Identity, Map, OpenError, PAGE_SIZE, Snapshot};

use super::super::{Input, Output, Present, Settings, StoreCore, Written};
use super::describe::Describer;
use super::file::File;
use super::{KIND_CALL_FIRST, KIND_PAGES, KIND_START, KIND_STORE, MAGIC};
use crate::auto_compact::Retention;
use crate::cores::{Committed, Query, QueryId, ToStore};
use crate::propose::IdGenerator;
use crate::trace::bytes::{take_entries, take_time};

/// What a replay has compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Steps.
    pub calls: u64,
    /// Outputs of the core, all the same.
    pub outputs: u64,
    /// Entries up to here are applied.
    pub applied: Index,
    /// Checkpoints that were written.
    pub checkpoints: u64,
    /// Stores of peers that were installed.
    pub installed: u64,
    /// The trace ends in the middle of a frame, as one of a killed process may.
    pub torn: bool,
}

/// Takes a trace in pieces and tells it to a store core of its own.
pub type Replay = machine::Replay<OtherCore>;

/// What a trace of a store core is told to.
#[derive(Default)]
pub struct OtherCore {
    start: Option<Start>,
    /// The last one of which the trace tells, until it is used.
    seed: Option<Seed>,
    core: Option<Core>,
    checkpoints: u64,
    installed: u64,
}

/// What a core begins with, besides its store.
#[derive(Clone)]
struct Start {
    settings: Settings,
    ids: IdGenerator,
    present: Present,
}

/// A store as the trace tells it.
struct Seed {
    config: engine::Config,
    search_from: u32,
    is_published: bool,
    bytes: Vec<u8>,
}

/// A core with its surroundings.
struct Core {
    core: StoreCore,
    describer: Describer,
    file: Arc<File>,
    /// The file of a store that waits to take the place of the present one.
    next_file: Option<Arc<File>>,
    /// Begun and not over.
    checkpoint: Option<Box<Checkpoint>>,
    /// Versions that have readers, and the newest, which may get some. Before each call those are dropped that had none any more
    /// when it was over: the tree sees it during the call, at the latest.
    held: Vec<Snapshot>,
}

impl Machine for OtherCore {
    const MAGIC: &'static [u8; 8] = &MAGIC;
    type Replayed = Replayed;

    fn take(&mut self, kind: u8, reader: &mut Reader) -> Result<Option<Call>, FrameError> {
        match kind {
            KIND_START if self.start.is_none() => self.start = Some(take_start(reader)?),
            KIND_STORE if self.start.is_some() => self.seed = Some(take_store(reader)?),
            KIND_PAGES => {
                let seed = self.seed.as_mut().ok_or(FrameError::Kind(kind))?;
                seed.take_pages(reader)?;
            }
            KIND_CALL_FIRST.. => return self.call(kind, reader).map(Some),
            _ => return Err(FrameError::Kind(kind)),
        }
        Ok(None)
    }

    fn finish(self, compared: Compared) -> Option<Replayed> {
        self.start?;
        let applied = self.core.map_or(Index::default(), |core| Index(core.core.store().applied().index));
        let Compared { calls, outputs, torn } = compared;
        let (checkpoints, installed) = (self.checkpoints, self.installed);
        Some(Replayed { calls, outputs, applied, checkpoints, installed, torn })
    }
}

impl OtherCore {
    fn call(&mut self, kind: u8, reader: &mut Reader) -> Result<Call, FrameError> {
        let recorded = reader.block("outputs")?;
        let newest = reader.u64("versions")?;
        let pinned = take_all(reader, (8, "versions"), |reader| reader.u64("versions"))?;
        let present = take_present(reader)?;
        let core = match &mut self.core {
            Some(core) => core,
            none => {
                let start = self.start.clone().ok_or(FrameError::Kind(kind))?;
                let seed = self.seed.take().ok_or(FrameError::Kind(kind))?;
                none.insert(Core::new(start, seed)?)
            }
        };
        let (input, told) = core.take_input(kind, reader, &mut self.seed)?;
        reader.end()?;
        self.checkpoints += u64::from(matches!(input, Input::CheckpointDone(_, Written::Durable)));
        core.held.retain(|held| held.version() == newest || pinned.contains(&held.version()));
        let done = core.core.step(present, input);
        let replayed = core.describer.call(&core.core, 0, &done);
        let outputs = core.core.out.len();
        self.installed += u64::from(core.take_outputs());
        Ok(Call { input: format!("{told} at {present:?}"), recorded, replayed, outputs })
    }
}

impl Seed {
    fn take_pages(&mut self, reader: &mut Reader) -> Result<(), FrameError> {
        let first = take_size(reader, "pages")?;
        let bytes = reader.rest();
        if first.checked_mul(PAGE_SIZE) != Some(self.bytes.len()) || !bytes.len().is_multiple_of(PAGE_SIZE) {
            return Err(FrameError::Payload("pages"));
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn open(self) -> Result<(Store, Arc<File>), FrameError> {
        let file = Arc::new(File::new(self.bytes));
        let map: Arc<dyn Map> = file.clone();
        let mut store = match Store::open(self.config.clone(), map.clone()) {
            Err(OpenError::Empty { .. }) => Store::create(self.config, map),
            store => store.map_err(|_| FrameError::Payload("store"))?,
        };
        if self.is_published {
            store.publish().map_err(|_| FrameError::Payload("store"))?;
        }
        store.tree_mut().set_search_from(self.search_from);
        Ok((store, file))
    }
}

impl Core {
    fn new(start: Start, seed: Seed) -> Result<Core, FrameError> {
        let Start { settings, ids, present } = start;
        let (store, file) = seed.open()?;
        let (describer, held) = (Describer::new(&store), vec![store.tree().published()]);
        let core = StoreCore::new(store, ids, settings, present, ());
        Ok(Core { core, describer, file, next_file: None, checkpoint: None, held })
    }

    /// True: the store is another one.
    fn take_outputs(&mut self) -> bool {
        let mut installed = false;
        for output in self.core.outputs() {
            match output {
                Output::BeginCheckpoint(checkpoint, _) => self.checkpoint = Some(checkpoint),
                Output::Installed => {
                    installed = true;
                    self.held.clear(); // of the old one, whose pages are of no more interest
                    self.file = self.next_file.take().unwrap_or(self.file.clone());
                }
                _ => {}
            }
        }
        let newest = self.core.store().tree().published();
        if self.held.last().is_none_or(|held| held.version() != newest.version()) {
            self.held.push(newest);
        }
        installed
    }

    /// What a call of this kind says, and how to tell it.
    fn take_input(
        &mut self,
        kind: u8,
        reader: &mut Reader,
        seed: &mut Option<Seed>,
    ) -> Result<(Input, String), FrameError> {
        let told = |name: &str| Ok(name.to_owned());
        let (input, told) = match kind {
            32 => (Input::Start, told("start")),
            33..=42 => {
                let (message, told) = take_message(kind, reader)?;
                (Input::Message(message), Ok(told))
            }
            43 => {
                let written = match take_flag(reader, "written")? {
                    true => Written::Durable,
                    false => Written::NoRoom,
                };
                let mut checkpoint = self.checkpoint.take().ok_or(FrameError::Payload("checkpoint"))?;
                if written == Written::Durable {
                    self.file.write(&mut checkpoint);
                }
                (Input::CheckpointDone(checkpoint, written), Ok(format!("checkpoint done: {written:?}")))
            }
            44 => {
                let ready = ReadyNumber(reader.u64("number")?);
                let (store, file) = seed.take().ok_or(FrameError::Payload("store"))?.open()?;
                self.next_file = Some(file);
                (Input::Install(ready, Box::new(store)), Ok(format!("install {ready}")))
            }
            45 => (Input::EndTurn, told("end of the turn")),
            46 => (Input::BeginCheckpoint, told("begin a checkpoint")),
            47 => (Input::Tick, told("tick")),
            48 => (Input::AutoCompact, told("auto compact")),
            kind => return Err(FrameError::Kind(kind)),
        };
        told.map(|told| (input, told))
    }
}

pub(in crate::store_core) fn take_message(
    kind: u8,
    reader: &mut Reader,
) -> Result<(ToStore, String), FrameError> {
    let (message, told) = match kind {
        33 => {
            let entries = take_entries(reader)?;
            let told = format!("commit {entries:?}");
            // The replay decodes what the proposer had decoded already.
            let batch = entries.into_iter().map(|entry| Committed { entry, command: None }).collect();
            (ToStore::Commit(batch), told)
        }
        34 => {
            let (leads, term) = (take_flag(reader, "leadership")?, Term(reader.u64("term")?));
            let leader = take_option(reader, "leader", |reader| reader.u64("leader").map(NodeId))?;
            let told = format!("leads {leads}, {term:?}, leader {leader:?}");
            (ToStore::Leadership { leads, term, leader }, told)
        }
        35 => {
            let versions = take_all(reader, (1, "versions"), |reader| {
                take_option(reader, "versions", |reader| take_text(reader, "versions"))
            })?;
            let told = format!("versions {versions:?}");
            (ToStore::Versions(versions), told)
        }
        36 => {
            let id = ProposalId(reader.u64("id")?);
            (ToStore::Dropped(id), format!("{id:?} dropped"))
        }
        37 => {
            let id = QueryId { core: take_size(reader, "core")?, number: reader.u64("number")? };
            let query = take_query(reader)?;
            (ToStore::Query(id, query), format!("{id:?}: {query:?}"))
        }
        38 => {
            let (from, number) = (NodeId(reader.u64("sender")?), reader.u64("number")?);
            let told = format!("{from:?} asks, {number:x}");
            (ToStore::PeerRequest(from, number, reader.rest()), told)
        }
        39 => {
            let id = ProposalId(reader.u64("id")?);
            (ToStore::PeerResponse(id, reader.rest()), format!("answer to {id:?}"))
        }
        40 => {
            let id = ReadId(reader.u64("id")?);
            let index = take_option(reader, "index", |reader| reader.u64("index").map(Index))?;
            (ToStore::ReadIndex(id, index), format!("{id:?}: {index:?}"))
        }
        41 => {
            let peer = NodeId(reader.u64("peer")?);
            (ToStore::PinSnapshot(peer), format!("pin a snapshot for {peer:?}"))
        }
        _ => (ToStore::NoSpace, "no space".to_owned()),
    };
    Ok((message, told))
}

fn take_query(reader: &mut Reader) -> Result<Query, FrameError> {
    let (what, lease) = (reader.u8("query")?, reader.u64("lease")? as i64);
    Ok(match what {
        1 => Query::KeepAlive { lease },
        2 => Query::TimeToLive { lease, keys: false },
        3 => Query::TimeToLive { lease, keys: true },
        4 => Query::Leases,
        5 => Query::Defragment,
        _ => return Err(FrameError::Payload("query")),
    })
}

fn take_start(reader: &mut Reader) -> Result<Start, FrameError> {
    const PART: &str = "settings";
    let time = |reader: &mut Reader| take_time(reader, PART);
    let settings = Settings {
        member: reader.u64(PART)?,
        name: take_text(reader, PART)?,
        client_urls: take_all(reader, (4, PART), |reader| take_text(reader, PART))?,
        server_version: take_text(reader, PART)?,
        client_cores: take_cores(reader)?,
        election_timeout: time(reader)?,
        request_timeout: time(reader)?,
        quota: take_option(reader, PART, |reader| reader.u64(PART))?,
        heap_limit_bytes: reader.u64(PART)?,
        log_bytes_max: reader.u64(PART)?,
        checkpoint_interval: time(reader)?,
        entries_per_publish: take_size(reader, PART)?,
        compaction_rows: take_size(reader, PART)?,
        lease_checkpoint: take_option(reader, PART, time)?,
        auto_compaction: match (reader.u8(PART)?, reader.u64(PART)?) {
            (0, 0) => None,
            (1, period) => Some(Retention::Period(Duration::from_nanos(period))),
            (2, revisions) => Some(Retention::Revisions(revisions as i64)),
            _ => return Err(FrameError::Payload(PART)),
        },
        nonce: reader.u64(PART)?,
    };
    let ids = IdGenerator::of_parts([reader.u64("ids")?, reader.u64("ids")?, reader.u64("ids")?]);
    Ok(Start { settings, ids, present: take_present(reader)? })
}

/// As many client cores as their numbers have room for in the name of a proposal.
fn take_cores(reader: &mut Reader) -> Result<usize, FrameError> {
    let cores = take_size(reader, "client cores")?;
    if cores > usize::from(u16::MAX) { Err(FrameError::Payload("client cores")) } else { Ok(cores) }
}

fn take_present(reader: &mut Reader) -> Result<Present, FrameError> {
    let now = take_time(reader, "present")?;
    match reader.u8("present")? {
        flags @ 0..=3 => Ok(Present { now, alone: flags & 1 == 1, cramped: flags & 2 == 2 }),
        _ => Err(FrameError::Payload("present")),
    }
}

fn take_store(reader: &mut Reader) -> Result<Seed, FrameError> {
    const PART: &str = "store";
    let identity = Identity { cluster: reader.u64(PART)?, member: reader.u64(PART)? };
    let nonce = u16::try_from(reader.u64(PART)?).map_err(|_| FrameError::Payload(PART))?;
    let lease_ttl_s_min = reader.u64(PART)? as i64;
    let search_from = u32::try_from(reader.u64(PART)?).map_err(|_| FrameError::Payload(PART))?;
    let config = engine::Config { tree: engine::tree::Config { identity, nonce }, lease_ttl_s_min };
    Ok(Seed { config, search_from, is_published: take_flag(reader, PART)?, bytes: Vec::new() })
}
