//! RFC 7541, appendix C, and properties of decoder and encoder together.

use proptest::prelude::*;

use super::decoder::{DecodeError, Decoder};
use super::encoder::{Encoder, Header, Indexing, Prepared};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| char::from(b).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, DecodeError> {
    let mut list = Vec::new();
    decoder.decode(block, |_, name, value| {
        list.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
    })?;
    Ok(list)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

#[test]
fn single_fields_of_the_rfc() {
    // RFC 7541 C.2: block, field, table size afterwards
    let cases = [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            ("custom-key", "custom-header"),
            55,
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", (":path", "/sample/path"), 0),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", ("password", "secret"), 0),
        ("82", (":method", "GET"), 0),
    ];
    for (block, field, size) in cases {
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(&[field])));
        assert_eq!(decoder.table_size(), size);
    }
}

const REQUEST: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

#[test]
fn request_sequences_of_the_rfc() {
    // RFC 7541 C.3 (plain) and C.4 (Huffman): three requests on one connection, table size after each
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::default();
        for ((block, want), size) in blocks.iter().zip(REQUEST).zip([57, 110, 164]) {
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(want)));
            assert_eq!(decoder.table_size(), size);
        }
    }
    // The encoder gives exactly the bytes of C.4.
    let mut encoder = Encoder::default();
    for (block, list) in huffman.iter().zip(REQUEST) {
        let mut out = Vec::new();
        encoder.encode(list.iter().map(|(n, v)| Header::new(n.as_bytes(), v.as_bytes())), &mut out);
        assert_eq!(out, hex(block));
    }
}

#[test]
fn response_sequence_of_the_rfc_with_eviction() {
    // RFC 7541 C.6: Huffman-coded, with a table of 256 bytes, which a size update asks for here.
    let blocks = [
        "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
         1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let date1 = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let location = ("location", "https://www.example.com");
    let private = ("cache-control", "private");
    let want: [&[(&str, &str)]; 3] = [
        &[(":status", "302"), private, date1, location],
        &[(":status", "307"), private, date1, location],
        &[
            (":status", "200"),
            private,
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ],
    ];
    let mut decoder = Decoder::default();
    for ((block, want), size) in blocks.iter().zip(want).zip([222, 222, 215]) {
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(want)));
        assert_eq!(decoder.table_size(), size);
    }
}

#[test]
fn broken_blocks_are_refused() {
    let cases = [
        ("80", "index 0"),
        ("be", "index beyond the table"),
        ("ff 80 80 80 80 80 01", "an index of six bytes"),
        ("40", "no name"),
        ("40 03 61", "a string beyond the block"),
        ("82 20", "a size update after a field"),
        ("3f e2 1f", "a size update beyond our setting"),
        ("20 20 20", "three size updates"),
        ("00 84 ff ff ff ff 00", "EOS in a string"),
        ("00 81 ff 00", "padding of eight bits"),
    ];
    for (block, why) in cases {
        assert!(
            matches!(decode(&mut Decoder::default(), &hex(block)), Err(DecodeError::Malformed(_))),
            "{why}"
        );
    }
}

#[test]
fn a_bomb_of_indexed_fields_is_counted_each_time() {
    let mut encoder = Encoder::default();
    let mut block = Vec::new();
    let value = vec![b'v'; 4000];
    encoder.encode([Header::new(b"bomb", &value)], &mut block);
    block.extend(std::iter::repeat_n(0xbe, 16_000));
    let mut emitted = 0;
    let result = Decoder::default().decode(&block, |_, _, _| emitted += 1);
    assert_eq!(result, Err(DecodeError::TooLarge));
    assert!(emitted <= 65_536 / 4036 + 1, "{emitted}");
}

#[test]
fn a_smaller_table_is_announced_and_obeyed() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let headers = || [Header::new(b"a", b"1"), Header::new(b"b", b"2")];
    for (sizes, want) in [(vec![], 68), (vec![40], 34), (vec![0, 4096], 68), (vec![0], 0), (vec![9000], 68)] {
        sizes.into_iter().for_each(|size| encoder.handle_table_size(size));
        let mut block = Vec::new();
        encoder.encode(headers(), &mut block);
        assert_eq!(decode(&mut decoder, &block), Ok(pairs(&[("a", "1"), ("b", "2")])));
        assert_eq!((encoder.table_size(), decoder.table_size()), (want, want));
    }
}

#[test]
fn secrets_are_never_indexed() {
    let mut block = Vec::new();
    let secret = Header { name: b"authorization", value: b"s", indexing: Indexing::Never };
    let mut encoder = Encoder::default();
    encoder.encode([secret], &mut block);
    assert_eq!(block[0] & 0xf0, 0x10);
    assert_eq!(encoder.table_size(), 0);
}

static PREPARED: [Header<'static>; 2] =
    [Header::new(b":status", b"200"), Header::new(b"content-type", b"application/grpc")];

#[test]
fn a_prepared_block_follows_the_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut prepared = Prepared::new(&PREPARED);
    let mut lengths = Vec::new();
    for turn in 0..6 {
        if turn == 3 {
            encoder.encode([Header::new(b"x", b"y")], &mut Vec::new());
            decode(&mut decoder, &hex("40 01 78 01 79")).unwrap();
        }
        if turn == 5 {
            encoder.handle_table_size(0);
        }
        let mut block = Vec::new();
        prepared.encode(&mut encoder, &mut block);
        let want = pairs(&[(":status", "200"), ("content-type", "application/grpc")]);
        assert_eq!(decode(&mut decoder, &block), Ok(want), "turn {turn}");
        lengths.push(block.len());
    }
    assert_eq!(lengths[1..5], [2, 2, 2, 2]);
    assert!(lengths[0] > 2 && lengths[5] > 2);
}

fn a_field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Indexing)> {
    let indexing = prop_oneof![Just(Indexing::Incremental), Just(Indexing::Without), Just(Indexing::Never)];
    (prop::collection::vec(b'a'..=b'd', 1..4), prop::collection::vec(any::<u8>(), 0..20), indexing)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        blocks in prop::collection::vec(
            (prop::collection::vec(a_field(), 0..10), prop::option::of(0u32..6000)), 0..20),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (fields, resize) in blocks {
            if let Some(size) = resize {
                encoder.handle_table_size(size);
            }
            let mut block = Vec::new();
            encoder.encode(
                fields.iter().map(|(name, value, indexing)| Header { name, value, indexing: *indexing }),
                &mut block,
            );
            let mut got = Vec::new();
            decoder.decode(&block, |_, n, v| got.push((n.to_vec(), v.to_vec()))).unwrap();
            let want: Vec<_> = fields.into_iter().map(|(n, v, _)| (n, v)).collect();
            prop_assert_eq!(got, want);
            prop_assert_eq!(encoder.table_size(), decoder.table_size());
        }
    }

    #[test]
    fn garbage_never_panics_and_the_table_stays_bounded(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let _ = decoder.decode(&block, |_, _, _| ());
            prop_assert!(decoder.table_size() <= 4096);
        }
    }
}
