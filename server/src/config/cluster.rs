//! Who this member is: etcd's ids, computed as etcd computes them.
//!
//! ```text
//! member id  = first 8 bytes, big-endian, of SHA-1(sorted peer URLs joined ‖ cluster token [‖ unix seconds])
//! cluster id = first 8 bytes, big-endian, of SHA-1(member ids, ascending, 8 bytes big-endian each)
//! ```
//!
//! The seconds are hashed only for a member that is added to a running cluster, so that one that was removed never gets
//! its id back. (etcd: `membership.computeMemberID`, `RaftCluster.genID`.) Both ids stand in every answer's header.

use std::collections::BTreeMap;
use std::fmt;

use sha1::{Digest, Sha1};

use super::values::{Url, parse_urls};

/// A member's id. Printed in lower-case hexadecimal without padding, as etcd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A cluster's id. Printed like a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl MemberId {
    /// The id of a founding member with these peer URLs, in any order.
    pub fn of_founder(peer_urls: &[String], token: &str) -> MemberId {
        let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let mut hash = Sha1::new();
        for url in sorted {
            hash.update(url.as_bytes());
        }
        hash.update(token.as_bytes());
        MemberId(first_eight(hash))
    }
}

impl ClusterId {
    /// The id of a cluster that these members found, in any order.
    pub fn of(members: &[MemberId]) -> ClusterId {
        let mut sorted = members.to_vec();
        sorted.sort_unstable();
        let mut hash = Sha1::new();
        for member in sorted {
            hash.update(member.0.to_be_bytes());
        }
        ClusterId(first_eight(hash))
    }
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// `--initial-cluster`: member name to its peer URLs, from `name=url,name=url…`; a name may come again.
///
/// # Errors
/// etcd's sentence.
pub fn parse_initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        if url.is_empty() {
            return Err(format!("empty URL given for {name:?}"));
        }
        members.entry(name.into()).or_default().extend(parse_urls(url)?);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

/// The founding member that the flags describe.
pub struct Initial<'a> {
    /// `--name`
    pub name: &'a str,
    /// `--initial-cluster`
    pub cluster: &'a str,
    /// `--initial-cluster-state`
    pub state: &'a str,
    /// `--initial-cluster-token`
    pub token: &'a str,
    /// `--initial-advertise-peer-urls`
    pub peer_urls: &'a [Url],
}

impl Initial<'_> {
    /// Checks as etcd does before it founds a cluster, and what we add: no other members yet.
    ///
    /// etcd also resolves host names before it compares URLs; here `localhost` is the only name that equals an address.
    ///
    /// # Errors
    /// One sentence, etcd's where etcd has one.
    pub fn check(&self) -> Result<super::Bootstrap, String> {
        let members = parse_initial_cluster(self.cluster)?;
        let Some(own) = members.get(self.name) else {
            if members.is_empty() {
                return Err("initial cluster unset and no discovery endpoints found".into());
            }
            return Err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        let mut all: Vec<&str> = members.values().flatten().map(|url| url.text.as_str()).collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("initial cluster {} has duplicate url", self.cluster));
        }
        check_same_urls(self.name, own, self.peer_urls)?;
        if members.len() > 1 {
            return Err(format!(
                "--initial-cluster names {} members: clusters of more than one member are not there yet",
                members.len(),
            ));
        }
        if self.state == "existing" {
            return Err("--initial-cluster-state=existing: joining a cluster is not there yet".into());
        }
        let peer_urls: Vec<String> = self.peer_urls.iter().map(|url| url.text.clone()).collect();
        let member_id = MemberId::of_founder(&peer_urls, self.token);
        let cluster_id = ClusterId::of(&[member_id]);
        Ok(super::Bootstrap { member_id, cluster_id, cluster_token: self.token.into(), peer_urls })
    }
}

/// The URLs of `--initial-cluster` for this name must be those of `--initial-advertise-peer-urls`.
fn check_same_urls(name: &str, cluster: &[Url], advertised: &[Url]) -> Result<(), String> {
    let missing_from = |these: &[Url], others: &[Url]| -> Vec<String> {
        let others: Vec<String> = others.iter().map(comparable).collect();
        these.iter().filter(|url| !others.contains(&comparable(url))).map(|url| url.text.clone()).collect()
    };
    let listed = |urls: &[Url]| urls.iter().map(|url| url.text.as_str()).collect::<Vec<_>>().join(",");
    let extra = missing_from(cluster, advertised);
    if !extra.is_empty() {
        let with_name: Vec<String> = extra.iter().map(|url| format!("{name}={url}")).collect();
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            with_name.join(","),
            listed(advertised),
        ));
    }
    let extra = missing_from(advertised, cluster);
    if !extra.is_empty() {
        let with_name: Vec<String> = cluster.iter().map(|url| format!("{name}={}", url.text)).collect();
        return Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            extra.join(","),
            with_name.join(","),
        ));
    }
    Ok(())
}

fn comparable(url: &Url) -> String {
    let host = if url.host == "localhost" { "127.0.0.1" } else { &url.host };
    format!("{}://{host}:{}", url.scheme, url.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|&url| url.into()).collect()
    }

    #[test]
    fn ids_are_those_a_real_etcd_prints() {
        // A fresh etcd with no flags, as its logs and `etcdctl member list` show it since version 2.
        let member = MemberId::of_founder(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(member.to_string(), "8e9e05c52164694d");
        assert_eq!(ClusterId::of(&[member]).to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn ids_of_etcds_own_three_member_example() {
        // etcd's Procfile cluster (infra1..3, token etcd-cluster-1), as its documentation prints it.
        let members: Vec<MemberId> =
            ["http://127.0.0.1:12380", "http://127.0.0.1:22380", "http://127.0.0.1:32380"]
                .iter()
                .map(|url| MemberId::of_founder(&urls(&[url]), "etcd-cluster-1"))
                .collect();
        let printed: Vec<String> = members.iter().map(MemberId::to_string).collect();
        assert_eq!(printed, ["8211f1d0f64f3269", "91bc3c398fb3c146", "fd422379fda50e48"]);
        assert_eq!(ClusterId::of(&members).to_string(), "ef37ad9dc622a7c4");
    }

    #[test]
    fn order_of_urls_and_members_does_not_matter() {
        let one = MemberId::of_founder(&urls(&["http://a:1", "http://b:1"]), "t");
        let two = MemberId::of_founder(&urls(&["http://b:1", "http://a:1"]), "t");
        assert_eq!(one, two);
        let other = MemberId::of_founder(&urls(&["http://a:1"]), "t");
        assert_ne!(one, other);
        assert_eq!(ClusterId::of(&[one, other]), ClusterId::of(&[other, one]));
    }

    #[test]
    fn what_can_found_a_cluster() {
        // name, initial-cluster, state, advertised, error ("" = fine)
        let cases = [
            ("default", "default=http://localhost:2380", "new", "http://localhost:2380", ""),
            ("a", "a=http://127.0.0.1:2380", "new", "http://localhost:2380", ""),
            ("a", "a=http://x:1,a=http://y:1", "new", "http://y:1,http://x:1", ""),
            ("a", "", "new", "http://x:1", "initial cluster unset and no discovery endpoints found"),
            ("a", "a", "new", "http://x:1", "empty URL given for \"a\""),
            (
                "a",
                "b=http://x:1",
                "new",
                "http://x:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a",
                "a=http://x:1",
                "new",
                "http://y:1",
                "--initial-cluster has a=http://x:1 but missing from --initial-advertise-peer-urls=http://y:1",
            ),
            (
                "a",
                "a=http://x:1",
                "new",
                "http://x:1,http://y:1",
                "--initial-advertise-peer-urls has http://y:1 but missing from --initial-cluster=a=http://x:1",
            ),
            (
                "a",
                "a=http://x:1,b=http://x:1",
                "new",
                "http://x:1",
                "initial cluster a=http://x:1,b=http://x:1 has duplicate url",
            ),
            (
                "a",
                "a=http://x:1,b=http://y:1",
                "new",
                "http://x:1",
                "--initial-cluster names 2 members: clusters of more than one member are not there yet",
            ),
            (
                "a",
                "a=http://x:1",
                "existing",
                "http://x:1",
                "--initial-cluster-state=existing: joining a cluster is not there yet",
            ),
            ("a", "a=x:1", "new", "http://x:1", "URL scheme must be http, https, unix, or unixs: x:1"),
        ];
        for (name, cluster, state, advertised, want) in cases {
            let peer_urls = parse_urls(advertised).expect("good URLs in the table");
            let initial = Initial { name, cluster, state, token: "t", peer_urls: &peer_urls };
            let got = initial.check().err().unwrap_or_default();
            assert_eq!(got, want, "name={name} cluster={cluster} advertised={advertised}");
        }
    }
}
