//! Keeping a lane to a peer up: look the name up, connect, run, wait, again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use consensus::Lane;
use glommio::net::TcpStream;
use net::h2::limits::STREAM_WINDOW;
use node::peer::{Backoff, Dialed, Hello, LaneConfig};
use socket2::SockRef;

use super::super::clock::now;
use super::super::transport::Transport;
use super::conn::{Conn, poll_conn};
use super::{Inner, Peer, Settings};
use crate::config::limits::{
    PEER_BULK_SEND_BYTES_MAX, PEER_SNAPSHOT_SEND_BYTES_MAX, PEER_VITAL_SEND_BYTES_MAX,
};
use crate::config::values::{Url, parse_urls};

/// How long connecting may take; the address is tried again after a pause. About as long as TCP waits until it asks a second
/// time; after that it would wait for ever longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Unsent bytes in the kernel beyond which a bulk socket takes no more: what waits here can still be dropped.
const BULK_NOTSENT_LOWAT_BYTES: u32 = 128 << 10;

/// What `SO_PRIORITY` asks for the vital lane: the highest that needs no capability. It decides the band of the default
/// queueing discipline (`pfifo_fast`), and nothing where there is none.
const VITAL_PRIORITY: libc::c_int = 6;

/// Bytes that may wait on a lane.
fn send_bytes_limit(lane: Lane) -> usize {
    match lane {
        Lane::Vital => PEER_VITAL_SEND_BYTES_MAX,
        Lane::Bulk => PEER_BULK_SEND_BYTES_MAX,
        Lane::Snapshot => PEER_SNAPSHOT_SEND_BYTES_MAX,
    }
}

/// What a connection of either end goes by.
pub(super) fn lane_config(settings: &Settings, lane: Lane) -> LaneConfig {
    LaneConfig {
        read_timeout: settings.read_timeout,
        send_bytes_limit: send_bytes_limit(lane),
        stream_window: STREAM_WINDOW,
    }
}

/// Dials a standing lane until the peer is gone.
pub(super) async fn keep_dialed(inner: Rc<Inner>, peer: Rc<Peer>, lane: Lane) {
    let lane_seed = peer.node.0.rotate_left(lane as u32 + 1);
    let mut backoff = Backoff::new(inner.settings.seed ^ lane_seed);
    let mut attempt = 0;
    while !peer.gone.get() {
        let began = now();
        let (conn, connected) = match connect(&inner, &peer, lane, attempt).await {
            Ok(conn) => (Some(conn), now()),
            Err(error) => {
                inner.lane_failed(&peer, lane, &error.to_string());
                (None, began)
            }
        };
        if let Some(conn) = conn {
            *peer.lane(lane).conn.borrow_mut() = Some(conn.clone());
            run(&inner, &conn).await;
            *peer.lane(lane).conn.borrow_mut() = None;
            let reason = conn.borrow().reason.clone();
            inner.lane_failed(&peer, lane, &reason);
        }
        attempt += 1;
        if !peer.gone.get() {
            glommio::timer::sleep(backoff.pause(now().saturating_sub(connected))).await;
        }
    }
}

/// Runs a connection to its end.
pub(super) async fn run(inner: &Rc<Inner>, conn: &Rc<RefCell<Conn>>) {
    let number = inner.add_conn(conn.clone());
    poll_fn(|cx| poll_conn(conn, inner, cx)).await;
    conn.borrow().handle.close();
    inner.conns.borrow_mut().remove(&number);
}

/// One attempt: the URLs and their addresses in turn.
pub(super) async fn connect(
    inner: &Rc<Inner>,
    peer: &Peer,
    lane: Lane,
    attempt: usize,
) -> io::Result<Rc<RefCell<Conn>>> {
    let urls = peer.urls.borrow().clone();
    if urls.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the peer has no URL"));
    }
    let url = parse(&urls[attempt % urls.len()])?;
    let addresses = look_up(&url.host, url.port).await?;
    let Some(address) = addresses.get(attempt / urls.len() % addresses.len().max(1)) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", url.host)));
    };
    let tls = client_tls(inner, &url).await?;
    let stream = TcpStream::connect_timeout(*address, CONNECT_TIMEOUT).await.map_err(io::Error::from)?;
    set_options(&stream, lane, unacknowledged_max(&inner.settings, lane))?;
    let hello = Hello {
        lane,
        cluster_id: inner.settings.identity.cluster_id,
        from: inner.me(),
        to: peer.node,
        peer_urls: inner.settings.peer_urls.clone(),
        server_version: Some(inner.settings.server_version.to_owned()),
    };
    let dialed = Dialed::new(hello, lane_config(&inner.settings, lane), now());
    let conn = Conn::dialed(Transport::new(stream, tls), dialed);
    Ok(Rc::new(RefCell::new(conn)))
}

/// Reads the certificates on a thread: they lie on a disk.
async fn client_tls(inner: &Inner, url: &Url) -> io::Result<Option<net::tls::Tls>> {
    let tls = match &inner.settings.tls {
        _ if url.scheme != "https" => return Ok(None),
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "https without certificates")),
        Some(tls) => tls.clone(),
    };
    let config = on_thread("ringd-tls", move || tls.client(b"h2")).await??;
    let session = config.connect(&url.host);
    session.map(Some).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why.to_string()))
}

pub(super) fn parse(url: &str) -> io::Result<Url> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let parsed = parse_urls(url).map_err(invalid)?.pop();
    parsed.filter(Url::is_tcp).ok_or_else(|| invalid(format!("{url} cannot be dialed")))
}

/// How long bytes on this lane may stay unacknowledged.
fn unacknowledged_max(settings: &Settings, lane: Lane) -> Duration {
    match lane {
        Lane::Vital | Lane::Bulk => settings.write_timeout.min(settings.stall_timeout),
        // A receiver whose disk is slow may let it wait.
        Lane::Snapshot => settings.write_timeout,
    }
}

/// Options of a socket of either end. Vital messages are small and must leave at once; a bulk socket holds little that is
/// not on its way, so that a message that has become useless can still be dropped here.
pub(super) fn set_options(stream: &impl AsRawFd, lane: Lane, user_timeout: Duration) -> io::Result<()> {
    // SAFETY: the stream owns its descriptor and outlives this borrow of it, which ends with this function.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let socket = SockRef::from(&fd);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    match lane {
        Lane::Vital => set_priority(&fd, VITAL_PRIORITY),
        Lane::Bulk | Lane::Snapshot => set_notsent_lowat(&fd, BULK_NOTSENT_LOWAT_BYTES),
    }
}

fn set_priority(fd: &BorrowedFd<'_>, priority: libc::c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, priority)
}

fn set_notsent_lowat(fd: &BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes as libc::c_int)
}

fn set_option(
    fd: &BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes, all of `value`, and keeps no pointer to it.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a thread leaves for the task that waits for it.
struct Answer<T> {
    value: Mutex<Option<T>>,
    waker: AtomicWaker,
}

/// Runs `work` on a thread of its own. For look-ups, of which each lane has at most one under way.
pub(super) async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let answer = Arc::new(Answer { value: Mutex::new(None), waker: AtomicWaker::new() });
    let theirs = answer.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let value = work();
        *theirs.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        theirs.waker.wake();
    })?;
    let value = poll_fn(|cx| {
        answer.waker.register(cx.waker());
        match answer.value.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Poll::Ready(value),
            None => Poll::Pending,
        }
    });
    Ok(value.await)
}

/// The addresses of a host now: anew at each attempt, because members move. A name server may take seconds, so it is
/// asked on a thread; an address needs no asking.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = host.to_owned();
    let look_up = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let mut addresses = on_thread("ringd-names", look_up).await??;
    addresses.sort_by_key(|address| !address.is_ipv4()); // as `listen::bind`, which takes the first
    Ok(addresses)
}
