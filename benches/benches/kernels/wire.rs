//! HTTP/2 and gRPC, the server's side of puts of 256 B: bytes from the client to events, answers to bytes.
//!
//! The client is this project's; its work is not timed. Protobuf is not part of it: requests come out as bytes and the
//! answers go in encoded, as in the server.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use net::grpc::{Client, ClientConfig, ClientEvent, Code, Config, Event, Method, Server};
use net::pb::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};
use prost::Message;

const VALUE_SIZE: usize = 256;
const NOW: Duration = Duration::from_secs(1000);
/// More than any round's output.
const LIMIT: usize = 1 << 20;

/// A client and a server, joined.
struct Pair {
    client: Client,
    server: Server,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Pair {
    fn new() -> Pair {
        let key = "/registry/pods/default/pod-00012345".into();
        let request = PutRequest { key, value: vec![b'x'; VALUE_SIZE].into(), ..Default::default() };
        let header = ResponseHeader {
            cluster_id: 0xcdf8_181e_3277_6a4c,
            member_id: 0x8e9e_05c5_2164_694d,
            revision: 123_456,
            raft_term: 2,
        };
        let answer = PutResponse { header: Some(header), ..Default::default() };
        let mut pair = Pair {
            client: Client::new(ClientConfig::default(), NOW),
            server: Server::new(Config::default(), NOW),
            request: request.encode_to_vec(),
            answer: answer.encode_to_vec(),
        };
        // The prefaces, the settings and what acknowledges them.
        for _ in 0..4 {
            let bytes = pair.client_bytes();
            pair.server.handle_bytes(NOW, &bytes);
            let mut out = Vec::new();
            pair.server.poll_transmit(NOW, &mut out, LIMIT, &mut ());
            pair.client.handle_bytes(NOW, &out);
        }
        pair
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.client.poll_transmit(NOW, &mut bytes, LIMIT);
        bytes
    }

    /// What the client sends for `batch` calls at once.
    fn requests(&mut self, batch: usize) -> Vec<u8> {
        for _ in 0..batch {
            self.client.call(Method::KvPut, &self.request).expect("the connection takes calls");
        }
        self.client_bytes()
    }

    /// The measured part: takes what arrived and answers each request in it. Gives how many there were.
    fn serve(&mut self, arrived: &[u8], out: &mut Vec<u8>) -> usize {
        let mut served = 0;
        self.server.handle_bytes(NOW, arrived);
        while let Some(event) = self.server.poll_event() {
            if let Event::Request { call, message, .. } = event {
                black_box(&message);
                self.server.reply_raw(call, &self.answer);
                served += 1;
            }
        }
        self.server.poll_transmit(NOW, out, LIMIT, &mut ());
        served
    }

    /// The client takes the answers. Gives how many calls ended well.
    fn finish(&mut self, answers: &[u8]) -> usize {
        self.client.handle_bytes(NOW, answers);
        let events = std::iter::from_fn(|| self.client.poll_event());
        events.filter(|e| matches!(e, ClientEvent::Closed { status, .. } if status.code == Code::Ok)).count()
    }
}

/// The time of `iterations` batches.
fn time(pair: &mut Pair, batch: usize, iterations: u64) -> Duration {
    // Several rounds per reading of the clock, or its own time would show; all of them fit into the client's window.
    let rounds_max = (64 / batch).max(1) as u64;
    let (mut spent, mut done) = (Duration::ZERO, 0);
    let mut out = Vec::with_capacity(LIMIT);
    while done < iterations {
        let rounds = rounds_max.min(iterations - done) as usize;
        let arrived: Vec<Vec<u8>> = (0..rounds).map(|_| pair.requests(batch)).collect();
        out.clear();
        let mut served = 0;
        let started = Instant::now();
        for bytes in &arrived {
            served += pair.serve(bytes, &mut out);
        }
        spent += started.elapsed();
        assert_eq!(served, rounds * batch, "each request came out of the server");
        assert_eq!(pair.finish(&out), rounds * batch, "each answer reached the client");
        done += rounds as u64;
    }
    spent
}

/// Time per batch; criterion's `elem` are requests.
pub fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire: put of 256 B, decode and answer");
    for batch in [1, 100] {
        let mut pair = Pair::new();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("{batch} per read"), |bench| {
            bench.iter_custom(|iterations| time(&mut pair, batch, iterations));
        });
    }
    group.finish();
}
