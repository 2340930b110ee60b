//! A snapshot on its way to a peer: numbered chunks, acknowledged, so that a broken connection costs no more than what was
//! under way.
//!
//! Frames of the snapshot lane, besides their common head (`consensus::peer`); numbers are little-endian:
//!
//! | kind | direction | payload |
//! |---|---|---|
//! | 16 begin | → | transfer (8), bytes in all or 0 if unknown (8), raft's MsgSnapshot as a whole frame |
//! | 17 chunk | → | number from 0 (8), bytes: 1 to 1 048 576 |
//! | 18 end | → | number of chunks (8), bytes in all (8), SHA-256 of all bytes (32) |
//! | 19 need | ← | number of the chunk that is wanted next (8): all before it have been written |
//! | 20 done | ← | 1: everything is there, verified and synced; 0: given up (1) |
//! | 20 done | → | 0: given up (1) |
//!
//! ```text
//!   begin ─────▶
//!         ◀───── need 0
//!   chunk 0, 1, 2 ─────▶
//!         ◀───── need 2          (so chunks 0 and 1 are forgotten here)
//!   ╳ the connection breaks; another one
//!   begin, the same transfer ─────▶
//!         ◀───── need 3
//!   chunk 3, end ─────▶
//!         ◀───── done 1
//! ```
//!
//! The sender keeps what is not acknowledged, a bounded number of bytes, and goes on reading its source only as far as
//! that; so it resumes at any chunk that the receiver can need, as long as both processes live. A receiver that
//! has forgotten the transfer needs chunk 0 of a sender that has it no more: then the sender gives up, and its leader begins
//! a new snapshot.
//!
//! Each frame has its checksum; the digest is over the whole, so no bug in the numbering can pass. Chunks are paced by the
//! sender: the lane shares the network and the disk with those that must not wait.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use consensus::peer::{self, Decoder, Frame, FrameError};
use consensus::{Message, NodeId, PeerMessage};

/// Bytes of the largest chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Length of a SHA-256.
pub const DIGEST_BYTES: usize = 32;

const KIND_BEGIN: u8 = peer::KIND_FIRST_FOREIGN;
const KIND_CHUNK: u8 = KIND_BEGIN + 1;
const KIND_END: u8 = KIND_BEGIN + 2;
const KIND_NEED: u8 = KIND_BEGIN + 3;
const KIND_DONE: u8 = KIND_BEGIN + 4;

/// A frame of the snapshot lane.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotFrame {
    /// What follows, and whose.
    Begin {
        /// Names the transfer among those of its sender.
        transfer: u64,
        /// Bytes in all; 0: not known.
        bytes: u64,
        /// raft's MsgSnapshot.
        message: Box<Message>,
    },
    /// Bytes.
    Chunk {
        /// Counts from 0.
        number: u64,
        /// At least one.
        bytes: Bytes,
    },
    /// That was all.
    End(End),
    /// The chunk that is wanted next.
    Need(u64),
    /// The end of the transfer; whether it has succeeded.
    Done(bool),
}

/// What the whole must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Number of chunks.
    pub chunks: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub digest: [u8; DIGEST_BYTES],
}

impl SnapshotFrame {
    /// About what [`SnapshotFrame::encode`] appends, in bytes.
    pub fn size(&self) -> usize {
        match self {
            SnapshotFrame::Chunk { bytes, .. } => bytes.len() + 17,
            _ => 1024,
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, number: u64| out.extend_from_slice(&number.to_le_bytes());
        match self {
            SnapshotFrame::Begin { transfer, bytes, message } => peer::encode_frame(KIND_BEGIN, out, |out| {
                put(out, *transfer);
                put(out, *bytes);
                peer::encode(&PeerMessage::Raft((**message).clone()), out);
            }),
            SnapshotFrame::Chunk { number, bytes } => peer::encode_frame(KIND_CHUNK, out, |out| {
                put(out, *number);
                out.extend_from_slice(bytes);
            }),
            SnapshotFrame::End(end) => peer::encode_frame(KIND_END, out, |out| {
                put(out, end.chunks);
                put(out, end.bytes);
                out.extend_from_slice(&end.digest);
            }),
            SnapshotFrame::Need(number) => peer::encode_frame(KIND_NEED, out, |out| put(out, *number)),
            SnapshotFrame::Done(good) => peer::encode_frame(KIND_DONE, out, |out| out.push(u8::from(*good))),
        }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// It breaks its table.
    pub fn decode(frame: &Frame) -> Result<SnapshotFrame, FrameError> {
        let mut rest = &frame.payload[..];
        let mut number = || {
            let (bytes, behind) = rest.split_first_chunk::<8>().ok_or(FrameError::Payload("snapshot"))?;
            rest = behind;
            Ok(u64::from_le_bytes(*bytes))
        };
        match frame.kind {
            KIND_BEGIN => {
                let (transfer, bytes) = (number()?, number()?);
                Ok(SnapshotFrame::Begin { transfer, bytes, message: Box::new(decode_message(rest)?) })
            }
            KIND_CHUNK => {
                let number = number()?;
                let bytes = frame.payload.slice(8..);
                match bytes.len() {
                    1..=CHUNK_BYTES_MAX => Ok(SnapshotFrame::Chunk { number, bytes }),
                    _ => Err(FrameError::Payload("chunk")),
                }
            }
            KIND_END => {
                let (chunks, bytes) = (number()?, number()?);
                let digest = rest.try_into().map_err(|_| FrameError::Payload("digest"))?;
                Ok(SnapshotFrame::End(End { chunks, bytes, digest }))
            }
            KIND_NEED => match (number()?, rest) {
                (number, []) => Ok(SnapshotFrame::Need(number)),
                _ => Err(FrameError::Payload("end")),
            },
            KIND_DONE => match rest {
                [good @ (0 | 1)] => Ok(SnapshotFrame::Done(*good == 1)),
                _ => Err(FrameError::Payload("done")),
            },
            kind => Err(FrameError::Kind(kind)),
        }
    }
}

fn decode_message(mut bytes: &[u8]) -> Result<Message, FrameError> {
    let frame = Decoder::new(peer::FRAME_BYTES_MAX).next(&mut bytes)?;
    match frame.as_ref().map(peer::decode).transpose()? {
        Some(message) if message.lane() == consensus::Lane::Snapshot && bytes.is_empty() => match message {
            PeerMessage::Raft(message) => Ok(message),
            _ => Err(FrameError::Payload("message")),
        },
        _ => Err(FrameError::Payload("message")),
    }
}

/// How fast, and how much at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// Bytes that may be read from the source and not acknowledged.
    pub unacknowledged_bytes_max: usize,
}

/// What the sender is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Send this.
    Send(SnapshotFrame),
    /// Ask again at this time.
    At(Duration),
    /// Read the next chunk from the source.
    Read,
    /// Wait for the receiver.
    Wait,
    /// It is over; whether the receiver has everything.
    Over(bool),
}

/// A snapshot on its way out, over any number of connections.
#[derive(Debug)]
pub struct Outgoing {
    transfer: u64,
    bytes: u64,
    message: Box<Message>,
    pace: Pace,
    /// Chunks that are not acknowledged, from number `first` on.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    first: u64,
    /// The chunk to send next on this connection, once the receiver has named it.
    cursor: Option<u64>,
    end: Option<End>,
    end_sent: bool,
    next_at: Duration,
    over: Option<bool>,
}

impl Outgoing {
    /// Nothing sent yet. `bytes`: in all, or 0.
    pub fn new(transfer: u64, bytes: u64, message: Message, pace: Pace) -> Outgoing {
        Outgoing {
            transfer,
            bytes,
            message: Box::new(message),
            pace,
            kept: VecDeque::new(),
            kept_bytes: 0,
            first: 0,
            cursor: None,
            end: None,
            end_sent: false,
            next_at: Duration::ZERO,
            over: None,
        }
    }

    /// What a new connection begins with.
    pub fn begin(&mut self) -> SnapshotFrame {
        self.cursor = None;
        self.end_sent = false;
        SnapshotFrame::Begin { transfer: self.transfer, bytes: self.bytes, message: self.message.clone() }
    }

    /// Takes a frame of the receiver's. What it can't have meant ends the transfer.
    pub fn handle(&mut self, frame: &SnapshotFrame) {
        match frame {
            SnapshotFrame::Need(number) => self.handle_need(*number),
            SnapshotFrame::Done(good) => {
                // It can't have verified what it wasn't sent.
                self.over = Some(*good && self.end_sent);
            }
            _ => self.over = Some(false),
        }
    }

    fn handle_need(&mut self, number: u64) {
        let read = self.first + self.kept.len() as u64;
        let sent = self.cursor.unwrap_or(read);
        if number < self.first || number > sent {
            self.over = Some(false); // forgotten here, or never sent
            return;
        }
        while self.first < number {
            self.kept_bytes -= self.kept.pop_front().map_or(0, |chunk| chunk.len());
            self.first += 1;
        }
        self.cursor.get_or_insert(number);
    }

    /// The next bytes of the source, at most [`CHUNK_BYTES_MAX`]; in answer to [`Next::Read`].
    pub fn push(&mut self, chunk: Bytes) {
        self.kept_bytes += chunk.len();
        self.kept.push_back(chunk);
    }

    /// The source has ended.
    pub fn push_end(&mut self, bytes: u64, digest: [u8; DIGEST_BYTES]) {
        self.end = Some(End { chunks: self.first + self.kept.len() as u64, bytes, digest });
    }

    /// The source can't go on.
    pub fn fail(&mut self) {
        self.over = Some(false);
    }

    /// What to do now.
    pub fn next(&mut self, now: Duration) -> Next {
        if let Some(good) = self.over {
            return Next::Over(good);
        }
        let Some(cursor) = self.cursor else { return Next::Wait };
        if let Some(chunk) = self.kept.get((cursor - self.first) as usize) {
            if now < self.next_at {
                return Next::At(self.next_at);
            }
            let nanos = chunk.len() as u64 * 1_000_000_000 / self.pace.bytes_per_second;
            self.next_at = now + Duration::from_nanos(nanos);
            self.cursor = Some(cursor + 1);
            return Next::Send(SnapshotFrame::Chunk { number: cursor, bytes: chunk.clone() });
        }
        match self.end {
            Some(end) if !self.end_sent => {
                self.end_sent = true;
                Next::Send(SnapshotFrame::End(end))
            }
            Some(_) => Next::Wait,
            None if self.kept_bytes < self.pace.unacknowledged_bytes_max => Next::Read,
            None => Next::Wait,
        }
    }

    /// The chunk that the receiver is known to need next: grows while there is progress.
    pub fn acknowledged(&self) -> u64 {
        self.first
    }
}

/// A snapshot on its way in: only the numbers. The bytes go past it to a file.
#[derive(Debug)]
pub struct Incoming {
    /// The sender.
    pub from: NodeId,
    /// The sender's name for it.
    pub transfer: u64,
    /// raft's MsgSnapshot.
    pub message: Box<Message>,
    next: u64,
    ended: bool,
}

/// A frame that can't be what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfOrder;

impl Incoming {
    /// Nothing received yet.
    pub fn new(from: NodeId, transfer: u64, message: Box<Message>) -> Incoming {
        Incoming { from, transfer, message, next: 0, ended: false }
    }

    /// The chunk that is wanted next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Another connection goes on with the same transfer: what to ask for.
    pub fn resume(&mut self) -> SnapshotFrame {
        self.ended = false;
        SnapshotFrame::Need(self.next)
    }

    /// A chunk has come; its bytes follow those before it.
    ///
    /// # Errors
    /// It is not the one that was wanted.
    pub fn handle_chunk(&mut self, number: u64) -> Result<(), OutOfOrder> {
        if number != self.next || self.ended {
            return Err(OutOfOrder);
        }
        self.next += 1;
        Ok(())
    }

    /// The end has come.
    ///
    /// # Errors
    /// Chunks are missing.
    pub fn handle_end(&mut self, end: &End) -> Result<(), OutOfOrder> {
        if end.chunks != self.next || self.ended {
            return Err(OutOfOrder);
        }
        self.ended = true;
        Ok(())
    }
}
