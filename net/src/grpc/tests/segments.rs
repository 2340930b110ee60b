//! Cuts and garbage: any segmentation of the same bytes means the same; no bytes make a panic or unbounded memory.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::grpc::Method;
use crate::h2::{Indexing, PREFACE};

const NOW: Duration = Duration::from_secs(1000);

/// What a client says that makes a few calls, with its preface.
fn conversation(sizes: &[usize]) -> Vec<u8> {
    let mut client = Client::new(ClientConfig::default(), NOW);
    let mut bytes = Vec::new();
    client.poll_transmit(NOW, &mut bytes, usize::MAX);
    // The server's SETTINGS, so that the window does not hold the larger requests.
    let mut greeting = Vec::new();
    Server::new(Config::default(), NOW).poll_transmit(NOW, &mut greeting, usize::MAX, &mut ());
    client.handle_bytes(NOW, &greeting);
    let metadata = [("hasleader".into(), "true".into(), Indexing::Incremental)];
    let watch = client.open(Method::Watch, &metadata, None).unwrap();
    for (number, &size) in sizes.iter().enumerate() {
        client.call(Method::KvPut, &vec![number as u8; size]).unwrap();
        client.send(watch, &vec![number as u8; size % 100]);
    }
    let doomed = client.call(Method::KvTxn, b"never mind").unwrap();
    client.poll_transmit(NOW, &mut bytes, usize::MAX);
    client.cancel(doomed);
    client.half_close(watch);
    client.poll_transmit(NOW, &mut bytes, usize::MAX);
    bytes
}

fn events_of(server: &mut Server) -> Vec<Event> {
    std::iter::from_fn(|| server.poll_event()).collect()
}

/// Events (polled at the end) and output of a server that got `bytes` in these cuts.
fn outcome(bytes: &[u8], cuts: &[usize]) -> (Vec<Event>, Vec<u8>) {
    let mut server = Server::new(Config::default(), NOW);
    let mut rest = bytes;
    for cut in cuts.iter().copied().chain(std::iter::repeat(usize::MAX)) {
        if rest.is_empty() {
            break;
        }
        let (part, next) = rest.split_at(rest.len().min(cut));
        server.handle_bytes(NOW, part);
        rest = next;
    }
    let events = events_of(&mut server);
    let mut out = Vec::new();
    server.poll_transmit(NOW, &mut out, usize::MAX, &mut ());
    (events, out)
}

#[test]
fn byte_by_byte_means_the_same_as_all_at_once() {
    let bytes = conversation(&[0, 1, 100, 5000, 40_000]);
    let at_once = outcome(&bytes, &[]);
    assert_eq!(at_once.0.len(), 1 + 5 + 1 + 5, "Open, messages, HalfClose, requests");
    assert!(outcome(&bytes, &vec![1; bytes.len()]) == at_once);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cuts_mean_the_same(
        sizes in prop::collection::vec(0usize..20_000, 1..6),
        cuts in prop::collection::vec(1usize..3000, 0..60),
    ) {
        let bytes = conversation(&sizes);
        prop_assert!(outcome(&bytes, &cuts) == outcome(&bytes, &[]));
    }

    #[test]
    fn garbage_never_panics_nor_grows(
        garbage in prop::collection::vec(any::<u8>(), 0..3000),
        with_preface in any::<bool>(),
    ) {
        let mut server = Server::new(Config::default(), NOW);
        if with_preface {
            server.handle_bytes(NOW, PREFACE);
            server.handle_bytes(NOW, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        }
        server.handle_bytes(NOW, &garbage);
        events_of(&mut server);
        let mut out = Vec::new();
        server.poll_transmit(NOW, &mut out, 1 << 16, &mut ());
        prop_assert!(server.held_bytes() <= garbage.len() + out.len());
    }

    #[test]
    fn flipped_bits_never_panic(
        sizes in prop::collection::vec(0usize..2000, 1..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..10),
        cut in 1usize..500,
    ) {
        let mut bytes = conversation(&sizes);
        for (at, bit) in flips {
            let at = PREFACE.len() + at.index(bytes.len() - PREFACE.len());
            bytes[at] ^= 1 << bit;
        }
        let mut server = Server::new(Config::default(), NOW);
        let mut bodies = Patterns::default();
        for part in bytes.chunks(cut) {
            server.handle_bytes(NOW, part);
            for event in events_of(&mut server) {
                if let Event::Request { call, .. } = event {
                    bodies.bodies.push((call, 0, 30_000));
                    server.reply_pulled(call, 30_000);
                }
            }
            let mut out = Vec::new();
            server.poll_transmit(NOW, &mut out, 1 << 16, &mut bodies);
            // The client role must survive what the server says, too.
            let mut client = Client::new(ClientConfig::default(), NOW);
            client.handle_bytes(NOW, &out);
        }
        server.handle_timeout(NOW + Duration::from_secs(100));
    }

    #[test]
    fn frames_of_any_kind_in_any_order_never_panic(
        frames in prop::collection::vec(
            (0u8..12, any::<u8>(), 0u32..8, prop::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let mut raw = super::attacks::Raw::new();
        raw.head(1, 0, &[]);
        for (kind, flags, stream, payload) in frames {
            raw.feed(&super::attacks::frame(kind, flags, stream, &payload));
            events_of(&mut raw.server);
            raw.output();
        }
        prop_assert!(raw.server.held_bytes() < 10_000);
    }
}
