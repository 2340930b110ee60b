//! The thinnest possible gRPC client, for the watch rows: prepared bytes out, frame headers counted on the way in.
//!
//! A full client spends more on each event than the server does, on the same two CPUs, and the figure would be the
//! client's. This one never decodes HPACK or protobuf: a stream is what its `END_STREAM` flag and the count of its
//! DATA frames say. It is for a server that is known to answer rightly; the tests see to that.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// RFC 9113 6: frame types used here.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 6.9.1: the largest window.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What came in on a connection in one [`Connection::read`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// DATA frames that hold something; a short message is one frame.
    pub messages: usize,
    /// Streams that the server ended.
    pub ended: usize,
}

/// One connection in the client role.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    next_stream: u32,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects, offers windows that no run exhausts, and does not wait for the server's settings.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut initial_window = vec![0, 4]; // SETTINGS_INITIAL_WINDOW_SIZE
        initial_window.extend(WINDOW_MAX.to_be_bytes());
        push_frame(&mut start, SETTINGS, 0, 0, &initial_window);
        push_frame(&mut start, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
        let mut connection = Self { stream, host: address.to_string(), next_stream: 1, unread: Vec::new() };
        connection.stream.write_all(&start)?;
        Ok(connection)
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Opens a stream for the gRPC method `path` with one message; a half-closed one if `last`.
    pub fn open(&mut self, path: &str, message: &[u8], last: bool) -> io::Result<()> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut bytes = Vec::with_capacity(message.len() + 256);
        push_frame(&mut bytes, HEADERS, END_HEADERS, stream, &header_block(&self.host, path));
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        push_frame(&mut bytes, DATA, if last { END_STREAM } else { 0 }, stream, &body);
        self.stream.write_all(&bytes)
    }

    /// Waits for bytes and takes in the whole frames there are.
    pub fn read(&mut self) -> io::Result<Received> {
        let mut chunk = [0; 65_536];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.unread.extend_from_slice(&chunk[..count]);
        let mut received = Received::default();
        let mut replies = Vec::new();
        let mut at = 0;
        while let Some((header, payload)) = frame_at(&self.unread, at) {
            at += 9 + payload.len();
            match header.kind {
                DATA if !payload.is_empty() => received.messages += 1,
                SETTINGS if header.flags & ACK == 0 => push_frame(&mut replies, SETTINGS, ACK, 0, &[]),
                PING if header.flags & ACK == 0 => push_frame(&mut replies, PING, ACK, 0, payload),
                RST_STREAM | GOAWAY => {
                    return Err(io::Error::other(format!("the server gave up: {header:?} {payload:?}")));
                }
                _ => {}
            }
            if matches!(header.kind, DATA | HEADERS) && header.flags & END_STREAM != 0 {
                received.ended += 1;
            }
        }
        self.unread.drain(..at);
        if !replies.is_empty() {
            self.stream.write_all(&replies)?;
        }
        Ok(received)
    }
}

#[derive(Debug)]
struct FrameHeader {
    kind: u8,
    flags: u8,
}

fn frame_at(bytes: &[u8], at: usize) -> Option<(FrameHeader, &[u8])> {
    let header = bytes.get(at..at + 9)?;
    let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    let payload = bytes.get(at + 9..at + 9 + len)?;
    Some((FrameHeader { kind: header[3], flags: header[4] }, payload))
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// The request headers as RFC 7541 6.2.2 literals without indexing, so that no state is kept.
fn header_block(host: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a one-byte HPACK length");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}
