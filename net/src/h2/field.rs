//! Field names that mean something to this machine or to gRPC, recognized once: when an entry enters a table, not each
//! time it is used.

/// A field, by its name; or why it is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the fields'")]
pub enum Field {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Host,
    ContentType,
    ContentLength,
    Te,
    GrpcTimeout,
    GrpcEncoding,
    GrpcStatus,
    GrpcMessage,
    Token,
    Authorization,
    HasLeader,
    ClientApiVersion,
    GatewayAccept,
    /// A name ending in `-bin`: its value is base64.
    Binary,
    /// Well-formed, and of no interest here.
    Other,
    /// `connection` and the like (RFC 9113 8.2.2).
    ConnectionSpecific,
    /// A pseudo field that does not exist.
    UnknownPseudo,
    /// A character that must not be there (RFC 9113 8.2.1), or an empty name.
    Malformed,
}

impl Field {
    /// Recognizes a name and checks the characters of name and value.
    pub fn classify(name: &[u8], value: &[u8]) -> Field {
        if !value_is_valid(value) {
            return Field::Malformed;
        }
        Field::of_name(name)
    }

    /// Recognizes a name and checks its characters.
    pub fn of_name(name: &[u8]) -> Field {
        match name {
            b":method" => Field::Method,
            b":scheme" => Field::Scheme,
            b":authority" => Field::Authority,
            b":path" => Field::Path,
            b":status" => Field::Status,
            b"host" => Field::Host,
            b"content-type" => Field::ContentType,
            b"content-length" => Field::ContentLength,
            b"te" => Field::Te,
            b"grpc-timeout" => Field::GrpcTimeout,
            b"grpc-encoding" => Field::GrpcEncoding,
            b"grpc-status" => Field::GrpcStatus,
            b"grpc-message" => Field::GrpcMessage,
            b"token" => Field::Token,
            b"authorization" => Field::Authorization,
            b"hasleader" => Field::HasLeader,
            b"client-api-version" => Field::ClientApiVersion,
            b"grpcgateway-accept" => Field::GatewayAccept,
            b"user-agent" | b"grpc-accept-encoding" | b"accept-encoding" => Field::Other,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Field::ConnectionSpecific
            }
            [b':', ..] => Field::UnknownPseudo,
            _ if !name_is_valid(name) => Field::Malformed,
            _ if name.ends_with(b"-bin") => Field::Binary,
            _ => Field::Other,
        }
    }

    /// The same name with another value.
    pub(crate) fn with_value(self, value: &[u8]) -> Field {
        if value_is_valid(value) { self } else { Field::Malformed }
    }

    /// One of the fields that start with `:`.
    pub fn is_pseudo(self) -> bool {
        use Field::*;
        matches!(self, Method | Scheme | Authority | Path | Status | UnknownPseudo)
    }
}

// RFC 9113 8.2.1: no control characters, space, upper case, 0x7f and above; no colon but the first of a pseudo field.
fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| matches!(b, 0x21..=0x39 | 0x3b..=0x40 | 0x5b..=0x7e))
}

// RFC 9113 8.2.1: no NUL, CR, LF; no white space at either end.
fn value_is_valid(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    !value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) && !blank(value.first()) && !blank(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_recognized_and_checked() {
        let cases: [(&[u8], &[u8], Field); 15] = [
            (b":path", b"/", Field::Path),
            (b":PATH", b"/", Field::UnknownPseudo),
            (b":nope", b"", Field::UnknownPseudo),
            (b"", b"", Field::Malformed),
            (b"Upper", b"", Field::Malformed),
            (b"with space", b"", Field::Malformed),
            (b"a:b", b"", Field::Malformed),
            (b"x\x80", b"", Field::Malformed),
            (b"x", b"a\rb", Field::Malformed),
            (b"x", b" a", Field::Malformed),
            (b"x", b"a\t", Field::Malformed),
            (b"x", b"a b\xff", Field::Other),
            (b"trace-bin", b"AAEC", Field::Binary),
            (b"transfer-encoding", b"chunked", Field::ConnectionSpecific),
            (b"grpc-timeout", b"5S", Field::GrpcTimeout),
        ];
        for (name, value, want) in cases {
            assert_eq!(Field::classify(name, value), want, "{name:?}: {value:?}");
        }
    }
}
