//! Puts at a fixed rate, whatever the server does (an open loop), and the time each takes from when it was due.

use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::process::setpriority_process;
use testkit::pb::PutRequest;
use testkit::{Client, pb::RangeRequest};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The key that is put.
const KEY: &str = "/registry/leases/kube-node-lease/ip-10-0-0-1";

/// What came of the puts.
#[derive(Clone, Debug)]
pub struct Puts {
    /// From due to answered, in µs; puts that failed are in it too.
    pub latency_us: Histogram<u64>,
    /// How many were answered with an error.
    pub failed: u64,
}

/// Puts `rate` times per second for `seconds`, on a thread of its own, and waits for all answers.
///
/// # Errors
/// No connection, or the revision did not move by the puts that were answered.
pub fn run(url: &str, rate: u32, seconds: f64) -> Result<Puts, String> {
    let url = url.to_owned();
    let thread = std::thread::spawn(move || {
        run_before_others();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(puts(&url, rate, seconds))
    });
    thread.join().map_err(|_| "the probe panicked".to_owned())?
}

/// Asks for the calling thread to run as if it were on another machine: what is measured is the servers' wait for a CPU.
/// Where the kernel refuses (no CAP_SYS_NICE), the client's own wait is in the figures of both servers.
fn run_before_others() {
    let thread = rustix::thread::gettid();
    let chrt =
        Command::new("chrt").args(["--rr", "--pid", "1", &thread.as_raw_nonzero().to_string()]).status();
    if !chrt.is_ok_and(|status| status.success()) {
        let _ = setpriority_process(Some(thread), -20);
    }
}

async fn puts(url: &str, rate: u32, seconds: f64) -> Result<Puts, String> {
    let client = Client::connect(url).await.map_err(|error| error.to_string())?;
    let before = revision(client.clone()).await?;
    let mut under_way = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(100);
    for number in 0..(f64::from(rate) * seconds) as u32 {
        let due = start + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        let mut kv = client.kv.clone();
        under_way.spawn(async move {
            let put = PutRequest { key: KEY.into(), value: vec![b'x'; 256], ..Default::default() };
            let answer = kv.put(put).await;
            (due.elapsed(), answer.is_ok())
        });
    }
    // Up to a minute, to 0.1 %.
    let mut latency_us = Histogram::new_with_max(60_000_000, 3).expect("three digits are allowed");
    let mut failed = 0;
    while let Some(result) = under_way.join_next().await {
        let (took, ok) = result.map_err(|error| error.to_string())?;
        latency_us.saturating_record(took.as_micros() as u64);
        failed += u64::from(!ok);
    }
    let made = revision(client).await? - before;
    let answered = (latency_us.len() - failed) as i64;
    // A put that failed may still have been applied.
    if made < answered || made > latency_us.len() as i64 {
        return Err(format!(
            "{answered} puts were answered, {failed} failed, and the revision moved by {made}"
        ));
    }
    Ok(Puts { latency_us, failed })
}

async fn revision(mut client: Client) -> Result<i64, String> {
    let answer = client.kv.range(RangeRequest { key: KEY.into(), ..Default::default() }).await;
    Ok(answer.map_err(|status| status.to_string())?.into_inner().header.ok_or("no header")?.revision)
}
