//! What a connection allocates, counted by the allocator itself.

use std::time::Duration;

use net::grpc::{Bodies, CallId, Client, ClientConfig, Config, Event, Fill, Method, Server};

#[global_allocator]
static ALLOCATOR: counted::Allocator = counted::Allocator;

const NOW: Duration = Duration::from_secs(1000);

/// A body of rows that lie somewhere else, as those of a list do.
struct Rows {
    row: &'static [u8],
    left: u64,
}

impl Bodies for Rows {
    fn fill(&mut self, _: CallId, max: usize, out: &mut Vec<u8>) -> Fill {
        let size = (self.left.min(max as u64) as usize).min(self.row.len());
        out.extend_from_slice(&self.row[..size]);
        self.left -= size as u64;
        if self.left == 0 { Fill::Done(size) } else { Fill::Wrote(size) }
    }
}

static ROW: [u8; 1024] = [7; 1024];

/// A server with one list request, and the client that made it.
fn list() -> (Server, Client, CallId) {
    let mut server = Server::new(Config::default(), NOW);
    let mut client = Client::new(ClientConfig::default(), NOW);
    client.call(Method::KvRange, b"all").unwrap();
    let mut bytes = Vec::new();
    client.poll_transmit(NOW, &mut bytes, usize::MAX);
    server.handle_bytes(NOW, &bytes);
    let Some(Event::Request { call, .. }) = server.poll_event() else { panic!("no request") };
    (server, client, call)
}

/// Sends a list of `length` bytes to a reader that gives windows back; counts what the server's calls allocate.
fn allocations_for(length: u64) -> (usize, isize) {
    let (mut server, _client, call) = list();
    let mut rows = Rows { row: &ROW, left: length };
    let mut out = Vec::with_capacity(1 << 18);
    // A peer with the largest windows, in frames: SETTINGS_INITIAL_WINDOW_SIZE and WINDOW_UPDATE.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
    let update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0];
    server.handle_bytes(NOW, &settings);
    server.handle_bytes(NOW, &update);
    let (count, live) = (counted::allocations(), counted::begin_peak());
    server.reply_pulled(call, length);
    let mut sent = 0;
    loop {
        out.clear();
        let more = server.poll_transmit(NOW, &mut out, 1 << 16, &mut rows);
        sent += out.len() as u64;
        if !more && out.is_empty() {
            break;
        }
    }
    assert!(sent > length && rows.left == 0, "{sent} of {length}");
    (counted::allocations() - count, counted::peak() - live)
}

#[test]
fn allocations_for_a_list_do_not_grow_with_its_length() {
    let (few, peak_of_few) = allocations_for(100_000);
    let (many, peak_of_many) = allocations_for(500_000_000);
    assert_eq!((few, peak_of_few), (many, peak_of_many));
    assert!(many < 20 && peak_of_many < 10_000, "{many} allocations, {peak_of_many} bytes");
}

#[test]
fn a_stalled_reader_of_a_large_list_costs_no_more_than_its_windows() {
    let (mut server, _client, call) = list();
    let mut rows = Rows { row: &ROW, left: 100 << 20 };
    let live = counted::begin_peak();
    server.reply_pulled(call, rows.left);
    let mut unread = Vec::new();
    for _ in 0..1000 {
        server.poll_transmit(NOW, &mut unread, 1 << 16, &mut rows);
    }
    let cost = counted::peak() - live;
    // One stream window of 1 MiB, which stands for the socket's buffers here, and what a growing Vec adds to it.
    assert!(cost < 2 << 20, "{cost}, with the bytes that the reader has not taken");
    assert!(server.queued_bytes(call) > 99 << 20);
}

#[test]
fn a_small_call_allocates_its_message_and_little_else() {
    let mut server = Server::new(Config::default(), NOW);
    let mut client = Client::new(ClientConfig::default(), NOW);
    let (mut up, mut down) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    let mut most = 0;
    for turn in 0..100 {
        client.call(Method::KvPut, &[1; 300]).unwrap();
        up.clear();
        client.poll_transmit(NOW, &mut up, usize::MAX);
        let before = counted::allocations();
        server.handle_bytes(NOW, &up);
        let event = server.poll_event();
        let Some(Event::Request { call, .. }) = &event else { panic!("{event:?}") };
        server.reply_raw(*call, b"revision");
        down.clear();
        server.poll_transmit(NOW, &mut down, usize::MAX, &mut ());
        if turn > 50 {
            most = most.max(counted::allocations() - before);
        }
        client.handle_bytes(NOW, &down);
        while client.poll_event().is_some() {}
    }
    assert!(most <= 2, "{most}");
}
