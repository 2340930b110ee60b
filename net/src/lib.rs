//! Bytes to requests and answers to bytes: HTTP/2, gRPC, HTTP/1.1 and TLS as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, starts a thread or draws a random number. Bytes and the present
//! (`now`, a monotonic `Duration` since process start) come in as arguments; events and bytes to write go out as
//! values. The server's edge and the tests drive the very same code.
//!
//! Who calls what: the edge sniffs the first bytes of a connection ([`sniff`]), then feeds either a
//! [`grpc::Server`] or an [`http1::Connection`]; with TLS a [`tls::Tls`] stands between socket and machine.

pub mod grpc;
pub mod h2;
pub mod http1;
pub mod pb;
pub mod tls;

mod sniff;

pub use sniff::{Protocol, sniff};
