//! How an edge drives a [`Node`](crate::Node) and a [`Log`](crate::log::Log) together.
//!
//! Start, in this order:
//!
//! 1. Open the store. It knows `applied` (index and term) and `conf` as of its last checkpoint; on the very first start
//!    both are default.
//! 2. Be sure that the last process's write is over: the kernel may complete a direct write of a process that was killed
//!    after the next one has started. A lock (flock) held through the very descriptor that writes outlives that write;
//!    take it on each segment before reading. A write that lands after recovery would be one that recovery has judged torn.
//! 3. [`recover`](crate::log::recover()) the log with `applied`. An error ends the process with its text.
//! 4. fdatasync every segment: what recovery read may still sit in the device's cache.
//! 5. [`is_new`](crate::log::Recovered::is_new): bootstrap the state from the initial members.
//! 6. Make the node and the log, prepare the first segment, take the first turn. Entries above `applied` that are known to
//!    be committed come back as the first `Commit`s: replay needs no path of its own.
//!
//! Then turns, for ever: gather inputs, `step` each, `flush` once, start the outputs in order. Give the log's plans to the
//! disk, one at a time; when a write is durable, `written` names the Ready for the next turn. A write that fails ends the
//! process: it must neither be repeated nor reported.
//!
//! ```
//! use std::{collections::BTreeMap, time::Duration};
//! use consensus::log::{Identity, Log, LogConfig, ReadError, SegmentId, SegmentInfo, SegmentReader, State, recover};
//! use consensus::{ConfChange, ConfState, Config, EntryKind, Input, LogPosition, Node, NodeId, Output, ProposalId};
//!
//! /// Files, in memory.
//! struct Disk(BTreeMap<SegmentId, Vec<u8>>);
//!
//! impl SegmentReader for Disk {
//!     fn segments(&self) -> Vec<SegmentInfo> {
//!         self.0.iter().map(|(&id, file)| SegmentInfo { id, size: file.len() as u64 }).collect()
//!     }
//!     fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
//!         buf.copy_from_slice(&self.0[&segment][offset as usize..][..buf.len()]);
//!         Ok(())
//!     }
//! }
//!
//! /// Starts a member, proposes `puts`, gives what it has committed in the end.
//! fn run(disk: &mut Disk, puts: &[&'static str]) -> Vec<String> {
//!     let member = NodeId(7);
//!     let identity = Identity { cluster: 1, member };
//!     let (applied, conf) = (LogPosition::default(), ConfState::default()); // this store is never checkpointed
//!     let recovered = recover(disk, identity, applied).expect("the log is sound");
//!     let state = match recovered.is_new() {
//!         true => State::bootstrap(&[(member, "{}".into())]),
//!         false => recovered.state,
//!     };
//!     let nonce = 0x5eed; // from the system's random source
//!     let mut node = Node::new(Config::new(member, 1, nonce), state, applied, conf);
//!     let mut log = Log::new(LogConfig::new(nonce), identity, recovered.tail);
//!
//!     let mut puts = puts.iter().zip(1..).collect::<Vec<_>>();
//!     let (mut inputs, mut outputs, mut committed) = (Vec::new(), Vec::new(), Vec::new());
//!     loop {
//!         for input in inputs.drain(..) {
//!             node.step(input, &mut outputs);
//!         }
//!         node.flush(&mut outputs);
//!         for output in outputs.drain(..) {
//!             match output {
//!                 Output::Append(append) => log.append(append),
//!                 // The store core: apply, then say so.
//!                 Output::Commit(entries) => for entry in entries {
//!                     if entry.kind == EntryKind::ConfChange {
//!                         let change = ConfChange::decode(&entry.data).expect("as proposed");
//!                         inputs.push(Input::ApplyConfChange(entry.index, Some(change)));
//!                     } else if !entry.data.is_empty() {
//!                         committed.push(String::from_utf8_lossy(&entry.data).into_owned());
//!                     }
//!                     inputs.push(Input::Applied(entry.index));
//!                 },
//!                 Output::ProposalDropped(_, reason) => panic!("{reason:?}"),
//!                 _ => {} // SingleVoter to the readers, Role to the metrics and the log file, Send to the peers
//!             }
//!         }
//!         while let Some(new) = log.segment_wanted() { // on another thread, but for the first
//!             disk.0.insert(new.id, vec![0; new.size as usize]);
//!             log.segment_ready(new.id, new.size);
//!         }
//!         if let Some(plan) = log.poll_write() {
//!             let mut buf = vec![0; plan.len]; // aligned
//!             log.encode(&plan, &mut buf);
//!             // The next three lines: when the O_DIRECT|O_DSYNC write completes. The loop turns meanwhile.
//!             disk.0.get_mut(&plan.segment).unwrap()[plan.offset as usize..][..plan.len].copy_from_slice(&buf);
//!             let now = Duration::ZERO;
//!             inputs.extend(log.written(now).map(Input::Durable));
//!         }
//!         // A read may take `SingleVoter`'s index as soon as it is there; a proposal needs a leader.
//!         let leads = node.status().role.leader == Some(member);
//!         if leads && !puts.is_empty() {
//!             let all = puts.drain(..); // one turn: one raft proposal, one write
//!             inputs.extend(all.map(|(put, id)| Input::Propose(ProposalId(id), (*put).into())));
//!         }
//!         if inputs.is_empty() {
//!             return committed;
//!         }
//!     }
//! }
//!
//! let mut disk = Disk(BTreeMap::new());
//! assert_eq!(run(&mut disk, &["a", "b"]), ["a", "b"]);
//! assert_eq!(run(&mut disk, &["c"]), ["a", "b", "c"]); // replayed, then continued
//! ```

#[cfg(test)]
mod tests {
    use crate::testing::{Disk, Member, Store, small_log};
    use crate::{Index, Input, LogPosition, NodeId, ReadId, Role, Term};

    #[test]
    fn first_start_is_numbered_as_etcds() {
        let member = Member::new(small_log());
        let status = member.node.status();
        // Entry 1 of term 1 adds the member; entry 2 of term 2 is the leader's first.
        assert_eq!(status.last, LogPosition::new(2, 2));
        assert_eq!(status.role.term, Term(2));
        assert_eq!(member.store.applied, LogPosition::new(2, 2));
        assert_eq!(member.store.conf.voters, [NodeId(7)]);
        assert_eq!(member.single_voter, Some(Index(2)));
        assert_eq!(member.disk.writes, 2, "bootstrap, then vote and first entry");
    }

    #[test]
    fn writes_survive_a_restart_and_are_replayed_above_the_checkpoint() {
        let mut member = Member::new(small_log());
        let checkpoint_empty = Store::default();
        for id in 0..100 {
            member.put(id, format!("value {id}"));
        }
        member.settle();
        let checkpoint_half = member.store.clone();
        for id in 100..200 {
            member.put(id, format!("value {id}"));
        }
        member.settle();
        assert_eq!(member.acked.len(), 200);
        let (want, disk) = (member.store.data.clone(), member.kill());
        for checkpoint in [checkpoint_empty, checkpoint_half] {
            let mut member = Member::start(disk.clone(), checkpoint, small_log()).unwrap();
            member.settle();
            assert_eq!(member.store.data, want);
            assert_eq!(member.node.status().role.role, Role::Leader);
            assert_eq!(member.node.status().role.term, Term(3));
            assert_eq!(member.acked, [], "proposals of the last run are nobody's");
            member.put(1, "after");
            member.settle();
            assert_eq!(member.acked.len(), 1);
        }
    }

    #[test]
    fn a_read_waits_for_the_first_commit_of_the_term_only() {
        let mut member = Member::start(Disk::default(), Store::default(), small_log()).unwrap();
        member.turn([Input::ReadIndex(ReadId(1))]);
        assert_eq!(member.reads, []);
        member.settle();
        assert_eq!(member.reads, [(ReadId(1), Index(2))]);
        member.turn([Input::ReadIndex(ReadId(2)), Input::ReadIndex(ReadId(3))]);
        assert_eq!(member.reads[1..], [(ReadId(2), Index(2)), (ReadId(3), Index(2))]);
    }
}
