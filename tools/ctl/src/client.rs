//! The commands that talk to a server.

use etcd_client::{Client, DeleteOptions, Error, EventType, GetOptions, KeyValue, PutOptions, WatchOptions};

use crate::{Command, EndpointCommand, MemberCommand, Range};

/// Runs one command.
pub fn run(endpoints: &[String], command: Command) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        if let Command::Endpoint { command } = command {
            return each_endpoint(endpoints, &command).await;
        }
        let mut client = Client::connect(endpoints, None).await.map_err(text)?;
        match command {
            Command::Get { range, rev, limit } => get(&mut client, range, rev, limit).await,
            Command::Put { key, value, lease } => put(&mut client, key, value, lease).await,
            Command::Del { range } => delete(&mut client, range).await,
            Command::Watch { range, rev, count } => watch(&mut client, range, rev, count).await,
            Command::Member { command: MemberCommand::List } => members(&mut client).await,
            Command::Endpoint { .. } | Command::Log { .. } | Command::Store { .. } => {
                unreachable!("not a command for one client")
            }
        }
    })
}

/// The sentence for a failure: what the server said, without the wrapping.
fn text(error: Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("{} ({:?})", status.message(), status.code()),
        other => other.to_string(),
    }
}

fn shown(kv: &KeyValue) -> String {
    format!("{} = {}", String::from_utf8_lossy(kv.key()), String::from_utf8_lossy(kv.value()))
}

async fn get(client: &mut Client, range: Range, revision: i64, limit: i64) -> Result<(), String> {
    let mut options = GetOptions::new().with_revision(revision).with_limit(limit);
    if range.prefix {
        options = options.with_prefix();
    } else if let Some(end) = range.end {
        options = options.with_range(end);
    }
    let answer = client.get(range.key, Some(options)).await.map_err(text)?;
    for kv in answer.kvs() {
        println!("{}  (revision {}, version {})", shown(kv), kv.mod_revision(), kv.version());
    }
    if answer.more() {
        println!("… {} in all", answer.count());
    }
    Ok(())
}

async fn put(client: &mut Client, key: String, value: String, lease: Option<i64>) -> Result<(), String> {
    let options = PutOptions::new().with_lease(lease.unwrap_or(0));
    let answer = client.put(key, value, Some(options)).await.map_err(text)?;
    println!("OK  (revision {})", answer.header().map_or(0, |header| header.revision()));
    Ok(())
}

async fn delete(client: &mut Client, range: Range) -> Result<(), String> {
    let mut options = DeleteOptions::new();
    if range.prefix {
        options = options.with_prefix();
    } else if let Some(end) = range.end {
        options = options.with_range(end);
    }
    let answer = client.delete(range.key, Some(options)).await.map_err(text)?;
    println!(
        "{} deleted  (revision {})",
        answer.deleted(),
        answer.header().map_or(0, |header| header.revision())
    );
    Ok(())
}

async fn watch(client: &mut Client, range: Range, revision: i64, count: u64) -> Result<(), String> {
    let mut options = WatchOptions::new().with_start_revision(revision);
    if range.prefix {
        options = options.with_prefix();
    } else if let Some(end) = range.end {
        options = options.with_range(end);
    }
    let mut stream = client.watch(range.key, Some(options)).await.map_err(text)?;
    let mut left = count;
    while let Some(answer) = stream.message().await.map_err(text)? {
        if answer.canceled() {
            return Err(match answer.compact_revision() {
                0 => format!("the server canceled the watch: {}", answer.cancel_reason()),
                at => format!("revisions below {at} have been compacted"),
            });
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => println!("PUT {}  (revision {})", shown(kv), kv.mod_revision()),
                EventType::Delete => {
                    println!(
                        "DELETE {}  (revision {})",
                        String::from_utf8_lossy(kv.key()),
                        kv.mod_revision()
                    );
                }
            }
            left = left.saturating_sub(1);
            if count > 0 && left == 0 {
                return Ok(());
            }
        }
    }
    Err("the server ended the watch".into())
}

async fn members(client: &mut Client) -> Result<(), String> {
    let answer = client.member_list().await.map_err(text)?;
    for member in answer.members() {
        println!(
            "{:x}  {}  peers {}  clients {}{}",
            member.id(),
            if member.name().is_empty() { "(not started)" } else { member.name() },
            member.peer_urls().join(","),
            member.client_urls().join(","),
            if member.is_learner() { "  learner" } else { "" },
        );
    }
    Ok(())
}

async fn each_endpoint(endpoints: &[String], command: &EndpointCommand) -> Result<(), String> {
    let mut failed = 0;
    for endpoint in endpoints {
        let result = match command {
            EndpointCommand::Status => status(endpoint).await,
            EndpointCommand::Health => health(endpoint).await,
        };
        match result {
            Ok(line) => println!("{endpoint}  {line}"),
            Err(error) => {
                failed += 1;
                println!("{endpoint}  FAILED: {}", text(error));
            }
        }
    }
    if failed > 0 { Err(format!("{failed} of {} endpoints failed", endpoints.len())) } else { Ok(()) }
}

async fn status(endpoint: &str) -> Result<String, Error> {
    let mut client = Client::connect([endpoint], None).await?;
    let status = client.status().await?;
    let member = status.header().map_or(0, |header| header.member_id());
    let role = match status.leader() {
        0 => "no leader",
        leader if leader == member => "leader",
        _ => "follower",
    };
    Ok(format!(
        "member {member:x}  version {}  {role}  term {}  index {}  applied {}  db {} B, {} B in use",
        status.version(),
        status.raft_term(),
        status.raft_index(),
        status.raft_applied_index(),
        status.db_size(),
        status.raft_used_db_size(),
    ))
}

/// As etcdctl does it: a linearizable read of a key that need not be there.
async fn health(endpoint: &str) -> Result<String, Error> {
    let mut client = Client::connect([endpoint], None).await?;
    let started = std::time::Instant::now();
    client.get("health", None).await?;
    Ok(format!("healthy, answered in {:?}", started.elapsed()))
}
