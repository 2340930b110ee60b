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

use super::values::{self, Url};

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
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        let url =
            values::parse_url(url).map_err(|error| format!("error setting up initial cluster: {error}"))?;
        members.entry(name.into()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

/// `--initial-cluster-state`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// The members of `--initial-cluster` found a cluster.
    New,
    /// The cluster exists, and this member has been added to it.
    Existing,
}

/// A member as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// The id it has if it founds the cluster. In an existing one, the cluster says what its id is.
    pub id: MemberId,
    /// Its `--name`.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<String>,
}

/// What the flags say about the cluster.
pub struct Initial<'a> {
    /// `--name`
    pub name: &'a str,
    /// `--initial-cluster`
    pub cluster: &'a str,
    /// `--initial-cluster-state`
    pub state: ClusterState,
    /// `--initial-cluster-token`
    pub token: &'a str,
    /// `--initial-advertise-peer-urls`
    pub peer_urls: &'a [Url],
}

impl Initial<'_> {
    /// Checks as etcd does before it founds or joins a cluster (etcd `VerifyBootstrap`, `VerifyJoinExisting`).
    ///
    /// Host names are compared as they are written: etcd resolves those that differ, which a check without I/O can't.
    ///
    /// # Errors
    /// One sentence, etcd's.
    pub fn check(&self) -> Result<super::Bootstrap, String> {
        let named = parse_initial_cluster(self.cluster)?;
        let Some(own) = named.get(self.name) else {
            return Err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        if self.state == ClusterState::New {
            check_advertised(self.name, own, self.peer_urls)?;
        }
        let mut all: Vec<&str> = named.values().flatten().map(|url| url.text.as_str()).collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("initial cluster {} has duplicate url", shown(&named)));
        }
        let peer_urls: Vec<String> = own.iter().map(|url| url.text.clone()).collect();
        let mut members: Vec<Founder> =
            named.into_iter().map(|(name, urls)| self.founder(name, urls)).collect();
        members.sort_by_key(|member| member.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(format!("member exists with identical ID {}", pair[0].id));
        }
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        Ok(super::Bootstrap {
            member_id: MemberId::of_founder(&peer_urls, self.token),
            cluster_id: ClusterId::of(&ids),
            cluster_token: self.token.into(),
            state: self.state,
            peer_urls,
            members,
        })
    }

    fn founder(&self, name: String, urls: Vec<Url>) -> Founder {
        let peer_urls: Vec<String> = urls.into_iter().map(|url| url.text).collect();
        Founder { id: MemberId::of_founder(&peer_urls, self.token), name, peer_urls }
    }
}

/// The URLs of `--initial-cluster` for this name must be those of `--initial-advertise-peer-urls`
/// (etcd `advertiseMatchesCluster`).
fn check_advertised(name: &str, cluster: &[Url], advertised: &[Url]) -> Result<(), String> {
    let Err(error) = check_same(advertised, cluster, &|_| Ok(None)) else { return Ok(()) };
    let missing_from = |these: &[Url], others: &[Url]| -> Vec<String> {
        let missing = these.iter().filter(|url| others.iter().all(|other| other.text != url.text));
        missing.map(|url| url.text.clone()).collect()
    };
    let listed = advertised.iter().map(|url| url.text.as_str()).collect::<Vec<_>>().join(",");
    let named =
        |urls: &[String]| urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
    let advertised_named: Vec<String> = advertised.iter().map(|url| url.text.clone()).collect();
    let extra = missing_from(cluster, advertised);
    if !extra.is_empty() {
        let extra = named(&extra);
        return Err(format!(
            "--initial-cluster has {extra} but missing from --initial-advertise-peer-urls={listed} ({error})"
        ));
    }
    let extra = missing_from(advertised, cluster);
    if !extra.is_empty() {
        return Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            extra.join(","),
            named(&advertised_named),
        ));
    }
    Err(format!(
        "failed to resolve {listed} to match --initial-cluster={} ({error})",
        named(&advertised_named)
    ))
}

/// Gives a URL's host and port as an address, `ip:port`; `None` leaves them as they are.
pub type Resolve<'a> = &'a dyn Fn(&Url) -> Result<Option<String>, String>;

/// Whether two lists name the same places, in any order (etcd `netutil.URLStringsEqual`): as they are written, else as
/// they resolve; `localhost` never resolves.
///
/// # Errors
/// What differs, as Go prints it.
pub fn check_same(a: &[Url], b: &[Url], resolve: Resolve<'_>) -> Result<(), String> {
    let texts = |urls: &[Url]| -> Vec<String> {
        let mut texts: Vec<String> = urls.iter().map(|url| url.text.clone()).collect();
        texts.sort_unstable();
        texts
    };
    let (given_a, given_b) = (texts(a), texts(b));
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", go_list(&given_a), go_list(&given_b)));
    }
    if given_a == given_b {
        return Ok(());
    }
    let resolved = |urls: &[Url]| -> Result<Vec<String>, String> {
        let mut texts = Vec::with_capacity(urls.len());
        for url in urls {
            let fixed = !url.is_tcp() || url.host == "localhost";
            let address = if fixed { None } else { resolve(url)? };
            texts.push(
                address.map_or_else(|| url.text.clone(), |address| format!("{}://{address}", url.scheme)),
            );
        }
        texts.sort_unstable();
        Ok(texts)
    };
    let (a, b) = (resolved(a)?, resolved(b)?);
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}

/// A list of texts as Go's `%q` prints it.
fn go_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// As etcd prints the map: pairs by name and URL.
fn shown(members: &BTreeMap<String, Vec<Url>>) -> String {
    let mut pairs: Vec<String> = members
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={}", url.text)))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
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
    fn what_can_found_or_join_a_cluster() {
        use ClusterState::{Existing, New};
        // Texts as etcd 3.7.1 prints them. name, initial-cluster, state, advertised, error ("" = fine)
        let cases = [
            ("default", "default=http://localhost:2380", New, "http://localhost:2380", ""),
            ("a", "a=http://x:1,a=http://y:1", New, "http://y:1,http://x:1", ""),
            ("a", "a=http://x:1,b=http://y:1,c=http://z:1", New, "http://x:1", ""),
            ("a", "a=HTTP://x:1", New, "http://x:1", ""),
            (
                "a",
                "",
                New,
                "http://x:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a",
                "a",
                New,
                "http://x:1",
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
            (
                "a",
                "b=http://x:1",
                New,
                "http://x:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a",
                "a=http://127.0.0.2:1",
                New,
                "http://127.0.0.1:1",
                "--initial-cluster has a=http://127.0.0.2:1 but missing from \
                 --initial-advertise-peer-urls=http://127.0.0.1:1 \
                 (resolved urls: \"http://127.0.0.1:1\" != \"http://127.0.0.2:1\")",
            ),
            (
                "a",
                "a=http://localhost:1",
                New,
                "http://127.0.0.1:1",
                "--initial-cluster has a=http://localhost:1 but missing from \
                 --initial-advertise-peer-urls=http://127.0.0.1:1 \
                 (resolved urls: \"http://127.0.0.1:1\" != \"http://localhost:1\")",
            ),
            (
                "a",
                "a=http://x:1",
                New,
                "http://x:1,http://y:1",
                "--initial-advertise-peer-urls has http://y:1 but missing from \
                 --initial-cluster=a=http://x:1,a=http://y:1",
            ),
            (
                "a",
                "a=http://x:1,a=http://x:1",
                New,
                "http://x:1",
                "failed to resolve http://x:1 to match --initial-cluster=a=http://x:1 \
                 (len([\"http://x:1\"]) != len([\"http://x:1\" \"http://x:1\"]))",
            ),
            (
                "a",
                "b=http://x:1,a=http://x:1",
                New,
                "http://x:1",
                "initial cluster a=http://x:1,b=http://x:1 has duplicate url",
            ),
            (
                "a",
                "a=x:1",
                New,
                "http://x:1",
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: x:1",
            ),
            // Who joins has told the cluster its URLs already: what it advertises is not compared.
            ("a", "a=http://x:1,b=http://y:1", Existing, "http://z:1", ""),
            (
                "a",
                "b=http://x:1",
                Existing,
                "http://x:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a",
                "a=http://x:1,b=http://x:1",
                Existing,
                "http://x:1",
                "initial cluster a=http://x:1,b=http://x:1 has duplicate url",
            ),
        ];
        for (name, cluster, state, advertised, want) in cases {
            let peer_urls = values::parse_urls(advertised).expect("good URLs in the table");
            let initial = Initial { name, cluster, state, token: "t", peer_urls: &peer_urls };
            let got = initial.check().err().unwrap_or_default();
            assert_eq!(got, want, "name={name} cluster={cluster} advertised={advertised}");
        }
    }

    #[test]
    fn every_member_computes_the_same_cluster() {
        let urls = ["http://127.0.0.1:12380", "http://127.0.0.1:22380", "http://127.0.0.1:32380"];
        let cluster = format!("infra3={},infra1={},infra2={}", urls[2], urls[0], urls[1]);
        let of = |name: &str, url: &str| {
            let peer_urls = values::parse_urls(url).expect("a good URL");
            let token = "etcd-cluster-1";
            let initial =
                Initial { name, cluster: &cluster, state: ClusterState::New, token, peer_urls: &peer_urls };
            initial.check().expect("they found a cluster")
        };
        let (one, three) = (of("infra1", urls[0]), of("infra3", urls[2]));
        assert_eq!(one.members, three.members);
        let shown: Vec<_> =
            one.members.iter().map(|member| (member.id.to_string(), member.name.as_str())).collect();
        let golden =
            [("8211f1d0f64f3269", "infra1"), ("91bc3c398fb3c146", "infra2"), ("fd422379fda50e48", "infra3")];
        assert_eq!(shown, golden.map(|(id, name)| (id.to_string(), name)));
        assert_eq!(one.cluster_id.to_string(), "ef37ad9dc622a7c4");
        assert_eq!((one.member_id, three.member_id), (one.members[0].id, one.members[2].id));
    }

    #[test]
    fn lists_are_compared_as_written_and_then_as_they_resolve() {
        let resolve = |url: &Url| match url.host.as_str() {
            "one" => Ok(Some(format!("10.0.0.1:{}", url.port))),
            "gone" => Err("no such host".to_string()),
            host => Ok(Some(format!("{host}:{}", url.port))),
        };
        let cases = [
            ("http://a:1,http://b:1", "http://b:1,http://a:1", ""),
            ("http://one:1", "http://10.0.0.1:1", ""),
            ("http://gone:1", "http://gone:1", ""),
            ("http://gone:1", "http://10.0.0.1:1", "no such host"),
            (
                "http://one:1",
                "https://10.0.0.1:1",
                "resolved urls: \"http://10.0.0.1:1\" != \"https://10.0.0.1:1\"",
            ),
            ("http://one:1", "", "len([\"http://one:1\"]) != len([])"),
        ];
        for (a, b, want) in cases {
            let urls = |text| values::parse_urls(text).expect("good URLs in the table");
            let got = check_same(&urls(a), &urls(b), &resolve).err().unwrap_or_default();
            assert_eq!(got, want, "{a} {b}");
        }
    }
}
