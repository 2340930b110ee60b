//! How a member without data finds its cluster: it founds one with others, or joins one that it was added to.
//!
//! ```text
//! --initial-cluster-state   asks the others            goes on with
//! new                       has my id been here? (1 s) one add-node entry per founder, all committed
//! existing                  who are you? (10 s)        the ids the cluster knows, an empty log, and waiting for its leader
//! ```
//!
//! Both questions are GET `/members` on the peer URLs; asking them is the edge's work, judging the answers is done here,
//! with etcd's rules and sentences (etcd `bootstrap.go`, `cluster_util.go`). A member that has data asks nobody: its
//! ids are in its data directory, and the `--initial-…` flags are not looked at.
//!
//! The first question protects from a member whose data directory was emptied: it has forgotten its votes and entries,
//! and must not count as the one that gave them. It is removed and added again instead, under another id. So an id that
//! has been seen at work is refused by the second question too, where etcd would take it.

use bytes::Bytes;
use consensus::NodeId;
use node::cluster::version::major_minor;
use node::membership::Member;

use crate::config::cluster::{Resolve, check_same};
use crate::config::values::{Url, parse_url};
use crate::config::{Bootstrap, ClusterId, ETCD_VERSION, Founder, MemberId};
use crate::sys::{Fatal, FatalReason};

/// Below this no cluster can be joined (etcd `MinClusterVersion`).
const CLUSTER_VERSION_MIN: (u64, u64) = (3, 0);

/// The entry that says that this member founds the cluster. Every founder makes the same ones.
pub fn founding_entry(founder: &Founder) -> (NodeId, Bytes) {
    let member = Member {
        id: founder.id.0,
        peer_urls: founder.peer_urls.clone(),
        name: founder.name.clone(),
        ..Member::default()
    };
    (NodeId(founder.id.0), member.encode().into())
}

/// Where the others are asked, sorted: all peer URLs of `--initial-cluster` but those of this member.
pub fn remote_peer_urls(bootstrap: &Bootstrap) -> Vec<String> {
    let others = bootstrap.members.iter().filter(|member| member.id != bootstrap.member_id);
    let mut urls: Vec<String> = others.flat_map(|member| member.peer_urls.iter().cloned()).collect();
    urls.sort_unstable();
    urls
}

/// What a running cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its id, from the header `X-Etcd-Cluster-ID`.
    pub cluster_id: u64,
    /// Its members.
    pub members: Vec<Member>,
}

/// Whether a new cluster may be founded, given what the others answered (`None`: nobody did).
///
/// # Errors
/// This member has been part of this cluster before.
pub fn check_not_bootstrapped(bootstrap: &Bootstrap, fetched: Option<&Fetched>) -> Result<(), Fatal> {
    fetched.map_or(Ok(()), |cluster| check_never_started(cluster, bootstrap.member_id.0))
}

/// One that has published itself had data. etcd lets it join again under its old id, without the votes it gave.
fn check_never_started(cluster: &Fetched, id: u64) -> Result<(), Fatal> {
    let started = |member: &Member| member.id == id && !member.client_urls.is_empty();
    match cluster.members.iter().any(started) {
        false => Ok(()),
        true => Err(fatal(format!("member {} has already been bootstrapped", MemberId(id)))),
    }
}

/// Who this member is in the cluster that it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id, as it was given when it was added.
    pub member_id: MemberId,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// Whom it knows at first, itself included. They become members by the log alone.
    pub members: Vec<Member>,
}

/// Finds this member in the cluster that the others told of (`None`: nobody answered). `cluster_versions` is what each
/// of the other members said at `/version`, as far as they did; `resolve` looks names up.
///
/// # Errors
/// One sentence, etcd's.
pub fn join(
    bootstrap: &Bootstrap,
    fetched: Option<&Fetched>,
    cluster_versions: &[String],
    max_learners: usize,
    resolve: Resolve<'_>,
) -> Result<Joined, Fatal> {
    let Some(cluster) = fetched else {
        return Err(fatal(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
                .into(),
        ));
    };
    let own = assign_id(bootstrap, cluster, resolve)
        .map_err(|error| fatal(format!("error validating peerURLs {}: {error}", shown(cluster))))?;
    check_never_started(cluster, own)?;
    if !is_compatible(cluster_versions) {
        return Err(fatal("incompatible with current running cluster".into()));
    }
    if cluster.members.iter().filter(|member| member.is_learner).count() > max_learners {
        return Err(fatal("membership: too many learner members in cluster".into()));
    }
    Ok(Joined {
        member_id: MemberId(own),
        cluster_id: ClusterId(cluster.cluster_id),
        members: cluster.members.clone(),
    })
}

/// Matches each member of the cluster with one of `--initial-cluster` by its peer URLs; answers this member's id
/// (etcd `ValidateClusterAndAssignIDs`).
fn assign_id(bootstrap: &Bootstrap, cluster: &Fetched, resolve: Resolve<'_>) -> Result<u64, String> {
    if cluster.members.len() != bootstrap.members.len() {
        return Err("member count is unequal".into());
    }
    let mut own = None;
    for existing in &cluster.members {
        let urls = parsed(&existing.peer_urls)?;
        let mut last = String::new();
        let found = bootstrap.members.iter().find(|named| {
            let same = parsed(&named.peer_urls).and_then(|named| check_same(&urls, &named, resolve));
            same.map_err(|error| last = error).is_ok()
        });
        match found {
            None => {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({last})",
                    existing.id,
                    existing.peer_urls.join(" "),
                ));
            }
            Some(named) if named.id == bootstrap.member_id => own = Some(existing.id),
            Some(_) => {}
        }
    }
    // As many members here as there, and each matched: ours is missing only if another matched twice.
    own.ok_or_else(|| "no member of the cluster has this member's peer URLs".into())
}

fn parsed(urls: &[String]) -> Result<Vec<Url>, String> {
    urls.iter().map(|url| parse_url(url)).collect()
}

/// Whether a server of our version may join: at least one other member says a cluster version, and none says one that
/// is out of range (etcd `isCompatibleWithVers`). What is no version (`not_decided`) doesn't count.
fn is_compatible(cluster_versions: &[String]) -> bool {
    let own = major_minor(ETCD_VERSION).expect("our own version is one");
    let known: Vec<_> = cluster_versions.iter().filter_map(|version| major_minor(version)).collect();
    !known.is_empty() && known.iter().all(|version| (CLUSTER_VERSION_MIN..=own).contains(version))
}

/// A cluster as Go prints etcd's.
fn shown(cluster: &Fetched) -> String {
    let member = |member: &Member| {
        format!(
            "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" "),
        )
    };
    let members: Vec<String> = cluster.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", cluster.cluster_id, members.join(" "))
}

fn fatal(sentence: String) -> Fatal {
    Fatal::new(FatalReason::Config, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterState;
    use crate::config::cluster::Initial;
    use crate::config::values::parse_urls;

    fn flags(cluster: &str) -> Bootstrap {
        let state = ClusterState::Existing;
        Initial {
            name: "c",
            cluster,
            state,
            token: "t",
            peer_urls: &parse_urls("http://c:1").expect("a URL"),
        }
        .check()
        .expect("good flags")
    }

    fn member(id: u64, url: &str, name: &str) -> Member {
        let client_urls = if name.is_empty() { vec![] } else { vec![format!("http://{name}:2")] };
        Member { id, peer_urls: vec![url.into()], name: name.into(), client_urls, is_learner: false }
    }

    fn running(members: &[Member]) -> Fetched {
        Fetched { cluster_id: 0xabc, members: members.to_vec() }
    }

    fn resolve(url: &Url) -> Result<Option<String>, String> {
        match url.host.as_str() {
            "c" => Ok(Some(format!("10.0.0.3:{}", url.port))),
            host => Ok(Some(format!("{host}:{}", url.port))),
        }
    }

    #[test]
    fn founders_write_the_same_entries_with_their_names() {
        let bootstrap = flags("c=http://c:1,a=http://a:1");
        let entries: Vec<_> = bootstrap.members.iter().map(founding_entry).collect();
        for (founder, (node, json)) in bootstrap.members.iter().zip(&entries) {
            assert_eq!(node.0, founder.id.0);
            // etcd 3.7.1's context, byte by byte.
            let want = format!(
                r#"{{"id":{},"peerURLs":["{}"],"name":"{}"}}"#,
                founder.id.0, founder.peer_urls[0], founder.name
            );
            assert_eq!(std::str::from_utf8(json), Ok(&*want));
        }
        assert_eq!(remote_peer_urls(&bootstrap), ["http://a:1"]);
    }

    #[test]
    fn who_joins_gets_the_ids_of_the_cluster() {
        let bootstrap = flags("a=http://a:1,b=http://b:1,c=http://c:1");
        // The added member is known by an address, the flags by a name.
        let cluster = running(&[
            member(7, "http://a:1", "a"),
            member(8, "http://b:1", "b"),
            member(9, "http://10.0.0.3:1", ""),
        ]);
        let joined = join(&bootstrap, Some(&cluster), &["3.7.0".into()], 1, &resolve).expect("it was added");
        assert_eq!((joined.member_id, joined.cluster_id), (MemberId(9), ClusterId(0xabc)));
        assert_eq!(joined.members, cluster.members);
    }

    #[test]
    fn joining_is_refused_in_the_words_of_etcd() {
        let bootstrap = flags("a=http://a:1,c=http://c:1");
        let (a, c) = (member(7, "http://a:1", "a"), member(9, "http://c:1", ""));
        let versions = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let learner = |id, url| Member { is_learner: true, ..member(id, url, "") };
        let shown_a = "&{ID:7 RaftAttributes:{PeerURLs:[http://a:1] IsLearner:false} \
                       Attributes:{Name:a ClientURLs:[http://a:2]}}";
        let shown_d = "&{ID:b RaftAttributes:{PeerURLs:[http://d:1] IsLearner:false} \
                       Attributes:{Name: ClientURLs:[]}}";
        let cases = [
            (
                None,
                "3.7.0",
                "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
                    .to_string(),
            ),
            (
                Some(running(std::slice::from_ref(&a))),
                "3.7.0",
                format!(
                    "error validating peerURLs {{ClusterID:abc Members:[{shown_a}] RemovedMemberIDs:[]}}: \
                     member count is unequal"
                ),
            ),
            (
                Some(running(&[a.clone(), member(11, "http://d:1", "")])),
                "3.7.0",
                format!(
                    "error validating peerURLs {{ClusterID:abc Members:[{shown_a} {shown_d}] RemovedMemberIDs:[]}}: \
                     PeerURLs: no match found for existing member (b, [http://d:1]), last resolver error \
                     (resolved urls: \"http://d:1\" != \"http://10.0.0.3:1\")"
                ),
            ),
            (
                Some(running(&[a.clone(), member(9, "http://c:1", "c")])),
                "3.7.0",
                "member 9 has already been bootstrapped".into(),
            ),
            (Some(running(&[a.clone(), c.clone()])), "", "incompatible with current running cluster".into()),
            (Some(running(&[a.clone(), c.clone()])), "not_decided", "incompatible with current running cluster".into()),
            (Some(running(&[a.clone(), c.clone()])), "3.7.0 3.8.0", "incompatible with current running cluster".into()),
            (Some(running(&[a.clone(), c.clone()])), "2.3.0", "incompatible with current running cluster".into()),
            (
                Some(running(&[learner(7, "http://a:1"), learner(9, "http://c:1")])),
                "3.7.0",
                "membership: too many learner members in cluster".into(),
            ),
            (Some(running(&[a.clone(), c.clone()])), "3.6.0 not_decided 3.7.0", String::new()),
        ];
        for (cluster, said, want) in cases {
            let got = join(&bootstrap, cluster.as_ref(), &versions(said), 1, &resolve);
            assert_eq!(got.err().map(|fatal| fatal.message).unwrap_or_default(), want, "versions {said:?}");
        }
    }

    #[test]
    fn an_emptied_data_directory_founds_nothing() {
        let bootstrap = flags("a=http://a:1,c=http://c:1");
        let id = bootstrap.member_id.0;
        let refused = format!("member {} has already been bootstrapped", bootstrap.member_id);
        let cases = [
            (None, ""),
            // Nobody has seen it start: the founders come up one after the other.
            (Some(running(&[member(id, "http://c:1", "")])), ""),
            (Some(running(&[member(7, "http://a:1", "a")])), ""),
            (Some(running(&[member(7, "http://a:1", "a"), member(id, "http://c:1", "c")])), &*refused),
        ];
        for (cluster, want) in cases {
            let got = check_not_bootstrapped(&bootstrap, cluster.as_ref());
            assert_eq!(got.err().map(|fatal| fatal.message).unwrap_or_default(), want);
        }
    }
}
