//! HTTP/2 (RFC 9113) as one state machine for both roles.
//!
//! Bytes in ([`Connection::handle_bytes`]), events out through its callback, answers in (`send_…`), bytes out
//! ([`Connection::poll_transmit`]). Server push, CONNECT, upgrades and priorities are deliberately absent.
//!
//! Reading order: `limits` (every bound by name), `frame`, `settings`, `hpack`, `field` and `head` (header block to
//! typed head), `stream`, `budget`, `connection` (the state and its timers), `receive`, `transmit`.

mod budget;
mod connection;
pub mod error;
pub mod field;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod limits;
mod receive;
pub mod settings;
mod stream;
mod transmit;

#[cfg(test)]
mod tests;

pub use connection::{Config, Connection, Received, Role};
pub use error::{ConnectionError, ErrorCode};
pub use head::Head;
pub use hpack::encoder::{Header, Indexing};
pub use stream::{Block, OwnedHeader, StreamKey};
pub use transmit::{Pull, Pulled};

/// What a client sends first (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
