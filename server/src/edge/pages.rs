//! The HTTP/1.1 pages: health, version, metrics.

use crossbeam::epoch;
use engine::{AlarmKind, RangeOptions};
use net::http1::{self, Request};
use node::api::http::{self, Health, HttpMethod};
use node::read;

use super::client_core::ClientCore;
use super::listen::Serves;
use crate::observe::metrics::{self, Check};

/// An answer to an HTTP request.
pub struct Page<'r> {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'r str, &'r str)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a request's listener is.
#[derive(Clone, Copy, Debug)]
pub struct PageListener {
    /// What is served there.
    pub serves: Serves,
    /// It speaks TLS.
    pub tls: bool,
}

/// Paths of a listener for health and metrics alone (`--listen-metrics-urls`), and what is below them.
const METRICS_PATHS: [&str; 4] = ["/metrics", "/health", "/livez", "/readyz"];

impl ClientCore {
    /// Answers an HTTP request, whatever version of HTTP it came by.
    pub fn page(&self, request: &Request, listener: PageListener) -> Page<'_> {
        let access = &self.shared.config.http_access;
        let metrics_only = listener.serves == Serves::Metrics;
        if !listener.tls
            && !metrics_only
            && let Some(host) = access.refused_host(request.host.as_deref())
        {
            tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
            return misdirected(host);
        }
        let method = match &request.method {
            http1::HttpMethod::Get => HttpMethod::Get,
            http1::HttpMethod::Options => HttpMethod::Options,
            // etcd answers HEAD with 405, too.
            http1::HttpMethod::Head | http1::HttpMethod::Post | http1::HttpMethod::Other(_) => {
                HttpMethod::Other
            }
        };
        let mut headers = Vec::new();
        if let Some(origin) = access.allowed_origin(request.origin.as_deref()) {
            headers.extend(http::cors_headers(origin));
        }
        // etcd's handler of metrics doesn't look at the method.
        if request.path == "/metrics" && method != HttpMethod::Options {
            self.shared.metrics.set_alarms(self.alarm_names());
            let body = self.shared.metrics.render().into_bytes();
            return Page { status: 200, content_type: metrics::CONTENT_TYPE, headers, body };
        }
        let path = match metrics_only && !METRICS_PATHS.iter().any(|known| is_below(&request.path, known)) {
            true => "/", // which is not found
            false => &request.path,
        };
        let health = self.health();
        let response = http::respond(method, path, &request.query, &health);
        if method == HttpMethod::Get {
            count(path, &request.query, response.status, &health);
        }
        headers.extend_from_slice(response.headers);
        Page {
            status: response.status,
            content_type: response.content_type,
            headers,
            body: response.body.into_owned().into_bytes(),
        }
    }

    fn alarm_names(&self) -> Vec<(u64, &'static str)> {
        let name = |kind| match kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        self.view().alarms().iter().map(|alarm| (alarm.member, name(alarm.kind))).collect()
    }

    /// What this member knows about itself. The reads are done here: the version at hand is this member's newest, and
    /// for the only voter it is also what a barrier would give, up to entries that are being applied this moment.
    fn health(&self) -> Health {
        let view = self.view();
        let guard = &epoch::pin();
        let probe = RangeOptions { key: "health".into(), limit: 1, keys_only: true, ..Default::default() };
        let local =
            view.range(guard, &probe).err().map(|error| node::api::Error::from(&error).text().to_owned());
        let barrier = match self.shared.read_index() {
            Some(_) => local.clone(),
            // One among others learns within an election timeout that it is cut off.
            None if self.shared.leader() != 0 => local.clone(),
            None => Some(node::api::Error::NoLeader.text().to_owned()),
        };
        Health {
            no_space: view.has_alarm(AlarmKind::NoSpace),
            corrupt: view.has_alarm(AlarmKind::Corrupt),
            has_leader: self.shared.leader() != 0,
            is_learner: self.shared.is_learner(),
            cluster_version: read::cluster_version(&view, guard).ok().flatten(),
            serializable_read_error: local,
            linearizable_read_error: barrier,
        }
    }
}

/// etcd's answer where `--host-whitelist` has no such name.
fn misdirected(host: &str) -> Page<'static> {
    let body = format!(
        r#"
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host:?}

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).

"#
    );
    let headers = vec![("X-Content-Type-Options", "nosniff")];
    Page { status: 421, content_type: "text/plain; charset=utf-8", headers, body: body.into_bytes() }
}

/// Counts a health check as etcd does: `/health` as a whole, `/livez` and `/readyz` by their checks.
fn count(path: &str, query: &str, status: u16, health: &Health) {
    let cells = metrics::here();
    match (path, status) {
        ("/health", 200) => cells.plain.health_success.inc(),
        ("/health", _) => cells.plain.health_failures.inc(),
        _ => {}
    }
    let kind = if path.starts_with("/livez") { "livez" } else { "readyz" };
    for (name, success) in http::checked(path, query, health) {
        if let Some(check) = Check::find(kind, name) {
            cells.checked(check, success);
        }
    }
}

fn is_below(path: &str, known: &str) -> bool {
    path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
