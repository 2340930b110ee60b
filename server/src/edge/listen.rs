//! Listening sockets and the accept loop.
//!
//! glommio's own `bind` always sets `SO_REUSEPORT`, so a second server would share the port unnoticed. The socket is
//! therefore made here and handed over by its descriptor. One acceptor per listener runs on the first client core and
//! passes each connection to the core with the fewest.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::config::limits::CONNECTIONS_MAX;
use glommio::net::{AcceptedTcpStream, TcpListener};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel queues before `accept`. etcd leaves this to Go, which takes `net.core.somaxconn`.
const ACCEPT_BACKLOG: i32 = 4096;

/// How long the acceptor rests after the process has run out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a listener is asked to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--socket-reuse-port`. (`SO_REUSEADDR` is always set, as Go does, so `--socket-reuse-address` adds nothing.)
    pub reuse_port: bool,
}

/// Binds every address that `host:port` resolves to and that can be bound; `localhost` means 127.0.0.1, as in Go.
///
/// # Errors
/// The resolver's, or that of `bind` (`AddrInUse`, `PermissionDenied`, …).
pub fn bind(host: &str, port: u16, options: Options) -> io::Result<Socket> {
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.sort_by_key(|a| !a.is_ipv4());
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{host} has no address"));
    for address in addresses {
        match bind_one(address, options) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr, options: Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?; // as Go: one socket for both families
    }
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

/// Accepts for ever and hands each connection to `deliver`. Must run on a glommio executor.
///
/// Running out of descriptors or memory is not the end: the acceptor reports it, rests, and goes on.
pub async fn accept_loop(socket: Socket, shared: Arc<Shared>, mut deliver: impl FnMut(AcceptedTcpStream)) {
    // SAFETY: the descriptor comes from `into_raw_fd`, so nobody else owns or closes it.
    let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
    loop {
        while shared.connection_count() >= CONNECTIONS_MAX {
            glommio::timer::sleep(ACCEPT_RETRY).await;
        }
        match listener.shared_accept().await {
            Ok(accepted) => deliver(accepted),
            Err(error) => report(&error).await,
        }
    }
}

async fn report(error: &impl std::fmt::Display) {
    tracing::warn!(error = %error, "failed to accept a client connection; retrying");
    glommio::timer::sleep(ACCEPT_RETRY).await;
}
