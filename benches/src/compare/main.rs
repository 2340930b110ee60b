//! Compares ringd with the real etcd: the same work, flags, disk and outside client for both.
//!
//! ```text
//! cargo run --release -p benches --bin compare                        every row
//! cargo run --release -p benches --bin compare -- put-1 list-10000    some rows
//! cargo run --release -p benches --bin compare -- --members 3         the rows of clusters
//! ```
//!
//! Each row starts each server afresh; the rows of clusters start three members on this machine and load their leader.
//! h2load (or, for watches, a bare HTTP/2 client) runs on the same CPUs as the servers, so the rates are of all together;
//! CPU per operation is that of all members, user and system, all threads. Puts are checked by the revision they moved and
//! the term that must not have changed, reads by the bytes of their answers: h2load itself counts HTTP 200 only.
//! The 99th percentile comes from a run of its own, because h2load's log of requests costs it time.

mod h2load;
mod measure;
mod raw;
mod report;
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use testkit::Program;

use crate::report::{Outcome, Table};
use crate::rows::{ROWS, Row};

/// Compares ringd with the real etcd, side by side.
#[derive(Debug, Parser)]
struct Args {
    /// Rows to run; none means all. See --list.
    rows: Vec<String>,
    /// Print the names of the rows.
    #[arg(long)]
    list: bool,
    /// Length of one measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Measurements of each row, etcd and ringd in turn; the median of each figure counts.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// The ringd to measure; built from this workspace if not given.
    #[arg(long)]
    ringd: Option<PathBuf>,
    /// Only rows with so many members: 1 or 3.
    #[arg(long)]
    members: Option<usize>,
    /// Only this server: etcd or ringd.
    #[arg(long)]
    only: Option<String>,
    /// Also write the figures as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        ROWS.iter().for_each(|row| println!("{}", row.name));
        return ExitCode::SUCCESS;
    }
    match compare(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was measured and, if that was asked, no target missed.
fn compare(args: &Args) -> Result<bool, String> {
    let rows = chosen(&args.rows, args.members)?;
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    let etcd = wanted("etcd").then(Program::etcd);
    let ringd = match wanted("ringd") {
        true => Some(Program::Ringd(match &args.ringd {
            Some(path) => path.clone(),
            None => build_ringd()?,
        })),
        false => None,
    };
    let mut table = Table::new();
    for row in rows {
        let mut outcome = Outcome::new(*row);
        for _ in 0..args.runs.max(1) {
            for (program, of) in [(&etcd, &mut outcome.etcd), (&ringd, &mut outcome.ringd)] {
                let Some(program) = program else { continue };
                of.push(measure::measure(row, program, args.seconds));
            }
        }
        println!("{}", outcome.text());
        table.push(outcome);
    }
    if let Some(file) = &args.json {
        std::fs::write(file, table.json()).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    println!("\n{}", table.summary());
    Ok(table.is_complete() && !(args.strict && table.misses_targets()))
}

fn chosen(names: &[String], members: Option<usize>) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        return Err(format!("no row is called {unknown}; see --list"));
    }
    let is_named = |row: &&Row| names.is_empty() || names.iter().any(|name| name == row.name);
    let rows: Vec<_> =
        ROWS.iter().filter(is_named).filter(|row| members.is_none_or(|size| size == row.members)).collect();
    if rows.is_empty() { Err("no row has so many members; see --list".to_owned()) } else { Ok(rows) }
}

fn build_ringd() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let release = program.parent().ok_or("this program lies in no directory")?;
    let target = release.parent().ok_or("this program lies in no target directory")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--release", "--bin", "ringd", "--target-dir"])
        .arg(target)
        .status();
    match status {
        Ok(status) if status.success() => Ok(target.join("release/ringd")),
        other => Err(format!("ringd can't be built: {other:?}")),
    }
}
