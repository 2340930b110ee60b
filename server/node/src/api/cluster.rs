//! `etcdserverpb.Cluster`: MemberList; the calls that change the membership are not served yet.

use net::pb::etcdserverpb as pb;

use super::Request;

pub(super) fn member_list(request: pb::MemberListRequest) -> Request {
    Request::MemberList { linearizable: request.linearizable }
}
