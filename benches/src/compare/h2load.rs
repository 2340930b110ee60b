//! Drives a server with h2load and a prepared gRPC body, and reads its report.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use crate::measure;

/// What h2load is to do: the same request over and over.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// Where, with the method's path: `http://127.0.0.1:2379/etcdserverpb.KV/Put`.
    pub url: &'a str,
    /// A file with the framed message.
    pub body: &'a Path,
    /// How many connections (`-c`).
    pub connections: usize,
    /// How many requests in flight on each (`-m`).
    pub in_flight: usize,
    /// How many requests in all (`-n`).
    pub requests: usize,
}

/// What h2load says about a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Requests answered per second.
    pub rate: f64,
    /// Mean time from request to end of answer, in µs.
    pub mean_us: f64,
    /// Requests answered with HTTP status 200. A gRPC error counts too, so the caller checks what really happened.
    pub succeeded: usize,
    /// Bytes of DATA received.
    pub data_bytes: u64,
}

/// Writes `message` to `file` as gRPC sends it: flag 0, length, bytes.
pub fn write_body(file: &Path, message: &impl prost::Message) -> io::Result<()> {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut bytes).expect("a Vec takes any length");
    fs::File::create(file)?.write_all(&bytes)
}

/// Runs h2load once.
pub fn run(load: &Load<'_>) -> Result<Report, String> {
    parse(&call(load, None)?)
}

/// Runs h2load with a log of every request, which costs it time: its report, and the 99th percentile of the time per
/// request in µs.
pub fn run_p99(load: &Load<'_>, log: &Path) -> Result<(Report, f64), String> {
    let report = parse(&call(load, Some(log))?)?;
    let text = fs::read_to_string(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let _ = fs::remove_file(log);
    // h2load(1): start time, status code, microseconds until the end of the response; by tabs.
    let mut times_us = measure::histogram();
    for line in text.lines() {
        match line.split('\t').nth(2).and_then(|field| field.parse().ok()) {
            Some(time) => times_us.saturating_record(time),
            None => return Err(format!("unexpected line in h2load's log: {line:?}")),
        }
    }
    if times_us.is_empty() {
        return Err("h2load's log is empty".to_owned());
    }
    Ok((report, times_us.value_at_quantile(0.99) as f64))
}

fn call(load: &Load<'_>, log: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new("h2load");
    command
        .args(["-w24", "-W26", "-t1", "-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg(format!("-n{}", load.requests))
        .arg(format!("-c{}", load.connections))
        .arg(format!("-m{}", load.in_flight))
        .arg("-d")
        .arg(load.body);
    if let Some(log) = log {
        let _ = fs::remove_file(log); // h2load appends
        command.arg(format!("--log-file={}", log.display()));
    }
    let output = command.arg(load.url).output().map_err(|error| {
        format!("h2load can't be run ({error}); it is in Debian's package nghttp2-client")
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("h2load: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Report, String> {
    let lacks = |what: &str| format!("h2load's report has no {what}:\n{text}");
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).ok_or_else(|| lacks(start));
    // finished in 2.44s, 41020.36 req/s, 3.83MB/s
    let rate = line("finished in")?
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s")?.parse().ok())
        .ok_or_else(|| lacks("req/s"))?;
    // requests: 100000 total, 100000 started, 100000 done, 100000 succeeded, 0 failed, 0 errored, 0 timeout
    let succeeded = line("requests:")?
        .split(", ")
        .find_map(|part| part.strip_suffix(" succeeded")?.parse().ok())
        .ok_or_else(|| lacks("count of successes"))?;
    // traffic: 9.35MB (9800900) total, 1.72MB (1800330) headers (space savings 94.86%), 3.81MB (4000000) data
    let data_bytes = line("traffic:")?
        .split(", ")
        .find_map(|part| part.strip_suffix(") data")?.rsplit('(').next()?.parse().ok())
        .ok_or_else(|| lacks("data bytes"))?;
    // time for request:      345us     38.06ms      3.89ms      2.61ms    82.10%   (min, max, mean, sd, +/- sd)
    let mean_us = line("time for request:")?
        .split_whitespace()
        .nth(5)
        .and_then(microseconds)
        .ok_or_else(|| lacks("mean time"))?;
    Ok(Report { rate, mean_us, succeeded, data_bytes })
}

/// `345us`, `3.89ms`, `1.20s` in µs.
fn microseconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_report() {
        let text = "\
finished in 2.44s, 41020.36 req/s, 3.83MB/s
requests: 100000 total, 100000 started, 100000 done, 100000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 100000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 9.35MB (9800900) total, 1.72MB (1800330) headers (space savings 94.86%), 3.81MB (4000000) data
                     min         max         mean         sd        +/- sd
time for request:      345us     38.06ms      3.89ms      2.61ms    82.10%
time for connect:      167us       497us       294us       108us    60.00%
";
        let want = Report { rate: 41020.36, mean_us: 3890.0, succeeded: 100_000, data_bytes: 4_000_000 };
        assert_eq!(parse(text), Ok(want));
        for lost in ["finished", "requests", "traffic", "time for request"] {
            let without: String =
                text.lines().filter(|line| !line.starts_with(lost)).map(|l| format!("{l}\n")).collect();
            assert!(parse(&without).is_err(), "{lost}");
        }
    }

    #[test]
    fn reads_times() {
        for (text, want) in [
            ("345us", Some(345.0)),
            ("3.89ms", Some(3890.0)),
            ("1.5s", Some(1.5e6)),
            ("7", None),
            ("7min", None),
        ] {
            assert_eq!(microseconds(text), want, "{text}");
        }
    }
}
