//! A member in memory: disk, store and the loop that an edge would run. For tests of this crate.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::log::{
    Identity, Log, LogConfig, ReadError, RecoverError, SegmentId, SegmentInfo, SegmentReader, State,
    WritePlan, recover,
};
use crate::{
    ConfChange, ConfState, Config, DropReason, Entry, EntryKind, Index, Input, LogPosition, Node, NodeId,
    Output, ProposalId, ReadId, Role, RoleChange,
};

pub(crate) const SECTOR: usize = 512;
pub(crate) const IDENTITY: Identity = Identity { cluster: 0xc1, member: NodeId(7) };

/// Small sizes make the rare paths common.
pub(crate) fn small_log() -> LogConfig {
    LogConfig {
        first_segment_size: 16 << 10,
        segment_size: 32 << 10,
        batch_bytes_max: 8 << 10,
        ..LogConfig::new(0x1234_5678_9abc_def0)
    }
}

/// A disk that writes sectors, and forgets at a crash what was not completed.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub segments: BTreeMap<SegmentId, Vec<u8>>,
    pub in_flight: Option<(WritePlan, Vec<u8>)>,
    pub unreadable: Vec<(SegmentId, u64)>,
    pub writes: u64,
}

impl Disk {
    pub fn complete(&mut self) {
        let (plan, bytes) = self.in_flight.take().expect("a write is in flight");
        self.file(plan.segment)[plan.offset as usize..][..plan.len].copy_from_slice(&bytes);
        self.writes += 1;
    }

    /// The power fails: of the write in flight, the sectors for which `keep` says so have arrived.
    pub fn crash(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let Some((plan, bytes)) = self.in_flight.take() else { return };
        let file = self.file(plan.segment);
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            if keep(number) {
                file[plan.offset as usize + number * SECTOR..][..SECTOR].copy_from_slice(sector);
            }
        }
    }

    pub fn file(&mut self, segment: SegmentId) -> &mut Vec<u8> {
        self.segments.get_mut(&segment).expect("writes go to segments that exist")
    }
}

impl SegmentReader for Disk {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.segments.iter().map(|(&id, file)| SegmentInfo { id, size: file.len() as u64 }).collect()
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset + buf.len() as u64;
        if self.unreadable.iter().any(|&(id, at)| id == segment && offset <= at && at < end) {
            return Err(ReadError);
        }
        buf.copy_from_slice(&self.segments[&segment][offset as usize..end as usize]);
        Ok(())
    }
}

/// What a checkpoint of the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Store {
    pub applied: LogPosition,
    pub conf: ConfState,
    /// All normal entries with data, in order.
    pub data: Vec<(Index, Bytes)>,
}

pub(crate) struct Member {
    pub node: Node,
    pub log: Log,
    pub disk: Disk,
    pub store: Store,
    pub now: Duration,
    pub role: Option<RoleChange>,
    pub single_voter: Option<Index>,
    /// Committed here, by proposal.
    pub acked: Vec<(ProposalId, Index)>,
    pub dropped: Vec<(ProposalId, DropReason)>,
    pub reads: Vec<(ReadId, Index)>,
    pub appends: usize,
    pub notes: Vec<crate::log::Note>,
    /// Whether committed entries are applied at once.
    pub apply: bool,
    pub unapplied: Vec<Entry>,
    inputs: Vec<Input>,
}

impl Member {
    /// What a process does at its start, from what the last run left on disk.
    pub fn start(disk: Disk, checkpoint: Store, config: LogConfig) -> Result<Member, RecoverError> {
        let entry_bytes_max = crate::log::ENTRY_BYTES_MAX.min(config.segment_size as usize - 1024);
        let node = Config { entry_bytes_max, ..Config::new(IDENTITY.member, 1, 2) };
        Member::start_with(disk, checkpoint, config, node)
    }

    pub fn start_with(
        disk: Disk,
        checkpoint: Store,
        log_config: LogConfig,
        config: Config,
    ) -> Result<Member, RecoverError> {
        let recovered = recover(&disk, IDENTITY, checkpoint.applied)?;
        let state = match recovered.is_new() {
            true => State::bootstrap(&[(IDENTITY.member, Bytes::from_static(b"{}"))]),
            false => recovered.state,
        };
        let log = Log::new(log_config, IDENTITY, recovered.tail);
        let node = Node::new(config, state, checkpoint.applied, checkpoint.conf.clone());
        let mut member = Member {
            node,
            log,
            disk,
            store: checkpoint,
            now: Duration::ZERO,
            role: None,
            single_voter: None,
            acked: Vec::new(),
            dropped: Vec::new(),
            reads: Vec::new(),
            appends: 0,
            notes: recovered.notes,
            apply: true,
            unapplied: Vec::new(),
            inputs: Vec::new(),
        };
        member.prepare_segments();
        member.turn([]);
        Ok(member)
    }

    /// A new member, elected and idle.
    pub fn new(config: LogConfig) -> Member {
        let mut member = Member::start(Disk::default(), Store::default(), config).expect("an empty disk");
        member.settle();
        assert_eq!(member.node.status().role.role, Role::Leader);
        member
    }

    /// One turn of the loop: inputs, flush, outputs; then what can be written is on its way.
    pub fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) {
        self.inputs.extend(inputs);
        let mut out = Vec::new();
        for input in std::mem::take(&mut self.inputs) {
            self.node.step(input, &mut out);
        }
        self.node.flush(&mut out);
        for output in out {
            self.start_output(output);
        }
        self.submit();
    }

    fn start_output(&mut self, output: Output) {
        match output {
            Output::Append(append) => {
                self.appends += 1;
                self.log.append(append);
            }
            Output::Commit(entries) => {
                self.unapplied.extend(entries);
                if self.apply {
                    self.apply_all();
                }
            }
            Output::SingleVoter(index) => self.single_voter = index,
            Output::ReadReady(read, index) => self.reads.push((read, index)),
            Output::ProposalDropped(proposal, reason) => self.dropped.push((proposal, reason)),
            Output::Role(role) => self.role = Some(role),
            Output::ConfState(conf) => assert_eq!(conf, self.store.conf),
            Output::ReadDropped(read) => panic!("{read:?} dropped"),
            other => panic!("one member has nobody to talk to: {other:?}"),
        }
    }

    /// The store core: applies and reports.
    pub fn apply_all(&mut self) {
        for entry in std::mem::take(&mut self.unapplied) {
            assert_eq!(entry.index.0, self.store.applied.index.0 + 1, "each entry once, in order");
            match entry.kind {
                EntryKind::ConfChange => {
                    let change = ConfChange::decode(&entry.data).expect("it was encoded here");
                    self.store.conf.apply(&change);
                    self.inputs.push(Input::ApplyConfChange(entry.index, Some(change)));
                }
                EntryKind::Normal if entry.data.is_empty() => {}
                EntryKind::Normal => self.store.data.push((entry.index, entry.data.clone())),
            }
            self.acked.extend(entry.proposal.map(|proposal| (proposal, entry.index)));
            self.store.applied = entry.position();
        }
        self.inputs.push(Input::Applied(self.store.applied.index));
    }

    pub fn submit(&mut self) {
        if let Some(plan) = self.log.poll_write() {
            let mut buf = vec![0xee; plan.len]; // whatever the buffer held before
            self.log.encode(&plan, &mut buf);
            assert!(self.disk.in_flight.is_none(), "one write at a time");
            self.disk.in_flight = Some((plan, buf));
        }
    }

    /// The write in flight completes.
    pub fn complete(&mut self) {
        self.disk.complete();
        let durable = self.log.written(self.now);
        self.prepare_segments();
        self.turn(durable.map(Input::Durable));
    }

    /// Runs until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            if self.disk.in_flight.is_some() {
                self.complete();
            } else if !self.inputs.is_empty() {
                self.turn([]);
            } else {
                return;
            }
        }
    }

    /// Lets time pass until the log has marked its last batch.
    pub fn idle(&mut self) {
        self.settle();
        self.now += Duration::from_millis(50);
        self.log.handle_timeout(self.now);
        self.submit();
        self.settle();
    }

    pub fn prepare_segments(&mut self) {
        while let Some(wanted) = self.log.segment_wanted() {
            self.disk.segments.insert(wanted.id, vec![0; wanted.size as usize]);
            self.log.segment_ready(wanted.id, wanted.size);
        }
    }

    pub fn put(&mut self, id: u64, data: impl Into<Bytes>) {
        self.turn([Input::Propose(ProposalId(id), data.into())]);
    }

    /// What a kill leaves behind, with nothing of the write in flight.
    pub fn kill(self) -> Disk {
        let mut disk = self.disk;
        disk.crash(|_| false);
        disk
    }

    /// The power fails: of the write in flight, only the sectors for which `keep` says so have arrived.
    pub fn crash(self, keep: impl FnMut(usize) -> bool) -> Disk {
        let mut disk = self.disk;
        disk.crash(keep);
        disk
    }

    /// The store writes a checkpoint; the log may forget what it covers.
    pub fn checkpoint(&mut self) -> Store {
        self.log.checkpointed(self.store.applied.index);
        self.store.clone()
    }
}
