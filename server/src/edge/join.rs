//! The very first start of a member: what it asks the others before it has a log.
//!
//! The rules are those of [`crate::bootstrap`]; here the questions are asked, blocking, by the main thread before any core
//! runs.

use std::net::ToSocketAddrs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use consensus::log::State;
use node::Identity;
use node::membership::Member;

use super::peers::{Tls, fetch};
use crate::bootstrap::{self, Fetched};
use crate::config::values::Url;
use crate::config::{Bootstrap, ClusterState, Config};
use crate::sys::{Fatal, FatalReason};

/// How long each peer may take to say whether this member has been there before (etcd `BootstrapTimeout`).
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long each peer may take to say who the members are (etcd `GetClusterFromRemotePeers`).
const JOINING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a name may take to be found, and when it is tried again (etcd `netutil`).
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);
const RESOLVE_RETRY: Duration = Duration::from_secs(1);

/// The cluster of a member without data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who this member is.
    pub identity: Identity,
    /// Of a cluster that is joined: its members, so that this one can answer them before the log says who they are.
    pub remotes: Vec<Member>,
}

/// Founds or finds the cluster. Nothing is written.
///
/// # Errors
/// A flag is wrong, the cluster doesn't know this member or knows it from before, or nobody answers.
pub fn find_cluster(config: &Config, tls: Option<&Tls>) -> Result<Found, Fatal> {
    let flags = config.bootstrap.as_ref().map_err(|why| Fatal::new(FatalReason::Config, why.clone()))?;
    let urls = bootstrap::remote_peer_urls(flags);
    match flags.state {
        ClusterState::New => {
            let fetched = fetch_members(&urls, tls, FOUNDING_TIMEOUT);
            bootstrap::check_not_bootstrapped(flags, fetched.as_ref())?;
            let identity = Identity { cluster_id: flags.cluster_id.0, member_id: flags.member_id.0 };
            Ok(Found { identity, remotes: Vec::new() })
        }
        ClusterState::Existing => {
            let fetched = fetch_members(&urls, tls, JOINING_TIMEOUT);
            let versions = fetched.as_ref().map_or_else(Vec::new, |cluster| versions(flags, cluster, tls));
            let joined = bootstrap::join(flags, fetched.as_ref(), &versions, config.max_learners, &|url| {
                resolve(url)
            })?;
            let identity = Identity { cluster_id: joined.cluster_id.0, member_id: joined.member_id.0 };
            Ok(Found { identity, remotes: joined.members })
        }
    }
}

/// What a log that has never been written to begins with. A founder makes the entries of all founders; who joined has
/// nothing, votes for nobody's log but what its leader sends, and stays so if it ended before it got any of it.
///
/// # Errors
/// The flags found no cluster; or another one than this directory was made for, which none of the peers knows.
pub fn first_state(config: &Config, identity: Identity, tls: Option<&Tls>) -> Result<State, Fatal> {
    let flags = config.bootstrap.as_ref().map_err(|why| Fatal::new(FatalReason::Config, why.clone()))?;
    if joins(flags, identity) {
        let fetched = fetch_members(&bootstrap::remote_peer_urls(flags), tls, FOUNDING_TIMEOUT);
        let known = match fetched {
            Some(cluster) => cluster.cluster_id == identity.cluster_id,
            // Whoever joined may be started while all others are down.
            None => flags.state == ClusterState::Existing,
        };
        return if known { Ok(State::default()) } else { Err(somebody_else(config, flags, identity)) };
    }
    let founders: Vec<_> = flags.members.iter().map(bootstrap::founding_entry).collect();
    Ok(State::bootstrap(&founders))
}

/// Who belongs to the cluster that this member has joined, as a peer says it now: for one that ended before the log told it.
/// Whoever removes it meanwhile never comes to it, so it has to go to them. Nobody, where no peer answers.
pub fn ask_again(config: &Config, identity: Identity, tls: Option<&Tls>) -> Vec<Member> {
    let Ok(flags) = &config.bootstrap else { return Vec::new() };
    if !joins(flags, identity) {
        return Vec::new();
    }
    let fetched = fetch_members(&bootstrap::remote_peer_urls(flags), tls, FOUNDING_TIMEOUT);
    let known = fetched.filter(|cluster| cluster.cluster_id == identity.cluster_id);
    known.map_or_else(Vec::new, |cluster| cluster.members)
}

/// Whether a member of this identity was added to a cluster, instead of founding the one that the flags describe.
pub fn joins(flags: &Bootstrap, identity: Identity) -> bool {
    flags.state != ClusterState::New
        || (flags.member_id.0, flags.cluster_id.0) != (identity.member_id, identity.cluster_id)
}

/// A first start ended before its log held anything, and this one is told to be another member.
fn somebody_else(config: &Config, flags: &Bootstrap, identity: Identity) -> Fatal {
    Fatal::new(
        FatalReason::IdentityMismatch,
        format!(
            "the data directory {} belongs to member {:x} of cluster {:x} and its log is empty, but --initial-cluster, \
             --initial-cluster-token and --initial-advertise-peer-urls make this member {:x} of cluster {:x}: start it with the \
             flags of its first start, or remove the data directory, in which nothing was written yet",
            config.data_dir.display(),
            identity.member_id,
            identity.cluster_id,
            flags.member_id.0,
            flags.cluster_id.0,
        ),
    )
}

fn fetch_members(urls: &[String], tls: Option<&Tls>, timeout: Duration) -> Option<Fetched> {
    if urls.is_empty() {
        return None;
    }
    match fetch::members(urls, tls, timeout) {
        // etcd: an empty list is no cluster
        Ok(cluster) if !cluster.members.is_empty() => Some(cluster),
        Ok(_) => None,
        Err(error) => {
            tracing::info!(%error, peers = urls.join(","), "no peer says who the members are");
            None
        }
    }
}

/// The cluster version as each other member says it, as far as they answer.
fn versions(flags: &Bootstrap, cluster: &Fetched, tls: Option<&Tls>) -> Vec<String> {
    let others = cluster.members.iter().filter(|member| member.peer_urls != flags.peer_urls);
    let said = others.filter_map(|member| match fetch::version(&member.peer_urls, tls, JOINING_TIMEOUT) {
        Ok(version) => Some(version.cluster),
        Err(error) => {
            tracing::warn!(%error, "remote-member-id" = format!("{:x}", member.id), "failed to get version");
            None
        }
    });
    said.collect()
}

/// The address of a URL's host.
fn resolve(url: &Url) -> Result<Option<String>, String> {
    let give_up = Instant::now() + RESOLVE_TIMEOUT;
    loop {
        let found = (url.host.as_str(), url.port).to_socket_addrs().map(|mut all| all.next());
        let error = match found {
            Ok(Some(address)) => return Ok(Some(address.to_string())),
            Ok(None) => "no such host".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(format!("failed to resolve {:?} ({error})", url.text));
        }
        tracing::warn!(url = url.text, error, "failed to resolve URL Host");
        sleep(RESOLVE_RETRY);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn config(words: &[&str]) -> Config {
        let all: Vec<OsString> = words.iter().map(Into::into).collect();
        crate::config::parse(all, std::iter::empty()).expect("good flags")
    }

    const THREE: &str = "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";
    const ADVERTISE: &str = "--initial-advertise-peer-urls=http://127.0.0.1:1";

    #[test]
    fn only_a_founder_writes_the_founding_entries() {
        let new = config(&["--name=a", THREE, ADVERTISE]);
        let found = find_cluster(&new, None).expect("nobody answers, so nobody knows it");
        let state = first_state(&new, found.identity, None).expect("good flags");
        assert_eq!((state.entries.len(), state.hard_state.commit.0, state.unwritten), (3, 3, true));
        let existing = config(&["--name=a", THREE, "--initial-cluster-state=existing"]);
        assert_eq!(first_state(&existing, found.identity, None), Ok(State::default()));
        // Another member's directory: of one that joined, or of a founder that had other flags. No peer says which.
        let stranger = Identity { member_id: 77, ..found.identity };
        let elsewhere = Identity { cluster_id: 77, ..found.identity };
        for identity in [stranger, elsewhere] {
            assert_eq!(first_state(&existing, identity, None), Ok(State::default()));
            let refused = first_state(&new, identity, None).expect_err("it would wait for ever");
            assert_eq!(refused.reason, FatalReason::IdentityMismatch);
        }
    }

    #[test]
    fn a_cluster_that_does_not_answer_can_not_be_joined() {
        let existing = config(&["--name=a", THREE, "--initial-cluster-state=existing"]);
        let fatal = find_cluster(&existing, None).expect_err("nobody is there");
        assert_eq!(
            fatal.message,
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
        );
    }
}
