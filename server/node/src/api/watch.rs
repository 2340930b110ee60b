//! `etcdserverpb.Watch`: one message of the client's half of the stream. The rules are the hub's
//! ([`crate::watch_hub`]).

use bytes::Bytes;
use net::pb::etcdserverpb as pb;
use pb::watch_request::RequestUnion;

use super::{Error, parse};

/// What a message asks for; `None` for an empty one, which is ignored.
///
/// # Errors
/// [`Error::Malformed`] ends the stream.
pub fn decode(message: &Bytes) -> Result<Option<RequestUnion>, Error> {
    parse::<pb::WatchRequest>(message).map(|request| request.request_union)
}
