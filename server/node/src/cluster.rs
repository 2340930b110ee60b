//! Changes of the membership: what may be proposed, what a committed change does, what it means for this member.
//!
//! ```text
//! Change ─ rules (may it be proposed, here and now?) ─► conf change in the log ─ change (is it still valid?) ─► members table
//!                                                                                    └► what it means for this member
//! ```
//!
//! A change is checked twice. Before it is proposed, by what this member sees just now: who has started, whom it is
//! connected to, how far a learner has come ([`rules`]). When it is applied, by the members table alone, because every
//! member must come to the same result ([`change`]); one that fails there becomes none for Raft too.
//!
//! Not here: Raft's own joint of the configuration (`consensus`), and the URLs that peers are dialled at.

use bytes::Bytes;
use consensus::{ConfChange, ConfChangeKind};
use sha1::{Digest, Sha1};

use crate::membership::{InvalidMember, Member};

/// What may be proposed.
pub mod rules;

/// What a committed change does.
pub mod change;

/// Changes that wait for the one before them.
pub mod conf_changes;

/// The version of the whole cluster.
pub mod version;

/// Starting over as the only member.
pub mod force_new;

/// A change that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member.
    Add {
        /// Its peer URLs, checked and sorted.
        peer_urls: Vec<String>,
        /// It only listens, until it is promoted.
        is_learner: bool,
    },
    /// A member leaves for good.
    Remove {
        /// Whom.
        id: u64,
    },
    /// A member is reached elsewhere.
    Update {
        /// Whom.
        id: u64,
        /// Its peer URLs from now on, checked.
        peer_urls: Vec<String>,
    },
    /// A learner becomes a voter.
    Promote {
        /// Whom.
        id: u64,
    },
}

/// The id of a member that is added at `unix_s`: first 8 bytes, big-endian, of SHA-1(sorted peer URLs joined ‖ seconds
/// in decimal) (etcd `computeMemberID`, without a token). With the time in it, one that was removed gets another id.
pub fn added_member_id(peer_urls: &[String], unix_s: u64) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(unix_s.to_string().as_bytes());
    let digest = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

/// What a conf change carries: etcd's `ConfigChangeContext`, a member as JSON with up to two names more.
///
/// ```text
/// {"id":7,"peerURLs":["http://a:1"],"isLearner":true,"maxLearners":1}    a learner is added
/// {"id":7,"peerURLs":null,"isPromote":true}                             a learner becomes a voter
/// {"id":7,"peerURLs":["http://a:1"]}                                    a voter is added, or reached elsewhere
/// ```
///
/// `maxLearners` is ours: `--max-learners` of the member that proposed. etcd checks its own flag when it applies, so
/// members whose flags differ come to different results; here the limit is part of the entry. etcd skips the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Whom it is about.
    pub member: Member,
    /// It was a learner and becomes a voter.
    pub is_promote: bool,
    /// So many learners may there be, this one included; `None`: any number.
    pub max_learners: Option<u64>,
}

impl Context {
    /// The bytes that go into the conf change.
    pub fn encode(&self) -> Bytes {
        let mut out = self.member.encode();
        let extra = match (self.is_promote, self.max_learners) {
            (true, _) => ",\"isPromote\":true".to_owned(),
            (false, Some(max)) => format!(",\"maxLearners\":{max}"),
            (false, None) => String::new(),
        };
        out.pop(); // the closing brace
        out.extend_from_slice(extra.as_bytes());
        out.push(b'}');
        out.into()
    }

    /// Undoes [`Context::encode`]; unknown names are skipped.
    ///
    /// # Errors
    /// [`InvalidMember`] for what is no member, or names of the wrong type.
    pub fn decode(bytes: &[u8]) -> Result<Context, InvalidMember> {
        let member = Member::decode(bytes)?;
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| InvalidMember(error.to_string()))?;
        let is_promote = match json.get("isPromote") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| InvalidMember("field isPromote".into()))?,
        };
        let max_learners = match json.get("maxLearners") {
            None => None,
            Some(value) => Some(value.as_u64().ok_or_else(|| InvalidMember("field maxLearners".into()))?),
        };
        Ok(Context { member, is_promote, max_learners })
    }
}

/// What an applied change means for the member on which it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForSelf {
    /// It is about another member.
    Nothing,
    /// It was removed: it stops, and never comes back under this id.
    Removed,
    /// It votes from now on, and serves all calls.
    Voter,
    /// It is a learner from now on, and serves few calls.
    Learner,
    /// Its peer URLs changed.
    Updated,
}

/// What an applied change means for the member `own`.
pub fn for_self(change: &ConfChange, own: u64) -> ForSelf {
    match change.kind {
        _ if change.node.0 != own => ForSelf::Nothing,
        ConfChangeKind::RemoveNode => ForSelf::Removed,
        ConfChangeKind::AddNode => ForSelf::Voter,
        ConfChangeKind::AddLearnerNode => ForSelf::Learner,
        ConfChangeKind::UpdateNode => ForSelf::Updated,
    }
}

#[cfg(test)]
mod tests {
    use consensus::NodeId;

    use super::*;

    #[test]
    fn an_added_members_id_is_etcds() {
        // printf 'http://127.0.0.1:223801700000000' | sha1sum
        let urls = vec!["http://127.0.0.1:22380".to_owned()];
        assert_eq!(format!("{:x}", added_member_id(&urls, 1_700_000_000)), "8e07db8206d6a2fa");
        // printf 'http://a:1http://b:11700000001' | sha1sum
        let urls = vec!["http://b:1".to_owned(), "http://a:1".to_owned()];
        assert_eq!(format!("{:x}", added_member_id(&urls, 1_700_000_001)), "14c6d577ead7c43d");
    }

    #[test]
    fn a_context_is_etcds_json() {
        let member = Member { id: 7, peer_urls: vec!["http://a:1".into()], ..Default::default() };
        let learner = Member { is_learner: true, ..member.clone() };
        let nobody = Member { id: 7, ..Default::default() };
        let cases = [
            (Context { member, ..Default::default() }, r#"{"id":7,"peerURLs":["http://a:1"]}"#),
            (
                Context { member: learner, max_learners: Some(1), ..Default::default() },
                r#"{"id":7,"peerURLs":["http://a:1"],"isLearner":true,"maxLearners":1}"#,
            ),
            (
                Context { member: nobody, is_promote: true, ..Default::default() },
                r#"{"id":7,"peerURLs":null,"isPromote":true}"#,
            ),
        ];
        for (context, want) in cases {
            assert_eq!(std::str::from_utf8(&context.encode()), Ok(want));
            assert_eq!(Context::decode(want.as_bytes()), Ok(context));
        }
        for bad in ["", "{}", r#"{"id":7,"isPromote":1}"#, r#"{"id":7,"maxLearners":-1}"#] {
            assert!(Context::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_means_something_to_the_one_it_is_about() {
        use ConfChangeKind::*;
        let cases = [
            (AddNode, ForSelf::Voter),
            (AddLearnerNode, ForSelf::Learner),
            (UpdateNode, ForSelf::Updated),
            (RemoveNode, ForSelf::Removed),
        ];
        for (kind, want) in cases {
            let change = ConfChange { id: 1, kind, node: NodeId(7), context: Bytes::new() };
            assert_eq!(for_self(&change, 7), want, "{kind:?}");
            assert_eq!(for_self(&change, 8), ForSelf::Nothing, "{kind:?}");
        }
    }
}
