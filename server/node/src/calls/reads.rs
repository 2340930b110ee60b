//! Reads: from the newest published version, at once or as soon as it covers what was committed when they came.
//!
//! The only voter knows that index by itself. One among others asks raft, which asks the leader: one question for all reads of
//! a turn ([`LinearReads`](crate::read::LinearReads)).

use std::hash::Hash;
use std::sync::Arc;

use consensus::{Index, ProposalId};
use crossbeam::epoch;
use engine::hash::HashKvJob;
use engine::{AlarmKind, Planned, RangeAnswer, RangeJob, RangeOptions, View};
use net::pb::etcdserverpb::AlarmType;
use prost::Message;

use super::{Caller, Calls, Facts, Note, Shell, empty};
use crate::Answer;
use crate::api::{self, Error, Request};
use crate::cluster::version::storage;
use crate::cores;
use crate::read::{self, RangeReply};

/// A read that goes on in steps, so that others are served between them. It keeps the version that it began with.
pub struct LongRead<W> {
    caller: Caller<W>,
    work: Work,
}

enum Work {
    Range(RangeOptions, Box<RangeJob>),
    HashKv(HashKvJob),
    /// In one step: for tests of small stores.
    Hash(Arc<View>),
}

impl<W> LongRead<W> {
    /// Who waits for it.
    pub fn caller(&self) -> &Caller<W> {
        &self.caller
    }
}

impl<W: Copy + Eq + Hash> Calls<W> {
    /// Reads once the version covers what is committed now; at once if it does already.
    pub(super) fn read_linearizable(
        &mut self,
        caller: Caller<W>,
        request: Request,
        shell: &mut impl Shell<W>,
    ) {
        let index = shell.facts().read_index();
        if index.is_some_and(|index| index <= self.applied()) || planted::is("follower-reads-locally") {
            return self.read(caller, request, shell);
        }
        let number = self.number();
        self.reads.push(number, (caller, request), index);
        self.expect_by(number, caller.since);
    }

    /// Does the reads that the newest version may answer.
    pub(super) fn do_covered_reads(&mut self, shell: &mut impl Shell<W>) {
        let applied = self.applied();
        while let Some((caller, request)) = self.reads.pop_covered(applied) {
            self.read(caller, request, shell);
        }
    }

    /// The answer to the question for a read index.
    pub(super) fn read_confirmed(&mut self, id: ProposalId, index: Option<Index>, shell: &mut impl Shell<W>) {
        let question = cores::number_of(id);
        let Some(index) = index else {
            shell.note(Note::ReadIndexFailed);
            for (caller, _) in self.reads.fail(question) {
                shell.refuse(&caller, Error::LeaderChanged.into());
            }
            return;
        };
        self.reads.confirm(question, index);
        self.do_covered_reads(shell);
    }

    /// Answers from the newest published version.
    pub(super) fn read(&mut self, caller: Caller<W>, request: Request, shell: &mut impl Shell<W>) {
        match request {
            Request::Range { options, .. } => self.range(caller, options, shell),
            Request::TxnRead { txn, .. } => {
                reply(shell, &caller, &read::txn(&self.view, &epoch::pin(), &txn));
            }
            Request::MemberList { .. } => {
                reply(shell, &caller, &read::member_list(&self.view, &epoch::pin()));
            }
            Request::Hash => shell.begin(LongRead { caller, work: Work::Hash(self.view.clone()) }),
            Request::HashKv { revision } => match read::hash_kv(&self.view, &epoch::pin(), revision) {
                Ok(job) => shell.begin(LongRead { caller, work: Work::HashKv(job) }),
                Err(error) => reply(shell, &caller, &Err(error)),
            },
            Request::Status => {
                let status = self.status(shell.facts());
                shell.reply(&caller, None, &Ok(status));
            }
            Request::HealthCheck { service } => {
                let checked = api::health::check(&service).map(|message| whole(&message));
                shell.reply(&caller, None, &checked);
            }
            Request::HealthList => shell.reply(&caller, None, &Ok(whole(&api::health::list()))),
            Request::HealthWatch { service } => shell.health(&caller, &api::health::watch(&service)),
            Request::Write(_)
            | Request::ConfChange(_)
            | Request::MoveLeader { .. }
            | Request::LeaseTimeToLive { .. }
            | Request::LeaseLeases
            | Request::Defragment => unreachable!("dispatch sends these to other cores"),
        }
    }

    fn range(&mut self, caller: Caller<W>, options: RangeOptions, shell: &mut impl Shell<W>) {
        shell.note(Note::RangeBegun);
        let planned = read::range(&self.view, &epoch::pin(), &options, self.settings.range_rows);
        match planned {
            Ok(Planned::Done(answer)) => self.reply_range(&caller, &options, answer, shell),
            Ok(Planned::More(job)) => shell.begin(LongRead { caller, work: Work::Range(options, job) }),
            Err(error) => reply(shell, &caller, &Err(error)),
        }
    }

    fn reply_range(
        &self,
        caller: &Caller<W>,
        options: &RangeOptions,
        answer: RangeAnswer,
        shell: &mut impl Shell<W>,
    ) {
        let reply = RangeReply::new(answer, &self.settings.identity, shell.facts().term());
        shell.range(caller, options, reply);
    }

    /// The next step of a long read. `None`: it is answered.
    pub fn go_on(&mut self, read: LongRead<W>, shell: &mut impl Shell<W>) -> Option<LongRead<W>> {
        let LongRead { caller, work } = read;
        let guard = &epoch::pin();
        match work {
            Work::Range(options, job) => match read::range_step(job, guard, self.settings.range_rows) {
                Ok(Planned::Done(answer)) => self.reply_range(&caller, &options, answer, shell),
                Ok(Planned::More(job)) => return Some(LongRead { caller, work: Work::Range(options, job) }),
                Err(error) => reply(shell, &caller, &Err(error)),
            },
            Work::HashKv(mut job) => match read::hash_kv_step(&mut job, guard, self.settings.hash_rows) {
                Ok(Some(answer)) => reply(shell, &caller, &Ok(answer)),
                Ok(None) => return Some(LongRead { caller, work: Work::HashKv(job) }),
                Err(error) => reply(shell, &caller, &Err(error)),
            },
            Work::Hash(view) => reply(shell, &caller, &read::hash(&view, guard)),
        }
        None
    }

    fn status(&self, facts: &impl Facts) -> Answer {
        let view = &self.view;
        let cluster_version = read::cluster_version(view, &epoch::pin()).ok().flatten();
        let member = api::maintenance::MemberStatus {
            db_size: view.allocated_bytes(),
            db_size_in_use: view.in_use_bytes(),
            db_size_quota: facts.space().quota.map_or(-1, |bytes| bytes as i64),
            leader: facts.leader(),
            commit_index: facts.commit(),
            applied_index: view.applied().index,
            term: facts.term(),
            alarms: alarms(view),
            is_learner: facts.is_learner(),
            storage_version: storage(cluster_version.as_deref()).unwrap_or_default().to_owned(),
        };
        let header = self.settings.identity.header(view.revision(), facts.term());
        whole(&api::maintenance::status(header, &member))
    }
}

/// Ends a call that was answered from the store.
fn reply<W>(shell: &mut impl Shell<W>, caller: &Caller<W>, result: &Result<Answer, Error>) {
    match result {
        Err(Error::Corrupt) => shell.damaged(),
        result => shell.reply(caller, None, result),
    }
}

/// An answer that has its header already, or none.
fn whole(message: &impl Message) -> Answer {
    Answer { body: message.encode_to_vec().into(), ..empty() }
}

/// Active alarms as the API shows them.
fn alarms(view: &View) -> Vec<(u64, AlarmType)> {
    let kind = |kind| match kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    view.alarms().iter().map(|alarm| (alarm.member, kind(alarm.kind))).collect()
}
