//! Figures side by side, their ratios, and the targets.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::measure::Measured;
use crate::rows::{Row, Work};

/// All runs of one row.
#[derive(Debug)]
pub struct Outcome {
    row: Row,
    /// Runs against etcd.
    pub etcd: Vec<Result<Measured, String>>,
    /// Runs against ringd.
    pub ringd: Vec<Result<Measured, String>>,
}

impl Outcome {
    /// No run yet.
    pub fn new(row: Row) -> Self {
        Self { row, etcd: Vec::new(), ringd: Vec::new() }
    }

    fn sides(&self) -> [(&'static str, &[Result<Measured, String>]); 2] {
        [("etcd", &self.etcd), ("ringd", &self.ringd)]
    }

    /// The block of lines for one row: each server, then the ratios.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.row.name);
        for (name, runs) in self.sides() {
            for error in runs.iter().filter_map(|run| run.as_ref().err()) {
                let _ = writeln!(text, "  {name:6} FAILED: {error}");
            }
            if let Some(figures) = median(runs) {
                let _ = writeln!(text, "  {name:6}{}", self.figures(&figures));
            }
        }
        if let Some(ratios) = self.ratios() {
            let _ = writeln!(text, "  {:6}{}", "ratio", self.ratio_text(&ratios));
        }
        text
    }

    fn figures(&self, of: &Measured) -> String {
        let cpu = match self.row.work {
            Work::Idle => format!("{:.2} % of a core", of.cpu_us),
            Work::Read { .. } | Work::Put { .. } | Work::Memory { .. } => {
                format!("{:.1} us CPU/op", of.cpu_us)
            }
            Work::Watch { .. } => format!("{:.2} us CPU/event", of.cpu_us),
        };
        let mut parts = vec![cpu];
        let mut part = |value: f64, text: String| {
            if !value.is_nan() {
                parts.push(text);
            }
        };
        part(of.rate, format!("{:.0}/s", of.rate));
        part(of.mean_us, format!("mean {:.0} us", of.mean_us));
        part(of.p99_us, format!("p99 {:.0} us", of.p99_us));
        part(of.anonymous_mib, format!("{:.0} MiB anonymous", of.anonymous_mib));
        part(of.start_ms, format!("ready after {:.0} ms", of.start_ms));
        part(of.restarted_mib, format!("then {:.0} MiB anonymous", of.restarted_mib));
        parts.join(", ")
    }

    fn ratios(&self) -> Option<Measured> {
        let (etcd, ringd) = (median(&self.etcd)?, median(&self.ringd)?);
        Some(etcd.zip(&ringd, |etcd, ringd| ringd / etcd))
    }

    fn ratio_text(&self, ratios: &Measured) -> String {
        let mut text = format!("CPU {:.3}", ratios.cpu_us);
        let verdict = |met: bool| if met { "met" } else { "MISSED" };
        if let Some(limit) = self.row.cpu_at_most {
            let _ = write!(text, " (at most {limit:.3}: {})", verdict(ratios.cpu_us <= limit));
        }
        if !ratios.rate.is_nan() {
            let _ = write!(text, ", rate {:.2}x", ratios.rate);
        }
        if let Some(limit) = self.row.rate_at_least {
            let _ = write!(text, " (at least {limit:.2}x: {})", verdict(ratios.rate >= limit));
        }
        let _ = write!(text, ", anonymous memory {:.2}", ratios.anonymous_mib);
        if !ratios.start_ms.is_nan() {
            let _ = write!(text, ", start {:.2}", ratios.start_ms);
        }
        text
    }

    fn misses_target(&self) -> bool {
        self.ratios().is_some_and(|ratios| {
            self.row.cpu_at_most.is_some_and(|limit| ratios.cpu_us > limit)
                || self.row.rate_at_least.is_some_and(|limit| ratios.rate < limit)
        })
    }

    fn json(&self) -> Value {
        let runs = |runs: &[Result<Measured, String>]| -> Vec<Value> {
            runs.iter()
                .map(|run| match run {
                    Ok(figures) => figures.json(),
                    Err(error) => json!({ "error": error }),
                })
                .collect()
        };
        json!({
            "row": self.row.name,
            "cpu_at_most": self.row.cpu_at_most,
            "rate_at_least": self.row.rate_at_least,
            "etcd": runs(&self.etcd),
            "ringd": runs(&self.ringd),
        })
    }
}

impl Measured {
    fn zip(&self, other: &Measured, f: impl Fn(f64, f64) -> f64) -> Measured {
        Measured {
            rate: f(self.rate, other.rate),
            mean_us: f(self.mean_us, other.mean_us),
            p99_us: f(self.p99_us, other.p99_us),
            cpu_us: f(self.cpu_us, other.cpu_us),
            anonymous_mib: f(self.anonymous_mib, other.anonymous_mib),
            start_ms: f(self.start_ms, other.start_ms),
            restarted_mib: f(self.restarted_mib, other.restarted_mib),
        }
    }

    fn json(&self) -> Value {
        // JSON has no NaN: what a row lacks is null.
        let value = |figure: f64| if figure.is_nan() { Value::Null } else { json!(figure) };
        json!({
            "rate_per_s": value(self.rate),
            "mean_us": value(self.mean_us),
            "p99_us": value(self.p99_us),
            "cpu_us_per_op": value(self.cpu_us),
            "anonymous_mib": value(self.anonymous_mib),
            "start_ms": value(self.start_ms),
            "restarted_anonymous_mib": value(self.restarted_mib),
        })
    }
}

/// The median of each figure over the runs that succeeded; none if none did.
fn median(runs: &[Result<Measured, String>]) -> Option<Measured> {
    let good: Vec<&Measured> = runs.iter().filter_map(|run| run.as_ref().ok()).collect();
    let middle = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = good.iter().map(|run| figure(run)).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    (!good.is_empty()).then(|| Measured {
        rate: middle(|run| run.rate),
        mean_us: middle(|run| run.mean_us),
        p99_us: middle(|run| run.p99_us),
        cpu_us: middle(|run| run.cpu_us),
        anonymous_mib: middle(|run| run.anonymous_mib),
        start_ms: middle(|run| run.start_ms),
        restarted_mib: middle(|run| run.restarted_mib),
    })
}

/// All rows.
#[derive(Debug, Default)]
pub struct Table {
    outcomes: Vec<Outcome>,
}

impl Table {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more row.
    pub fn push(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Whether no run failed.
    pub fn is_complete(&self) -> bool {
        self.outcomes
            .iter()
            .all(|outcome| outcome.sides().iter().all(|(_, runs)| runs.iter().all(Result::is_ok)))
    }

    /// Whether a measured ratio is on the wrong side of its target.
    pub fn misses_targets(&self) -> bool {
        self.outcomes.iter().any(Outcome::misses_target)
    }

    /// The ratios as a Markdown table.
    pub fn summary(&self) -> String {
        let mut text = "| row | etcd CPU us/op | ringd CPU us/op | ratio | etcd /s | ringd /s | ratio | etcd mean/p99 us | ringd mean/p99 us | etcd MiB | ringd MiB |\n|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for outcome in &self.outcomes {
            let none = Measured::NONE;
            let (etcd, ringd) =
                (median(&outcome.etcd).unwrap_or(none), median(&outcome.ringd).unwrap_or(none));
            let ratios = etcd.zip(&ringd, |etcd, ringd| ringd / etcd);
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.3} | {:.0} | {:.0} | {:.2} | {:.0}/{:.0} | {:.0}/{:.0} | {:.0} | {:.0} |",
                outcome.row.name,
                etcd.cpu_us,
                ringd.cpu_us,
                ratios.cpu_us,
                etcd.rate,
                ringd.rate,
                ratios.rate,
                etcd.mean_us,
                etcd.p99_us,
                ringd.mean_us,
                ringd.p99_us,
                etcd.anonymous_mib,
                ringd.anonymous_mib,
            );
        }
        text.replace("NaN", "–")
    }

    /// Every figure of every run.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self.outcomes.iter().map(Outcome::json).collect();
        format!(
            "{:#}\n",
            json!({ "schema": 1, "cpus": std::thread::available_parallelism().map_or(0, |n| n.get()), "rows": rows })
        )
    }
}
