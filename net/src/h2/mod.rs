//! HTTP/2 (RFC 9113) as one state machine for both roles.

pub mod error;
pub mod field;
pub mod hpack;
pub mod limits;
mod stream;

pub use error::{ConnectionError, ErrorCode};
pub use stream::StreamKey;

/// What a client sends first (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
