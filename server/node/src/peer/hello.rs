//! What a connection begins with: who asks for what, and why it is refused.

use consensus::{Lane, NodeId};
use net::h2::field::Field;
use net::h2::{Block, Head, Indexing, OwnedHeader};

use super::PROTOCOL_VERSION;
use crate::cluster::version::{OLDEST, major_minor};

/// What `:path` begins with.
const PATH: &str = "/ringd/peer/";

const PROTOCOL: &str = "x-ringd-protocol";
const CLUSTER: &str = "x-etcd-cluster-id";
const FROM: &str = "x-server-from";
const TO: &str = "x-raft-to";
const URLS: &str = "x-peerurls";
const SERVER_VERSION: &str = "x-server-version";

/// A version that is longer than this is none.
const VERSION_BYTES_MAX: usize = 64;

/// Who dials whom, for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lane.
    pub lane: Lane,
    /// The cluster of the dialing member.
    pub cluster_id: u64,
    /// The dialing member.
    pub from: NodeId,
    /// The member it means to reach.
    pub to: NodeId,
    /// Where the dialing member can be dialed.
    pub peer_urls: Vec<String>,
    /// What the dialing member says its server is, if it does.
    pub server_version: Option<String>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The members are not of one cluster.
    Cluster,
    /// Another member was meant.
    Member,
    /// Another version of the protocol, or a server that is too old.
    Version,
    /// The dialing member was removed from the cluster.
    Removed,
    /// The request is none of ours.
    Request,
    /// Not now.
    Busy,
}

impl Refusal {
    /// Status code and text.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Refusal::Cluster => (412, "cluster ID mismatch"),
            Refusal::Member => (412, "to field mismatch"),
            Refusal::Version => (412, "incompatible version"),
            Refusal::Removed => (410, "removed member"),
            Refusal::Request => (400, "bad request"),
            Refusal::Busy => (503, "too many connections"),
        }
    }

    /// What an answer says. `cluster_is_ours`: it carries our cluster's id.
    pub(super) fn of_answer(status: u16, text: &[u8], cluster_is_ours: bool) -> Refusal {
        let starts = |refusal: Refusal| text.starts_with(refusal.answer().1.as_bytes());
        match status {
            410 if cluster_is_ours => Refusal::Removed,
            410 | 412 if !cluster_is_ours || starts(Refusal::Cluster) => Refusal::Cluster,
            412 if starts(Refusal::Version) => Refusal::Version,
            412 => Refusal::Member,
            503 => Refusal::Busy,
            _ => Refusal::Request,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.answer().1)
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Vital => "vital",
        Lane::Bulk => "bulk",
        Lane::Snapshot => "snapshot",
    }
}

fn field(name: &'static str, value: impl Into<String>) -> OwnedHeader {
    (name.into(), value.into().into(), Indexing::Never)
}

impl Hello {
    /// The request's header block.
    pub(super) fn request(&self) -> Block {
        let urls = self.peer_urls.join(",");
        let mut fields = vec![
            field(":method", "POST"),
            field(":scheme", "http"),
            field(":path", format!("{PATH}{}", lane_name(self.lane))),
            field(":authority", "ringd"),
            field(PROTOCOL, PROTOCOL_VERSION.to_string()),
            field(CLUSTER, format!("{:x}", self.cluster_id)),
            field(FROM, format!("{:x}", self.from.0)),
            field(TO, format!("{:x}", self.to.0)),
            field(URLS, urls),
        ];
        fields.extend(self.server_version.iter().map(|version| field(SERVER_VERSION, version)));
        Block::Fields(fields)
    }

    /// What a request says; `None` if it isn't about a lane.
    pub(super) fn of_request(head: &RequestHead) -> Option<Result<Hello, Refusal>> {
        let lane = match head.path.strip_prefix(PATH)? {
            "vital" => Lane::Vital,
            "bulk" => Lane::Bulk,
            "snapshot" => Lane::Snapshot,
            _ => return Some(Err(Refusal::Request)),
        };
        if head.method != "POST" {
            return Some(Err(Refusal::Request));
        }
        // etcd rafthttp `checkVersionCompatibility`: before the ids.
        let too_old =
            head.server_version.as_deref().and_then(major_minor).is_some_and(|version| version < OLDEST);
        if head.protocol != Some(PROTOCOL_VERSION) || too_old {
            return Some(Err(Refusal::Version));
        }
        let (Some(cluster_id), Some(from), Some(to)) = (head.cluster, head.from, head.to) else {
            return Some(Err(Refusal::Request));
        };
        let peer_urls = head.urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
        let server_version = head.server_version.clone();
        Some(Ok(Hello { lane, cluster_id, from: NodeId(from), to: NodeId(to), peer_urls, server_version }))
    }

    /// Whether the ids are those of the member that was dialed.
    ///
    /// # Errors
    /// [`Refusal::Cluster`] before [`Refusal::Member`].
    pub fn check(&self, cluster_id: u64, member: NodeId) -> Result<(), Refusal> {
        if self.cluster_id != cluster_id {
            return Err(Refusal::Cluster);
        }
        if self.to != member || self.from == member || self.from == NodeId(0) {
            return Err(Refusal::Member);
        }
        Ok(())
    }
}

/// The answer's header block.
pub(super) fn answer(status: u16, cluster_id: u64, member: NodeId, server_version: &'static str) -> Block {
    Block::Fields(vec![
        field(":status", status.to_string()),
        field(CLUSTER, format!("{cluster_id:x}")),
        field(FROM, format!("{:x}", member.0)),
        field(SERVER_VERSION, server_version),
    ])
}

/// A request's fields.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestHead {
    pub method: String,
    pub path: String,
    protocol: Option<u32>,
    cluster: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    urls: String,
    server_version: Option<String>,
}

/// An answer's fields.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerHead {
    pub status: u16,
    pub cluster: Option<u64>,
    pub from: Option<u64>,
    pub server_version: Option<String>,
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// What is no version is none: the one who says it might as well not have.
fn version(value: &[u8]) -> Option<String> {
    let said = std::str::from_utf8(value).ok().filter(|said| said.len() <= VERSION_BYTES_MAX)?;
    major_minor(said).map(|_| said.to_owned())
}

/// An id in etcd's form.
fn hex(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

impl Head for RequestHead {
    fn field(&mut self, field: Field, name: &[u8], value: &[u8]) {
        match field {
            Field::Method => self.method = text(value),
            Field::Path => self.path = text(value),
            _ if name == PROTOCOL.as_bytes() => {
                self.protocol = std::str::from_utf8(value).ok().and_then(|number| number.parse().ok());
            }
            _ if name == CLUSTER.as_bytes() => self.cluster = hex(value),
            _ if name == FROM.as_bytes() => self.from = hex(value),
            _ if name == TO.as_bytes() => self.to = hex(value),
            _ if name == URLS.as_bytes() => self.urls = text(value),
            _ if name == SERVER_VERSION.as_bytes() => self.server_version = version(value),
            _ => {}
        }
    }
}

impl Head for AnswerHead {
    fn field(&mut self, field: Field, name: &[u8], value: &[u8]) {
        match field {
            Field::Status => {
                self.status = std::str::from_utf8(value).ok().and_then(|code| code.parse().ok()).unwrap_or(0);
            }
            _ if name == CLUSTER.as_bytes() => self.cluster = hex(value),
            _ if name == FROM.as_bytes() => self.from = hex(value),
            _ if name == SERVER_VERSION.as_bytes() => self.server_version = version(value),
            _ => {}
        }
    }
}
