//! Figures, and whether they reach the aims.

use std::fmt::Write;

use crate::noise::Kind;
use crate::probe::Puts;

/// What one measurement gave.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The puts.
    pub puts: Puts,
    /// Terms that began meanwhile.
    pub elections: u64,
    /// Heartbeats that the leader counts as missed.
    pub missed: f64,
    /// Of ringd's leader: so late, in µs, at most, were 99.9 % of the heartbeats, and how many those were.
    pub lateness_us: Option<(u64, u64)>,
    /// What the disturbance did.
    pub remark: String,
}

impl Measured {
    fn ms(&self, quantile: f64) -> f64 {
        self.puts.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn lateness(&self) -> String {
        match self.lateness_us {
            Some((u64::MAX, _)) => "beyond the last bucket".to_owned(),
            Some((us, count)) => format!("≤ {} ms of {count}", us as f64 / 1e3),
            None => "–".to_owned(),
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2}, p99.9 {:.2}, max {:.2}, {} puts, {} failed, {} elections, {} heartbeats missed, lateness p99.9 {} {}",
            self.ms(0.5),
            self.ms(0.99),
            self.ms(0.999),
            self.ms(1.0),
            self.puts.latency_us.len(),
            self.puts.failed,
            self.elections,
            self.missed,
            self.lateness(),
            self.remark,
        )
    }
}

/// All measurements.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(&'static str, Kind, Measured)>,
}

impl Table {
    /// One more.
    pub fn push(&mut self, server: &'static str, kind: Kind, measured: Measured) {
        self.rows.push((server, kind, measured));
    }

    fn of(&self, server: &str, kind: Kind) -> Option<&Measured> {
        self.rows.iter().find(|row| row.0 == server && row.1 == kind).map(|row| &row.2)
    }

    /// The highest p99 that ringd may have, in ms.
    fn p99_aim(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::None => None,
            Kind::Lists => Some(50.0),
            Kind::Cpu => Some(30.0),
            Kind::Disk => Some(self.of("etcd", kind)?.ms(0.99) / 2.0),
        }
    }

    /// Aims of ringd that were missed, in words.
    fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for (_, kind, measured) in self.rows.iter().filter(|row| row.0 == "ringd") {
            if let Some(aim) = self.p99_aim(*kind)
                && measured.ms(0.99) > aim
            {
                misses.push(format!("{kind}: p99 {:.1} ms, aim {aim:.1}", measured.ms(0.99)));
            }
            if measured.elections > 0 {
                misses.push(format!("{kind}: {} elections, aim 0", measured.elections));
            }
            if measured.puts.failed > 0 {
                misses.push(format!("{kind}: {} puts failed", measured.puts.failed));
            }
            if measured.lateness_us.is_none_or(|(us, _)| us > 5_000) {
                misses.push(format!("{kind}: heartbeats late, p99.9 {}, aim 5 ms", measured.lateness()));
            }
        }
        misses
    }

    /// Whether ringd misses one.
    pub fn misses_aims(&self) -> bool {
        !self.misses().is_empty()
    }

    /// A Markdown table and the aims that were missed.
    pub fn summary(&self) -> String {
        let mut text = "| disturbance | server | put p50 | p99 | p99.9 | max | elections | heartbeats missed | lateness p99.9 |\n|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for kind in Kind::ALL {
            for (server, _, of) in self.rows.iter().filter(|row| row.1 == kind) {
                let _ = writeln!(
                    text,
                    "| {kind} | {server} | {:.2} ms | {:.1} ms | {:.1} ms | {:.1} ms | {} | {} | {} |",
                    of.ms(0.5),
                    of.ms(0.99),
                    of.ms(0.999),
                    of.ms(1.0),
                    of.elections,
                    of.missed,
                    of.lateness(),
                );
            }
        }
        match self.misses() {
            misses if misses.is_empty() => text.push_str("\nringd misses no aim.\n"),
            misses => misses.iter().for_each(|miss| {
                let _ = writeln!(text, "\nMISSED: {miss}");
            }),
        }
        text
    }
}
