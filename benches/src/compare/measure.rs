//! Runs one row against one server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use prost::Message;
use rustix::event::{PollFd, PollFlags};
use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, request_op,
};
use testkit::{Client, Cluster, Program, Server, ServerOptions, process};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::h2load::{self, Load};
use crate::raw::Connection;
use crate::rows::{KEY, LIST_KEYS, LIST_PREFIX, Read, Row, Work, list_key, prefix_end, put, value};

/// What a run of a row gave; what a row does not have is NaN.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Operations per second; for watches, events.
    pub rate: f64,
    /// Mean and 99th percentile of the time an operation takes, in µs.
    pub mean_us: f64,
    /// See `mean_us`.
    pub p99_us: f64,
    /// CPU time of all members per operation, in µs; for `idle`, the share of one core in percent.
    pub cpu_us: f64,
    /// `RssAnon` of all members after the work, in MiB.
    pub anonymous_mib: f64,
    /// From exec to serving: on an empty directory, or for `memory-…` after a kill -9; in ms.
    pub start_ms: f64,
    /// `memory-…` only: `RssAnon` after the restart, in MiB.
    pub restarted_mib: f64,
}

impl Measured {
    /// Nothing measured.
    pub const NONE: Measured = Measured {
        rate: f64::NAN,
        mean_us: f64::NAN,
        p99_us: f64::NAN,
        cpu_us: f64::NAN,
        anonymous_mib: f64::NAN,
        start_ms: f64::NAN,
        restarted_mib: f64::NAN,
    };
}

/// For times of up to a minute in ns: three digits are kept, so a percentile is right to 0.1 %.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("three digits are allowed")
}

/// Starts `program` afresh and runs `row` for about `seconds`.
pub fn measure(row: &Row, program: &Program, seconds: f64) -> Result<Measured, String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let options = ServerOptions::new(program.clone()).arg("--quota-backend-bytes=8589934592");
    let cluster = Cluster::start(options, row.members);
    let everybody: Vec<usize> = (0..row.members).collect();
    let leader = runtime.block_on(cluster.leader(&everybody));
    let run = Run { cluster, leader, runtime, seconds };
    match row.work {
        Work::Put { connections, in_flight } => run.puts(connections, in_flight),
        Work::Read { read, connections, in_flight } => run.reads(read, connections, in_flight),
        Work::Watch { connections, watches } => run.watch(connections, watches),
        Work::Memory { keys } => run.memory(keys),
        Work::Idle => run.idle(),
    }
}

/// One server or one cluster under one kind of work.
struct Run {
    cluster: Cluster,
    /// The number of the member that leads and gets the load.
    leader: usize,
    runtime: Runtime,
    seconds: f64,
}

impl Run {
    fn puts(self, connections: usize, in_flight: usize) -> Result<Measured, String> {
        let mut done = 0;
        let before = self.position()?;
        let measured = self.load("Put", &put(), connections, in_flight, |report, requests| {
            done += requests;
            match report.succeeded == requests {
                true => Ok(()),
                false => Err(format!("{} of {requests} puts succeeded", report.succeeded)),
            }
        })?;
        let after = self.position()?;
        let made = after.revision - before.revision;
        if made != done as i64 {
            return Err(format!("{done} puts were answered, but the revision moved by {made}"));
        }
        if after.term != before.term {
            return Err("there was an election meanwhile".to_owned());
        }
        Ok(measured)
    }

    fn reads(self, read: Read, connections: usize, in_flight: usize) -> Result<Measured, String> {
        let request = read.request();
        let answer_len = self.runtime.block_on(async {
            let mut client = self.server().client().await;
            client.kv.put(put()).await.map_err(|status| status.to_string())?;
            if !matches!(read, Read::Get { .. }) {
                load_list(&mut client).await?;
            }
            let answer =
                client.kv.range(request.clone()).await.map_err(|status| status.to_string())?.into_inner();
            let of = if matches!(read, Read::Get { .. }) { 1 } else { LIST_KEYS as i64 };
            if (answer.kvs.len(), answer.count) != (read.rows(), of) {
                return Err(format!("a read answers {} rows of {}", answer.kvs.len(), answer.count));
            }
            Ok(5 + answer.encoded_len())
        })?;
        self.load("Range", &request, connections, in_flight, |report, requests| {
            let want = (requests * answer_len) as u64;
            match report.data_bytes == want {
                true => Ok(()),
                false => Err(format!("answers of {} bytes instead of {want}", report.data_bytes)),
            }
        })
    }

    /// Finds how many requests fill the time, runs them, and checks each report.
    fn load(
        &self,
        method: &str,
        message: &impl Message,
        connections: usize,
        in_flight: usize,
        mut check: impl FnMut(&h2load::Report, usize) -> Result<(), String>,
    ) -> Result<Measured, String> {
        let body = self.scratch("body");
        h2load::write_body(&body, message).map_err(|error| error.to_string())?;
        let url = format!("{}/etcdserverpb.KV/{method}", self.server().url());
        let load = |requests| Load { url: &url, body: &body, connections, in_flight, requests };
        let per_round = connections * in_flight;
        // Warm up twice: the first finds the order of magnitude, the second takes about half a second.
        let mut requests = per_round * 4;
        let mut rate = 0.0;
        for _ in 0..2 {
            let report = h2load::run(&load(requests))?;
            check(&report, requests)?;
            rate = report.rate;
            requests = requests_for(rate, 0.5, per_round);
        }
        let requests = requests_for(rate, self.seconds, per_round);
        let before = self.cpu()?;
        let report = h2load::run(&load(requests))?;
        let cpu_us = (self.cpu()? - before).as_secs_f64() * 1e6 / requests as f64;
        check(&report, requests)?;
        let anonymous_mib = self.anonymous_mib()?;

        let requests = requests_for(rate, 1.0, per_round);
        let (logged, p99_us) = h2load::run_p99(&load(requests), &self.scratch("requests"))?;
        check(&logged, requests)?;
        Ok(Measured {
            rate: report.rate,
            mean_us: report.mean_us,
            p99_us,
            cpu_us,
            anonymous_mib,
            ..Measured::NONE
        })
    }

    /// A put; all its events; the next put. So the rate is of whole rounds, not of what fits into buffers.
    fn watch(self, connections: usize, watches: usize) -> Result<Measured, String> {
        let address = SocketAddr::from((self.server().address(), 2379));
        let mut watchers =
            Watchers::open(address, connections, watches).map_err(|error| error.to_string())?;
        let before = self.position()?.revision;
        let mut round_ns = histogram();
        let put = put().encode_to_vec();
        let mut round = || watchers.round(&put).map_err(|error| error.to_string());
        for _ in 0..200 {
            round()?;
        }
        let (started, cpu) = (Instant::now(), self.cpu()?);
        while started.elapsed().as_secs_f64() < self.seconds {
            let start = Instant::now();
            round()?;
            round_ns.saturating_record(start.elapsed().as_nanos() as u64);
        }
        let elapsed = started.elapsed().as_secs_f64();
        let cpu_us = (self.cpu()? - cpu).as_secs_f64() * 1e6;
        let rounds = round_ns.len();
        let made = self.position()?.revision - before;
        if made != 200 + rounds as i64 {
            return Err(format!("{rounds} rounds and 200 before them, but the revision moved by {made}"));
        }
        let events = (rounds * watches as u64) as f64;
        Ok(Measured {
            rate: events / elapsed,
            mean_us: round_ns.mean() / 1e3,
            p99_us: round_ns.value_at_quantile(0.99) as f64 / 1e3,
            cpu_us: cpu_us / events,
            anonymous_mib: self.anonymous_mib()?,
            ..Measured::NONE
        })
    }

    fn memory(mut self, keys: usize) -> Result<Measured, String> {
        let (started, cpu) = (Instant::now(), self.cpu()?);
        self.runtime.block_on(load_keys(self.server(), keys))?;
        let rate = keys as f64 / started.elapsed().as_secs_f64();
        let cpu_us = (self.cpu()? - cpu).as_secs_f64() * 1e6 / keys as f64;
        let anonymous_mib = self.anonymous_mib()?;
        self.cluster.member(self.leader).restart();
        let start_ms = self.server().ready_after().as_secs_f64() * 1e3;
        let count = RangeRequest {
            key: LIST_PREFIX.into(),
            range_end: prefix_end(LIST_PREFIX),
            count_only: true,
            ..Default::default()
        };
        let found = self.runtime.block_on(async {
            let mut client = self.server().client().await;
            client.kv.range(count).await.map_err(|status| status.to_string())
        })?;
        let found = found.into_inner().count;
        if found != keys as i64 {
            return Err(format!("{keys} keys were put and {found} are there after kill -9"));
        }
        let restarted_mib = self.anonymous_mib()?;
        Ok(Measured { rate, cpu_us, anonymous_mib, start_ms, restarted_mib, ..Measured::NONE })
    }

    fn idle(self) -> Result<Measured, String> {
        // Members of a cluster wait for each other; that is another start.
        let is_alone = self.cluster.members().len() == 1;
        let start_ms = if is_alone { self.server().ready_after().as_secs_f64() * 1e3 } else { f64::NAN };
        std::thread::sleep(Duration::from_secs(2)); // what follows a start is not idleness
        let seconds = self.seconds.max(10.0);
        let before = self.cpu()?;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let percent = (self.cpu()? - before).as_secs_f64() / seconds * 100.0;
        Ok(Measured { cpu_us: percent, start_ms, anonymous_mib: self.anonymous_mib()?, ..Measured::NONE })
    }

    /// The member that gets the load.
    fn server(&self) -> &Server {
        &self.cluster.members()[self.leader]
    }

    fn cpu(&self) -> Result<Duration, String> {
        let members = self.cluster.members().iter();
        members.map(|member| process::cpu_time(member.pid()).map_err(|error| error.to_string())).sum()
    }

    fn anonymous_mib(&self) -> Result<f64, String> {
        let members = self.cluster.members().iter();
        let bytes = members
            .map(|member| {
                Ok(process::memory(member.pid()).map_err(|error| error.to_string())?.anonymous as f64)
            })
            .sum::<Result<f64, String>>()?;
        Ok(bytes / (1 << 20) as f64)
    }

    fn position(&self) -> Result<Position, String> {
        self.runtime.block_on(async {
            let mut client = self.server().client().await;
            let answer = client.kv.range(RangeRequest { key: KEY.into(), ..Default::default() }).await;
            let header =
                answer.map_err(|status| status.to_string())?.into_inner().header.ok_or("no header")?;
            Ok(Position { revision: header.revision, term: header.raft_term })
        })
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.server().data_dir().with_file_name(name)
    }
}

/// How far the store is, by the header of an answer.
struct Position {
    revision: i64,
    term: u64,
}

/// So many requests as take `seconds` at `rate`, in whole rounds.
fn requests_for(rate: f64, seconds: f64, per_round: usize) -> usize {
    ((rate * seconds) as usize / per_round).max(4) * per_round
}

/// Watches on the key that is put, over one or more connections, and one more connection that puts.
struct Watchers {
    writer: Connection,
    readers: Vec<Connection>,
    watches: usize,
}

impl Watchers {
    fn open(address: SocketAddr, connections: usize, watches: usize) -> io::Result<Self> {
        let create = WatchCreateRequest { key: KEY.into(), ..Default::default() };
        let create =
            WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }.encode_to_vec();
        let mut readers = Vec::new();
        for _ in 0..connections {
            let mut connection = Connection::connect(address)?;
            for _ in 0..watches / connections {
                connection.open("/etcdserverpb.Watch/Watch", &create, false)?;
            }
            readers.push(connection);
        }
        let mut watchers = Self { writer: Connection::connect(address)?, readers, watches };
        watchers.read_messages(watches)?; // each says that it was created
        Ok(watchers)
    }

    fn round(&mut self, put: &[u8]) -> io::Result<()> {
        self.writer.open("/etcdserverpb.KV/Put", put, true)?;
        let watches = self.watches;
        self.read_messages(watches)?;
        while self.writer.read()?.ended == 0 {}
        Ok(())
    }

    /// Reads until `count` messages have come on all watches together.
    fn read_messages(&mut self, count: usize) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let ready: Vec<bool> = {
                let mut sockets: Vec<_> =
                    self.readers.iter().map(|reader| PollFd::new(reader.socket(), PollFlags::IN)).collect();
                rustix::event::poll(&mut sockets, None)?;
                sockets.iter().map(|socket| !socket.revents().is_empty()).collect()
            };
            for (reader, _) in self.readers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                let messages = reader.read()?.messages;
                left =
                    left.checked_sub(messages).ok_or_else(|| io::Error::other("more events than watches"))?;
            }
        }
        Ok(())
    }
}

/// Puts the keys that lists are made of, 100 to a transaction.
async fn load_list(client: &mut Client) -> Result<(), String> {
    for batch in 0..LIST_KEYS / 100 {
        let success = (batch * 100..(batch + 1) * 100)
            .map(|i| PutRequest { key: list_key(i), value: value(i, 1024), ..Default::default() })
            .map(|put| RequestOp { request: Some(request_op::Request::RequestPut(put)) })
            .collect();
        let txn = TxnRequest { success, ..Default::default() };
        client.kv.txn(txn).await.map_err(|status| status.to_string())?;
    }
    Ok(())
}

/// Puts `keys` keys of 1 KiB, one request each, over 10 connections with 64 in flight on each.
async fn load_keys(server: &Server, keys: usize) -> Result<(), String> {
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let client = server.client().await;
        for _ in 0..64 {
            let (mut client, next) = (client.clone(), next.clone());
            tasks.spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= keys {
                        return Ok(());
                    }
                    let put = PutRequest { key: list_key(i), value: value(i, 1024), ..Default::default() };
                    client.kv.put(put).await.map_err(|status| format!("put {i}: {status}"))?;
                }
            });
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.map_err(|error| error.to_string())??;
    }
    Ok(())
}
