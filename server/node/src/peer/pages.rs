//! What the peer port answers to GET: `/members` and `/version`, as etcd's does. Everything else is not found.

use crate::api::http::version_json;
use crate::membership::Member;

/// An answer. The header `X-Etcd-Cluster-ID` comes on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers a request. `cluster_version`: as soon as it is known.
pub fn page(method: &str, path: &str, members: &[Member], cluster_version: Option<&str>) -> Page {
    match path {
        "/members" | "/version" if method != "GET" => {
            Page { status: 405, content_type: TEXT, body: b"Method Not Allowed\n".to_vec() }
        }
        "/members" => Page { status: 200, content_type: JSON, body: members_json(members) },
        "/version" => {
            Page { status: 200, content_type: JSON, body: version_json(cluster_version).into_bytes() }
        }
        _ => Page { status: 404, content_type: TEXT, body: b"404 page not found\n".to_vec() },
    }
}

/// A JSON array of members, in the order of their ids, with a line break behind it (Go's `json.Encoder`).
fn members_json(members: &[Member]) -> Vec<u8> {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_unstable_by_key(|member| member.id);
    let rows: Vec<Vec<u8>> = sorted.iter().map(|member| member.encode()).collect();
    let mut out = b"[".to_vec();
    out.extend_from_slice(&rows.join(&b','));
    out.extend_from_slice(b"]\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_etcds() {
        let member = |id: u64| Member {
            id,
            peer_urls: vec![format!("http://h{id}:2380")],
            name: format!("m{id}"),
            client_urls: vec![format!("http://h{id}:2379")],
            is_learner: id == 9,
        };
        let members = [member(9), member(2)];
        let want = concat!(
            r#"[{"id":2,"peerURLs":["http://h2:2380"],"name":"m2","clientURLs":["http://h2:2379"]},"#,
            r#"{"id":9,"peerURLs":["http://h9:2380"],"isLearner":true,"name":"m9","clientURLs":["http://h9:2379"]}]"#,
            "\n"
        );
        let version = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
        let cases = [
            ("GET", "/members", 200, want),
            ("GET", "/version", 200, version),
            ("POST", "/members", 405, "Method Not Allowed\n"),
            ("GET", "/health", 404, "404 page not found\n"),
            ("GET", "/members/", 404, "404 page not found\n"),
        ];
        for (method, path, status, body) in cases {
            let page = page(method, path, &members, Some("3.7.0"));
            assert_eq!((page.status, String::from_utf8_lossy(&page.body).as_ref()), (status, body), "{path}");
        }
    }
}
