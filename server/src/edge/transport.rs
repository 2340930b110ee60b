//! The bytes of one connection: a glommio stream, plain or under TLS.
//!
//! Everything is poll-based and readiness-driven, so one task per connection can wait for "readable", "writable" and
//! "an answer is there" at once without losing bytes. Reads go through one buffer per core, lent by the caller.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use net::tls::Tls;

/// Bytes taken from a socket at a time: 100 small requests fit, and a 1.5 MiB put takes 24 reads.
pub const READ_BYTES: usize = 64 << 10;

/// Plaintext handed to the TLS session at a time: four full records.
const TLS_CHUNK_BYTES: usize = 64 << 10;

/// One connection's way to the wire.
pub struct Transport {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// Ciphertext (under TLS) not yet taken by the socket, and how much of it was.
    cipher: Vec<u8>,
    cipher_sent: usize,
}

/// Buffers of one core, shared by its connections: used within one poll only.
pub struct ReadBuffers {
    raw: Vec<u8>,
    plain: Vec<u8>,
}

impl Default for ReadBuffers {
    /// Buffers of [`READ_BYTES`].
    fn default() -> ReadBuffers {
        ReadBuffers { raw: vec![0; READ_BYTES], plain: Vec::new() }
    }
}

/// What a read gave.
pub enum Received<'a> {
    /// Bytes of the protocol; none if only TLS itself went on.
    Bytes(&'a [u8]),
    /// The peer has closed its side.
    End,
}

impl Transport {
    /// A connection on `stream`, under TLS if `tls` is given.
    pub fn new(stream: TcpStream, tls: Option<Tls>) -> Transport {
        if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
            stop_pacing(&stream);
        }
        Transport { stream, tls: tls.map(Box::new), cipher: Vec::new(), cipher_sent: 0 }
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Who is at the other end; `None` if the socket is no longer connected.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Reads once. TLS failures are errors of kind `InvalidData`; their alert still waits in [`Transport::poll_write`].
    pub fn poll_read<'a>(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &'a mut ReadBuffers,
    ) -> Poll<io::Result<Received<'a>>> {
        let count = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffers.raw))?;
        if count == 0 {
            return Poll::Ready(Ok(Received::End));
        }
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(Received::Bytes(&buffers.raw[..count])));
        };
        buffers.plain.clear();
        tls.handle_bytes(&buffers.raw[..count], &mut buffers.plain)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if tls.is_closed_by_peer() && buffers.plain.is_empty() {
            return Poll::Ready(Ok(Received::End));
        }
        Poll::Ready(Ok(Received::Bytes(&buffers.plain)))
    }

    /// Writes what it can of `out[*sent..]` and of pending ciphertext; clears `out` once all of it was taken.
    /// Ready: nothing is left to write. Pending: the socket is full and the task will be woken.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        if self.tls.is_none() {
            ready!(drain(&mut self.stream, cx, out, sent))?;
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(drain(&mut self.stream, cx, &mut self.cipher, &mut self.cipher_sent))?;
            let tls = self.tls.as_mut().expect("checked above");
            if *sent < out.len() && !tls.is_handshaking() {
                let end = out.len().min(*sent + TLS_CHUNK_BYTES);
                tls.write(&out[*sent..end]);
                *sent = end;
            }
            tls.poll_transmit(&mut self.cipher);
            if self.cipher.is_empty() {
                if *sent == out.len() {
                    out.clear();
                    *sent = 0;
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Gives back what a burst of output has left behind. For a connection that has nothing to do.
    pub fn release_memory(&mut self) {
        release(&mut self.cipher);
    }

    /// Bytes of buffers, for what all connections may hold.
    pub fn held_bytes(&self) -> usize {
        self.cipher.capacity()
    }

    /// Says goodbye under TLS; the alert goes out with the next [`Transport::poll_write`].
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
        }
    }
}

/// A way within this machine has no bottleneck whose rate could be found and nobody else to share with. Where the system's
/// congestion control is BBR, its pacing would nevertheless arm a timer for every 64 KiB. Reno, which every Linux has, paces
/// nothing. Connections that leave the machine keep what the operator chose.
fn stop_pacing(stream: &TcpStream) {
    // SAFETY: the descriptor belongs to `stream` and so is open during the call, the only one it is lent for.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    // If it fails the connection is only slower.
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, "reno");
}

/// Buffers larger than this are given back when a connection falls idle: one that once sent a big list holds no memory
/// for it, and one that is busy doesn't grow its buffer anew for every piece.
const KEPT_BYTES: usize = 16 << 10;

/// Gives back an empty buffer that is larger than [`KEPT_BYTES`].
pub fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

fn drain(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    out: &mut Vec<u8>,
    sent: &mut usize,
) -> Poll<io::Result<()>> {
    while *sent < out.len() {
        let count = ready!(Pin::new(&mut *stream).poll_write(cx, &out[*sent..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *sent += count;
    }
    out.clear();
    *sent = 0;
    Poll::Ready(Ok(()))
}
