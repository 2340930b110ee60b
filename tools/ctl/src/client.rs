//! The commands that talk to a server.

use etcd_client::{
    Client, DeleteOptions, Error, EventType, GetOptions, KeyValue, Member, MemberAddOptions, PutOptions,
    WatchOptions,
};

use crate::connect::Servers;
use crate::{Command, EndpointCommand, MemberCommand, Range};

/// Runs one command.
pub fn run(servers: &Servers, command: Command) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match command {
            Command::Endpoint { cluster: false, command } => return each_endpoint(servers, &command).await,
            Command::Endpoint { cluster: true, command } => {
                let all = client_urls(servers).await?;
                return each_endpoint(&servers.with(all), &command).await;
            }
            Command::MoveLeader { id } => return move_leader(servers, id).await,
            _ => {}
        }
        let mut client = servers.first().await.map_err(text)?;
        match command {
            Command::Get { range, rev, limit } => get(&mut client, range, rev, limit).await,
            Command::Put { key, value, lease } => put(&mut client, key, value, lease).await,
            Command::Del { range } => delete(&mut client, range).await,
            Command::Watch { range, rev, count } => watch(&mut client, range, rev, count).await,
            Command::Member { command } => member(&mut client, command).await,
            Command::Endpoint { .. }
            | Command::MoveLeader { .. }
            | Command::Log { .. }
            | Command::Store { .. } => {
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

async fn member(client: &mut Client, command: MemberCommand) -> Result<(), String> {
    match command {
        MemberCommand::List => {
            let answer = client.member_list().await.map_err(text)?;
            answer.members().iter().for_each(|member| println!("{}", shown_member(member)));
        }
        MemberCommand::Add { name, peer_urls, learner } => {
            let options = learner.then(|| MemberAddOptions::new().with_is_learner());
            let answer = client.member_add(peer_urls.as_slice(), options).await.map_err(text)?;
            let added = answer.member().map_or(0, Member::id);
            println!("added {added:x}; start it with");
            println!("  --name={name}");
            println!("  --initial-advertise-peer-urls={}", peer_urls.join(","));
            println!("  --initial-cluster={}", initial_cluster(answer.member_list(), added, &name));
            println!("  --initial-cluster-state=existing");
        }
        MemberCommand::Remove { id } => {
            let answer = client.member_remove(id).await.map_err(text)?;
            println!("removed {id:x}; {} members are left", answer.members().len());
        }
        MemberCommand::Update { id, peer_urls } => {
            client.member_update(id, peer_urls).await.map_err(text)?;
            println!("updated {id:x}");
        }
        MemberCommand::Promote { id } => {
            client.member_promote(id).await.map_err(text)?;
            println!("promoted {id:x}");
        }
    }
    Ok(())
}

fn shown_member(member: &Member) -> String {
    format!(
        "{:x}  {}  peers {}  clients {}{}",
        member.id(),
        if member.name().is_empty() { "(not started)" } else { member.name() },
        member.peer_urls().join(","),
        member.client_urls().join(","),
        if member.is_learner() { "  learner" } else { "" },
    )
}

/// What a new member is told of the others: all that have a name, and itself.
fn initial_cluster(members: &[Member], added: u64, name: &str) -> String {
    let mut parts = Vec::new();
    for member in members {
        let name = if member.id() == added { name } else { member.name() };
        parts.extend(member.peer_urls().iter().map(|url| format!("{name}={url}")));
    }
    parts.join(",")
}

/// Where clients reach each member that has started.
async fn client_urls(servers: &Servers) -> Result<Vec<String>, String> {
    let mut client = servers.first().await.map_err(text)?;
    let answer = client.member_list().await.map_err(text)?;
    Ok(answer.members().iter().flat_map(|member| member.client_urls().to_vec()).collect())
}

/// Only the leader hands leadership over, so it is looked for first.
async fn move_leader(servers: &Servers, id: u64) -> Result<(), String> {
    for endpoint in &servers.endpoints {
        let Ok(mut client) = servers.connect(endpoint).await else { continue };
        let Ok(status) = client.status().await else { continue };
        let member = status.header().map_or(0, |header| header.member_id());
        if member != 0 && status.leader() == member {
            client.move_leader(id).await.map_err(text)?;
            println!("leadership moved from {member:x} to {id:x}");
            return Ok(());
        }
    }
    Err(format!("none of {} endpoints leads", servers.endpoints.len()))
}

async fn each_endpoint(servers: &Servers, command: &EndpointCommand) -> Result<(), String> {
    let mut failed = 0;
    for endpoint in &servers.endpoints {
        let result = match command {
            EndpointCommand::Status => status(servers, endpoint).await,
            EndpointCommand::Health => health(servers, endpoint).await,
        };
        match result {
            Ok(line) => println!("{endpoint}  {line}"),
            Err(error) => {
                failed += 1;
                println!("{endpoint}  FAILED: {}", text(error));
            }
        }
    }
    if failed > 0 { Err(format!("{failed} of {} endpoints failed", servers.endpoints.len())) } else { Ok(()) }
}

async fn status(servers: &Servers, endpoint: &str) -> Result<String, Error> {
    let mut client = servers.connect(endpoint).await?;
    let status = client.status().await?;
    let member = status.header().map_or(0, |header| header.member_id());
    let role = match status.leader() {
        0 => "no leader",
        leader if leader == member => "leader",
        _ if status.is_learner() => "learner",
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
async fn health(servers: &Servers, endpoint: &str) -> Result<String, Error> {
    let mut client = servers.connect(endpoint).await?;
    let started = std::time::Instant::now();
    client.get("health", None).await?;
    Ok(format!("healthy, answered in {:?}", started.elapsed()))
}
