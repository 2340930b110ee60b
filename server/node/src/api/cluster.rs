//! `etcdserverpb.Cluster`: the list is read, changes go through the rules of [`crate::cluster`] into the log.
//!
//! URLs are checked here. etcd checks those of MemberAdd only; an update to what is no URL makes its other members
//! panic, so here it is refused as in MemberAdd.

use net::pb::etcdserverpb as pb;

use super::{Error, Request};
use crate::cluster::Change;
use crate::url::parse_url;

pub(super) fn member_list(request: pb::MemberListRequest) -> Request {
    Request::MemberList { linearizable: request.linearizable }
}

pub(super) fn member_add(request: pb::MemberAddRequest) -> Result<Request, Error> {
    let mut peer_urls = checked(&request.peer_ur_ls)?;
    peer_urls.sort_unstable();
    Ok(Request::ConfChange(Change::Add { peer_urls, is_learner: request.is_learner }))
}

pub(super) fn member_remove(request: pb::MemberRemoveRequest) -> Request {
    Request::ConfChange(Change::Remove { id: request.id })
}

pub(super) fn member_update(request: pb::MemberUpdateRequest) -> Result<Request, Error> {
    let peer_urls = checked(&request.peer_ur_ls)?;
    Ok(Request::ConfChange(Change::Update { id: request.id, peer_urls }))
}

pub(super) fn member_promote(request: pb::MemberPromoteRequest) -> Request {
    Request::ConfChange(Change::Promote { id: request.id })
}

/// The texts of good URLs, in the order given; there must be one.
fn checked(urls: &[String]) -> Result<Vec<String>, Error> {
    if urls.is_empty() {
        return Err(Error::BadMemberUrls);
    }
    urls.iter().map(|url| parse_url(url).map(|url| url.text).map_err(|_| Error::BadMemberUrls)).collect()
}
