//! HTTP/1.1 on the client port: `/version`, `/health`, `/livez`, `/readyz`. Metrics are made elsewhere.
//!
//! A pure function from a path, its query and what the server knows about itself to status, headers and body, with
//! etcd's exact texts. Whoever calls it has done the two reads that some checks need ([`needs`] says which).

use std::borrow::Cow;

use super::maintenance::VERSION;
use crate::cluster::version;

/// What the server knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// A NOSPACE alarm is active.
    pub no_space: bool,
    /// A CORRUPT alarm is active.
    pub corrupt: bool,
    /// A leader is known.
    pub has_leader: bool,
    /// This member is a learner.
    pub is_learner: bool,
    /// Cluster version `X.Y.0`, if known.
    pub cluster_version: Option<String>,
    /// Why a serializable read of one key failed, if it was tried and did.
    pub serializable_read_error: Option<String>,
    /// Why a linearizable read of one key failed, if it was tried and did.
    pub linearizable_read_error: Option<String>,
}

/// Which read has to be done before answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// None.
    Nothing,
    /// A local read of one key.
    Serializable,
    /// A read of one key behind a barrier, and a local one.
    Linearizable,
}

/// An HTTP answer. `Content-Length` and the CORS headers are the connection's to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Value of `Content-Type`; empty for none.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// The body.
    pub body: Cow<'static, str>,
}

/// Headers that let pages of `origin` read the answer; `*`: of any (etcd: `addCORSHeader`).
pub fn cors_headers(origin: &str) -> [(&'static str, &str); 3] {
    [
        ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ]
}

/// The method of a request, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET.
    Get,
    /// OPTIONS.
    Options,
    /// Any other, HEAD too: etcd answers it with 405.
    Other,
}

const TEXT: &str = "text/plain; charset=utf-8";
const NO_SNIFF: &[(&str, &str)] = &[("X-Content-Type-Options", "nosniff")];
const ALLOW_GET: &[(&str, &str)] = &[("Allow", "GET"), ("X-Content-Type-Options", "nosniff")];

const LIVEZ: [Check; 1] = [Check::SerializableRead];
const READYZ: [Check; 4] =
    [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    fn run(self, health: &Health) -> Result<(), String> {
        let read =
            |error: &Option<String>| error.clone().map_or(Ok(()), |why| Err(format!("range error: {why}")));
        match self {
            Check::DataCorruption if health.corrupt => Err("alarm activated: CORRUPT".into()),
            Check::NonLearner if health.is_learner => Err("not supported for learner".into()),
            Check::SerializableRead => read(&health.serializable_read_error),
            Check::LinearizableRead => read(&health.linearizable_read_error),
            Check::DataCorruption | Check::NonLearner => Ok(()),
        }
    }
}

/// Which read `path` needs before [`respond`] can answer.
pub fn needs(method: HttpMethod, path: &str, query: &str) -> Needs {
    if method != HttpMethod::Get {
        return Needs::Nothing;
    }
    if path == "/health" {
        let local = query_values(query, "serializable").next().as_deref() == Some("true");
        return if local { Needs::Serializable } else { Needs::Linearizable };
    }
    let Some((checks, _)) = probe(path) else { return Needs::Nothing };
    let excluded: Vec<_> = query_values(query, "exclude").collect();
    let runs = |check: Check| checks.contains(&check) && !excluded.iter().any(|name| name == check.name());
    if runs(Check::LinearizableRead) {
        Needs::Linearizable
    } else if runs(Check::SerializableRead) {
        Needs::Serializable
    } else {
        Needs::Nothing
    }
}

/// What the checks of a probe's path (`/livez`, `/readyz`, or one check below them) say, by etcd's names: for metrics.
pub fn checked(path: &str, query: &str, health: &Health) -> Vec<(&'static str, bool)> {
    let Some((checks, _)) = probe(path) else { return Vec::new() };
    let excluded: Vec<_> = query_values(query, "exclude").collect();
    let runs = checks.iter().filter(|check| !excluded.iter().any(|name| name == check.name()));
    runs.map(|check| (check.name(), check.run(health).is_ok())).collect()
}

/// The answer to a request for any path but `/metrics`. `query` is what follows the `?`, still encoded.
pub fn respond(method: HttpMethod, path: &str, query: &str, health: &Health) -> Response {
    if method == HttpMethod::Options {
        return Response { status: 200, content_type: "", headers: &[], body: "".into() };
    }
    let is_probe = probe(path);
    if !matches!(path, "/version" | "/health") && is_probe.is_none() {
        return Response {
            status: 404,
            content_type: TEXT,
            headers: NO_SNIFF,
            body: "404 page not found\n".into(),
        };
    }
    if method != HttpMethod::Get {
        let body = "Method Not Allowed\n".into();
        return Response { status: 405, content_type: TEXT, headers: ALLOW_GET, body };
    }
    match is_probe {
        Some((checks, single)) => probe_response(checks, single, query, health),
        None if path == "/version" => version(health),
        None => health_response(query, health),
    }
}

/// What `/version` says, on the client and the peer port.
pub(crate) fn version_json(cluster_version: Option<&str>) -> String {
    let cluster = cluster_version.unwrap_or("not_decided");
    let storage = version::storage(cluster_version).unwrap_or("unknown");
    format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#)
}

fn version(health: &Health) -> Response {
    let body = version_json(health.cluster_version.as_deref());
    Response { status: 200, content_type: "application/json", headers: &[], body: body.into() }
}

/// etcd `health.go`: alarms, then the leader, then a read.
fn health_response(query: &str, health: &Health) -> Response {
    let excluded: Vec<_> = query_values(query, "exclude").collect();
    let local = query_values(query, "serializable").next().as_deref() == Some("true");
    let active = |raised: bool, name: &str| raised && !excluded.iter().any(|excluded| excluded == name);
    let read_error = if local { &health.serializable_read_error } else { &health.linearizable_read_error };
    let reason = if active(health.no_space, "NOSPACE") {
        "ALARM NOSPACE".to_owned()
    } else if active(health.corrupt, "CORRUPT") {
        "ALARM CORRUPT".to_owned()
    } else if !local && !health.has_leader {
        "RAFT NO LEADER".to_owned()
    } else if let Some(why) = read_error {
        format!("RANGE ERROR:{}", json_text(why))
    } else {
        let body = r#"{"health":"true","reason":""}"#.into();
        return Response { status: 200, content_type: TEXT, headers: &[], body };
    };
    let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
    Response { status: 503, content_type: TEXT, headers: NO_SNIFF, body: body.into() }
}

/// The checks of a probe's path, and whether it asks for a single one.
fn probe(path: &str) -> Option<(&'static [Check], bool)> {
    let (all, rest): (&'static [Check], &str) = if let Some(rest) = path.strip_prefix("/livez") {
        (&LIVEZ, rest)
    } else {
        (&READYZ, path.strip_prefix("/readyz")?)
    };
    if rest.is_empty() {
        return Some((all, false));
    }
    let name = rest.strip_prefix('/')?;
    let index = all.iter().position(|check| check.name() == name)?;
    Some((&all[index..=index], true))
}

fn probe_response(checks: &[Check], single: bool, query: &str, health: &Health) -> Response {
    let excluded: Vec<_> = if single { vec![] } else { query_values(query, "exclude").collect() };
    let verbose = query_values(query, "verbose").next().is_some();
    let mut lines = String::new();
    let mut failed = false;
    for check in checks.iter().filter(|check| !excluded.iter().any(|name| name == check.name())) {
        match check.run(health) {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name())),
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-]{} failed: {why}\n", check.name()));
            }
        }
    }
    let (status, body) = match (failed, verbose) {
        (true, _) => (503, lines),
        (false, true) => (200, lines + "ok\n"),
        (false, false) => (200, "ok\n".to_owned()),
    };
    Response { status, content_type: TEXT, headers: NO_SNIFF, body: body.into() }
}

/// The values of `name` in a query, percent-decoded; a name without `=` has the empty value.
fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(key) == name).then(|| percent_decode(value))
    })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match bytes[i] {
            b'%' => match (hex(i + 1), hex(i + 2)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `text` inside a JSON string.
fn json_text(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Health {
        Health { has_leader: true, cluster_version: Some("3.7.0".into()), ..Default::default() }
    }

    fn get(path: &str, health: &Health) -> (u16, String) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let response = respond(HttpMethod::Get, path, query, health);
        (response.status, response.body.into_owned())
    }

    #[test]
    fn a_healthy_member_says_so() {
        let verbose = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
        let cases = [
            ("/health", 200, r#"{"health":"true","reason":""}"#),
            ("/health?serializable=true", 200, r#"{"health":"true","reason":""}"#),
            ("/version", 200, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#),
            ("/livez", 200, "ok\n"),
            ("/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
            ("/livez/serializable_read", 200, "ok\n"),
            ("/livez/linearizable_read", 404, "404 page not found\n"),
            ("/readyz", 200, "ok\n"),
            ("/readyz?verbose", 200, verbose),
            (
                "/readyz?verbose&exclude=serializable_read&exclude=linearizable%5fread&exclude=non_learner",
                200,
                "[+]data_corruption ok\nok\n",
            ),
            ("/readyz/non_learner?verbose=1", 200, "[+]non_learner ok\nok\n"),
            ("/readyzz", 404, "404 page not found\n"),
            ("/", 404, "404 page not found\n"),
            ("/v2/keys", 404, "404 page not found\n"),
        ];
        for (path, status, body) in cases {
            assert_eq!(get(path, &good()), (status, body.to_owned()), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let no_space = Health { no_space: true, ..good() };
        let corrupt = Health { corrupt: true, ..good() };
        let leaderless = Health {
            has_leader: false,
            linearizable_read_error: Some("etcdserver: no leader".into()),
            ..good()
        };
        let unread = Health { linearizable_read_error: Some("a \"b\"".into()), ..good() };
        let false_ = |reason: &str| format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
        let cases = [
            ("/health", &no_space, 503, false_("ALARM NOSPACE")),
            ("/health?exclude=NOSPACE", &no_space, 200, r#"{"health":"true","reason":""}"#.into()),
            ("/health?exclude=NOSPACE", &corrupt, 503, false_("ALARM CORRUPT")),
            ("/health", &leaderless, 503, false_("RAFT NO LEADER")),
            ("/health?serializable=true", &leaderless, 200, r#"{"health":"true","reason":""}"#.into()),
            ("/health", &unread, 503, false_("RANGE ERROR:a \\\"b\\\"")),
            ("/livez", &leaderless, 200, "ok\n".into()),
            (
                "/readyz",
                &leaderless,
                503,
                "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: range error: etcdserver: no leader\n[+]non_learner ok\n".into(),
            ),
            ("/readyz/data_corruption", &corrupt, 503, "[-]data_corruption failed: alarm activated: CORRUPT\n".into()),
        ];
        for (path, health, status, body) in cases {
            assert_eq!(get(path, health), (status, body), "{path}");
        }
        let undecided = Health::default();
        assert_eq!(
            get("/version", &undecided).1,
            r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#
        );
    }

    #[test]
    fn other_methods_and_the_reads_each_path_needs() {
        let post = respond(HttpMethod::Other, "/version", "", &good());
        assert_eq!((post.status, post.headers), (405, ALLOW_GET));
        assert_eq!(respond(HttpMethod::Other, "/nope", "", &good()).status, 404);
        let options = respond(HttpMethod::Options, "/nope", "", &good());
        assert_eq!((options.status, options.content_type, &options.body[..]), (200, "", ""));
        let cases = [
            ("/version", "", Needs::Nothing),
            ("/health", "", Needs::Linearizable),
            ("/health", "serializable=true", Needs::Serializable),
            ("/livez", "", Needs::Serializable),
            ("/readyz", "", Needs::Linearizable),
            ("/readyz", "exclude=linearizable_read", Needs::Serializable),
            ("/readyz/non_learner", "", Needs::Nothing),
            ("/nope", "", Needs::Nothing),
        ];
        for (path, query, want) in cases {
            assert_eq!(needs(HttpMethod::Get, path, query), want, "{path}?{query}");
        }
    }
}
