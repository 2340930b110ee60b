//! Which protocol does a plaintext connection speak? Decided by its first bytes, as etcd's `cmux` does.

use crate::h2::PREFACE;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// All bytes so far are a proper prefix of the HTTP/2 preface (or there are none): read more.
    Undecided,
    /// The HTTP/2 preface (RFC 9113 3.4) is complete.
    Http2,
    /// Anything else: HTTP/1.1, or garbage that its parser will refuse.
    Http1,
}

/// Decides by the first bytes of a connection. At most 24 bytes are ever needed.
pub fn sniff(bytes: &[u8]) -> Protocol {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        Protocol::Http1
    } else if common == PREFACE.len() {
        Protocol::Http2
    } else {
        Protocol::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_told_from_everything_else() {
        let cases: [(&[u8], Protocol); 7] = [
            (b"", Protocol::Undecided),
            (b"P", Protocol::Undecided),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Protocol::Undecided),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04", Protocol::Http2),
            (b"POST /v3/kv/put HTTP/1.1\r\n", Protocol::Http1),
            (b"\x16\x03\x01", Protocol::Http1),
        ];
        for (bytes, want) in cases {
            assert_eq!(sniff(bytes), want, "{bytes:?}");
        }
    }
}
