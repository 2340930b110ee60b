//! Executors: one thread per entry of the placement plan, each running the tasks of its roles.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::AcceptedTcpStream;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use socket2::Socket;

use super::client_core::ClientCore;
use super::listen;
use super::log_core::LogCore;
use super::messages::Order;
use super::priority;
use super::raft_core::RaftCore;
use super::ring::Sender;
use super::store_core::StoreCore;
use super::wiring::Incoming;
use crate::placement::{Executor, Plan, Role};

/// Registered buffers of an executor with the log role, in bytes. glommio takes three times as much of the memlock limit.
const LOG_IO_MEMORY: usize = 2 << 20;

/// Registered buffers of the other executors, in bytes: they do no direct I/O.
const OTHER_IO_MEMORY: usize = 64 << 10;

/// Memory that the rings of one executor lock besides their registered buffers, in bytes.
const RING_MEMORY: u64 = 256 << 10;

/// What an executor is given to run. Made on the main thread; what may not cross threads is built on arrival.
#[derive(Default)]
pub struct Work {
    /// The log role.
    pub log: Option<Box<dyn FnOnce() -> LogCore + Send>>,
    /// The raft role, its tick interval.
    pub raft: Option<(Box<dyn FnOnce() -> RaftCore + Send>, Duration)>,
    /// The store role.
    pub store: Option<Box<StoreCore>>,
    /// A client role.
    pub client: Option<ClientWork>,
}

/// A client role's share.
pub struct ClientWork {
    /// Makes the core on its thread.
    pub core: Box<dyn FnOnce() -> ClientCore + Send>,
    /// Its incoming rings.
    pub rings: Incoming,
    /// Listening sockets with their numbers; only the first client core has them.
    pub sockets: Vec<(usize, Socket)>,
    /// Ways to the other client cores, from number 1 on.
    pub others: Vec<Sender<Order>>,
}

/// Bytes of locked memory that `plan` needs.
pub fn locked_bytes(plan: &Plan) -> u64 {
    plan.executors.iter().map(|executor| 3 * io_memory(executor) as u64 + RING_MEMORY).sum()
}

fn io_memory(executor: &Executor) -> usize {
    if executor.has(Role::Log) { LOG_IO_MEMORY } else { OTHER_IO_MEMORY }
}

/// Starts the thread of one executor.
///
/// # Errors
/// If the thread or its rings cannot be made.
pub fn start(executor: &Executor, work: Work) -> io::Result<ExecutorJoinHandle<()>> {
    let (name, roles, is_bound) = (executor.name(), executor.roles.clone(), executor.cpu.is_some());
    let placement = executor.cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&executor.name())
        .io_memory(io_memory(executor))
        .spawn(move || run(name, roles, is_bound, work))
        .map_err(io::Error::from)
}

async fn run(name: String, roles: Vec<Role>, is_bound: bool, work: Work) {
    crate::observe::metrics::enter(&name);
    priority::raise(&roles, is_bound);
    let mut tasks = Vec::new();
    if let Some(log) = work.log {
        tasks.push(glommio::spawn_local(log().run()).detach());
    }
    if let Some((raft, tick)) = work.raft {
        tasks.push(glommio::spawn_local(raft().run(tick)).detach());
    }
    if let Some(store) = work.store {
        tasks.push(glommio::spawn_local(store.run()).detach());
    }
    if let Some(client) = work.client {
        tasks.push(glommio::spawn_local(serve_clients(client)).detach());
    }
    for task in tasks {
        task.await;
    }
}

async fn serve_clients(work: ClientWork) {
    let core = Rc::new((work.core)());
    let others = Rc::new(work.others);
    for (listener, socket) in work.sockets {
        let (core_here, others) = (core.clone(), others.clone());
        let accepting = listen::accept_loop(socket, core.shared.clone(), move |stream| {
            deliver(&core_here, &others, stream, listener);
        });
        core.acceptors.borrow_mut().push(Box::pin(accepting));
    }
    core.run(work.rings).await;
}

/// Gives a connection to the client core with the fewest.
fn deliver(core: &Rc<ClientCore>, others: &[Sender<Order>], stream: AcceptedTcpStream, listener: usize) {
    let emptiest = core.shared.emptiest_client();
    core.shared.connection_opened(emptiest);
    // Client core 0 has the acceptor; `others` begins with core 1.
    let refused = match emptiest.checked_sub(1).and_then(|at| others.get(at)) {
        None => return core.accepted(stream, listener),
        Some(other) => {
            let result = other.push(Order::Accepted(stream, listener));
            other.flush();
            result
        }
    };
    if let Err(Order::Accepted(stream, listener)) = refused {
        core.shared.connection_closed(emptiest);
        core.shared.connection_opened(core.number);
        core.accepted(stream, listener);
    }
}
