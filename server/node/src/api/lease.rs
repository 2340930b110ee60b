//! `etcdserverpb.Lease`: grants and revocations go through the log; the rest is answered where leases are timed.

use bytes::Bytes;
use engine::quota;
use net::pb::etcdserverpb as pb;

use super::{Context, Error, Request, parse};
use crate::propose::{Command, field, lease_id_field};

pub(super) fn grant(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::LeaseGrantRequest = parse(message)?;
    if !context.space.admits(quota::LEASE_GRANT_COST) {
        return Err(Error::NoSpace);
    }
    let (id, suffix) = match request.id {
        0 => {
            let id = context.ids.next_lease();
            (id, lease_id_field(id))
        }
        id => (id, Vec::new()),
    };
    context.write(field::LEASE_GRANT, message, &suffix, Command::LeaseGrant { id, ttl: request.ttl })
}

pub(super) fn revoke(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::LeaseRevokeRequest = parse(message)?;
    context.write(field::LEASE_REVOKE, message, &[], Command::LeaseRevoke { id: request.id })
}

pub(super) fn time_to_live(request: pb::LeaseTimeToLiveRequest) -> Request {
    Request::LeaseTimeToLive { id: request.id, keys: request.keys }
}

pub(super) fn leases(_: pb::LeaseLeasesRequest) -> Request {
    Request::LeaseLeases
}

/// The lease that one message of a LeaseKeepAlive stream wants renewed.
///
/// # Errors
/// [`Error::Malformed`] ends the stream.
pub fn decode_keep_alive(message: &Bytes) -> Result<i64, Error> {
    parse::<pb::LeaseKeepAliveRequest>(message).map(|request| request.id)
}
