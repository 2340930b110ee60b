//! Snapshots on their way to peers: read and hashed on a thread, sent by a task, over as many connections as it takes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use consensus::{Lane, Message};
use crossbeam::channel;
use futures_lite::future;
use node::peer::snapshot::{CHUNK_BYTES_MAX, DIGEST_BYTES, Next, Outgoing, Pace, SnapshotFrame};
use node::peer::{Backoff, DialedEvent};
use sha2::{Digest, Sha256};

use super::super::background::lower_priority;
use super::super::clock::now;
use super::conn::{Conn, Handle};
use super::dial::{connect, run};
use super::{Incoming, Inner, Peer, SnapshotSource};
use crate::config::limits::{
    PEER_SNAPSHOT_BYTES_PER_SECOND, PEER_SNAPSHOT_CHUNKS_AHEAD_MAX, PEER_SNAPSHOT_UNACKNOWLEDGED_BYTES_MAX,
};

/// A transfer that the receiver has acknowledged nothing of for so long is given up.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);

/// What the source's thread has read.
enum Read {
    Chunk(Vec<u8>),
    End(u64, [u8; DIGEST_BYTES]),
    Failed(io::Error),
}

/// The thread that reads a source, as far ahead as its queue allows.
struct Reader {
    reads: channel::Receiver<Read>,
    waker: Arc<AtomicWaker>,
}

impl Reader {
    fn start(source: Box<dyn SnapshotSource>) -> io::Result<Reader> {
        let (sender, reads) = channel::bounded(PEER_SNAPSHOT_CHUNKS_AHEAD_MAX);
        let waker = Arc::new(AtomicWaker::new());
        let theirs = waker.clone();
        std::thread::Builder::new().name("ringd-snapshot".into()).spawn(move || {
            lower_priority();
            read_all(source, &sender, &theirs);
        })?;
        Ok(Reader { reads, waker })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Read> {
        self.waker.register(cx.waker());
        match self.reads.try_recv() {
            Ok(read) => Poll::Ready(read),
            Err(channel::TryRecvError::Empty) => Poll::Pending,
            Err(channel::TryRecvError::Disconnected) => {
                Poll::Ready(Read::Failed(io::Error::other("the thread that reads it has ended")))
            }
        }
    }
}

fn read_all(mut source: Box<dyn SnapshotSource>, to: &channel::Sender<Read>, waker: &AtomicWaker) {
    let (mut hasher, mut size) = (Sha256::new(), 0);
    loop {
        let read = match source.next_chunk(CHUNK_BYTES_MAX) {
            Ok(Some(chunk)) if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX => {
                Read::Failed(io::Error::other(format!("a chunk of {} bytes", chunk.len())))
            }
            Ok(Some(chunk)) => {
                hasher.update(&chunk);
                size += chunk.len() as u64;
                Read::Chunk(chunk)
            }
            Ok(None) => Read::End(size, std::mem::take(&mut hasher).finalize().into()),
            Err(error) => Read::Failed(error),
        };
        let last = !matches!(read, Read::Chunk(_));
        let taken = to.send(read).is_ok();
        waker.wake();
        if last || !taken {
            return;
        }
    }
}

/// What a connection tells the transfer that dialed it.
#[derive(Default)]
pub(super) struct Link {
    events: RefCell<VecDeque<DialedEvent>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    pub fn push(&self, event: DialedEvent) {
        self.events.borrow_mut().push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn next(&self) -> DialedEvent {
        poll_fn(|cx| match self.events.borrow_mut().pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// A transfer that can be stopped.
#[derive(Default)]
pub(super) struct Transfer {
    cancelled: Cell<bool>,
    conn: RefCell<Option<Rc<Handle>>>,
}

impl Transfer {
    /// Ends it without a word.
    pub fn cancel(&self) {
        self.cancelled.set(true);
        if let Some(conn) = &*self.conn.borrow() {
            conn.kill();
        }
    }
}

/// How an attempt ended.
enum Attempt {
    Over(bool),
    Broken,
}

/// Sends a snapshot and tells how it ended.
pub(super) async fn send(
    inner: Rc<Inner>,
    peer: Rc<Peer>,
    transfer: Rc<Transfer>,
    message: Message,
    source: Box<dyn SnapshotSource>,
) {
    let (index, bytes) = (message.raft.get_snapshot().get_metadata().index, source.size());
    let begun = now();
    tracing::info!(peer = format!("{:x}", peer.node.0), index, bytes, "sending a snapshot");
    let cells = &peer.cells.snapshot_sent;
    cells.inflight.add(1);
    let good = stream(&inner, &peer, &transfer, message, source).await;
    cells.inflight.add(-1);
    if good {
        cells.success.inc();
        cells.duration.observe_duration(now() - begun);
    } else {
        cells.failures.inc();
    }
    if transfer.cancelled.get() {
        return;
    }
    let took_ms = (now() - begun).as_millis() as u64;
    tracing::info!(peer = format!("{:x}", peer.node.0), index, good, took_ms, "a snapshot has been sent");
    inner.queues.push(Incoming::SnapshotSent(peer.node, good));
}

async fn stream(
    inner: &Rc<Inner>,
    peer: &Rc<Peer>,
    transfer: &Transfer,
    message: Message,
    source: Box<dyn SnapshotSource>,
) -> bool {
    let pace = Pace {
        bytes_per_second: PEER_SNAPSHOT_BYTES_PER_SECOND,
        unacknowledged_bytes_max: PEER_SNAPSHOT_UNACKNOWLEDGED_BYTES_MAX,
    };
    let name = inner.next_transfer();
    let mut outgoing = Outgoing::new(name, source.size(), message, pace);
    let Ok(reader) = Reader::start(source) else { return false };
    let mut backoff = Backoff::new(inner.settings.seed ^ name);
    let (mut acknowledged, mut progress) = (0, now());
    let mut attempt = 0;
    while !peer.gone.get() && !transfer.cancelled.get() && now() - progress < PROGRESS_DEADLINE {
        let connected = now();
        if let Ok(conn) = connect(inner, peer, Lane::Snapshot, attempt).await {
            match attempt_over(inner, transfer, &conn, &mut outgoing, &reader).await {
                Attempt::Over(good) => return good,
                Attempt::Broken => {}
            }
        }
        if outgoing.acknowledged() > acknowledged {
            (acknowledged, progress) = (outgoing.acknowledged(), now());
        }
        attempt += 1;
        glommio::timer::sleep(backoff.pause(now() - connected)).await;
    }
    false
}

/// One connection's share of a transfer.
async fn attempt_over(
    inner: &Rc<Inner>,
    transfer: &Transfer,
    conn: &Rc<RefCell<Conn>>,
    outgoing: &mut Outgoing,
    reader: &Reader,
) -> Attempt {
    let link = Rc::new(Link::default());
    let handle = conn.borrow().handle.clone();
    conn.borrow_mut().link = Some(link.clone());
    *transfer.conn.borrow_mut() = Some(handle.clone());
    let (inner, theirs) = (inner.clone(), conn.clone());
    let task = glommio::spawn_local(async move {
        run(&inner, &theirs).await;
        if let Some(link) = &theirs.borrow().link {
            link.push(DialedEvent::Closed("the connection has ended"));
        }
    });
    let task = task.detach();
    let attempt = feed(conn, &link, outgoing, reader).await;
    *transfer.conn.borrow_mut() = None;
    handle.kill();
    task.await;
    attempt
}

async fn feed(conn: &Rc<RefCell<Conn>>, link: &Link, outgoing: &mut Outgoing, reader: &Reader) -> Attempt {
    let silence = || async {
        glommio::timer::sleep(PROGRESS_DEADLINE).await;
        Some(DialedEvent::Closed("no progress"))
    };
    match link.next().await {
        DialedEvent::Open => {}
        _ => return Attempt::Broken,
    }
    if !put(conn, &outgoing.begin()) {
        return Attempt::Broken;
    }
    loop {
        let event = async { Some(link.next().await) };
        let happened = match outgoing.next(now()) {
            Next::Over(good) => {
                if !good {
                    put(conn, &SnapshotFrame::Done(false));
                }
                return Attempt::Over(good);
            }
            Next::Send(frame) if put(conn, &frame) => continue,
            Next::Send(_) => return Attempt::Broken,
            Next::Wait => future::or(event, silence()).await,
            Next::At(at) => {
                let pause = async {
                    glommio::timer::sleep(at.saturating_sub(now())).await;
                    None
                };
                future::or(event, pause).await
            }
            Next::Read => {
                let read = async {
                    take(outgoing, poll_fn(|cx| reader.poll(cx)).await);
                    None
                };
                future::or(event, read).await
            }
        };
        match happened {
            None => {}
            Some(DialedEvent::Frame(frame)) => match SnapshotFrame::decode(&frame) {
                Ok(frame) => outgoing.handle(&frame),
                Err(_) => return Attempt::Broken,
            },
            Some(_) => return Attempt::Broken,
        }
    }
}

fn take(outgoing: &mut Outgoing, read: Read) {
    match read {
        Read::Chunk(bytes) => outgoing.push(Bytes::from(bytes)),
        Read::End(bytes, digest) => outgoing.push_end(bytes, digest),
        Read::Failed(error) => {
            tracing::warn!(%error, "a snapshot cannot be read");
            outgoing.fail();
        }
    }
}

fn put(conn: &Rc<RefCell<Conn>>, frame: &SnapshotFrame) -> bool {
    let mut conn = conn.borrow_mut();
    let Some(dialed) = conn.as_dialed() else { return false };
    let sent = dialed.send_frame(frame.size(), |out| frame.encode(out)).is_ok();
    conn.handle.wake();
    sent
}
