//! Listening sockets and the accept loop.
//!
//! glommio's own `bind` always sets `SO_REUSEPORT`, so a second server would share the port unnoticed. The socket is
//! therefore made here and handed over by its descriptor. One acceptor per listener runs on the first client core and
//! passes each connection to the core with the fewest.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::clock::now;
use super::shared::Shared;
use crate::config::limits::ACCEPTS_PER_TURN;
use glommio::net::{AcceptedTcpStream, TcpListener};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// Connections the kernel queues before `accept`. etcd leaves this to Go, which takes `net.core.somaxconn`.
const ACCEPT_BACKLOG: i32 = 4096;

/// How long the acceptor rests after the process has run out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a listener is asked to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--socket-reuse-port`. (`SO_REUSEADDR` is always set, as Go does, so `--socket-reuse-address` adds nothing.)
    pub reuse_port: bool,
    /// How long sent bytes may stay unacknowledged, or a peer's window closed, before the kernel ends the connection.
    /// `None`: as long as TCP retransmits. grpc-go, and so etcd, takes `--grpc-keepalive-timeout`.
    pub user_timeout: Option<Duration>,
}

/// What is served to the connections of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and pages: `--listen-client-urls`, unless pages have a listener of their own.
    All,
    /// gRPC alone: `--listen-client-urls` beside `--listen-client-http-urls`.
    Grpc,
    /// Pages alone: `--listen-client-http-urls`.
    Pages,
    /// Health and metrics alone: `--listen-metrics-urls`.
    Metrics,
}

/// The kernel asks a silent peer whether it is still there after this time, and again (etcd: `keepalive_listener.go`).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

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
    // Linux: accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL),
    )?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

/// Binds a unix socket at `path`. What a process left there that is gone makes room (etcd removes whatever is there; a
/// living listener or a file that is no socket is left alone here).
///
/// # Errors
/// `AddrInUse`, or that of `bind`.
pub fn bind_unix(path: &str) -> io::Result<Socket> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() || UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

/// Accepts for ever and hands each connection to `deliver`. Must run on a glommio executor.
///
/// At most [`ACCEPTS_PER_TURN`] in a row, so that a storm of connections leaves time for those that are there. Running out
/// of descriptors or memory is not the end: the acceptor says so once, rests, and tries again.
pub async fn accept_loop(socket: Socket, shared: Arc<Shared>, mut deliver: impl FnMut(AcceptedTcpStream)) {
    // SAFETY: the descriptor comes from `into_raw_fd`, so nobody else owns or closes it.
    let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
    let mut shortage = Shortage::default();
    loop {
        for _ in 0..ACCEPTS_PER_TURN {
            while shared.connection_count() >= shared.connections_max {
                shortage.begin("as many connections as are allowed");
                glommio::timer::sleep(ACCEPT_RETRY).await;
            }
            match listener.shared_accept().await.map_err(io::Error::from) {
                Ok(accepted) => {
                    shortage.end();
                    deliver(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    shortage.begin(&error);
                    glommio::timer::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        glommio::executor().yield_now().await;
    }
}

/// accept(2): errors that were already pending on the one connection; the next may be good.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EAGAIN
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// Whether connections wait because something has run out: said when it begins and when it has been over for a while, not
/// at each attempt.
#[derive(Default)]
struct Shortage {
    last: Option<Duration>,
}

/// A shortage is over if there was none for this long.
const SHORTAGE_OVER: Duration = Duration::from_secs(1);

impl Shortage {
    fn begin(&mut self, reason: impl std::fmt::Display) {
        if self.last.replace(now()).is_none() {
            tracing::warn!(%reason, "cannot accept client connections; new ones wait");
        }
    }

    fn end(&mut self) {
        if self.last.is_some_and(|last| now() - last >= SHORTAGE_OVER) {
            self.last = None;
            tracing::info!("client connections are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_no_fault_of_a_connection() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EBADF, libc::EINVAL] {
            assert!(!is_of_one_connection(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH] {
            assert!(is_of_one_connection(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }

    #[test]
    fn accepted_sockets_inherit_what_the_listener_was_told() {
        let options = Options { user_timeout: Some(Duration::from_secs(20)), ..Options::default() };
        let listener = bind("localhost", 0, options).expect("a free port");
        let address = listener.local_addr().expect("bound").as_socket().expect("TCP");
        let _client = std::net::TcpStream::connect(address).expect("it listens");
        let (accepted, _) = listener.accept().expect("a connection waits");
        assert_eq!(accepted.tcp_user_timeout().expect("TCP"), Some(Duration::from_secs(20)));
        assert!(accepted.keepalive().expect("TCP") && accepted.tcp_nodelay().expect("TCP"));
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_a_dead_one_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ringd.sock");
        let path = path.to_str().expect("UTF-8");
        let first = bind_unix(path).expect("a new path");
        let error = bind_unix(path).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(bind_unix(path).expect("nobody listens any more"));
        std::fs::remove_file(path).expect("it is there");
        std::fs::write(path, "precious").expect("writable");
        let error = bind_unix(path).expect_err("a file of somebody else's");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(path).expect("still there"), "precious");
    }
}
