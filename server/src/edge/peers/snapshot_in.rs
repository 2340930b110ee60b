//! Snapshots on their way in: at most one at a time, written and hashed on a thread.
//!
//! The file is `snapshot-<sender>-<index>-<count>.tmp` in the data directory; no two of a process have one name. Its space is
//! reserved before the first byte is asked for. Only when all bytes are there, their digest is right and the file is synced,
//! the owner hears of it, and compares the digest again with what it reads there. Until then the file is nobody's, and
//! whatever ends the transfer removes it, the next start of the process at the latest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use consensus::peer::Frame;
use consensus::{Message, NodeId};
use crossbeam::channel;
use node::peer::snapshot::{self, DIGEST_BYTES, End, SnapshotFrame};
use rustix::fs::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use super::super::background::lower_priority;
use super::super::clock::now;
use super::super::writeback::{Rest, Writeback};
use super::conn::Handle;
use super::queues::Queues;
use super::{Incoming, SnapshotFile};
use crate::observe::metrics::peers::{self, Transfers};

/// A transfer whose connection is gone for so long is given up.
const RESUME_DEADLINE: Duration = Duration::from_secs(60);

/// Left free on the file system besides the snapshot itself: the log and the tree go on growing meanwhile.
const SPACE_LEFT_BYTES_MIN: u64 = 64 << 20;

/// For the writing thread.
enum Order {
    Write(Bytes),
    Finish(End),
}

/// What the writing thread has done.
enum Reply {
    Created,
    Written,
    Finished(End),
    Failed(io::Error),
}

/// Replies of all writing threads, each with its transfer's number here.
#[derive(Default)]
struct Replies {
    queue: Mutex<VecDeque<(u64, Reply)>>,
    waker: AtomicWaker,
}

impl Replies {
    fn push(&self, number: u64, reply: Reply) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, reply));
        self.waker.wake();
    }

    async fn next(&self) -> (u64, Reply) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                Some(reply) => Poll::Ready(reply),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// The snapshot being received, if there is one.
#[derive(Default)]
pub(super) struct Receiver {
    current: RefCell<Option<Receiving>>,
    count: Cell<u64>,
    replies: Arc<Replies>,
}

struct Receiving {
    /// Its number here.
    number: u64,
    incoming: snapshot::Incoming,
    /// The connection it comes by; the last one, if that is gone.
    conn: Rc<Handle>,
    /// Last time at which that connection was there.
    seen: Duration,
    path: PathBuf,
    orders: channel::Sender<Order>,
    /// What each chunk that is not written costs its connection.
    unwritten: VecDeque<(Rc<Handle>, usize)>,
    /// The file can be written.
    created: bool,
    /// The owner has been told.
    finished: bool,
    begun: Duration,
    cells: &'static Transfers,
}

impl Receiver {
    /// A frame of the snapshot lane has come from a peer; answers go out by `conn`.
    ///
    /// # Errors
    /// It must not be there; the connection ends.
    pub fn handle_frame(
        &self,
        data_dir: &Path,
        (from, me): (NodeId, NodeId),
        frame: &Frame,
        conn: &Rc<Handle>,
    ) -> Result<(), &'static str> {
        let frame = SnapshotFrame::decode(frame).map_err(|_| "a broken snapshot frame")?;
        if let SnapshotFrame::Begin { transfer, bytes, message } = frame {
            if NodeId(message.raft.from) != from || NodeId(message.raft.to) != me {
                return Err("a snapshot with another sender or addressee");
            }
            self.begin(data_dir, from, (transfer, bytes), message, conn);
            return Ok(());
        }
        let mut slot = self.current.borrow_mut();
        let Some(current) = slot.as_mut().filter(|current| Rc::ptr_eq(&current.conn, conn)) else {
            return Err("bytes of no snapshot");
        };
        if frame == SnapshotFrame::Done(false) {
            *slot = None;
            return Ok(());
        }
        current.handle(frame)
    }

    fn begin(
        &self,
        data_dir: &Path,
        from: NodeId,
        (transfer, bytes): (u64, u64),
        message: Box<Message>,
        conn: &Rc<Handle>,
    ) {
        let mut current = self.current.borrow_mut();
        if let Some(known) = current.as_mut() {
            if known.incoming.from == from && known.incoming.transfer == transfer {
                return known.resume(conn);
            }
            let busy = known.incoming.from != from && !known.conn.is_closed() && !known.finished;
            if busy {
                conn.answer(SnapshotFrame::Done(false));
                return;
            }
        }
        *current = None;
        let number = self.count.get();
        self.count.set(number + 1);
        let index = message.raft.get_snapshot().get_metadata().index;
        let path = data_dir.join(format!("snapshot-{:x}-{index}-{number}.tmp", from.0));
        match start_writer(self.replies.clone(), number, path.clone(), bytes) {
            Err(error) => {
                tracing::warn!(%error, "cannot start receiving a snapshot");
                conn.answer(SnapshotFrame::Done(false));
            }
            Ok(orders) => {
                tracing::info!(from = format!("{:x}", from.0), index, bytes, "receiving a snapshot");
                let cells = &peers::peer(from.0).snapshot_received;
                cells.inflight.add(1);
                *current = Some(Receiving {
                    number,
                    incoming: snapshot::Incoming::new(from, transfer, message),
                    conn: conn.clone(),
                    seen: now(),
                    path,
                    orders,
                    unwritten: VecDeque::new(),
                    created: false,
                    finished: false,
                    begun: now(),
                    cells,
                });
            }
        }
    }

    /// Takes what the writing threads have done, for ever.
    pub async fn handle_replies(self: Rc<Self>, queues: Rc<Queues>) {
        loop {
            let (number, reply) = self.replies.next().await;
            let mut slot = self.current.borrow_mut();
            let Some(current) = slot.as_mut().filter(|current| current.number == number) else { continue };
            if !current.handle_reply(reply, &queues) {
                *slot = None;
            }
        }
    }

    /// Gives up what nobody goes on with.
    pub fn tick(&self, now: Duration) {
        let mut slot = self.current.borrow_mut();
        let Some(current) = slot.as_mut() else { return };
        if !current.conn.is_closed() {
            current.seen = now;
        } else if now.saturating_sub(current.seen) >= RESUME_DEADLINE {
            *slot = None;
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.finished {
            self.cells.inflight.add(-1);
            self.cells.failures.inc();
        }
    }
}

impl Receiving {
    fn resume(&mut self, conn: &Rc<Handle>) {
        self.conn = conn.clone();
        let need = self.incoming.resume();
        if self.created {
            self.conn.answer(need);
        }
    }

    fn handle(&mut self, frame: SnapshotFrame) -> Result<(), &'static str> {
        let out_of_order = |_| "a snapshot's bytes out of order";
        match frame {
            SnapshotFrame::Chunk { number, bytes } if self.created => {
                self.incoming.handle_chunk(number).map_err(out_of_order)?;
                self.conn.heard(bytes.len());
                self.unwritten.push_back((self.conn.clone(), bytes.len()));
                let _ = self.orders.send(Order::Write(bytes)); // a thread that is gone has said why
                Ok(())
            }
            SnapshotFrame::End(end) if self.created => {
                self.incoming.handle_end(&end).map_err(out_of_order)?;
                if self.finished {
                    self.conn.answer(SnapshotFrame::Done(true)); // the first answer was lost
                } else {
                    let _ = self.orders.send(Order::Finish(end));
                }
                Ok(())
            }
            _ => Err("a snapshot frame that can't be"),
        }
    }

    /// False: the transfer is over.
    fn handle_reply(&mut self, reply: Reply, queues: &Queues) -> bool {
        match reply {
            Reply::Created => {
                self.created = true;
                self.conn.answer(SnapshotFrame::Need(self.incoming.next()));
            }
            Reply::Written => {
                if let Some((conn, bytes)) = self.unwritten.pop_front() {
                    conn.taken(bytes);
                }
                let written = self.incoming.next() - self.unwritten.len() as u64;
                self.conn.answer(SnapshotFrame::Need(written));
            }
            Reply::Finished(end) => {
                self.finished = true;
                self.cells.inflight.add(-1);
                self.cells.success.inc();
                self.cells.duration.observe_duration(now().saturating_sub(self.begun));
                self.conn.answer(SnapshotFrame::Done(true));
                queues.push(Incoming::SnapshotReceived {
                    from: self.incoming.from,
                    file: SnapshotFile { path: self.path.clone(), end },
                    message: self.incoming.message.clone(),
                });
            }
            Reply::Failed(error) => {
                tracing::warn!(%error, from = format!("{:x}", self.incoming.from.0), "a snapshot was not received");
                self.conn.answer(SnapshotFrame::Done(false));
                return false;
            }
        }
        true
    }
}

fn start_writer(
    replies: Arc<Replies>,
    number: u64,
    path: PathBuf,
    bytes: u64,
) -> io::Result<channel::Sender<Order>> {
    // Bounded by the connection: it is not read while more than its share is unwritten.
    let (orders, queue) = channel::unbounded();
    std::thread::Builder::new().name("ringd-snapshot".into()).spawn(move || {
        lower_priority();
        let finished = write_file(&path, bytes, &queue, &|reply| replies.push(number, reply));
        match finished {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => replies.push(number, Reply::Failed(error)),
        }
        let _ = fs::remove_file(&path); // at the next start, if not now
    })?;
    Ok(orders)
}

/// Writes until the end; false if nobody wants it any more.
fn write_file(
    path: &Path,
    bytes: u64,
    orders: &channel::Receiver<Order>,
    reply: &dyn Fn(Reply),
) -> io::Result<bool> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    reserve(&file, bytes)?;
    reply(Reply::Created);
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut writeback = Writeback::new(&file, Rest::Never); // the sender has paced it
    for order in orders {
        match order {
            Order::Write(bytes) => {
                (&file).write_all(&bytes)?;
                writeback.written(size, bytes.len() as u64)?;
                hasher.update(&bytes);
                size += bytes.len() as u64;
                reply(Reply::Written);
            }
            Order::Finish(end) => {
                let digest: [u8; DIGEST_BYTES] = hasher.finalize().into();
                if (end.bytes, end.digest) != (size, digest) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the digest is wrong"));
                }
                file.set_len(size)?; // what was reserved may be more
                file.sync_all()?;
                File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
                reply(Reply::Finished(end));
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Reserves what the sender has said, and sees that some is left for everything else.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let space = rustix::fs::fstatvfs(file)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < bytes.saturating_add(SPACE_LEFT_BYTES_MIN) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what an earlier process has left.
pub(super) fn remove_leftovers(data_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snapshot-") && name.ends_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
