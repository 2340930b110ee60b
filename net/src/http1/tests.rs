use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(50);

fn connection() -> Connection {
    Connection::new(1000, NOW)
}

fn output(connection: &mut Connection) -> String {
    let mut out = Vec::new();
    connection.poll_transmit(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_are_answered_one_after_the_other() {
    let mut c = connection();
    c.handle_bytes(NOW, b"GET /health?serializable=true HTTP/1.1\r\nHost: h:2379\r\nOrigin: http://o\r\n\r\nHEAD /x HTTP/1.1\r\nhost: h\r\n\r\n");
    let request = c.poll_request().unwrap();
    let want = Request {
        method: HttpMethod::Get,
        path: "/health".into(),
        query: "serializable=true".into(),
        host: Some("h:2379".into()),
        origin: Some("http://o".into()),
        body: vec![],
    };
    assert_eq!(request, want);
    assert_eq!(c.poll_request(), None, "the first is not answered yet");
    c.respond(200, "application/json", &[("X-A", "b\r\nInjected: c")], b"{}");
    assert_eq!(
        output(&mut c),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: b  Injected: c\r\nContent-Length: 2\r\n\r\n{}"
    );
    assert_eq!(c.poll_request().unwrap().method, HttpMethod::Head);
    c.respond(404, "text/plain", &[], b"not here");
    assert_eq!(
        output(&mut c),
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n"
    );
    assert!(!c.is_finished());
}

#[test]
fn connections_end_when_asked_to() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
    ];
    for (text, ends) in cases {
        let mut c = connection();
        c.handle_bytes(NOW, text.as_bytes());
        c.poll_request().unwrap();
        assert!(!c.is_finished());
        c.respond(200, "", &[], b"");
        assert_eq!(output(&mut c).contains("Connection: close"), ends, "{text}");
        assert_eq!(c.is_finished(), ends, "{text}");
        assert_eq!(c.wants_read(), !ends, "{text}");
    }
    let mut c = connection();
    c.handle_bytes(NOW, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    c.shutdown();
    c.poll_request().unwrap();
    c.respond(200, "", &[], b"last");
    assert!(output(&mut c).ends_with("Connection: close\r\n\r\nlast"));
    assert!(c.is_finished());
}

#[test]
fn bad_requests_are_refused_and_their_connection_closed() {
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let endless = format!("GET /{}", "x".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(101));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (&long, 431),
        (&endless, 431),
        (&many, 431),
    ];
    for (text, status) in cases {
        let mut c = connection();
        c.handle_bytes(NOW, text.as_bytes());
        assert_eq!(c.poll_request(), None);
        let out = output(&mut c);
        assert!(out.starts_with(&format!("HTTP/1.1 {status} ")), "{text:.60}: {out}");
        assert!(out.contains("Connection: close\r\n") && c.is_finished() && !c.wants_read());
    }
}

#[test]
fn what_is_no_http_gets_no_answer() {
    for text in
        ["\x16\x03\x01\x02\x00", "INVALID CONNECTION PREFACE\r\n\r\n", "GET / HTTP/3.1\r\n\r\n", "\x00"]
    {
        let mut c = connection();
        c.handle_bytes(NOW, text.as_bytes());
        assert_eq!((c.poll_request(), output(&mut c)), (None, String::new()), "{text:?}");
        assert!(c.is_finished() && !c.wants_read());
    }
}

#[test]
fn targets_are_split() {
    let cases = [
        ("/", Ok(("/", ""))),
        ("/a?b=c?d", Ok(("/a", "b=c?d"))),
        ("/a?b#c", Ok(("/a", "b"))),
        ("*", Ok(("*", ""))),
        ("http://h:1/a?b", Ok(("/a", "b"))),
        ("http://h", Ok(("/", ""))),
        ("ftp://h/", Err(Refusal(400))),
        ("a", Err(Refusal(400))),
    ];
    for (target, want) in cases {
        assert_eq!(split_target(target), want, "{target}");
    }
}

#[test]
fn a_body_is_waited_for() {
    let mut c = connection();
    c.handle_bytes(NOW, b"POST /v3 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(output(&mut c), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(c.poll_request(), None);
    c.handle_bytes(NOW, b"hel");
    assert_eq!(c.poll_request(), None);
    c.handle_bytes(NOW, b"loGET");
    assert_eq!(c.poll_request().unwrap().body, b"hello");
}

#[test]
fn slow_and_idle_clients_are_given_up() {
    let mut silent = connection();
    assert_eq!(silent.next_timeout(), Some(NOW + REQUEST_TIME));
    silent.handle_timeout(NOW + REQUEST_TIME);
    assert!(silent.is_finished());
    let mut slow = connection();
    slow.handle_bytes(NOW + Duration::from_secs(9), b"GET /");
    let at = slow.next_timeout().unwrap();
    assert_eq!(at, NOW + Duration::from_secs(19));
    slow.handle_bytes(NOW + Duration::from_secs(18), b"x");
    assert_eq!(slow.next_timeout(), Some(at), "dribbling does not help");
    slow.handle_timeout(at);
    assert!(output(&mut slow).starts_with("HTTP/1.1 408 ") && slow.is_finished());
    let mut idle = connection();
    idle.handle_bytes(NOW, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    idle.poll_request().unwrap();
    assert_eq!(idle.next_timeout(), None, "the server may take its time");
    idle.respond(200, "", &[], b"");
    assert_eq!(idle.next_timeout(), Some(NOW + IDLE_TIME));
    output(&mut idle);
    idle.handle_timeout(NOW + IDLE_TIME);
    assert!(idle.is_finished());
}

#[test]
fn a_client_that_sends_ahead_is_not_read() {
    let mut c = connection();
    c.handle_bytes(NOW, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    c.poll_request().unwrap();
    c.handle_bytes(NOW, &[b'G'; HEADER_SIZE_MAX]);
    assert!(!c.wants_read());
    c.respond(200, "", &[], b"");
    assert!(c.wants_read() || c.is_finished() || c.has_output());
}

proptest! {
    #[test]
    fn any_cut_means_the_same_and_garbage_never_panics(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut bytes = b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world".to_vec();
        bytes.extend(garbage);
        let mut c = connection();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (part, next) = rest.split_at(rest.len().min(*cut));
            c.handle_bytes(NOW, part);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        let request = c.poll_request().unwrap();
        prop_assert_eq!(request.body, b"hello world");
        c.respond(200, "", &[], b"");
        let _ = c.poll_request();
    }
}
