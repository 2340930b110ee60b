//! The fields of a request, decoded straight into what the server needs to know of them.
//!
//! What is wrong with a request by gRPC's or etcd's rules is noted here and answered when the head is complete, in the
//! order in which grpc-go checks (`http2_server.go`, `operateHeaders`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::grpc::{Code, Metadata, Method, Status, method, timeout};
use crate::h2::Head;
use crate::h2::field::Field;
use crate::http1;

/// A typed request head.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The `:path`, resolved.
    pub method: Option<Method>,
    /// The `:path` that is no method.
    unknown_path: Option<Arc<[u8]>>,
    /// The `:method` is POST.
    is_post: bool,
    /// The `:method`, if it is not POST.
    other_verb: Option<Arc<str>>,
    content_type: ContentType,
    /// The `grpc-timeout`.
    pub timeout: Option<Duration>,
    /// A `grpc-encoding` that we have not.
    encoding: Option<Arc<str>>,
    /// A field that gRPC or etcd refuses.
    refused: Option<Arc<Status>>,
    /// What the server reads.
    pub metadata: Metadata,
    authorization: Option<Arc<str>>,
    authority: Option<Arc<str>>,
    origin: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
enum ContentType {
    #[default]
    Missing,
    Grpc,
    Other(Arc<str>),
}

/// A request that is answered with its HTTP status and its gRPC status at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `:status`
    pub http: u16,
    /// `grpc-status` and `grpc-message`
    pub status: Status,
    /// It is a gRPC request: POST, with gRPC's content type.
    pub is_grpc: bool,
}

impl Refusal {
    /// Of any request where no gRPC is spoken.
    pub fn not_grpc_here() -> Refusal {
        let status = Status::new(Code::Unimplemented, "gRPC is not spoken here");
        Refusal { http: 415, status, is_grpc: false }
    }
}

impl Head for RequestHead {
    fn field(&mut self, field: Field, name: &[u8], value: &[u8]) {
        match field {
            Field::Method if value == b"POST" => self.is_post = true,
            Field::Method => self.other_verb = Some(text(value)),
            Field::Path => {
                self.method = Method::from_path(value);
                self.unknown_path = self.method.is_none().then(|| value.into());
            }
            Field::ContentType => self.content_type = content_type(value),
            Field::GrpcTimeout => match timeout::decode(value) {
                Ok(timeout) => self.timeout = Some(timeout),
                Err(reason) => self.refuse(Status::new(Code::Internal, reason)),
            },
            Field::GrpcEncoding if value != b"identity" => self.encoding = Some(text(value)),
            Field::Token if self.metadata.token.is_none() => self.metadata.token = Some(token(value)),
            Field::Authorization if self.authorization.is_none() => self.authorization = Some(token(value)),
            Field::HasLeader => self.metadata.has_leader = value == b"true",
            Field::ClientApiVersion => match std::str::from_utf8(value) {
                Ok(version) => self.metadata.client_api_version = Some(version.into()),
                Err(_) => {
                    self.refuse(Status::new(Code::InvalidArgument, "etcdserver: invalid client api version"))
                }
            },
            // Calls by gRPC have no use for it, and their clients send `:method` first.
            Field::Authority | Field::Host if !self.is_post && self.authority.is_none() => {
                self.authority = Some(text(value));
            }
            Field::Other if name == b"origin" => self.origin = Some(text(value)),
            Field::GatewayAccept => self.metadata.gateway = true,
            Field::Binary if !is_base64(value) => {
                let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
                let reason = format!("malformed binary metadata {value:?} in header {name:?}");
                self.refuse(Status::new(Code::Internal, reason));
            }
            _ => {}
        }
    }
}

impl RequestHead {
    fn refuse(&mut self, status: Status) {
        self.refused.get_or_insert_with(|| Arc::new(status));
    }

    /// The metadata, once the head is complete. etcd reads `token` first and `authorization` else.
    pub fn take_metadata(&mut self) -> Metadata {
        let mut metadata = std::mem::take(&mut self.metadata);
        if metadata.token.is_none() {
            metadata.token = self.authorization.take();
        }
        metadata
    }

    /// The request as plain HTTP, without its body. Of a POST the host may be missing.
    pub fn to_http(&self) -> http1::Request {
        let target = match (self.method, &self.unknown_path) {
            (Some(method), _) => Cow::Borrowed(method.path()),
            (None, Some(path)) => String::from_utf8_lossy(path),
            (None, None) => Cow::Borrowed("/"),
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        http1::Request {
            method: http1::HttpMethod::from_name(self.other_verb.as_deref().unwrap_or("POST")),
            path: path.into(),
            query: query.into(),
            host: self.authority.as_deref().map(String::from),
            origin: self.origin.as_deref().map(String::from),
            body: Vec::new(),
        }
    }

    /// Checks the complete head: the method, or how to answer without one.
    #[inline]
    pub fn check(&self) -> Result<Method, Refusal> {
        match (self.method, &self.content_type, &self.other_verb, &self.refused, &self.encoding) {
            (Some(method), ContentType::Grpc, None, None, None) => Ok(method),
            _ => Err(self.refusal()),
        }
    }

    #[cold]
    fn refusal(&self) -> Refusal {
        let refusal = |http, status| Refusal { http, status, is_grpc: http != 405 && http != 415 };
        let other = match &self.content_type {
            ContentType::Grpc => None,
            ContentType::Missing => Some(""),
            ContentType::Other(text) => Some(&**text),
        };
        if let Some(text) = other {
            let reason = format!("invalid gRPC request content-type {text:?}");
            return refusal(415, Status::new(Code::InvalidArgument, reason));
        }
        if let Some(status) = &self.refused {
            let http = if status.code == Code::Internal { 400 } else { 200 };
            return refusal(http, Status::clone(status));
        }
        if let Some(verb) = &self.other_verb {
            let reason = format!("Received a HEADERS frame with :method {verb:?} which should be POST");
            return refusal(405, Status::new(Code::Internal, reason));
        }
        if let Some(path) = &self.unknown_path {
            return refusal(200, method::unknown(path));
        }
        let encoding = self.encoding.as_deref().unwrap_or_default();
        let reason = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        refusal(200, Status::new(Code::Unimplemented, reason))
    }
}

/// `application/grpc`, with a subtype of proto or none, with or without parameters.
fn content_type(value: &[u8]) -> ContentType {
    match value.strip_prefix(b"application/grpc") {
        Some(b"" | b"+proto" | [b';', ..]) => ContentType::Grpc,
        Some(rest) if rest.starts_with(b"+proto;") => ContentType::Grpc,
        _ => ContentType::Other(text(value)),
    }
}

fn text(value: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(value).into()
}

// etcd: a leading `Bearer ` is taken off, case-sensitively, once.
fn token(value: &[u8]) -> Arc<str> {
    text(value.strip_prefix(b"Bearer ").unwrap_or(value))
}

/// Standard alphabet, with or without padding (gRPC: "Implementations MUST accept padded and un-padded values").
fn is_base64(value: &[u8]) -> bool {
    let digits = value.len() - value.iter().rev().take(2).take_while(|&&b| b == b'=').count();
    let padded = digits < value.len();
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    value[..digits].iter().all(alphabet) && digits % 4 != 1 && (!padded || value.len().is_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in fields {
            head.field(Field::of_name(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn a_request_is_typed() {
        let mut head = head(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            ("content-type", "application/grpc+proto"),
            ("grpc-timeout", "7S"),
            ("authorization", "Bearer second"),
            ("token", "first"),
            ("token", "ignored"),
            ("hasleader", "true"),
            ("client-api-version", "3.7"),
            ("grpcgateway-accept", "*/*"),
            ("trace-bin", "AAEC"),
        ]);
        assert_eq!(head.check(), Ok(Method::KvPut));
        assert_eq!(head.timeout, Some(Duration::from_secs(7)));
        let want = Metadata {
            token: Some("first".into()),
            has_leader: true,
            client_api_version: Some("3.7".into()),
            gateway: true,
        };
        assert_eq!(head.take_metadata(), want);
    }

    #[test]
    fn authorization_serves_where_token_is_missing() {
        for (value, want) in [("Bearer abc", "abc"), ("abc", "abc"), ("bearer abc", "bearer abc")] {
            let token = head(&[("authorization", value)]).take_metadata().token;
            assert_eq!(token.as_deref(), Some(want));
        }
    }

    #[test]
    fn refusals_have_the_status_of_grpc_go() {
        const PUT: (&str, &str) = (":path", "/etcdserverpb.KV/Put");
        const GRPC: (&str, &str) = ("content-type", "application/grpc");
        type Row<'r> = (&'r [(&'r str, &'r str)], u16, Code, &'r str);
        let cases: [Row<'_>; 9] = [
            (&[PUT], 415, Code::InvalidArgument, "invalid gRPC request content-type \"\""),
            (
                &[PUT, ("content-type", "text/html")],
                415,
                Code::InvalidArgument,
                "invalid gRPC request content-type \"text/html\"",
            ),
            (
                &[PUT, ("content-type", "application/grpc-web")],
                415,
                Code::InvalidArgument,
                "invalid gRPC request content-type \"application/grpc-web\"",
            ),
            (
                &[PUT, GRPC, (":method", "GET")],
                405,
                Code::Internal,
                "Received a HEADERS frame with :method \"GET\" which should be POST",
            ),
            (
                &[PUT, GRPC, ("grpc-timeout", "5x")],
                400,
                Code::Internal,
                "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\"",
            ),
            (
                &[PUT, GRPC, ("x-bin", "?")],
                400,
                Code::Internal,
                "malformed binary metadata \"?\" in header \"x-bin\"",
            ),
            (&[(":path", "/x.Y/Z"), GRPC], 200, Code::Unimplemented, "unknown service x.Y"),
            (
                &[PUT, GRPC, ("grpc-encoding", "gzip")],
                200,
                Code::Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"gzip\"",
            ),
            (
                &[(":path", "/etcdserverpb.KV/Nope"), GRPC],
                200,
                Code::Unimplemented,
                "unknown method Nope for service etcdserverpb.KV",
            ),
        ];
        for (fields, http, code, message) in cases {
            let got = head(fields).check().unwrap_err();
            assert_eq!((got.http, got.status), (http, Status::new(code, message)), "{fields:?}");
            assert_eq!(got.is_grpc, http != 405 && http != 415, "{fields:?}");
        }
        let mut bad = RequestHead::default();
        bad.field(Field::ContentType, b"content-type", b"application/grpc");
        bad.field(Field::ClientApiVersion, b"client-api-version", b"\xff");
        assert_eq!(bad.check().unwrap_err().status.message, "etcdserver: invalid client api version");
    }

    #[test]
    fn base64_is_checked() {
        for ok in ["", "AA", "AA==", "AAA", "AAA=", "AAAA", "+/aZ09=="] {
            assert!(is_base64(ok.as_bytes()), "{ok}");
        }
        for bad in ["A", "AAAAA", "A=", "AA=", "=", "====", "A-AA", "AA=A", "\u{e9}"] {
            assert!(!is_base64(bad.as_bytes()), "{bad}");
        }
    }
}
