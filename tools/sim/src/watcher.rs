//! Clients that watch: one stream each, opened anew wherever it breaks, going on where it was.

use bytes::Bytes;
use net::pb::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use prost::Message;

use crate::client::span;
use crate::env::NodeNumber;
use crate::plan::{Config, Op, OpKind};
use crate::rng::Rng;

/// Watchers of one client, at most.
const WATCHERS_MAX: usize = 6;

/// A client that watches.
pub struct WatchClient {
    /// Where its stream goes.
    pub member: NodeNumber,
    /// Its stream, if it is open: its number, and the life of the member it goes to.
    pub stream: Option<(u64, u32)>,
    /// Watchers to be opened again on the next stream.
    pub resume: Vec<pb::WatchCreateRequest>,
    /// Ids are its own to choose, so that each creation can be told from others.
    ids: i64,
}

/// One message of a Watch call.
pub fn message(union: RequestUnion) -> Bytes {
    pb::WatchRequest { request_union: Some(union) }.encode_to_vec().into()
}

impl WatchClient {
    /// A client of a member.
    pub fn new(member: NodeNumber) -> WatchClient {
        WatchClient { member, stream: None, resume: Vec::new(), ids: 0 }
    }

    /// A new watcher, from somewhere around `newest`.
    pub fn create(&mut self, op: &Op, config: &Config, newest: i64) -> pb::WatchCreateRequest {
        let rng = &mut Rng::new(op.draw);
        self.ids += 1;
        let (key, range_end) = span(rng, config);
        let start_revision = match rng.below(4) {
            0 => 0,
            1 => newest + rng.between(1, 6) as i64,
            _ => (newest - rng.below(20) as i64).max(1),
        };
        let filters = match rng.below(8) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            _ => Vec::new(),
        };
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: rng.permille(600),
            filters,
            prev_kv: rng.permille(500),
            watch_id: self.ids,
            fragment: rng.permille(200),
        }
    }

    /// What the operation asks of an open stream with these watchers.
    pub fn request(&mut self, op: &Op, config: &Config, open: &[i64], newest: i64) -> Option<RequestUnion> {
        match op.kind {
            OpKind::Watch if open.len() < WATCHERS_MAX => {
                Some(RequestUnion::CreateRequest(self.create(op, config, newest)))
            }
            OpKind::CancelWatch if !open.is_empty() => {
                let watch_id = open[op.draw as usize % open.len()];
                Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
            }
            OpKind::Progress => Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
            _ => None,
        }
    }
}
