//! `etcdserverpb.Maintenance`: Status, Alarm, Hash, HashKV, Defragment; the others are not served yet.

use bytes::Bytes;
use net::pb::etcdserverpb as pb;

use super::{Context, Error, Request, parse};
use crate::propose::{Command, field};

/// The version of etcd whose behaviour this server shows.
pub const VERSION: &str = "3.7.1";

pub(super) fn decode_status(_: pb::StatusRequest) -> Request {
    Request::Status
}

pub(super) fn hash(_: pb::HashRequest) -> Request {
    Request::Hash
}

pub(super) fn hash_kv(request: pb::HashKvRequest) -> Request {
    Request::HashKv { revision: request.revision }
}

pub(super) fn defragment(_: pb::DefragmentRequest) -> Request {
    Request::Defragment
}

pub(super) fn move_leader(request: pb::MoveLeaderRequest) -> Request {
    Request::MoveLeader { target: request.target_id }
}

/// Alarms are listed through the log too, so that the list is that of a definite moment.
pub(super) fn alarm(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::AlarmRequest = parse(message)?;
    context.write(field::ALARM, message, &[], Command::Alarm(request))
}

/// What Status tells about this member.
#[derive(Clone, Debug, Default)]
pub struct MemberStatus {
    /// Bytes in allocated pages.
    pub db_size: u64,
    /// Bytes in pages that hold live data.
    pub db_size_in_use: u64,
    /// The configured quota in bytes; etcd answers 2 GiB when the flag is 0 and the flag's own value when negative.
    pub db_size_quota: i64,
    /// The leader's id, 0 if none is known.
    pub leader: u64,
    /// Raft's commit index.
    pub commit_index: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// The current term.
    pub term: u64,
    /// Active alarms: member and kind.
    pub alarms: Vec<(u64, pb::AlarmType)>,
    /// This member is a learner.
    pub is_learner: bool,
    /// `X.Y.0`, or empty while the cluster version is not known.
    pub storage_version: String,
}

/// Answer to Status; the header is that of the view it was read from.
pub fn status(header: pb::ResponseHeader, member: &MemberStatus) -> pb::StatusResponse {
    let mut errors = Vec::new();
    if member.leader == 0 {
        errors.push(Error::NoLeader.text().to_owned());
    }
    errors.extend(member.alarms.iter().map(|(id, kind)| alarm_text(*id, *kind)));
    pb::StatusResponse {
        header: Some(header),
        version: VERSION.to_owned(),
        db_size: member.db_size as i64,
        leader: member.leader,
        raft_index: member.commit_index,
        raft_term: member.term,
        raft_applied_index: member.applied_index,
        errors,
        db_size_in_use: member.db_size_in_use as i64,
        is_learner: member.is_learner,
        storage_version: member.storage_version.clone(),
        db_size_quota: member.db_size_quota,
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }
}

/// An alarm in protobuf's text form, fields of their zero value left out.
fn alarm_text(member: u64, kind: pb::AlarmType) -> String {
    let member = (member != 0).then(|| format!("memberID:{member}"));
    let kind = (kind != pb::AlarmType::None).then(|| format!("alarm:{}", kind.as_str_name()));
    member.into_iter().chain(kind).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lists_what_is_wrong() {
        let cases = [
            (1, vec![], vec![]),
            (0, vec![], vec!["etcdserver: no leader"]),
            (
                1,
                vec![(10501334649042878790, pb::AlarmType::Nospace)],
                vec!["memberID:10501334649042878790 alarm:NOSPACE"],
            ),
            (0, vec![(0, pb::AlarmType::Corrupt)], vec!["etcdserver: no leader", "alarm:CORRUPT"]),
        ];
        for (leader, alarms, want) in cases {
            let member = MemberStatus { leader, alarms, ..Default::default() };
            let answer = status(pb::ResponseHeader::default(), &member);
            assert_eq!(answer.errors, want);
            assert_eq!(answer.version, "3.7.1");
            assert!(!answer.downgrade_info.expect("always set").enabled);
        }
    }
}
