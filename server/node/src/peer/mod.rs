//! Connections between members, as pure machines: bytes in, bytes out.
//!
//! ```text
//!   dialing member                                   accepting member
//!   POST /ringd/peer/<lane>, its ids        ──────▶  are these my cluster and me? was the sender removed?
//!                                           ◀──────  200, or why not
//!   frames (consensus::peer), for ever      ──────▶
//!                                           ◀──────  frames, on the snapshot lane only
//! ```
//!
//! A connection is HTTP/2 (RFC 9113) with one stream, whose request never ends. Requests and answers, byte by byte:
//!
//! | request header | value |
//! |---|---|
//! | `:method`, `:path` | `POST`, `/ringd/peer/vital`, `/ringd/peer/bulk` or `/ringd/peer/snapshot` |
//! | `x-ringd-protocol` | version of this page and of the frames, decimal: 2 |
//! | `x-etcd-cluster-id` | cluster id, hexadecimal without leading zeros, as in etcd |
//! | `x-server-from` | id of the dialing member, so |
//! | `x-raft-to` | id of the member it means to reach, so |
//! | `x-server-version` | the etcd version that the dialing member stands for, e.g. `3.7.1`; may be missing: not known |
//! | `x-peerurls` | the dialing member's peer URLs, joined by commas: who has not heard of it yet can answer there |
//!
//! | answer | body | the dialing member |
//! |---|---|---|
//! | 200 | frames | sends |
//! | 412 | `cluster ID mismatch` | reports and tries again with back-off |
//! | 412 | `to field mismatch` | so: another member has got the address |
//! | 412 | `incompatible version` | so: another protocol, or a server older than 3.0 |
//! | 410 | `removed member` | stops for good |
//! | 400 | any | reports and tries again with back-off |
//! | 503 | any | so |
//!
//! Every answer carries the accepting member's `x-etcd-cluster-id`, `x-server-from` and `x-server-version`. The ids of a 200
//! must be the ones that were asked for, and a 410 counts only if its cluster id is ours: whoever sits at an address by
//! mistake must not be able to end a member. A learner answers 503 instead, for those who vote may not know of the removal
//! yet. Texts and codes are etcd's (`rafthttp`).
//!
//! No frame is sent before the 200, and none is looked at before both sides have checked the ids. `vital` and `bulk` are
//! connections of their own with windows, buffers and sockets of their own, so nothing on one waits for the other. The
//! accepting side keeps one connection per sender and lane, the newest: what the sender has left behind is closed.
//!
//! Liveness: the dialing side sends an HTTP/2 PING when it has heard nothing for a third of the read timeout; silence for
//! the whole of it ends the connection, on either side.
//!
//! Besides, the port answers GET over HTTP/1.1 and HTTP/2, as etcd's does ([`pages`]).

/// What a connection begins with.
pub mod hello;

/// The dialing end.
pub mod dialed;

/// The accepting end.
pub mod accepted;

/// What goes over the snapshot lane.
pub mod snapshot;

/// When to dial again.
pub mod backoff;

/// Proposals on their way to the leader, sent again on its next connection.
pub mod forwards;

/// Pages of the peer port.
pub mod pages;

#[cfg(test)]
mod tests;

pub use accepted::{Accepted, AcceptedEvent};
pub use backoff::Backoff;
pub use dialed::{Dialed, DialedEvent};
pub use forwards::Forwards;
pub use hello::{Hello, Refusal};

use std::time::Duration;

use consensus::peer::Frame;
use consensus::{Lane, NodeId, PeerMessage};

/// The version that `x-ringd-protocol` names.
pub const PROTOCOL_VERSION: u32 = 2;

/// Kind and payload of one frame on the vital lane: its messages are short.
pub const VITAL_FRAME_BYTES_MAX: usize = 64 << 10;

/// Of a connection of either end.
#[derive(Clone, Copy, Debug)]
pub struct LaneConfig {
    /// Silence for so long ends the connection.
    pub read_timeout: Duration,
    /// Bytes that may wait to be sent; a message beyond that is dropped, unless nothing waits.
    pub send_bytes_limit: usize,
    /// Bytes that the other end may send before they are read. Neither end sends any before it has the other's SETTINGS.
    pub stream_window: u32,
}

/// Why a message did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The lane is not (or no more) open.
    NotOpen,
    /// Too much is waiting already.
    Full,
}

/// What a frame says that a standing lane from a member to another has brought.
///
/// # Errors
/// It must not be there; the connection ends.
pub fn message(frame: &Frame, lane: Lane, (from, to): (NodeId, NodeId)) -> Result<PeerMessage, &'static str> {
    let message = consensus::peer::decode(frame).map_err(|_| "a broken message")?;
    if let PeerMessage::Raft(message) = &message
        && (NodeId(message.raft.from) != from || NodeId(message.raft.to) != to)
    {
        return Err("a message with another sender or addressee");
    }
    if message.lane() != lane {
        return Err("a message on the wrong lane");
    }
    Ok(message)
}

fn frame_bytes_max(lane: Lane) -> usize {
    match lane {
        Lane::Vital => VITAL_FRAME_BYTES_MAX,
        Lane::Bulk | Lane::Snapshot => consensus::peer::FRAME_BYTES_MAX,
    }
}
