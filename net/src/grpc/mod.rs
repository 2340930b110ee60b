//! gRPC over HTTP/2: calls, messages, statuses; the server side and a client side for peers, tests and benches.
//!
//! Reading order: `method` (the one table of RPCs), `status`, `event` (what goes in and out), `head`, `timeout`,
//! `message` (what a request is made of), `keepalive`, `calls`, `server`.

mod calls;
mod client;
mod event;
mod head;
mod keepalive;
mod message;
mod method;
mod server;
mod status;
mod timeout;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientConfig, ClientEvent};
pub use event::{Bodies, CallId, Event, Fill, Metadata};
pub use method::{Kind, Method, unknown};
pub use server::{Config, OVERHEAD_BYTES, Server};
pub use status::{Code, MESSAGE_SIZE_MAX, Status, percent_decode, percent_encode};
