//! gRPC over HTTP/2: calls, messages, statuses; the server side and a client side for peers, tests and benches.
//!
//! Reading order: `method` (the one table of RPCs), `status`, `event` (what goes in and out), `server`.

mod event;
mod method;
mod server;
mod status;

pub use event::{Bodies, CallId, Event, Fill, Metadata};
pub use method::{Kind, Method, unknown};
pub use server::{Config, Server};
pub use status::{Code, MESSAGE_SIZE_MAX, Status, percent_decode, percent_encode};
