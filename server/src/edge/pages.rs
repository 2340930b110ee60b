//! The HTTP/1.1 pages: health, version, metrics.

use crossbeam::epoch;
use engine::{AlarmKind, RangeOptions};
use net::http1::{self, Request};
use node::api::http::{self, Health, HttpMethod};
use node::read;

use super::client_core::ClientCore;

impl ClientCore {
    /// Answers one request of an HTTP/1.1 connection.
    pub fn handle_http(&self, connection: &mut http1::Connection, request: &Request) {
        let method = match &request.method {
            http1::HttpMethod::Get | http1::HttpMethod::Head => HttpMethod::Get,
            http1::HttpMethod::Options => HttpMethod::Options,
            http1::HttpMethod::Post | http1::HttpMethod::Other(_) => HttpMethod::Other,
        };
        if request.path == "/metrics" && method == HttpMethod::Get {
            let body = self.shared.metrics.render();
            let kind = crate::observe::metrics::CONTENT_TYPE;
            return connection.respond(200, kind, &http::CORS_HEADERS, body.as_bytes());
        }
        let response = http::respond(method, &request.path, &request.query, &self.health());
        let mut headers = http::CORS_HEADERS.to_vec();
        headers.extend_from_slice(response.headers);
        connection.respond(response.status, response.content_type, &headers, response.body.as_bytes());
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
            None => Some(node::api::Error::NoLeader.text().to_owned()),
        };
        Health {
            no_space: view.has_alarm(AlarmKind::NoSpace),
            corrupt: view.has_alarm(AlarmKind::Corrupt),
            has_leader: self.shared.leader() != 0,
            is_learner: false,
            cluster_version: read::cluster_version(&view, guard).ok().flatten(),
            serializable_read_error: local,
            linearizable_read_error: barrier,
        }
    }
}
