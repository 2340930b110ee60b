//! HTTP/1.1 for the few plain pages (`/health`, `/metrics`, ...): a request parser and a response writer.
//!
//! One request at a time: the next one is parsed when the one before it has been answered, and until then further bytes
//! wait, at most [`HEADER_SIZE_MAX`] of them; then reading stops. `httparse` does the syntax; here are the limits and
//! what RFC 9112 says about the length of bodies. Chunked request bodies are refused (501), because nothing that is
//! served here needs them, and a request with two opinions about its length is refused and its connection closed (request
//! smuggling).

mod response;
#[cfg(test)]
mod tests;

pub use response::{BadResponse, Response};

use std::time::Duration;

/// Bytes of a request's head.
pub const HEADER_SIZE_MAX: usize = 16_384;
/// Fields of a request's head.
pub const HEADER_FIELDS_MAX: usize = 100;
/// A request must be complete within this time of its first byte (or of the connection's beginning).
pub const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
pub const IDLE_TIME: Duration = Duration::from_secs(180);

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

impl HttpMethod {
    /// The method of this name (RFC 9110 9.1: names are case-sensitive).
    pub fn from_name(name: &str) -> HttpMethod {
        match name {
            "GET" => HttpMethod::Get,
            "HEAD" => HttpMethod::Head,
            "OPTIONS" => HttpMethod::Options,
            "POST" => HttpMethod::Post,
            other => HttpMethod::Other(other.into()),
        }
    }
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

/// A head that has been parsed; its body is still coming.
#[derive(Debug)]
struct Pending {
    request: Request,
    body_left: usize,
    keep_alive: bool,
}

/// A request that is answered here, with the connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal(u16);

/// The connection's end without an answer.
const NOT_HTTP: Refusal = Refusal(0);

/// An HTTP/1.1 connection in the server's role.
#[derive(Debug)]
pub struct Connection {
    max_body: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    pending: Option<Pending>,
    /// A whole request that was not yet asked for.
    whole: Option<Pending>,
    /// The request that is being answered: is it HEAD, and may the connection go on?
    answering: Option<(bool, bool)>,
    deadline: Option<Duration>,
    closing: bool,
    now: Duration,
}

impl Connection {
    /// A connection that has received nothing. `max_body`: the largest request body in bytes.
    pub fn new(max_body: usize, now: Duration) -> Connection {
        Connection {
            max_body,
            input: Vec::new(),
            output: Vec::new(),
            pending: None,
            whole: None,
            answering: None,
            deadline: Some(now + REQUEST_TIME),
            closing: false,
            now,
        }
    }

    /// Bytes of its buffers, for process-wide budgets.
    pub fn held_bytes(&self) -> usize {
        let body = |request: &Option<Pending>| request.as_ref().map_or(0, |it| it.request.body.capacity());
        self.input.capacity() + self.output.capacity() + body(&self.pending) + body(&self.whole)
    }

    /// Takes bytes from the peer.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        self.now = now;
        if self.closing || bytes.is_empty() {
            return;
        }
        if self.is_idle() {
            self.deadline = Some(now + REQUEST_TIME);
        }
        self.input.extend_from_slice(bytes);
        self.advance();
    }

    fn is_idle(&self) -> bool {
        self.input.is_empty() && self.pending.is_none() && self.whole.is_none() && self.answering.is_none()
    }

    // Parses as far as the input goes, unless a request is on its way through the server.
    fn advance(&mut self) {
        if self.closing || self.whole.is_some() || self.answering.is_some() {
            return;
        }
        if self.pending.is_none() {
            match self.parse_head() {
                Ok(pending) => self.pending = pending,
                Err(NOT_HTTP) => {
                    self.closing = true;
                    self.deadline = None;
                    self.input = Vec::new();
                    return;
                }
                Err(Refusal(status)) => return self.refuse(status),
            }
        }
        let Some(pending) = &mut self.pending else { return };
        let size = pending.body_left.min(self.input.len());
        pending.request.body.extend(self.input.drain(..size));
        pending.body_left -= size;
        if pending.body_left == 0 {
            self.whole = self.pending.take();
            self.deadline = None;
        }
    }

    fn parse_head(&mut self) -> Result<Option<Pending>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let size = match parsed.parse(&self.input) {
            Ok(httparse::Status::Complete(size)) if size <= HEADER_SIZE_MAX => size,
            Ok(httparse::Status::Partial) if self.input.len() <= HEADER_SIZE_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal(431)),
            // Not even the first line is HTTP/1: an answer in HTTP/1 would only be taken for something else.
            Err(httparse::Error::Token | httparse::Error::Version) => return Err(NOT_HTTP),
            Err(_) => return Err(Refusal(400)),
        };
        let (pending, expects_continue) = head_of(&parsed, self.max_body)?;
        self.input.drain(..size);
        if expects_continue && self.input.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Ok(Some(pending))
    }

    fn refuse(&mut self, status: u16) {
        self.answering = Some((false, false));
        let text = format!("{status} {}", reason(status));
        self.respond(status, "text/plain; charset=utf-8", &[], text.as_bytes());
    }

    /// The next whole request, when the one before it has been answered.
    pub fn poll_request(&mut self) -> Option<Request> {
        let Pending { request, keep_alive, .. } = self.whole.take()?;
        self.answering = Some((request.method == HttpMethod::Head, keep_alive));
        Some(request)
    }

    /// Answers the request that `poll_request` gave last. `headers` come on top of `content-length`, `content-type` and
    /// `connection`. Their texts are the server's own: a line break in them is a bug, and is sent as a blank.
    pub fn respond(&mut self, status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) {
        let Some((head_only, keep_alive)) = self.answering.take() else { return };
        let out = &mut self.output;
        out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
        if !content_type.is_empty() {
            field(out, "Content-Type", content_type);
        }
        for (name, value) in headers {
            field(out, name, value);
        }
        if status != 204 && status != 304 {
            field(out, "Content-Length", &body.len().to_string());
        }
        if !keep_alive {
            field(out, "Connection", "close");
        }
        out.extend_from_slice(b"\r\n");
        if !head_only && status != 204 && status != 304 {
            out.extend_from_slice(body);
        }
        self.closing |= !keep_alive;
        self.deadline = Some(self.now + if self.input.is_empty() { IDLE_TIME } else { REQUEST_TIME });
        if self.closing {
            self.deadline = None;
            self.input = Vec::new();
        }
        self.advance();
    }

    /// Appends response bytes to `out`.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.output);
        if self.output.capacity() > HEADER_SIZE_MAX {
            self.output = Vec::new();
        }
    }

    /// Response bytes are waiting.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// The time of `next_timeout` has come: a request that is not complete now, or an idle connection, is given up.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = now;
        if self.deadline.is_some_and(|at| at <= now) {
            if self.is_idle() || self.input.is_empty() && self.pending.is_none() {
                self.closing = true;
                self.deadline = None;
            } else {
                self.pending = None;
                self.refuse(408);
            }
        }
    }

    /// False: stop reading until it is true again.
    pub fn wants_read(&self) -> bool {
        let busy = self.whole.is_some() || self.answering.is_some();
        let full = busy && self.input.len() >= HEADER_SIZE_MAX;
        !self.closing && !full
    }

    /// Stops after the answer that is under way; an idle connection ends at once.
    pub fn shutdown(&mut self) {
        match &mut self.answering {
            Some((_, keep_alive)) => *keep_alive = false,
            None if self.whole.is_none() => self.closing = true,
            None => {}
        }
        if let Some(whole) = &mut self.whole {
            whole.keep_alive = false;
        }
    }

    /// Close the socket: all output was taken and nothing follows.
    pub fn is_finished(&self) -> bool {
        self.closing && self.output.is_empty()
    }
}

fn head_of(parsed: &httparse::Request<'_, '_>, max_body: usize) -> Result<(Pending, bool), Refusal> {
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal(400));
    };
    let (path, query) = split_target(target)?;
    let mut request = Request {
        method: HttpMethod::from_name(method),
        path: path.into(),
        query: query.into(),
        host: None,
        origin: None,
        body: Vec::new(),
    };
    let mut length: Option<u64> = None;
    let mut keep_alive = version == 1;
    let mut expects_continue = false;
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| Refusal(400))?.trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            if request.host.replace(value.into()).is_some() {
                return Err(Refusal(400));
            }
        } else if is("origin") {
            request.origin = Some(value.into());
        } else if is("content-length") {
            let number = digits(value).ok_or(Refusal(400))?;
            if length.replace(number).is_some_and(|before| before != number) {
                return Err(Refusal(400));
            }
        } else if is("transfer-encoding") {
            return Err(Refusal(501));
        } else if is("connection") {
            for option in value.split(',').map(str::trim) {
                keep_alive &= !option.eq_ignore_ascii_case("close");
                keep_alive |= version == 0 && option.eq_ignore_ascii_case("keep-alive");
            }
        } else if is("expect") {
            expects_continue = value.eq_ignore_ascii_case("100-continue");
        }
    }
    // RFC 9112 3.2: a request of version 1.1 must have a Host.
    if version == 1 && request.host.is_none() {
        return Err(Refusal(400));
    }
    let length = length.unwrap_or(0);
    if length > max_body as u64 {
        return Err(Refusal(413));
    }
    let pending = Pending { request, body_left: length as usize, keep_alive };
    Ok((pending, expects_continue && length > 0))
}

/// Path and query of a request target (RFC 9112 3.2): origin form, absolute form, or `*`.
fn split_target(target: &str) -> Result<(&str, &str), Refusal> {
    let origin = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    if origin != "*" && !origin.starts_with('/') {
        return Err(Refusal(400));
    }
    let origin = origin.split_once('#').map_or(origin, |(before, _)| before);
    Ok(origin.split_once('?').unwrap_or((origin, "")))
}

fn digits(value: &str) -> Option<u64> {
    let all = !value.is_empty() && value.len() <= 18 && value.bytes().all(|b| b.is_ascii_digit());
    if all { value.parse().ok() } else { None }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "",
    }
}
