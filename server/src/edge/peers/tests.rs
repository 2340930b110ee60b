//! Two and three members in one process, over real sockets.

use super::*;

use std::future::{Future, poll_fn};
use std::net::TcpListener as StdListener;
use std::pin::pin;

use bytes::Bytes;
use consensus::Lane;
use futures_lite::future;
use glommio::LocalExecutorBuilder;
use raft::eraftpb::{self, MessageType};
use sha2::{Digest, Sha256};

use super::super::clock::now;
use crate::config::limits::{PEER_CONNECTIONS_MAX, PEER_REMOTES_MAX};

const CLUSTER: u64 = 0xc1;
const PATIENCE: Duration = Duration::from_secs(10);

/// One end, with what it needs to be made again.
struct Site {
    id: u64,
    cluster: u64,
    port: u16,
    socket: Option<Socket>,
    dir: tempfile::TempDir,
    server_version: &'static str,
    tls: Option<Tls>,
}

impl Site {
    fn new(id: u64) -> Site {
        let socket = StdListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, server_version) = (Some(socket.into()), crate::config::ETCD_VERSION);
        Site { id, cluster: CLUSTER, port, socket, dir, server_version, tls: None }
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn settings(&self) -> Settings {
        Settings {
            identity: Identity { cluster_id: self.cluster, member_id: self.id },
            peer_urls: vec![self.url()],
            seed: self.id,
            data_dir: self.dir.path().to_owned(),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(2),
            server_version: self.server_version,
            tls: self.tls.clone(),
        }
    }

    /// Starts again at the port of a start before, as soon as that is free.
    async fn restart(&mut self) -> Peers {
        let end = now() + PATIENCE;
        while self.socket.is_none() {
            match super::super::listen::bind("127.0.0.1", self.port, Default::default()) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => assert!(now() < end, "{error}"),
            }
            glommio::timer::sleep(Duration::from_millis(10)).await;
        }
        self.start()
    }

    fn start(&mut self) -> Peers {
        let socket = self.socket.take().expect("a first start");
        Peers::start(self.settings(), vec![Listener { socket, tls: self.tls.is_some() }]).expect("it starts")
    }
}

fn table(members: &[&Site]) -> Vec<Member> {
    members
        .iter()
        .map(|member| Member { id: member.id, peer_urls: vec![member.url()], ..Member::default() })
        .collect()
}

fn run(test: impl Future<Output = ()>) {
    let executor = LocalExecutorBuilder::default().io_memory(64 << 10).make().expect("an executor");
    executor.run(async move {
        let test = pin!(test);
        let timeout = async {
            glommio::timer::sleep(Duration::from_secs(60)).await;
            panic!("the test hangs");
        };
        future::or(test, timeout).await;
    });
}

/// The next event, with ticks while it is waited for; `None` after [`PATIENCE`].
async fn next_within(peers: &Peers, patience: Duration) -> Option<Incoming> {
    let end = now() + patience;
    loop {
        peers.tick(now());
        let event = poll_fn(|cx| peers.poll_incoming(cx));
        let pause = async {
            glommio::timer::sleep(Duration::from_millis(20)).await;
            None
        };
        match future::or(async { Some(event.await) }, pause).await {
            Some(event) => return Some(event),
            None if now() > end => return None,
            None => {}
        }
    }
}

async fn next(peers: &Peers) -> Incoming {
    next_within(peers, PATIENCE).await.expect("an event in time")
}

fn request(id: u64, size: usize) -> PeerMessage {
    PeerMessage::Request { id, body: Bytes::from(vec![id as u8; size]) }
}

async fn until_reachable(peers: &Peers, node: u64) {
    loop {
        if let Incoming::Reachable(at) = next(peers).await {
            assert_eq!(at, NodeId(node));
            return;
        }
    }
}

#[test]
fn messages_cross_in_both_directions_and_in_order() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        until_reachable(&at_b, 1).await;
        assert!(at_a.active_for(NodeId(2), now() + Duration::from_secs(1)) >= Some(Duration::from_secs(1)));
        assert_eq!(at_a.active_for(NodeId(3), now()), None);
        let sizes = [0, 1, 16_000, 17_000, 3 << 20, 5];
        for (id, size) in sizes.into_iter().enumerate() {
            at_a.send(NodeId(2), &request(id as u64, size));
            at_b.send(NodeId(1), &request(id as u64, size));
        }
        for (peers, from) in [(&at_b, 1), (&at_a, 2)] {
            for (id, size) in sizes.into_iter().enumerate() {
                let Incoming::Message(node, message) = next(peers).await else { panic!("a message") };
                assert_eq!((node, *message), (NodeId(from), request(id as u64, size)));
            }
        }
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn a_peer_that_is_asked_names_its_members_and_versions() {
    run(async {
        let mut a = Site::new(1);
        let (urls, members) = (vec!["http://127.0.0.1:1".to_owned(), a.url()], table(&[&a]));
        let peers = a.start();
        peers.set_members(&members, &[]);
        let asked = urls.clone();
        let fetched = dial::on_thread("test", move || fetch::members(&asked, None, PATIENCE)).await;
        let want = crate::bootstrap::Fetched { cluster_id: CLUSTER, members };
        assert_eq!(fetched.expect("a thread").expect("an answer"), want);
        peers.set_cluster_version("3.7.0");
        let asked = urls.clone();
        let version = dial::on_thread("test", move || fetch::version(&asked, None, PATIENCE)).await;
        let want = fetch::Version { server: "3.7.1".into(), cluster: "3.7.0".into() };
        assert_eq!(version.expect("a thread").expect("an answer"), want);
        let nobody = dial::on_thread("test", move || fetch::members(&urls[..1], None, PATIENCE)).await;
        let error = nobody.expect("a thread").expect_err("nobody is there").to_string();
        assert!(error.starts_with("http://127.0.0.1:1: "), "{error}");
        peers.shutdown();
    });
}

#[test]
fn a_peer_says_what_it_is_each_time_that_it_is_connected_to() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        b.server_version = "3.6.9";
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        assert_eq!(at_a.server_version(NodeId(2)), None, "it has not been heard");
        until_reachable(&at_a, 2).await;
        until_reachable(&at_b, 1).await;
        assert_eq!(at_a.server_version(NodeId(2)).as_deref(), Some("3.6.9"));
        assert_eq!(at_b.server_version(NodeId(1)).as_deref(), Some("3.7.1"));
        assert_eq!(at_a.server_version(NodeId(3)), None, "nobody is there");
        at_b.shutdown();
        let Incoming::Unreachable(NodeId(2)) = next(&at_a).await else { panic!("it is gone") };
        assert_eq!(at_a.server_version(NodeId(2)), None, "it may come back as another one");
        b.server_version = "3.8.0";
        let at_b = b.restart().await;
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        assert_eq!(at_a.server_version(NodeId(2)).as_deref(), Some("3.8.0"));
        at_a.shutdown();
        at_b.shutdown();
    });
}

/// A leader's heartbeat, as raft sends it.
fn heartbeat(from: u64, to: u64) -> PeerMessage {
    let mut message = Message { raft: eraftpb::Message::default(), data: Vec::new() };
    message.raft.set_msg_type(MessageType::MsgHeartbeat);
    (message.raft.from, message.raft.to, message.raft.term) = (from, to, 7);
    PeerMessage::Raft(message)
}

/// Lets both go on for a while; what comes is kept.
async fn idle(peers: &[&Peers], time: Duration) -> Vec<Incoming> {
    let mut events = Vec::new();
    let end = now() + time;
    while now() < end {
        for peers in peers {
            events.extend(next_within(peers, Duration::ZERO).await);
        }
    }
    events
}

#[test]
fn vital_messages_overtake_a_bulk_lane_that_is_stuck() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        until_reachable(&at_b, 1).await;
        // The owner at b takes nothing, so its bulk connection is not read and a's fills up.
        let mut sent = 0;
        let dropped = loop {
            at_a.send(NodeId(2), &request(sent, 1 << 20));
            sent += 1;
            if let Some(event) = next_within(&at_a, Duration::from_millis(20)).await {
                break event;
            }
            assert!(sent < 200, "the lane takes everything");
        };
        assert!(matches!(dropped, Incoming::Unreachable(NodeId(2))), "{dropped:?}");
        at_a.send(NodeId(2), &request(sent, 1 << 20));
        assert!(next_within(&at_a, Duration::from_millis(50)).await.is_none(), "told once, not per message");
        at_a.send(NodeId(2), &heartbeat(1, 2));
        idle(&[&at_a], Duration::from_millis(200)).await;
        let Incoming::Message(_, first) = next(&at_b).await else { panic!("a message") };
        assert_eq!(*first, heartbeat(1, 2));
        for id in 0..sent - 1 {
            let Incoming::Message(_, message) = next(&at_b).await else { panic!("a message") };
            assert_eq!(*message, request(id, 1 << 20), "what was taken comes, in order");
            at_a.tick(now());
        }
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn what_was_sent_while_a_peer_was_down_never_comes() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        at_b.shutdown();
        let Incoming::Unreachable(NodeId(2)) = next(&at_a).await else { panic!("it is gone") };
        assert_eq!(at_a.active_for(NodeId(2), now()), None);
        at_a.send(NodeId(2), &request(1, 10));
        idle(&[&at_a], Duration::from_millis(300)).await;
        let at_b = b.restart().await;
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        at_a.send(NodeId(2), &request(2, 10));
        loop {
            match next(&at_b).await {
                Incoming::Message(_, message) => break assert_eq!(*message, request(2, 10)),
                Incoming::Reachable(_) => {}
                other => panic!("{other:?}"),
            }
        }
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn members_of_another_cluster_are_refused() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        b.cluster = CLUSTER + 1;
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        let events = idle(&[&at_a, &at_b], Duration::from_millis(300)).await;
        assert!(events.is_empty(), "{events:?}");
        let peers = at_a.0.peers.borrow();
        assert_eq!(peers[&NodeId(2)].lane(Lane::Vital).last_failure(), "cluster ID mismatch");
        assert!(at_b.0.peers.borrow().is_empty(), "no remote of another cluster");
        drop(peers);
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn another_member_at_the_address_is_seen() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let mut members = table(&[&a, &b]);
        members[1].id = 3;
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        let events = idle(&[&at_a, &at_b], Duration::from_millis(300)).await;
        assert!(events.is_empty(), "{events:?}");
        let failure = at_a.0.peers.borrow()[&NodeId(3)].lane(Lane::Bulk).last_failure();
        assert_eq!(failure, "to field mismatch");
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn a_removed_member_is_told_once() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        at_b.set_members(&members[1..], &[]); // the change was applied there
        let events = idle(&[&at_a], Duration::from_secs(1)).await;
        let told = events.iter().filter(|event| matches!(event, Incoming::Removed)).count();
        assert_eq!(told, 1, "{events:?}");
        at_a.shutdown();
        at_b.shutdown();
        // After a restart of both: whoever asks knows from the table of removed members.
        let (at_a, at_b) = (a.restart().await, b.restart().await);
        at_b.set_members(&members[1..], &[NodeId(1)]);
        at_a.set_members(&members, &[]);
        let Incoming::Removed = next(&at_a).await else { panic!("refused for good") };
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn a_learner_does_not_tell_a_removed_member() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        let mut learner = members[1].clone();
        learner.is_learner = true;
        at_b.set_members(&[learner], &[NodeId(1)]);
        at_a.set_members(&members, &[]);
        let events = idle(&[&at_a], Duration::from_secs(1)).await;
        assert!(!events.iter().any(|event| matches!(event, Incoming::Removed)), "{events:?}");
        at_b.set_members(&members[1..], &[]); // it is promoted
        while !matches!(next(&at_a).await, Incoming::Removed) {}
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn a_sender_that_is_no_member_yet_is_heard_and_answered() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_b.set_members(&members[1..], &[]);
        at_a.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        at_a.send(NodeId(2), &request(1, 10));
        let mut answered = false;
        while !answered {
            match next(&at_b).await {
                Incoming::Reachable(NodeId(1)) => at_b.send(NodeId(1), &request(2, 10)),
                Incoming::Message(NodeId(1), message) => {
                    assert_eq!(*message, request(1, 10));
                    answered = true;
                }
                other => panic!("{other:?}"),
            }
        }
        if at_b.active_for(NodeId(1), now()).is_none() {
            until_reachable(&at_b, 1).await;
            at_b.send(NodeId(1), &request(2, 10));
        }
        let Incoming::Message(NodeId(2), message) = next(&at_a).await else { panic!("an answer") };
        assert_eq!(*message, request(2, 10));
        at_a.shutdown();
        at_b.shutdown();
    });
}

/// Bytes that tell their place, read once.
struct Source {
    at: usize,
    size: usize,
}

fn byte(at: usize) -> u8 {
    (at / 251 + at) as u8
}

impl SnapshotSource for Source {
    fn next_chunk(&mut self, max: usize) -> io::Result<Option<Vec<u8>>> {
        let end = self.size.min(self.at + max.min(300_000));
        let chunk: Vec<u8> = (self.at..end).map(byte).collect();
        self.at = end;
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }

    fn size(&self) -> u64 {
        self.size as u64
    }
}

fn snapshot(from: u64, to: u64, index: u64) -> Message {
    let mut message = Message { raft: eraftpb::Message::default(), data: Vec::new() };
    message.raft.set_msg_type(MessageType::MsgSnapshot);
    (message.raft.from, message.raft.to, message.raft.term) = (from, to, 7);
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().mut_conf_state().voters = vec![from, to];
    message.raft.snapshot = Some(snapshot);
    message
}

/// Ends every connection of the snapshot lane at `peers`.
fn break_snapshot_lane(peers: &Peers) -> usize {
    let conns = peers.0.conns.borrow();
    let broken = conns.values().filter(|conn| matches!(conn.borrow().peer, Some((_, Lane::Snapshot))));
    broken.map(|conn| conn.borrow().handle.kill()).count()
}

#[test]
fn a_snapshot_arrives_whole_though_its_connection_breaks() {
    for breaks in [0, 3] {
        run(async move {
            let (mut a, mut b) = (Site::new(1), Site::new(2));
            std::fs::write(b.dir.path().join("snapshot-9-9-0.tmp"), "left by an earlier process").unwrap();
            let members = table(&[&a, &b]);
            let (at_a, at_b) = (a.start(), b.start());
            at_a.set_members(&members, &[]);
            at_b.set_members(&members, &[]);
            let size = 24 << 20; // beyond what may be under way, and some tenths of a second at its pace
            at_a.send_snapshot(NodeId(2), snapshot(1, 2, 55), Box::new(Source { at: 0, size }));
            let mut left = breaks;
            let received = loop {
                match next_within(&at_b, Duration::from_millis(30)).await {
                    Some(Incoming::SnapshotReceived { from, file, message }) => break (from, file, message),
                    Some(Incoming::Reachable(_)) | None => {}
                    Some(other) => panic!("{other:?}"),
                }
                if left > 0 && break_snapshot_lane(&at_b) > 0 {
                    left -= 1;
                }
                at_a.tick(now());
            };
            assert_eq!(left, 0, "it was over too soon to be broken");
            let (from, SnapshotFile { path, end }, message) = received;
            assert_eq!((from, *message), (NodeId(1), snapshot(1, 2, 55)));
            let bytes = std::fs::read(&path).expect("the file");
            assert_eq!((bytes.len(), end.bytes), (size, size as u64));
            assert_eq!(Sha256::digest(&bytes)[..], end.digest);
            assert!(bytes.iter().enumerate().all(|(at, got)| *got == byte(at)), "other bytes");
            let files: Vec<_> = std::fs::read_dir(b.dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
            assert_eq!(files, [path], "and nothing else");
            loop {
                match next(&at_a).await {
                    Incoming::SnapshotSent(to, good) => break assert_eq!((to, good), (NodeId(2), true)),
                    Incoming::Reachable(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            at_a.shutdown();
            at_b.shutdown();
        });
    }
}

/// A source that fails.
struct Broken;

impl SnapshotSource for Broken {
    fn next_chunk(&mut self, _: usize) -> io::Result<Option<Vec<u8>>> {
        Err(io::Error::other("damaged"))
    }
}

/// A source that wants more room than there is.
struct Huge;

impl SnapshotSource for Huge {
    fn next_chunk(&mut self, _: usize) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(vec![0; 10]))
    }

    fn size(&self) -> u64 {
        1 << 60
    }
}

#[test]
fn a_snapshot_that_cannot_be_sent_is_given_up_and_leaves_nothing() {
    let sources: [fn() -> Box<dyn SnapshotSource>; 2] = [|| Box::new(Broken), || Box::new(Huge)];
    for source in sources {
        run(async move {
            let (mut a, mut b) = (Site::new(1), Site::new(2));
            let members = table(&[&a, &b]);
            let (at_a, at_b) = (a.start(), b.start());
            at_a.set_members(&members, &[]);
            at_b.set_members(&members, &[]);
            at_a.send_snapshot(NodeId(2), snapshot(1, 2, 55), source());
            loop {
                match next(&at_a).await {
                    Incoming::SnapshotSent(to, good) => break assert_eq!((to, good), (NodeId(2), false)),
                    Incoming::Reachable(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            let end = now() + PATIENCE;
            while std::fs::read_dir(b.dir.path()).unwrap().count() > 0 {
                assert!(now() < end, "a file is left");
                glommio::timer::sleep(Duration::from_millis(10)).await;
            }
            at_b.shutdown();
            at_a.shutdown();
        });
    }
}

/// A CA in a directory, and certificates for 127.0.0.1 that it signs.
struct Authority {
    dir: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let dir = tempfile::tempdir().expect("a directory");
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Certificates of a member that believes `trusted` and asks peers for theirs.
    fn member(&self, trusted: &Authority) -> Tls {
        self.member_named(trusted, "127.0.0.1", false)
    }

    /// The same with another name in its certificate; it may let others come from anywhere.
    fn member_named(&self, trusted: &Authority, name: &str, skip_san_verification: bool) -> Tls {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_file, cert.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let listen = crate::config::ClientTls {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            client_ca_file: Some(trusted.dir.path().join("ca.pem")),
            crl_file: None,
            settings: net::tls::Settings::default(),
            self_signed: None,
        };
        Tls::start(&crate::config::PeerTls { listen, cert_file, key_file, skip_san_verification })
            .expect("sound files")
    }
}

#[test]
fn members_meet_under_tls_and_are_asked_under_tls() {
    run(async {
        let ca = Authority::new();
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        (a.tls, b.tls) = (Some(ca.member(&ca)), Some(ca.member(&ca)));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        for (id, size) in [(1, 10), (2, 3 << 20)] {
            at_a.send(NodeId(2), &request(id, size));
        }
        let mut got = Vec::new();
        while got.len() < 2 {
            match next(&at_b).await {
                Incoming::Message(_, message) => got.push(*message),
                Incoming::Reachable(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, [request(1, 10), request(2, 3 << 20)]);
        let (url, tls) = (b.url(), a.tls.clone());
        let asked = move || fetch::members(&[url], tls.as_ref(), PATIENCE);
        let fetched = dial::on_thread("test", asked).await.expect("a thread").expect("an answer");
        assert_eq!(fetched.members, members);
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn members_of_another_ca_do_not_meet() {
    run(async {
        let (ca, other) = (Authority::new(), Authority::new());
        // b's certificate is from elsewhere; b itself would take a's.
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        (a.tls, b.tls) = (Some(ca.member(&ca)), Some(other.member(&ca)));
        let members = table(&[&a, &b]);
        let (at_a, at_b) = (a.start(), b.start());
        at_a.set_members(&members, &[]);
        at_b.set_members(&members, &[]);
        let events = idle(&[&at_a, &at_b], Duration::from_millis(500)).await;
        assert!(events.is_empty(), "{events:?}");
        let failed =
            |peers: &Peers, node| peers.0.peers.borrow()[&NodeId(node)].lane(Lane::Vital).last_failure();
        assert_ne!(failed(&at_a, 2), "");
        assert_ne!(failed(&at_b, 1), "");
        at_a.shutdown();
        at_b.shutdown();
    });
}

/// What the dialing member's certificate names, whether the accepting one asks, and whether they meet.
#[test]
fn a_certificate_comes_from_an_address_that_it_names() {
    for (name, skip, meet) in [
        ("10.99.0.1", false, false),
        ("10.99.0.1", true, true),
        // By the system's resolver: of this address it knows without asking anybody.
        ("localhost", false, true),
        ("*.invalid", false, false),
    ] {
        run(async {
            let ca = Authority::new();
            let (mut a, mut b) = (Site::new(1), Site::new(2));
            (a.tls, b.tls) =
                (Some(ca.member_named(&ca, name, false)), Some(ca.member_named(&ca, "127.0.0.1", skip)));
            let members = table(&[&a, &b]);
            let (at_a, at_b) = (a.start(), b.start());
            at_a.set_members(&members, &[]);
            at_b.set_members(&members, &[]);
            if meet {
                until_reachable(&at_a, 2).await;
            } else {
                let events = idle(&[&at_a, &at_b], Duration::from_secs(1)).await;
                assert!(events.is_empty(), "{name}: {events:?}");
                assert_eq!(at_b.0.rejections.count(), 1, "{name} is told of");
            }
            at_a.shutdown();
            at_b.shutdown();
        });
    }
}

#[test]
fn strangers_beyond_the_bound_do_not_keep_members_out() {
    run(async {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        let members = table(&[&a, &b]);
        let at_b = b.start();
        at_b.set_members(&members, &[]);
        let mut strangers = Vec::new();
        for _ in 0..PEER_CONNECTIONS_MAX + 20 {
            strangers.push(std::net::TcpStream::connect(("127.0.0.1", b.port)).expect("a connection"));
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        let at_a = a.start();
        at_a.set_members(&members, &[]);
        until_reachable(&at_a, 2).await;
        assert!(at_b.0.conns.borrow().len() <= PEER_CONNECTIONS_MAX + 1, "the bound holds");
        at_a.shutdown();
        at_b.shutdown();
    });
}

#[test]
fn senders_that_are_no_members_are_let_in_up_to_the_bound() {
    run(async {
        let mut b = Site::new(2);
        let members = table(&[&b]);
        let at_b = b.start();
        at_b.set_members(&members, &[]);
        let mut strangers = Vec::new();
        for id in 0..PEER_REMOTES_MAX as u64 + 4 {
            let peers = Site::new(100 + id).start();
            peers.set_members(&members, &[]);
            strangers.push(peers);
        }
        let all: Vec<&Peers> = strangers.iter().chain([&at_b]).collect();
        idle(&all, Duration::from_secs(1)).await;
        assert_eq!(at_b.0.peers.borrow().len(), PEER_REMOTES_MAX);
        let failure = |peers: &Peers| peers.0.peers.borrow()[&NodeId(2)].lane(Lane::Vital).last_failure();
        let busy = strangers.iter().filter(|peers| failure(peers) == "too many connections").count();
        assert_eq!(busy, 4);
        strangers.iter().chain([&at_b]).for_each(Peers::shutdown);
    });
}
