//! From a header block to a typed head: RFC 9113's rules for fields, and a cache of recently seen heads.
//!
//! A client that calls in a loop sends the same few bytes as header block again and again, because its encoder has put
//! the fields into the dynamic table. Such a block, as long as the table stands as it is (same `generation`) and if it
//! did not change the table itself, always decodes to the same head. So the block's bytes are the key of a small cache.

use crate::h2::error::{ConnectionError, ErrorCode};
use crate::h2::field::Field;
use crate::h2::hpack::decoder::{DecodeError, Decoder};
use crate::h2::limits::{HEADER_FIELDS_MAX, HEADER_LIST_SIZE_MAX};

/// What the fields of a header block are decoded into. Nothing else is kept of them.
pub trait Head: Clone + Default {
    /// Takes one well-formed field, pseudo fields included.
    fn field(&mut self, field: Field, name: &[u8], value: &[u8]);
}

/// What a block is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The head of a request.
    Request,
    /// The head of a response.
    Response,
    /// The trailers of either.
    Trailers,
}

/// A decoded block.
#[derive(Clone, Debug, Default)]
pub struct Decoded<H> {
    /// The fields.
    pub head: H,
    /// The `content-length`.
    pub content_length: Option<u64>,
    /// Which of RFC 9113's rules is broken: a stream error.
    pub malformed: Option<&'static str>,
    /// More fields or bytes than we said we accept.
    pub too_large: bool,
}

const CACHED: usize = 8;
const CACHED_BLOCK_SIZE_MAX: usize = 512;

#[derive(Debug)]
struct Cached<H> {
    generation: u64,
    block: Box<[u8]>,
    decoded: Decoded<H>,
}

/// Decoder and cache of one connection.
#[derive(Debug)]
pub struct Heads<H> {
    decoder: Decoder,
    cache: Vec<Cached<H>>,
    next: usize,
}

impl<H> Default for Heads<H> {
    fn default() -> Heads<H> {
        Heads { decoder: Decoder::default(), cache: Vec::new(), next: 0 }
    }
}

impl<H: Head> Heads<H> {
    /// Decodes a whole block.
    #[inline]
    pub fn decode(&mut self, block: &[u8], expect: Expect) -> Result<Decoded<H>, ConnectionError> {
        if expect != Expect::Trailers {
            let generation = self.decoder.generation();
            for cached in &self.cache {
                if cached.generation == generation && *cached.block == *block {
                    return Ok(cached.decoded.clone());
                }
            }
        }
        self.decode_afresh(block, expect)
    }

    fn decode_afresh(&mut self, block: &[u8], expect: Expect) -> Result<Decoded<H>, ConnectionError> {
        let generation = self.decoder.generation();
        let mut rules = Rules::new(expect);
        let mut decoded = Decoded::<H>::default();
        let result = self.decoder.decode(block, |field, name, value| {
            rules.check(field, value);
            if rules.is_kept() {
                decoded.head.field(field, name, value);
            }
        });
        let list_size = match result {
            Ok(size) => size,
            Err(DecodeError::TooLarge) => {
                return Err(ConnectionError {
                    code: ErrorCode::EnhanceYourCalm,
                    reason: "header list too large",
                });
            }
            Err(DecodeError::Malformed(reason)) => {
                return Err(ConnectionError { code: ErrorCode::Compression, reason });
            }
        };
        rules.check_end();
        decoded.content_length = rules.content_length;
        decoded.malformed = rules.broken;
        decoded.too_large = list_size > HEADER_LIST_SIZE_MAX || rules.fields > HEADER_FIELDS_MAX;
        let unchanged = self.decoder.generation() == generation;
        if unchanged && expect != Expect::Trailers && block.len() <= CACHED_BLOCK_SIZE_MAX {
            self.remember(Cached { generation, block: block.into(), decoded: decoded.clone() });
        }
        Ok(decoded)
    }

    fn remember(&mut self, cached: Cached<H>) {
        if self.cache.len() < CACHED {
            self.cache.push(cached);
        } else {
            self.cache[self.next] = cached;
            self.next = (self.next + 1) % CACHED;
        }
    }
}

/// RFC 9113 8.2 and 8.3, field by field.
struct Rules {
    expect: Expect,
    seen: u32, // bit set of Field, for those that may come once
    pseudo_is_over: bool,
    connect: bool,
    fields: usize,
    content_length: Option<u64>,
    broken: Option<&'static str>,
}

impl Rules {
    fn new(expect: Expect) -> Rules {
        Rules {
            expect,
            seen: 0,
            pseudo_is_over: false,
            connect: false,
            fields: 0,
            content_length: None,
            broken: None,
        }
    }

    /// Is the field just checked worth keeping? After the first broken rule or beyond the limit nothing is.
    fn is_kept(&self) -> bool {
        self.broken.is_none() && self.fields <= HEADER_FIELDS_MAX
    }

    fn check(&mut self, field: Field, value: &[u8]) {
        self.fields += 1;
        let rule = match field {
            Field::Malformed => Err("malformed field"),
            Field::ConnectionSpecific => Err("connection-specific field"),
            Field::UnknownPseudo => Err("unknown pseudo field"),
            Field::Te if value != b"trailers" => Err("te other than trailers"),
            Field::ContentLength => self.check_content_length(value),
            _ if field.is_pseudo() => self.check_pseudo(field, value),
            Field::Host => self.once(field),
            _ => Ok(()),
        };
        self.pseudo_is_over |= !field.is_pseudo();
        if let Err(reason) = rule {
            self.broken.get_or_insert(reason);
        }
    }

    fn check_pseudo(&mut self, field: Field, value: &[u8]) -> Result<(), &'static str> {
        match (self.expect, field) {
            _ if self.pseudo_is_over => return Err("pseudo field after a regular field"),
            (Expect::Trailers, _) => return Err("pseudo field in trailers"),
            (Expect::Request, Field::Status) => return Err(":status in a request"),
            (Expect::Response, Field::Status) | (Expect::Request, _) => {}
            (Expect::Response, _) => return Err("request field in a response"),
        }
        match field {
            Field::Path if value.is_empty() => return Err("empty :path"),
            Field::Method if value.is_empty() => return Err("empty :method"),
            Field::Method => self.connect = value == b"CONNECT",
            _ => {}
        }
        self.once(field)
    }

    fn once(&mut self, field: Field) -> Result<(), &'static str> {
        let bit = 1 << field as u32;
        if self.seen & bit != 0 {
            return Err("a field that may come once came twice");
        }
        self.seen |= bit;
        Ok(())
    }

    fn check_content_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        if !digits {
            return Err("content-length is no number");
        }
        let length = value.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
        match self.content_length.replace(length) {
            Some(before) if before != length => Err("two content-lengths"),
            _ => Ok(()),
        }
    }

    fn check_end(&mut self) {
        let required: &[Field] = match self.expect {
            Expect::Request => &[Field::Method, Field::Scheme, Field::Path],
            Expect::Response => &[Field::Status],
            Expect::Trailers => &[],
        };
        if self.connect {
            self.broken.get_or_insert("CONNECT is not served");
        }
        if required.iter().any(|&field| self.seen & 1 << field as u32 == 0) {
            self.broken.get_or_insert("a required pseudo field is missing");
        }
    }
}

const _: () = assert!((Field::Malformed as u32) < 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::hpack::encoder::{Encoder, Header};

    #[derive(Clone, Default, Debug, PartialEq)]
    struct List(Vec<(String, String)>);

    impl Head for List {
        fn field(&mut self, _: Field, name: &[u8], value: &[u8]) {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            self.0.push((text(name), text(value)));
        }
    }

    fn block(encoder: &mut Encoder, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let fields: Vec<_> = text.split_whitespace().map(|f| f.split_once('=').unwrap()).collect();
        encoder.encode(fields.iter().map(|(n, v)| Header::new(n.as_bytes(), v.as_bytes())), &mut out);
        out
    }

    fn check(expect: Expect, fields: &str) -> Option<&'static str> {
        let block = block(&mut Encoder::default(), fields);
        Heads::<List>::default().decode(&block, expect).unwrap().malformed
    }

    #[test]
    fn malformed_requests_are_told_why() {
        let ok = ":method=POST :scheme=http :path=/x";
        let cases = [
            (":method=POST :scheme=http :path=/x", None),
            (":method=POST :scheme=http :path=/x :authority=a host=a te=trailers x=y", None),
            (":method=POST :scheme=http", Some("a required pseudo field is missing")),
            (":method=POST :path=/x", Some("a required pseudo field is missing")),
            (":scheme=http :path=/x", Some("a required pseudo field is missing")),
            (":method=POST :scheme=http :path=", Some("empty :path")),
            (
                ":method=POST :method=POST :scheme=http :path=/x",
                Some("a field that may come once came twice"),
            ),
            (":method=POST :scheme=http x=y :path=/x", Some("pseudo field after a regular field")),
            (":method=POST :scheme=http :path=/x :status=200", Some(":status in a request")),
            (":method=POST :scheme=http :path=/x :nope=1", Some("unknown pseudo field")),
            (":method=CONNECT :scheme=http :path=/x", Some("CONNECT is not served")),
        ];
        for (fields, want) in cases {
            assert_eq!(check(Expect::Request, fields), want, "{fields}");
        }
        let more = [
            ("connection=close", "connection-specific field"),
            ("te=gzip", "te other than trailers"),
            ("Upper=1", "malformed field"),
            ("content-length=", "content-length is no number"),
            ("content-length=-1", "content-length is no number"),
            ("content-length=99999999999999999999", "content-length is no number"),
            ("content-length=1 content-length=2", "two content-lengths"),
            ("host=a host=b", "a field that may come once came twice"),
        ];
        for (fields, want) in more {
            assert_eq!(check(Expect::Request, &format!("{ok} {fields}")), Some(want), "{fields}");
        }
        assert_eq!(check(Expect::Trailers, "grpc-status=0"), None);
        assert_eq!(check(Expect::Trailers, ":path=/x"), Some("pseudo field in trailers"));
        assert_eq!(check(Expect::Response, ":status=200 a=b"), None);
        assert_eq!(check(Expect::Response, ":path=/x"), Some("request field in a response"));
        assert_eq!(check(Expect::Response, "a=b"), Some("a required pseudo field is missing"));
    }

    #[test]
    fn too_many_fields_or_bytes_are_refused_and_not_kept() {
        let (mut encoder, mut heads) = (Encoder::default(), Heads::<List>::default());
        let many = format!(":method=POST :scheme=http :path=/x {}", "a=b ".repeat(98));
        let decoded = heads.decode(&block(&mut encoder, &many), Expect::Request).unwrap();
        assert!(decoded.too_large);
        assert_eq!(decoded.head.0.len(), 100);
        let large = format!(":method=POST :scheme=http :path=/x a={}", "v".repeat(16_384));
        assert!(heads.decode(&block(&mut encoder, &large), Expect::Request).unwrap().too_large);
        let fatal = format!(":method=POST :scheme=http :path=/x a={}", "v".repeat(65_536));
        let error = heads.decode(&block(&mut encoder, &fatal), Expect::Request).unwrap_err();
        assert_eq!(error.code, ErrorCode::EnhanceYourCalm);
    }

    #[test]
    fn a_cached_block_is_forgotten_when_the_table_changes() {
        let (mut encoder, mut heads) = (Encoder::default(), Heads::<List>::default());
        let request = ":method=POST :scheme=http :path=/x a=b";
        let first = heads.decode(&block(&mut encoder, request), Expect::Request).unwrap().head;
        for turn in 0..5 {
            let bytes = block(&mut encoder, request);
            assert_eq!(heads.decode(&bytes, Expect::Request).unwrap().head, first, "turn {turn}");
        }
        assert_eq!(heads.cache.len(), 1, "the block that inserted is not cached, the others are one");
        // Index 62 and 63 mean other fields now; the same bytes must not be answered from the cache.
        let old = block(&mut encoder, request);
        let other = block(&mut encoder, ":method=POST :scheme=http :path=/x c=d");
        heads.decode(&other, Expect::Request).unwrap();
        let head = heads.decode(&old, Expect::Request).unwrap().head;
        assert_ne!(head, first);
    }

    #[test]
    fn the_cache_is_bounded() {
        let (mut encoder, mut heads) = (Encoder::default(), Heads::<List>::default());
        for n in 0..100 {
            let mut bytes = block(&mut encoder, ":method=POST :scheme=http");
            encoder.encode([Header::varying(b":path", format!("/{n}").as_bytes())], &mut bytes);
            heads.decode(&bytes, Expect::Request).unwrap();
        }
        assert_eq!(heads.cache.len(), CACHED);
    }
}
