//! Lives that are told to other machines.
//!
//! Every hundredth seed runs twice. In the second run each raft core and each store core writes down what it is told, as those of a
//! real server do with `RINGD_TRACE`, and the world must be the same for it. Then another machine of its kind is told the same:
//! what differs depends on something that is not among its inputs.

use std::panic::catch_unwind;

use node::trace::Replay;

use crate::check::Failure;
use crate::env::NodeNumber;
use crate::member::Member;

/// One life of a member, written down.
pub struct Life {
    number: NodeNumber,
    life: u32,
    /// Its disk has lied. What it read then is not in a trace.
    lied: bool,
    traces: [Vec<u8>; 2],
}

impl Life {
    /// Of a member that is at its end.
    pub fn of(mut member: Member, lied: bool) -> Life {
        let (number, life) = member.id();
        Life { number, life, lied, traces: member.traces() }
    }

    /// Tells it to others: how many calls they were given.
    ///
    /// # Errors
    /// One of them says something else.
    pub fn replay(&self) -> Result<u64, Failure> {
        let [raft, store] = &self.traces;
        let mut calls = 0;
        for (core, trace) in [("raft", raft), ("store", store)] {
            if core == "store" && self.lied {
                continue;
            }
            let replayed = catch_unwind(|| Replay::all(trace).map_err(|error| error.to_string()));
            match replayed.unwrap_or_else(|_| Err("a panic".to_owned())) {
                Ok(replayed) => calls += replayed.calls_and_outputs().0,
                Err(why) => {
                    let what = format!("{core} core of member {}.{}: {why}", self.number, self.life);
                    return Err(Failure { checker: "replay", what });
                }
            }
        }
        Ok(calls)
    }
}
