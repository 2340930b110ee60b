//! HTTP/1.1 for the few plain pages (`/health`, `/metrics`, ...): a request parser and a response writer.

use std::time::Duration;

/// Request methods that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET
    Get,
    /// HEAD: the response's head without its body.
    Head,
    /// OPTIONS
    Options,
    /// POST
    Post,
    /// Any other.
    Other(String),
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: HttpMethod,
    /// The path, without the query.
    pub path: String,
    /// What follows `?`, or nothing.
    pub query: String,
    /// The `Host` field.
    pub host: Option<String>,
    /// The `Origin` field (CORS).
    pub origin: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An HTTP/1.1 connection in the server's role. One request at a time: the next is parsed after the answer.
#[derive(Debug)]
pub struct Connection {
    _max_body: usize,
}

impl Connection {
    /// A connection that has received nothing. `max_body`: the largest request body in bytes.
    pub fn new(max_body: usize, now: Duration) -> Connection {
        let _ = now;
        Connection { _max_body: max_body }
    }

    /// Takes bytes from the peer.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let _ = (now, bytes);
    }

    /// The next whole request, when the one before it has been answered.
    pub fn poll_request(&mut self) -> Option<Request> {
        None
    }

    /// Answers the request that `poll_request` gave last. `headers` come on top of `content-length`, `content-type` and
    /// `connection`.
    pub fn respond(&mut self, status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) {
        let _ = (status, content_type, headers, body);
    }

    /// Appends response bytes to `out`.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        None
    }

    /// The time of `next_timeout` has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
    }

    /// False: stop reading until it is true again.
    pub fn wants_read(&self) -> bool {
        true
    }

    /// Close the socket once all output is written.
    pub fn is_finished(&self) -> bool {
        false
    }
}
