//! The peer port.

use std::cell::RefCell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use consensus::Lane;
use glommio::net::{TcpListener, TcpStream};

use super::super::transport::Transport;
use super::conn::Conn;
use super::dial::{run, set_options};
use super::{Inner, Listener};
use crate::config::limits::PEER_CONNECTIONS_MAX;

/// How long the acceptor rests after the process has run out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts until it is cancelled.
pub(super) async fn accept_loop(inner: Rc<Inner>, listener: Listener) {
    // SAFETY: the descriptor comes from `into_raw_fd`, so nobody else owns or closes it.
    let socket = unsafe { TcpListener::from_raw_fd(listener.socket.into_raw_fd()) };
    loop {
        let result = match socket.shared_accept().await {
            Ok(accepted) => start(&inner, accepted.bind_to_executor(), listener.tls),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "failed to accept a peer connection; retrying");
            glommio::timer::sleep(ACCEPT_RETRY).await;
        }
    }
}

fn start(inner: &Rc<Inner>, stream: TcpStream, tls: bool) -> io::Result<()> {
    // Which lane it is will show; the options of vital sockets are right for what the accepting end sends.
    if set_options(&stream, Lane::Vital, inner.settings.write_timeout).is_err() {
        return Ok(()); // gone already
    }
    let tls = if tls { Some(server_tls(inner)?) } else { None };
    make_room(inner);
    let conn = Rc::new(RefCell::new(Conn::accepted(Transport::new(stream, tls))));
    let inner = inner.clone();
    glommio::spawn_local(async move { run(&inner, &conn).await }).detach();
    Ok(())
}

fn server_tls(inner: &Inner) -> io::Result<net::tls::Tls> {
    let tls = inner.settings.tls.as_ref();
    tls.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "https without certificates"))?.accept()
}

/// At the bound, the oldest connection that is no lane makes room: strangers must not keep members out.
fn make_room(inner: &Inner) {
    let conns = inner.conns.borrow();
    if conns.len() < PEER_CONNECTIONS_MAX {
        return;
    }
    let oldest = conns.values().find(|conn| conn.borrow().peer.is_none());
    if let Some(conn) = oldest {
        conn.borrow().handle.kill();
    }
}
