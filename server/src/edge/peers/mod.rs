//! Connections to the other members: sockets around the pure machines of `node::peer`.
//!
//! Everything here runs on the raft core's executor. This member dials each peer twice, once per standing lane, and sends
//! on the connections that it dialed; what peers send comes by the connections that they dialed. A third connection is
//! dialed for each snapshot.
//!
//! ```text
//!   raft core ── send ──▶ lane "vital" ──▶ a socket of its own        (heartbeats, votes, read indexes)
//!             ── send ──▶ lane "bulk"  ──▶ a socket of its own        (entries, forwards, requests)
//!   raft core ◀─ poll_incoming ── vital first, then bulk ◀── accepted sockets
//! ```
//!
//! A message is dropped, never kept and never sent again, when its lane is down or has more bytes waiting than its budget:
//! raft repeats what is still wanted. The owner hears of it once. Forwarded proposals alone, which raft does not repeat, are
//! kept and sent again on the next connection ([`Forwards`](node::peer::Forwards)).
//!
//! A standing lane whose bytes are not acknowledged for about two election timeouts is given up and dialed anew: TCP waits
//! longer and longer until it tries again, so that after a cut that lasted for seconds it would be silent for seconds more.
//!
//! Nothing here waits on a disk or a name server: names are looked up on threads of their own, snapshot bytes are read and
//! written on threads of their own.

mod accept;
mod conn;
mod dial;
mod inner;
mod origin;
mod queues;
mod rejections;
mod snapshot_in;
mod snapshot_out;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{Forward, Message, NodeId, PeerMessage};
use node::Identity;
use node::membership::Member;
use node::peer::snapshot::End;
use socket2::Socket;

pub use conn::HeartbeatDue;
pub use tls::Tls;

use inner::{Inner, Peer};

/// What [`Peers::start`] needs to know.
pub struct Settings {
    /// Cluster and member, told and checked at the beginning of every connection.
    pub identity: Identity,
    /// This member's own peer URLs: with them a peer that has not heard of this member yet can answer.
    pub peer_urls: Vec<String>,
    /// For the jitter of back-offs.
    pub seed: u64,
    /// Where a snapshot is received into: `snapshot-<from>-<index>-<count>.tmp`.
    pub data_dir: PathBuf,
    /// `--raft-read-timeout`: a peer that is silent for so long is gone.
    pub read_timeout: Duration,
    /// `--raft-write-timeout`: so long may sent bytes stay unacknowledged.
    pub write_timeout: Duration,
    /// The same for the standing lanes, if it is less.
    pub stall_timeout: Duration,
    /// What this member says its server is.
    pub server_version: &'static str,
    /// Certificates. Must be there if any URL is https.
    pub tls: Option<Tls>,
}

/// A bound socket of `--listen-peer-urls`; see [`super::listen`].
pub struct Listener {
    /// Listening.
    pub socket: Socket,
    /// https
    pub tls: bool,
}

/// What comes from the peers.
#[derive(Debug)]
pub enum Incoming {
    /// A message of that member. Of raft's, sender and addressee have been checked.
    Message(NodeId, Box<PeerMessage>),
    /// Messages to it are being dropped. Told once, until one went out again.
    Unreachable(NodeId),
    /// Both of its standing lanes are up.
    Reachable(NodeId),
    /// A peer says that this member was removed from the cluster: it must stop for good.
    Removed,
    /// A snapshot was received by that member, verified and made durable there; or it was given up.
    SnapshotSent(NodeId, bool),
    /// A whole snapshot, verified and synced.
    SnapshotReceived {
        /// The sender.
        from: NodeId,
        /// Where the bytes are. The owner removes the file.
        file: SnapshotFile,
        /// raft's MsgSnapshot, to be stepped.
        message: Box<Message>,
    },
}

/// A received snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where the bytes are.
    pub path: PathBuf,
    /// What they came to, and must come to when they are read.
    pub end: End,
}

/// Where the bytes of a snapshot come from. Read on a thread of its own.
pub trait SnapshotSource: Send {
    /// The next bytes: at least one and at most `max` of them; `None` at the end.
    ///
    /// # Errors
    /// The snapshot can't be completed.
    fn next_chunk(&mut self, max: usize) -> io::Result<Option<Vec<u8>>>;

    /// Bytes in all, as far as they are known beforehand: so much space the receiver reserves before it takes the first.
    /// 0: not known.
    fn size(&self) -> u64 {
        0
    }
}

/// All connections to peers. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Peers(Rc<Inner>);

impl Peers {
    /// Accepts on `listeners`, dials nobody yet. Must run on a glommio executor.
    ///
    /// # Errors
    /// The data directory can't be read.
    pub fn start(settings: Settings, listeners: Vec<Listener>) -> io::Result<Peers> {
        snapshot_in::remove_leftovers(&settings.data_dir)?;
        let inner = Rc::new(Inner::new(settings));
        let receiver = inner.receiver.clone();
        let replies = glommio::spawn_local(receiver.handle_replies(inner.queues.clone())).detach();
        inner.acceptors.borrow_mut().push(replies);
        for listener in listeners {
            let accepting = glommio::spawn_local(accept::accept_loop(inner.clone(), listener)).detach();
            inner.acceptors.borrow_mut().push(accepting);
        }
        Ok(Peers(inner))
    }

    /// Who belongs to the cluster now (this member included; it is what `GET /members` shows), and the ids of those who were
    /// removed. Lanes to those who are gone end; their connections are refused from now on with "removed member".
    pub fn set_members(&self, members: &[Member], removed: &[NodeId]) {
        self.0.set_members(members, removed);
    }

    /// What `GET /version` shows as `etcdcluster`, as soon as it is known.
    pub fn set_cluster_version(&self, version: &str) {
        *self.0.cluster_version.borrow_mut() = Some(version.to_owned());
    }

    /// What that member said its server is when it was connected to; `None` while it is not, and if it didn't say.
    pub fn server_version(&self, node: NodeId) -> Option<String> {
        self.0.peers.borrow().get(&node)?.server_version.borrow().clone()
    }

    /// Sends on the message's lane, or drops it. (Of a `MsgSnapshot` only [`Peers::send_snapshot`] can say the bytes.)
    pub fn send(&self, to: NodeId, message: &PeerMessage) {
        self.0.send(to, message);
    }

    /// Until this is called again: heartbeats that are sent were due at this time (`None`: raft sends them of its own accord).
    /// How much later each is handed to its socket goes into `ringd_heartbeat_lateness_seconds`.
    pub fn heartbeats_due(&self, due: Option<HeartbeatDue>) {
        self.0.heartbeats_due.set(due);
    }

    /// What has come; never ready twice for the same. Vital messages before all others.
    pub fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.0.queues.poll(cx)
    }

    /// Lets time pass: keep-alives and deadlines. To be called at every tick of raft, so that it costs no wake-up of its own.
    pub fn tick(&self, now: Duration) {
        for conn in self.0.conns.borrow().values() {
            conn.borrow_mut().tick(now);
        }
        self.0.receiver.tick(now);
        self.0.send_forwards();
    }

    /// Forgets the forwards that came before `then` or that are no longer `open`. The others are sent again on the next
    /// connection.
    pub fn forget_forwards(&self, then: Duration, open: impl Fn(&Forward) -> bool) {
        for peer in self.0.peers.borrow().values() {
            peer.forwards.borrow_mut().forget(then, &open);
        }
    }

    /// How long both standing lanes to that member have been unbroken. `None`: they are not.
    pub fn active_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        let peers = self.0.peers.borrow();
        Some(now.saturating_sub(peers.get(&node)?.active_since.get()?))
    }

    /// Streams a snapshot: `message` is raft's MsgSnapshot, `source` its bytes. Ends with [`Incoming::SnapshotSent`]. A
    /// second one to the same member takes the place of the first.
    pub fn send_snapshot(&self, to: NodeId, message: Message, source: Box<dyn SnapshotSource>) {
        self.0.send_snapshot(to, message, source);
    }

    /// Stops streaming a snapshot to that member, if one is under way; no [`Incoming::SnapshotSent`] follows.
    pub fn cancel_snapshot(&self, to: NodeId) {
        self.0.cancel_snapshot(to);
    }

    /// Ends all connections.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }
}

/// Asks peers over HTTP, blocking: for the main thread before anything else runs.
pub mod fetch;
