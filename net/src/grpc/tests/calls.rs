//! Calls as they should go.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::grpc::{Code, Method};
use crate::h2::Indexing;
use crate::pb::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};

#[test]
fn a_unary_call_is_answered() {
    use prost::Message;
    let mut pair = Pair::new();
    for n in 0..5i64 {
        let request =
            PutRequest { key: "k".into(), value: vec![7; 256].into(), lease: n, ..Default::default() };
        let call = pair.client.call(Method::KvPut, &request.encode_to_vec()).unwrap();
        pair.pump();
        let events = pair.server_events();
        let [Event::Request { call: server_call, method, metadata, deadline, message }] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!((*method, *deadline), (Method::KvPut, None));
        assert_eq!(*metadata, Default::default());
        assert_eq!(PutRequest::decode(message.clone()).unwrap(), request);
        let header = ResponseHeader { revision: n, ..Default::default() };
        let answer = PutResponse { header: Some(header), prev_kv: None };
        pair.server.reply(*server_call, &answer);
        assert_eq!(
            pair.next_client_event(),
            Some(ClientEvent::Message { call, message: answer.encode_to_vec().into() })
        );
        assert_eq!(pair.client.poll_event(), Some(ClientEvent::Closed { call, status: Status::OK }));
        assert_eq!((pair.server.open_calls(), pair.client.open_calls()), (0, 0));
        assert_eq!(pair.server.held_bytes(), 0);
    }
}

#[test]
fn metadata_and_deadline_arrive() {
    let mut pair = Pair::new();
    let metadata = [
        ("token".into(), "secret".into(), Indexing::Never),
        ("hasleader".into(), "true".into(), Indexing::Incremental),
        ("client-api-version".into(), "3.7".into(), Indexing::Incremental),
    ];
    for _ in 0..3 {
        let call = pair.client.open(Method::KvRange, &metadata, Some(Duration::from_secs(5))).unwrap();
        pair.client.send_last(call, b"");
        pair.pump();
        let events = pair.server_events();
        let [Event::Request { call, metadata, deadline, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(metadata.token.as_deref(), Some("secret"));
        assert_eq!(metadata.client_api_version.as_deref(), Some("3.7"));
        assert!(metadata.has_leader && !metadata.gateway);
        assert_eq!(*deadline, Some(pair.now + Duration::from_secs(5)));
        pair.server.reply_raw(*call, b"");
    }
}

#[test]
fn errors_are_trailers_only_with_their_text() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, b"x").unwrap();
    pair.pump();
    let server_call = request_of(&pair.server_events()[0]).0;
    let status = Status::new(Code::InvalidArgument, "etcdserver: key is not provided, 100 % sure\n");
    pair.server.finish(server_call, &status);
    assert_eq!(pair.next_client_event(), Some(ClientEvent::Closed { call, status }));
    assert_eq!(pair.server.open_calls(), 0);
}

#[test]
fn a_bidirectional_call_goes_both_ways() {
    let mut pair = Pair::new();
    let call = pair.client.open(Method::Watch, &[], None).unwrap();
    pair.client.send(call, b"create");
    pair.pump();
    let events = pair.server_events();
    let [Event::Open { call: watch, method: Method::Watch, .. }, Event::Message { message, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(message, "create");
    let watch = *watch;
    for n in 0..10 {
        pair.server.send_raw(watch, format!("event {n}").as_bytes());
    }
    pair.pump();
    let want: Vec<_> =
        (0..10).map(|n| ClientEvent::Message { call, message: format!("event {n}").into() }).collect();
    assert_eq!(pair.client_events(), want);
    pair.client.half_close(call);
    pair.pump();
    assert_eq!(pair.server_events(), [Event::HalfClose { call: watch }]);
    pair.server.send_raw(watch, b"still there");
    pair.server.finish(watch, &Status::new(Code::Canceled, "etcdserver: watch canceled"));
    pair.pump();
    let events = pair.client_events();
    assert_eq!(events[0], ClientEvent::Message { call, message: Bytes::from("still there") });
    assert_eq!(closed(&events), [(call, Status::new(Code::Canceled, "etcdserver: watch canceled"))]);
    assert_eq!((pair.server.open_calls(), pair.client.open_calls()), (0, 0));
}

#[test]
fn the_server_may_end_a_stream_that_the_client_keeps_open() {
    let mut pair = Pair::new();
    let call = pair.client.open(Method::LeaseKeepAlive, &[], None).unwrap();
    pair.pump();
    let events = pair.server_events();
    let [Event::Open { call: server_call, .. }] = &events[..] else { panic!("{events:?}") };
    pair.server.finish(*server_call, &Status::new(Code::Unavailable, "etcdserver: no leader"));
    pair.pump();
    assert_eq!(
        closed(&pair.client_events()),
        [(call, Status::new(Code::Unavailable, "etcdserver: no leader"))]
    );
    pair.client.send(call, b"late");
    pair.pump();
    assert_eq!((pair.server.open_calls(), pair.server.error()), (0, None));
}

#[test]
fn unknown_methods_are_answered_here() {
    let mut pair = Pair::new();
    let mut raw = super::attacks::Raw::new();
    raw.request(1, &[(":path", "/no.Such/Thing")], b"\0\0\0\0\0");
    raw.request(3, &[(":path", "/etcdserverpb.KV/Nope")], b"\0\0\0\0\0");
    pair.server = raw.server;
    assert!(pair.server_events().is_empty());
    let mut out = Vec::new();
    pair.server.poll_transmit(pair.now, &mut out, 1 << 16, &mut ());
    let text = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(pair.server.open_calls(), 0);
    let heads = super::attacks::heads(&out);
    assert_eq!(heads[0].1, "grpc-status=12 grpc-message=unknown service no.Such", "{text:?}");
    assert_eq!(heads[1].1, "grpc-status=12 grpc-message=unknown method Nope for service etcdserverpb.KV");
}

#[test]
fn a_canceled_call_is_told_and_its_place_is_kept_until_released() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, b"x").unwrap();
    pair.pump();
    let server_call = request_of(&pair.server_events()[0]).0;
    pair.client.cancel(call);
    pair.pump();
    assert_eq!(pair.server_events(), [Event::Canceled { call: server_call }]);
    assert_eq!(pair.server.open_calls(), 1);
    pair.server.reply_raw(server_call, b"too late");
    assert_eq!(pair.server.open_calls(), 0);
    pair.pump();
    assert!(pair.client_events().is_empty());
}

#[test]
fn a_call_canceled_before_it_started_never_starts() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, b"x").unwrap();
    pair.pump();
    pair.client.cancel(call);
    pair.pump();
    assert!(pair.server_events().is_empty());
    assert_eq!((pair.server.open_calls(), pair.server.held_bytes()), (0, 0));
}

#[test]
fn a_deadline_answers_and_cancels() {
    let mut pair = Pair::new();
    let timeout = Duration::from_millis(50);
    let call = pair.client.open(Method::KvPut, &[], Some(timeout)).unwrap();
    pair.client.send_last(call, b"x");
    pair.pump();
    let server_call = request_of(&pair.server_events()[0]).0;
    assert_eq!(pair.server.next_timeout(), Some(pair.now + timeout));
    pair.now += timeout;
    pair.server.handle_timeout(pair.now);
    assert_eq!(pair.server_events(), [Event::Canceled { call: server_call }]);
    pair.pump();
    let status = Status::new(Code::DeadlineExceeded, "context deadline exceeded");
    assert_eq!(closed(&pair.client_events()), [(call, status)]);
    pair.server.reply_raw(server_call, b"too late");
    assert_eq!(pair.server.open_calls(), 0);
}

#[test]
fn deadlines_of_answered_calls_do_not_pile_up() {
    let mut pair = Pair::new();
    for _ in 0..10_000 {
        let call = pair.client.open(Method::KvPut, &[], Some(Duration::from_secs(3600))).unwrap();
        pair.client.send_last(call, b"x");
        pair.pump();
        let server_call = request_of(&pair.server_events()[0]).0;
        pair.server.reply_raw(server_call, b"");
        pair.pump();
        pair.client_events();
    }
    assert!(pair.server.deadlines_len() <= 70, "{}", pair.server.deadlines_len());
}

#[test]
fn a_large_request_arrives_in_many_frames() {
    let mut pair = Pair::new();
    let message: Vec<u8> = (0..2_000_000).map(|n| (n % 253) as u8).collect();
    pair.client.call(Method::KvTxn, &message).unwrap();
    pair.client.call(Method::KvTxn, &message[1..]).unwrap();
    pair.pump();
    let events = pair.server_events();
    assert!(request_of(&events[0]).1 == message && request_of(&events[1]).1 == &message[1..]);
    assert_eq!(pair.server.held_bytes(), 0);
}

#[test]
fn a_request_over_the_limit_is_refused_by_its_prefix() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, &vec![0; 2_097_153]).unwrap();
    pair.pump();
    let message = "grpc: received message larger than max (2097153 vs. 2097152)";
    assert_eq!(closed(&pair.client_events()), [(call, Status::new(Code::ResourceExhausted, message))]);
    assert!(pair.server_events().is_empty());
    assert_eq!((pair.server.held_bytes(), pair.server.error()), (0, None));
}

#[test]
fn a_graceful_end_lets_calls_finish_and_takes_no_more() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, b"x").unwrap();
    pair.pump();
    let server_call = request_of(&pair.server_events()[0]).0;
    pair.server.shutdown();
    pair.pump();
    assert!(pair.client.is_draining());
    assert_eq!(pair.client.call(Method::KvPut, b"y"), None);
    assert!(!pair.server.is_finished());
    pair.server.reply_raw(server_call, b"done");
    pair.pump();
    assert_eq!(closed(&pair.client_events()), [(call, Status::OK)]);
    assert!(pair.server.is_finished());
}

#[test]
fn a_lost_connection_cancels_all_calls() {
    let mut pair = Pair::new();
    let call = pair.client.call(Method::KvPut, b"x").unwrap();
    let watch = pair.client.open(Method::Watch, &[], None).unwrap();
    pair.pump();
    let events = pair.server_events();
    pair.client.call(Method::KvPut, b"not yet started").unwrap();
    pair.pump();
    pair.server.close();
    let canceled = pair.server_events();
    assert_eq!(canceled.len(), 2);
    for event in events.iter().filter(|e| !matches!(e, Event::Message { .. })) {
        let (Event::Request { call, .. } | Event::Open { call, .. }) = event else { panic!("{event:?}") };
        assert!(canceled.contains(&Event::Canceled { call: *call }));
        pair.server.release(*call);
    }
    assert_eq!((pair.server.open_calls(), pair.server.held_bytes()), (0, 0));
    assert!(pair.server.is_finished());
    pair.client.close();
    let ended = closed(&pair.client_events());
    assert_eq!(ended.len(), 3);
    assert!(
        ended
            .iter()
            .all(|(c, s)| (*c == call || *c == watch || c.0.id() == 5) && s.code == Code::Unavailable)
    );
}

#[test]
fn a_dead_client_is_found_by_keepalive() {
    let config = Config {
        keepalive_interval: Duration::from_secs(10),
        keepalive_timeout: Duration::from_secs(3),
        ..Config::default()
    };
    let mut pair = Pair::with(config);
    assert_eq!(pair.server.next_timeout(), Some(pair.now + Duration::from_secs(10)));
    pair.now += Duration::from_secs(10);
    pair.server.handle_timeout(pair.now);
    pair.pump(); // the client answers
    assert_eq!(pair.server.next_timeout(), Some(pair.now + Duration::from_secs(10)));
    pair.now += Duration::from_secs(10);
    pair.server.handle_timeout(pair.now);
    pair.server.poll_transmit(pair.now, &mut Vec::new(), 1000, &mut ());
    pair.now += Duration::from_secs(3);
    assert!(!pair.server.is_finished());
    pair.server.handle_timeout(pair.now);
    assert!(pair.server.is_finished());
}

#[test]
fn plain_http_is_served_where_it_is_wanted() {
    let mut raw = super::attacks::Raw::new();
    raw.server.serve_plain_http();
    let fields = [
        (":method", "HEAD"),
        (":path", "/health?serializable=true"),
        ("host", "h:1"),
        ("content-type", "x/y"),
        ("origin", "o"),
    ];
    raw.request(1, &fields, b"ignored");
    let (call, request) = raw.server.poll_http().unwrap();
    let want = crate::http1::Request {
        method: crate::http1::HttpMethod::Head,
        path: "/health".into(),
        query: "serializable=true".into(),
        host: Some("h:1".into()),
        origin: Some("o".into()),
        body: vec![],
    };
    assert_eq!(request, want);
    assert_eq!((raw.server.poll_event(), raw.server.poll_http()), (None, None));
    raw.server.respond_http(call, 200, "application/json", &[("X-A", "b\nc")], b"{}");
    let get = [(":method", "GET"), (":path", "/metrics")];
    raw.head(3, 1, &get);
    let (call, _) = raw.server.poll_http().unwrap();
    raw.server.respond_http(call, 200, "text/plain", &[], &[b'm'; 40_000]);
    let out = raw.output();
    assert_eq!(super::attacks::heads(&out)[0].2, "200");
    let data: usize =
        super::attacks::frames(&out).iter().filter(|f| f.kind == 0).map(|f| f.payload.len()).sum();
    assert_eq!(data, 40_000, "none for HEAD");
    assert_eq!((raw.server.open_calls(), raw.server.held_bytes()), (0, 0));
}
