//! Two and three members in one process, over real sockets.

use super::*;

use std::future::{Future, poll_fn};
use std::net::TcpListener as StdListener;
use std::pin::pin;

use bytes::Bytes;
use futures_lite::future;
use glommio::LocalExecutorBuilder;

use super::super::clock::now;

const CLUSTER: u64 = 0xc1;
const PATIENCE: Duration = Duration::from_secs(10);

/// One end, with what it needs to be made again.
struct Member_ {
    id: u64,
    cluster: u64,
    port: u16,
    socket: Option<Socket>,
    dir: tempfile::TempDir,
}

impl Member_ {
    fn new(id: u64) -> Member_ {
        let socket = StdListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let dir = tempfile::tempdir().expect("a directory");
        Member_ { id, cluster: CLUSTER, port, socket: Some(socket.into()), dir }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn settings(&self) -> Settings {
        Settings {
            identity: Identity { cluster_id: self.cluster, member_id: self.id },
            peer_urls: vec![self.url()],
            seed: self.id,
            data_dir: self.dir.path().to_owned(),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            tls: None,
        }
    }

    fn start(&mut self) -> Peers {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => super::super::listen::bind("127.0.0.1", self.port, Default::default())
                .expect("its port again"),
        };
        Peers::start(self.settings(), vec![Listener { socket, tls: false }]).expect("it starts")
    }
}

fn table(members: &[&Member_]) -> Vec<Member> {
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
        let (mut a, mut b) = (Member_::new(1), Member_::new(2));
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
        let mut a = Member_::new(1);
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
