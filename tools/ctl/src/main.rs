//! ringctl: a client of ringd, and of its files when it is stopped.
//!
//! `get`, `put`, `del`, `watch`, `member`, `move-leader` and `endpoint` go through the `etcd-client` crate, so they work with any etcd;
//! `log dump` and `store check` read a data directory whose server is stopped, and change nothing.

mod client;
mod connect;
mod data_dir;
mod log_dump;
mod store_check;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A client of ringd, and of its files when it is stopped.
#[derive(Debug, Parser)]
#[command(name = "ringctl", version)]
struct Arguments {
    #[command(flatten)]
    servers: connect::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints keys with their values and revisions.
    Get {
        #[command(flatten)]
        range: Range,
        /// As of this revision; 0 means now.
        #[arg(long, default_value_t = 0)]
        rev: i64,
        /// At most so many; 0 means all.
        #[arg(long, default_value_t = 0)]
        limit: i64,
    },
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Attaches the key to a lease, by its id in hexadecimal.
        #[arg(long, value_parser = lease_id)]
        lease: Option<i64>,
    },
    /// Deletes keys.
    Del {
        #[command(flatten)]
        range: Range,
    },
    /// Prints changes as they happen.
    Watch {
        #[command(flatten)]
        range: Range,
        /// From this revision on; 0 means from now on.
        #[arg(long, default_value_t = 0)]
        rev: i64,
        /// Ends after so many events; 0 means never.
        #[arg(long, default_value_t = 0)]
        count: u64,
    },
    /// The members of the cluster.
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Hands leadership to another voter; the endpoints must include the leader's.
    MoveLeader {
        /// The member that shall lead, by its id in hexadecimal.
        #[arg(value_parser = member_id)]
        id: u64,
    },
    /// The servers themselves.
    Endpoint {
        /// All members of the cluster instead of the endpoints given.
        #[arg(long, global = true)]
        cluster: bool,
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// The Raft log of a stopped server.
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// The tree file of a stopped server.
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
}

/// Which keys.
#[derive(Debug, Args)]
struct Range {
    /// The key, or where the range begins.
    key: String,
    /// Where the range ends; this key is not in it.
    end: Option<String>,
    /// All keys that begin with the key.
    #[arg(long, conflicts_with = "end")]
    prefix: bool,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Prints all members.
    List,
    /// Adds a member, which is started afterwards with what this prints.
    Add {
        /// The name that it will be started with.
        name: String,
        /// Its peer URLs, by commas.
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
        /// It only listens, until it is promoted.
        #[arg(long)]
        learner: bool,
    },
    /// Removes a member for good.
    Remove {
        /// Its id in hexadecimal.
        #[arg(value_parser = member_id)]
        id: u64,
    },
    /// Changes where other members reach a member.
    Update {
        /// Its id in hexadecimal.
        #[arg(value_parser = member_id)]
        id: u64,
        /// Its peer URLs from now on, by commas.
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
    },
    /// Makes a voter of a learner that has caught up.
    Promote {
        /// Its id in hexadecimal.
        #[arg(value_parser = member_id)]
        id: u64,
    },
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// Prints what each endpoint says of itself.
    Status,
    /// Asks each endpoint for a linearizable read.
    Health,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Prints what a start would read: hard state, findings, and the entries above the last checkpoint.
    Dump {
        /// The data directory.
        data_dir: PathBuf,
        /// Where the log is, if the server has a --wal-dir.
        #[arg(long)]
        wal_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Reads every page and prints all that is not as it must be.
    Check {
        /// The data directory.
        data_dir: PathBuf,
    },
}

fn member_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| format!("{text:?} is no member id"))
}

fn lease_id(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text, 16).map_err(|_| format!("{text:?} is no lease id"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Log { command: LogCommand::Dump { data_dir, wal_dir } } => {
            log_dump::run(&data_dir, wal_dir.as_deref(), &mut std::io::stdout().lock())
        }
        Command::Store { command: StoreCommand::Check { data_dir } } => {
            store_check::run(&data_dir, &mut std::io::stdout().lock())
        }
        command => {
            connect::Servers::new(arguments.servers).and_then(|servers| client::run(&servers, command))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringctl: {error}");
            ExitCode::FAILURE
        }
    }
}
