//! Calls that have state between turns.

use std::collections::VecDeque;

use node::read::RangeReply;
use node::watch_hub::{LargeResponse, StreamId};

/// What an open call is about.
pub enum Call {
    /// An answer whose rows are pulled as the peer takes them.
    Body(Box<RangeReply>),
    /// A watch stream, and its responses that are being pulled, in order.
    Watch(StreamId, VecDeque<LargeResponse>),
    /// A keep-alive stream; what it waits for, [`node::calls`] knows.
    KeepAlive,
    /// A stream of which only the end is awaited (health watch).
    Open,
}
