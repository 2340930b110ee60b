//! Pulled answers: order, fairness, windows, stalls, breaks.

use std::time::Duration;

use super::*;
use crate::grpc::{Code, Method};

fn assert_pattern(message: &[u8], length: u64) {
    assert_eq!(message.len() as u64, length);
    assert!(message.iter().zip(0..).all(|(&b, at)| b == pattern(at)));
}

fn start(pair: &mut Pair, method: Method) -> (CallId, CallId) {
    let call = pair.client.call(method, b"list").unwrap();
    pair.pump();
    let server_call = request_of(pair.server_events().last().unwrap()).0;
    (call, server_call)
}

#[test]
fn a_pulled_answer_of_any_length_arrives_whole() {
    for length in [0, 1, 16_378, 16_379, 16_380, 65_536, 3_000_000] {
        let mut pair = Pair::new();
        let (call, server_call) = start(&mut pair, Method::KvRange);
        pair.pull_reply(server_call, length);
        pair.pump();
        let events = pair.client_events();
        let ClientEvent::Message { message, .. } = &events[0] else { panic!("{events:?}") };
        assert_pattern(message, length);
        assert_eq!(closed(&events), [(call, Status::OK)]);
        assert_eq!(pair.server.open_calls(), 0);
    }
}

#[test]
fn messages_and_pulled_messages_keep_their_order() {
    let mut pair = Pair::new();
    let (_, server_call) = start(&mut pair, Method::KvRangeStream);
    pair.server.send_raw(server_call, b"first");
    pair.bodies.bodies.push((server_call, 0, 40_000));
    pair.server.send_pulled(server_call, 40_000);
    pair.server.send_raw(server_call, b"last");
    pair.server.finish(server_call, &Status::OK);
    pair.pump();
    let messages: Vec<usize> = pair
        .client_events()
        .iter()
        .map(|e| if let ClientEvent::Message { message, .. } = e { message.len() } else { usize::MAX })
        .collect();
    assert_eq!(messages, [5, 40_000, 4, usize::MAX]);
}

#[test]
fn a_short_answer_passes_a_long_one() {
    let mut pair = Pair::new();
    let (_, list) = start(&mut pair, Method::KvRange);
    pair.pull_reply(list, 1_000_000);
    pair.feed_client(1);
    let (get, server_get) = start_without_pump(&mut pair);
    pair.server.reply_raw(server_get, b"short");
    pair.feed_client(1);
    let events = pair.client_events();
    assert!(matches!(&events[..], [ClientEvent::Message { call, .. }, ..] if *call == get), "{events:?}");
    pair.pump();
    assert_eq!(pair.client_events().len(), 2);
}

fn start_without_pump(pair: &mut Pair) -> (CallId, CallId) {
    let call = pair.client.call(Method::KvRange, b"get").unwrap();
    pair.feed_server();
    let server_call = request_of(pair.server_events().last().unwrap()).0;
    (call, server_call)
}

#[test]
fn long_answers_take_turns_frame_by_frame() {
    let mut pair = Pair::new();
    let (a, server_a) = start(&mut pair, Method::KvRange);
    let (b, server_b) = start(&mut pair, Method::KvRange);
    pair.pull_reply(server_a, 300_000);
    pair.pull_reply(server_b, 100_000);
    let mut frames = Vec::new();
    for _ in 0..8 {
        let mut out = Vec::new();
        pair.server.poll_transmit(pair.now, &mut out, 1, &mut pair.bodies);
        frames.extend(super::attacks::frames(&out).into_iter().filter(|f| f.kind == 0).map(|f| f.stream));
        pair.client.handle_bytes(pair.now, &out);
    }
    let (a_id, b_id) = (a.0.id(), b.0.id());
    assert_eq!(frames, [a_id, b_id, a_id, b_id, a_id, b_id, a_id, b_id]);
    pair.pump();
    assert_eq!(closed(&pair.client_events()), [(b, Status::OK), (a, Status::OK)]);
}

#[test]
fn a_flood_of_short_answers_does_not_starve_a_list() {
    let mut pair = Pair::new();
    let (list, server_list) = start(&mut pair, Method::KvRange);
    pair.pull_reply(server_list, 500_000);
    for _ in 0..40 {
        let (_, get) = start_without_pump(&mut pair);
        pair.server.reply_raw(get, &[1; 4000]);
        pair.feed_client(1000);
    }
    let events = pair.client_events();
    assert!(closed(&events).contains(&(list, Status::OK)));
}

#[test]
fn a_body_with_nothing_at_hand_waits_without_stopping_others() {
    let mut pair = Pair::new();
    let (_, a) = start(&mut pair, Method::KvRange);
    let (b, server_b) = start(&mut pair, Method::KvRange);
    pair.pull_reply(a, 100_000);
    pair.pull_reply(server_b, 100_000);
    pair.bodies.hold = Some(a);
    pair.pump();
    assert_eq!(closed(&pair.client_events()), [(b, Status::OK)]);
    let fills = pair.bodies.fills;
    assert!(!pair.server.poll_transmit(pair.now, &mut Vec::new(), 1 << 20, &mut pair.bodies));
    assert_eq!(pair.bodies.fills, fills + 1, "it is asked once per call, not in a loop");
    pair.bodies.hold = None;
    pair.pump();
    assert_eq!(pair.client_events().len(), 2);
}

#[test]
fn a_body_that_breaks_before_its_first_byte_becomes_a_status() {
    let mut pair = Pair::new();
    let (call, server_call) = start(&mut pair, Method::KvRange);
    let status = Status::new(Code::DataLoss, "etcdserver: corrupt");
    pair.bodies.abort_at = Some((0, status.clone()));
    pair.pull_reply(server_call, 100_000);
    pair.pump();
    assert_eq!(closed(&pair.client_events()), [(call, status)]);
    assert_eq!((pair.server.open_calls(), pair.server.error()), (0, None));
}

#[test]
fn a_body_that_breaks_later_resets_its_stream() {
    for at in [10, 16_379, 20_000, 99_999] {
        let mut pair = Pair::new();
        let (call, server_call) = start(&mut pair, Method::KvRange);
        pair.bodies.abort_at = Some((at, Status::new(Code::DataLoss, "")));
        pair.pull_reply(server_call, 100_000);
        pair.pump();
        let ended = closed(&pair.client_events());
        assert_eq!(
            (ended[0].0, ended[0].1.code),
            (call, if at == 10 { Code::DataLoss } else { Code::Internal })
        );
        assert_eq!((pair.server.open_calls(), pair.server.queued_bytes(server_call)), (0, 0));
        let again = pair.client.call(Method::KvRange, b"");
        assert!(again.is_some() && pair.server.error().is_none());
    }
}

#[test]
fn a_reader_that_stalls_costs_nothing_more_and_is_reset_after_a_minute() {
    let mut pair = Pair::new();
    let (_, list) = start(&mut pair, Method::KvRange);
    pair.pull_reply(list, 100 << 20);
    // The client's machine is never fed, so it gives no window back.
    let mut out = Vec::new();
    while pair.server.poll_transmit(pair.now, &mut out, 1 << 16, &mut pair.bodies) {}
    assert!(out.len() < 5 << 20, "no more than the windows: {}", out.len());
    let (fills, held) = (pair.bodies.fills, pair.server.held_bytes());
    assert!(held < 1000);
    let begin = pair.now;
    while let Some(at) = pair.server.next_timeout().filter(|at| *at <= begin + Duration::from_secs(70)) {
        pair.now = at;
        pair.server.handle_timeout(at);
        pair.server.poll_transmit(at, &mut out, 1 << 16, &mut pair.bodies);
    }
    assert_eq!(pair.bodies.fills, fills);
    assert_eq!(pair.server_events(), [Event::Canceled { call: list }]);
    assert_eq!(pair.server.queued_bytes(list), 0);
    let last = super::attacks::frames(&out).pop().unwrap();
    assert_eq!((last.kind, last.stream), (3, list.0.id()), "RST_STREAM");
    pair.server.release(list);
    assert_eq!(pair.server.open_calls(), 0);
}

#[test]
fn a_watch_may_be_blocked_for_any_time() {
    let mut pair = Pair::new();
    let call = pair.client.open(Method::Watch, &[], None).unwrap();
    pair.pump();
    let events = pair.server_events();
    let [Event::Open { call: watch, .. }] = &events[..] else { panic!("{events:?}") };
    let mut out = Vec::new();
    for _ in 0..200 {
        pair.server.send_raw(*watch, &[1; 10_000]);
    }
    while pair.server.poll_transmit(pair.now, &mut out, 1 << 16, &mut ()) {}
    assert!(pair.server.queued_bytes(*watch) > 0, "what the server looks at before it sends more");
    for _ in 0..100 {
        pair.now += Duration::from_secs(5);
        pair.server.handle_timeout(pair.now);
    }
    assert!(pair.server_events().is_empty());
    pair.client.handle_bytes(pair.now, &out);
    pair.pump();
    assert_eq!(pair.client_events().len(), 200);
    pair.client.cancel(call);
}

#[test]
fn pings_between_the_frames_of_a_long_answer_are_no_strikes() {
    // grpc-go measures the bandwidth of a transfer by pings.
    let mut pair = Pair::new();
    let (_, list) = start(&mut pair, Method::KvRange);
    pair.pull_reply(list, 10 << 20);
    for _ in 0..20 {
        pair.feed_client(1 << 16);
        pair.server.handle_bytes(pair.now, &super::attacks::frame(6, 0, 0, &[0; 8]));
        pair.feed_server();
        assert!(pair.server.error().is_none());
    }
}

#[test]
fn a_reset_while_the_body_is_pulled_is_told() {
    let mut pair = Pair::new();
    let (call, list) = start(&mut pair, Method::KvRange);
    pair.pull_reply(list, 10 << 20);
    pair.feed_client(1 << 16);
    pair.client.cancel(call);
    pair.pump();
    assert_eq!(pair.server_events(), [Event::Canceled { call: list }]);
    assert_eq!((pair.server.open_calls(), pair.server.queued_bytes(list)), (0, 0));
}
