//! Calls that have state between turns.

use std::collections::VecDeque;

use node::lease::InOrder;
use node::read::RangeReply;
use node::watch_hub::{LargeResponse, StreamId};

/// What an open call is about.
pub enum Call {
    /// An answer whose rows are pulled as the peer takes them.
    Body(Box<RangeReply>),
    /// A watch stream, and its responses that are being pulled, in order.
    Watch(StreamId, VecDeque<LargeResponse>),
    /// A keep-alive stream.
    KeepAlive(Box<KeepAlive>),
    /// A stream of which only the end is awaited (health watch).
    Open,
}

/// A LeaseKeepAlive stream.
#[derive(Default)]
pub struct KeepAlive {
    /// Answers leave in the order of the requests.
    pub answers: InOrder,
    /// The client sends no more; the stream ends with the last answer.
    pub half_closed: bool,
}
