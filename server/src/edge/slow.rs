//! Warnings about slow work, in etcd's words: `--warning-apply-duration`, `--warning-unary-request-duration`.
//!
//! Where a call ends its connection is borrowed and its peer can't be asked for; so it is noted there and logged at the
//! end of the turn. A turn logs a bounded number: a machine that stalled makes every call slow at once.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use engine::RangeOptions;
use net::grpc::Method;
use node::Answer;
use node::api::Error;
use node::describe;

use super::answers::Waiter;
use super::connection::ConnectionId;
use crate::config::limits::SLOW_CALLS_PER_TURN_MAX;
use crate::config::values::show_duration;
use crate::observe::logs::show_time;
use crate::observe::metrics;

/// What is known of a call where it ends. Turned into text only if it was slow.
#[derive(Clone, Copy)]
pub enum About<'a> {
    /// Nothing but its method.
    Nothing,
    /// A Range, and its answer.
    Range {
        /// What was asked for.
        options: &'a RangeOptions,
        /// Keys in the range.
        count: i64,
        /// Bytes of the answer.
        size: u64,
    },
    /// A write.
    Write {
        /// Its Raft entry.
        entry: &'a Bytes,
        /// Bytes of the answer.
        size: u64,
    },
}

impl<'a> About<'a> {
    /// A call that was proposed as `entry`, or none that is known.
    pub fn write(entry: Option<&'a Bytes>, size: usize) -> About<'a> {
        entry.map_or(About::Nothing, |entry| About::Write { entry, size: size as u64 })
    }
}

/// The slow calls of a turn.
#[derive(Default)]
pub struct SlowCalls {
    calls: Vec<SlowCall>,
    dropped: usize,
}

struct SlowCall {
    connection: ConnectionId,
    method: Method,
    took: Duration,
    content: String,
    request_size: i64,
    response_count: i64,
    response_size: i64,
    /// It took more than calls may.
    unary: bool,
    /// It is a Range that took more than applies may, which is this.
    read: Option<Duration>,
}

impl SlowCalls {
    /// Whether none was slow.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Notes a call if it took longer than a call, or for Ranges an apply, may.
    pub fn note(&mut self, waiter: &Waiter, took: Duration, limits: (Duration, Duration), about: About<'_>) {
        let (unary, apply) = limits;
        let read = Some(apply).filter(|&limit| took > limit && matches!(about, About::Range { .. }));
        if took <= unary && read.is_none() {
            return;
        }
        if read.is_some() {
            metrics::here().plain.slow_apply.inc();
        }
        if self.calls.len() >= SLOW_CALLS_PER_TURN_MAX {
            self.dropped += 1;
            return;
        }
        // etcd writes -1 where it doesn't know.
        let (content, request_size, response_count, response_size) = match about {
            About::Nothing => (String::new(), -1, -1, -1),
            About::Range { options, count, size } => (describe::range(options), -1, count, size as i64),
            About::Write { entry, size } => (describe::entry(entry), entry.len() as i64, 0, size as i64),
        };
        let (connection, method) = (waiter.who.connection, waiter.method);
        let unary = took > unary;
        self.calls.push(SlowCall {
            connection,
            method,
            took,
            content,
            request_size,
            response_count,
            response_size,
            unary,
            read,
        });
    }

    /// Logs and forgets them. `peer` names who called.
    pub fn log(&mut self, peer: impl Fn(ConnectionId) -> Option<String>) {
        for call in self.calls.drain(..) {
            if call.unary {
                let remote = peer(call.connection).unwrap_or_else(|| "No remote client info.".into());
                warn_unary(&call, &remote);
            }
            if let Some(limit) = call.read {
                let response =
                    format!("range_response_count:{} size:{}", call.response_count, call.response_size);
                warn_apply(call.took, limit, "read-only range ", &call.content, &response, "");
            }
        }
        if self.dropped > 0 {
            tracing::warn!(
                calls = std::mem::take(&mut self.dropped),
                "more calls were slow in the same turn"
            );
        }
    }
}

/// The store core: one entry took longer than `limit` to apply.
pub fn apply(entry: &Bytes, took: Duration, limit: Duration, result: &Result<Answer, Error>) {
    metrics::here().plain.slow_apply.inc();
    let error = result.as_ref().err().map_or("", |error| error.text());
    warn_apply(took, limit, "", &describe::entry(entry), "", error);
}

/// etcd `txn/util.go`, `warnOfExpensiveGenericRequest`.
fn warn_apply(took: Duration, limit: Duration, prefix: &str, request: &str, response: &str, error: &str) {
    tracing::warn!(
        took = show_duration(took),
        "expected-duration" = show_duration(limit),
        prefix,
        request,
        response,
        error = (!error.is_empty()).then_some(error),
        "apply request took too long"
    );
}

/// etcd `v3rpc/interceptor.go`, `logExpensiveRequestStats`.
fn warn_unary(call: &SlowCall, remote: &str) {
    let start = SystemTime::now().checked_sub(call.took).unwrap_or(SystemTime::UNIX_EPOCH);
    tracing::warn!(
        "start time" = show_time(start),
        "time spent" = show_duration(call.took),
        remote,
        "response type" = call.method.path(),
        "request count" = -1,
        "request size" = call.request_size,
        "response count" = call.response_count,
        "response size" = call.response_size,
        "request content" = call.content,
        "request stats"
    );
}
