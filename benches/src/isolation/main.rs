//! How far work that is none of its business disturbs a cluster: ringd beside the real etcd, in one run.
//!
//! ```text
//! cargo run --release -p benches --bin isolation                    every disturbance
//! cargo run --release -p benches --bin isolation -- lists disk      some
//! ```
//!
//! Three members on one machine. One client puts at a fixed rate to the leader, whether or not the last put was answered;
//! a put's latency counts from the moment at which it was due, so a stall is counted with all that it held up. Meanwhile,
//! in turn: nothing; clients that list all keys over and over; processes that write files and sync them on the disk of the
//! data directories; processes that only spin. The clients, the noise and the servers share the CPUs; the thread that
//! puts and takes the time runs before all of them where that is permitted, as if it were on another machine.
//!
//! Elections are counted by terms, heartbeats that came too late as each server counts them: etcd those that its leader
//! missed, ringd all, by how late they were handed to the socket.

mod metrics;
mod noise;
mod probe;
#[path = "../compare/raw.rs"]
mod raw;
mod report;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use testkit::Program;

use crate::noise::Kind;
use crate::report::Table;

/// Puts on a disturbed cluster, ringd and the real etcd side by side.
#[derive(Debug, Parser)]
struct Args {
    /// Disturbances: none, lists, disk, cpu. Nothing means all.
    kinds: Vec<Kind>,
    /// Length of each measurement.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Puts per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// The ringd to measure.
    #[arg(long)]
    ringd: PathBuf,
    /// Only this server: etcd or ringd.
    #[arg(long)]
    only: Option<String>,
    /// Exit with 1 if an aim is missed.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("isolation: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether, if that was asked, no aim was missed.
fn run(args: &Args) -> Result<bool, String> {
    let kinds = if args.kinds.is_empty() { Kind::ALL.to_vec() } else { args.kinds.clone() };
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    let mut table = Table::default();
    let programs = [
        ("etcd", wanted("etcd").then(Program::etcd)),
        ("ringd", wanted("ringd").then(|| Program::Ringd(args.ringd.clone()))),
    ];
    for (name, program) in programs {
        let Some(program) = program else { continue };
        let site = work::Site::start(&program)?;
        for &kind in &kinds {
            let measured = site.measure(kind, args.rate, args.seconds)?;
            println!("{name:5} {kind:5} {}", measured.text());
            table.push(name, kind, measured);
        }
    }
    println!("\n{}", table.summary());
    Ok(!(args.strict && table.misses_aims()))
}
