//! Damage to a log, and the voter that stands in until it is repaired.

use super::*;
use crate::log::SegmentId;

/// Stands in for a process while the log is damaged.
pub(in crate::node) struct Repair {
    pub(super) voter: Voter,
    /// Promises on their way to disk.
    pub(super) writes: VecDeque<Promise>,
}

impl History {
    /// The end of what was committed.
    pub fn committed(&self) -> Option<Index> {
        self.committed.keys().next_back().copied()
    }
}

impl World {
    /// A block of the log that is proven durable goes bad. False if there is none, or the store doesn't need it.
    pub fn damage(&mut self, id: NodeId) -> bool {
        let Some(life) = self.life(id) else { return false };
        life.stalled = false;
        while self.complete(id) {}
        // The marker of a pause proves the last batch.
        let Some(life) = self.life(id) else { return false };
        life.log.handle_timeout(Duration::from_secs(1));
        self.submit(id);
        while self.complete(id) {}
        let identity = Identity { cluster: 1, member: id };
        let machine = self.machines.get_mut(&id).expect("it exists");
        if let Some(mut life) = machine.life.take() {
            life.check_replay();
        }
        let whole = machine.disk.clone();
        let survey = Survey::take(&whole, identity).expect("it is whole");
        let segments: Vec<_> = whole.segments.keys().copied().collect();
        for _ in 0..20 {
            let segment = self.rng.pick(&segments).expect("there is a log");
            let block = self.rng.below(whole.segments[&segment].len() as u64 / 4096) as usize;
            let machine = self.machines.get_mut(&id).expect("it exists");
            machine.disk = whole.clone();
            machine.disk.file(segment)[block * 4096..][..4096].fill(0xbd);
            let applied = machine.checkpoint.applied;
            let damaged = recover(&machine.disk, identity, applied).is_err();
            // Not the newest header: that would be a tail that nothing proves.
            if damaged && Survey::take(&machine.disk, identity).is_ok_and(|found| found == survey) {
                let promise = Promise::of(identity, &survey, applied).expect("the newest header is there");
                machine.promise = Some(promise.encode().to_vec());
                machine.files.clear();
                self.start(id);
                return true;
            }
        }
        self.machines.get_mut(&id).expect("it exists").disk = whole;
        self.start(id);
        false
    }

    /// The end of the log goes bad, down to where the store has more. Whether that is repaired; if not, it stays down.
    pub fn lose_tail(&mut self, id: NodeId) -> bool {
        self.crash(id);
        let identity = Identity { cluster: 1, member: id };
        let machine = self.machines.get_mut(&id).expect("it exists");
        let applied = machine.checkpoint.applied;
        let in_segment = |(&segment, bytes): (&SegmentId, &Vec<u8>)| {
            (0..bytes.len() / 4096).rev().map(|block| (segment, block)).collect::<Vec<_>>()
        };
        let blocks: Vec<_> = machine.disk.segments.iter().rev().flat_map(in_segment).collect();
        let survey = |disk: &Disk| Survey::take(disk, identity).expect("there is a log");
        for (segment, block) in blocks {
            if survey(&machine.disk).last.index >= applied.index {
                machine.disk.file(segment)[block * 4096..][..4096].fill(0xbd);
            }
        }
        assert!(recover(&machine.disk, identity, applied).is_err());
        let promise = Promise::of(identity, &survey(&machine.disk), applied);
        machine.promise = promise.map(|promise| promise.encode().to_vec());
        if promise.is_some() {
            self.start(id);
        }
        promise.is_some()
    }

    pub(super) fn turn_voter(&mut self, id: NodeId, input: VoterInput) {
        let Some(repair) = self.machines.get_mut(&id).and_then(|machine| machine.repair.as_mut()) else {
            return;
        };
        let mut out = Vec::new();
        repair.voter.step(input, &mut out);
        for output in out {
            match output {
                VoterOutput::Persist(promise) => {
                    let machine = self.machines.get_mut(&id).expect("it exists");
                    machine.repair.as_mut().expect("it runs").writes.push_back(promise);
                }
                VoterOutput::Send(envelope) => self.send(id, envelope),
                VoterOutput::Install { position, conf, hard_state } => {
                    self.finish_repair(id, position, &conf, hard_state);
                }
                VoterOutput::SnapshotIgnored(position) => {
                    self.machines.get_mut(&id).expect("it exists").files.remove(&position);
                }
            }
        }
    }

    fn finish_repair(&mut self, id: NodeId, position: LogPosition, conf: &ConfState, hard_state: HardState) {
        let machine = self.machines.get_mut(&id).expect("it exists");
        let store = machine.files[&position].clone();
        assert_eq!(&store.conf, conf);
        machine.disk = Disk::default();
        let mut log = Log::new(small_log(), Identity { cluster: 1, member: id }, Default::default());
        let reset = Some(position);
        log.append(Append { ready: ReadyNumber(1), hard_state, entries: vec![], reset });
        while let Some(wanted) = log.segment_wanted() {
            machine.disk.segments.insert(wanted.id, vec![0; wanted.size as usize]);
            log.segment_ready(wanted.id, wanted.size);
        }
        let plan = log.poll_write().expect("there is a segment");
        let mut buf = vec![0; plan.len];
        log.encode(&plan, &mut buf);
        machine.disk.in_flight = Some((plan, buf));
        machine.disk.complete();
        (machine.checkpoint, machine.promise, machine.repair) = (store, None, None);
        self.history.repaired += 1;
        self.start(id);
    }

    /// One member is repaired at a time, and only where a majority is whole, and stays so with one voter less if that is under
    /// way: of two voters both are needed.
    pub(super) fn may_be_damaged(&self, id: NodeId) -> bool {
        let least = if self.weather.membership > 0 { 4 } else { 3 };
        let enough = self.alive().into_iter().all(|other| self.store(other).conf.voters.len() >= least);
        self.are_whole() && enough && self.store(id).conf.voters.contains(&id)
    }

    /// Whether no member is under repair.
    pub(super) fn are_whole(&self) -> bool {
        self.machines.values().all(|machine| machine.promise.is_none())
    }
}
