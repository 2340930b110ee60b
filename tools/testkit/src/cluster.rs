//! Several servers as one cluster.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::pb::StatusRequest;
use crate::server::{Seat, unused_address};
use crate::{Client, Network, Server, ServerOptions, scratch_dir, within};

/// How long a cluster may take to agree on a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Members `m0`, `m1`, … of one cluster, each a process with an address and a data directory of its own. All are ringd or
/// all are the real etcd.
#[derive(Debug)]
pub struct Cluster {
    options: ServerOptions,
    members: Vec<Server>,
    /// Address of a member that is about to join.
    next: Ipv4Addr,
}

impl Cluster {
    /// Founds a cluster of `size` members and waits until all serve. `options` are those of each member.
    ///
    /// # Panics
    /// If one ends or does not serve in time, with its log.
    pub fn start(options: ServerOptions, size: usize) -> Cluster {
        let mut cluster = Cluster::spawn(options, size);
        cluster.members.iter_mut().for_each(Server::wait_ready);
        cluster
    }

    /// Founds a cluster of `size` members and waits for none.
    pub fn spawn(options: ServerOptions, size: usize) -> Cluster {
        Cluster::spawn_each(vec![options; size], None)
    }

    /// Founds a cluster of one member for each of `each`, with these options, and waits for none. With a network, each lives
    /// in its namespace there.
    ///
    /// # Panics
    /// If `each` is empty.
    pub fn spawn_each(each: Vec<ServerOptions>, network: Option<&Network>) -> Cluster {
        Cluster::spawn_with(each.len(), network, |i, _| each[i].clone())
    }

    /// As [`Cluster::spawn_each`], with options that depend on a member's number and address.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn spawn_with(
        size: usize,
        network: Option<&Network>,
        each: impl Fn(usize, Ipv4Addr) -> ServerOptions,
    ) -> Cluster {
        assert!(size > 0, "at least one member");
        spread(&scratch_dir());
        let address = |i| network.map_or_else(unused_address, |network| network.address(i));
        let addresses: Vec<Ipv4Addr> = (0..size).map(address).collect();
        let options = each(0, addresses[0]);
        let all = addresses.iter().enumerate().map(|(i, &address)| entry(i, &options.peer_url(address)));
        let initial_cluster = all.collect::<Vec<_>>().join(",");
        let members = addresses.iter().enumerate().map(|(i, &address)| {
            let namespace = network.map(|network| network.namespace(i));
            let initial_cluster = initial_cluster.clone();
            let seat = Seat { name: format!("m{i}"), address, namespace, initial_cluster, state: "new" };
            let options = if i == 0 { options.clone() } else { each(i, address) };
            options.seat(seat).spawn()
        });
        Cluster { members: members.collect(), options, next: unused_address() }
    }

    /// All members, in the order of their names; also those that are stopped.
    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// Member `m<i>`, to stop or start it.
    pub fn member(&mut self, i: usize) -> &mut Server {
        &mut self.members[i]
    }

    /// A new connection to member `m<i>`.
    pub async fn client(&self, i: usize) -> Client {
        self.members[i].client().await
    }

    /// All client URLs by commas, as `--endpoints` takes them.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// The peer URL that the next member to join will have: for the MemberAdd that comes first.
    pub fn next_peer_url(&self) -> String {
        self.options.peer_url(self.next)
    }

    /// Starts one more member, which was added under [`Cluster::next_peer_url`], and does not wait; answers its number.
    /// `known` are the members of the cluster by number, itself not among them; `env` are variables of its own.
    pub fn spawn_joining(&mut self, known: &[usize], env: &[(&str, &str)]) -> usize {
        let i = self.members.len();
        let mut all: Vec<String> = known.iter().map(|&i| entry(i, &self.members[i].peer_url())).collect();
        all.push(entry(i, &self.next_peer_url()));
        let seat = Seat {
            name: format!("m{i}"),
            address: self.next,
            namespace: None,
            initial_cluster: all.join(","),
            state: "existing",
        };
        let options = self.options.clone().seat(seat);
        let options = env.iter().fold(options, |options, (name, value)| options.env(name, value));
        self.members.push(options.spawn());
        self.next = unused_address();
        i
    }

    /// Ids of leader and member as member `m<i>` says them now; the leader's is 0 if it knows none.
    pub async fn leader_and_id(&self, i: usize) -> Option<(u64, u64)> {
        let mut client = Client::connect(self.members[i].url()).await.ok()?;
        let status = client.maintenance.status(StatusRequest {}).await.ok()?.into_inner();
        Some((status.leader, status.header?.member_id))
    }

    /// The number of the member that leads, once all of `among` agree on it.
    ///
    /// # Panics
    /// If they don't in time.
    pub async fn leader(&self, among: &[usize]) -> usize {
        let mut said = Vec::new();
        let agreed = async {
            loop {
                said.clear();
                for &i in among {
                    said.push((i, self.leader_and_id(i).await));
                }
                if let Some(leader) = agreement(&said) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match within(LEADER_TIMEOUT, agreed).await {
            Some(leader) => leader,
            None => panic!("no agreement on a leader after {LEADER_TIMEOUT:?}: {said:x?}"),
        }
    }
}

/// The number of the member that leads, if all say the same of it: of each its number, and the ids of leader and member.
fn agreement(said: &[(usize, Option<(u64, u64)>)]) -> Option<usize> {
    let (leader, _) = said.first()?.1?;
    let same = said.iter().all(|(_, answer)| answer.is_some_and(|(said, _)| said == leader));
    let leads = |(_, answer): &&(usize, Option<(u64, u64)>)| answer.is_some_and(|(_, id)| id == leader);
    said.iter().find(leads).filter(|_| same).map(|(i, _)| *i)
}

fn entry(i: usize, peer_url: &str) -> String {
    format!("m{i}={peer_url}")
}

/// Has the file system put the directories that are made in `dir` apart, as members that have disks of their own are (ext4:
/// `chattr +T`). Otherwise the inodes of their logs share a block, which ext4 without a journal writes, and locks, at each sync of
/// each of them: then puts of three members took 7 ms instead of 2. Where the file system knows no such thing they stay close.
fn spread(dir: &Path) {
    let Ok(dir) = File::open(dir) else { return };
    if let Ok(flags) = ioctl_getflags(&dir)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}
