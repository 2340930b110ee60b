//! What a published view answers: Range, read-only transactions, hashes, the member list.
//!
//! A Range answer is spliced: its length is known once the rows are planned, the rows themselves go from the map into
//! the connection's output as the peer takes them. Between two pieces a [`RangeReply`] pins its view and holds at most
//! one row.

use std::sync::Arc;

use crossbeam::epoch::Guard;
use engine::hash::HashKvJob;
use engine::{Planned, RangeAnswer, RangeJob, RangeOptions, Txn, TxnError, View};
use net::grpc::Fill;
use net::pb::etcdserverpb as pb;

use crate::answer::{self, Answer, Identity};
use crate::api::Error;
use crate::membership::Member;

mod linear;

pub use linear::LinearReads;

/// Bytes of a header, `more` and `count` at their longest.
const HEAD_SIZE_MAX: usize = 64;

/// The answer to one Range call.
pub struct RangeReply {
    /// Header, `more`, `count`: all but the rows.
    head: [u8; HEAD_SIZE_MAX],
    head_len: usize,
    head_sent: usize,
    answer: RangeAnswer,
    /// The end of the last row, where it did not fit in the piece that was asked for.
    spill: Vec<u8>,
    spill_sent: usize,
    complete: bool,
}

/// Plans the answer to a Range, reading at most `rows` rows for it now. A range may have millions of keys: the rest is
/// for [`range_step`], when its core has looked after others.
///
/// # Errors
/// The revision is compacted or in the future, or the store is damaged.
pub fn range(view: &Arc<View>, guard: &Guard, options: &RangeOptions, rows: usize) -> Result<Planned, Error> {
    view.plan_range(guard, options, rows).map_err(|error| Error::from(&error))
}

/// Goes on by at most `rows` rows with a plan that is not made yet.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn range_step(job: Box<RangeJob>, guard: &Guard, rows: usize) -> Result<Planned, Error> {
    job.step(guard, rows).map_err(|_| Error::Corrupt)
}

impl RangeReply {
    /// How many keys the range has, as the answer says.
    pub fn count(&self) -> i64 {
        self.answer.count()
    }

    /// The reply that a finished plan gives.
    pub fn new(answer: RangeAnswer, identity: &Identity, raft_term: u64) -> RangeReply {
        let mut head = [0; HEAD_SIZE_MAX];
        let mut rest = &mut head[..];
        answer::put_header(&identity.header(answer.revision(), raft_term), &mut rest);
        answer::put_range_tail(answer.more(), answer.count(), &mut rest);
        let head_len = HEAD_SIZE_MAX - rest.len();
        let complete = answer.rows() == 0;
        RangeReply { head, head_len, head_sent: 0, answer, spill: Vec::new(), spill_sent: 0, complete }
    }

    /// Length of the whole message in bytes; what the fills append adds up to it.
    pub fn message_len(&self) -> u64 {
        self.head_len as u64 + self.answer.kvs_len()
    }

    /// Appends the whole message at once: for short ones.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the store is damaged; `out` then holds a part that must be dropped.
    pub fn encode(mut self, guard: &Guard, out: &mut Vec<u8>) -> Result<(), Error> {
        out.reserve(self.message_len() as usize);
        out.extend_from_slice(&self.head[..self.head_len]);
        if !self.complete {
            self.answer.fill(guard, usize::MAX, out).map_err(|_| Error::Corrupt)?;
        }
        Ok(())
    }

    /// Appends at most `max` bytes, the next ones of the message. The guard is new for each call.
    pub fn fill(&mut self, guard: &Guard, max: usize, out: &mut Vec<u8>) -> Fill {
        let start = out.len();
        take(&self.head[..self.head_len], &mut self.head_sent, max, out);
        take(&self.spill, &mut self.spill_sent, max - (out.len() - start), out);
        let room = max - (out.len() - start);
        if room > 0 && !self.complete {
            match self.answer.fill(guard, room, out) {
                Ok(complete) => self.complete = complete,
                Err(_) => {
                    out.truncate(start);
                    return Fill::Abort(Error::Corrupt.status());
                }
            }
            self.keep_surplus(start + max, out);
        }
        let wrote = out.len() - start;
        let done = self.complete && self.head_sent == self.head_len && self.spill_sent == self.spill.len();
        if done { Fill::Done(wrote) } else { Fill::Wrote(wrote) }
    }

    /// The store fills whole rows; what goes beyond `end` waits for the next piece.
    fn keep_surplus(&mut self, end: usize, out: &mut Vec<u8>) {
        self.spill.clear();
        self.spill_sent = 0;
        if out.len() > end {
            self.spill.extend_from_slice(&out[end..]);
            out.truncate(end);
        }
    }
}

/// Appends what is left of `from` after `sent`, at most `max` bytes.
fn take(from: &[u8], sent: &mut usize, max: usize, out: &mut Vec<u8>) {
    let size = max.min(from.len() - *sent);
    out.extend_from_slice(&from[*sent..*sent + size]);
    *sent += size;
}

/// Answers a transaction that only reads.
///
/// # Errors
/// A revision is compacted or in the future, or the store is damaged.
pub fn txn(view: &View, guard: &Guard, txn: &Txn) -> Result<Answer, Error> {
    let outcome = view.txn(guard, txn).map_err(|error: TxnError| Error::from(&error))?;
    Ok(Answer::new(outcome.revision, answer::txn_body(&outcome)))
}

/// Begins a HashKV at `revision` (0: the current one). It reads the whole history, so it goes on in steps:
/// [`hash_kv_step`].
///
/// # Errors
/// The revision is compacted or in the future, or the store is damaged.
pub fn hash_kv(view: &Arc<View>, guard: &Guard, revision: i64) -> Result<HashKvJob, Error> {
    view.hash_kv(guard, revision).map_err(|error| Error::from(&error))
}

/// Goes on by about `rows` rows; the answer when there are no more.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn hash_kv_step(job: &mut HashKvJob, guard: &Guard, rows: usize) -> Result<Option<Answer>, Error> {
    let Some(done) = job.step(guard, rows).map_err(|_| Error::Corrupt)? else { return Ok(None) };
    let message = pb::HashKvResponse {
        header: None,
        hash: done.hash.hash,
        compact_revision: done.hash.compact_revision,
        hash_revision: done.hash.revision,
    };
    Ok(Some(Answer::of_message(done.revision, &message)))
}

/// Answers Hash: over everything stored, so for tests of small stores.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn hash(view: &View, guard: &Guard) -> Result<Answer, Error> {
    let hash = view.hash(guard).map_err(|_| Error::Corrupt)?;
    Ok(Answer::of_message(view.revision(), &pb::HashResponse { header: None, hash }))
}

/// Answers MemberList. Calls about members have no revision in their header.
///
/// # Errors
/// [`Error::Corrupt`] if a row is no member or the store is damaged.
pub fn member_list(view: &View, guard: &Guard) -> Result<Answer, Error> {
    let members = members(view, guard)?.iter().map(Member::to_message).collect();
    Ok(Answer::of_message(0, &pb::MemberListResponse { header: None, members }))
}

/// The members, by id.
///
/// # Errors
/// [`Error::Corrupt`] if a row is no member or the store is damaged.
pub fn members(view: &View, guard: &Guard) -> Result<Vec<Member>, Error> {
    let rows = view.members(guard).map_err(|_| Error::Corrupt)?;
    rows.iter().map(|(_, row)| Member::decode(row).map_err(|_| Error::Corrupt)).collect()
}

/// The cluster version (`X.Y.0`), if it has been set.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn cluster_version(view: &View, guard: &Guard) -> Result<Option<String>, Error> {
    let row = view.user_meta(guard, crate::apply::CLUSTER_VERSION).map_err(|_| Error::Corrupt)?;
    Ok(row.map(|row| String::from_utf8_lossy(&row).into_owned()))
}

#[cfg(test)]
mod tests;
