//! Telling systemd (`Type=notify`) that we serve, or that we stop. Without `NOTIFY_SOCKET` nothing happens, and an error
//! is nobody's business: a service manager that doesn't listen must not stop us.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Clients are served. Whether somebody was told.
pub fn ready() -> bool {
    tell("READY=1\nSTATUS=serving clients")
}

/// The process is about to end. Whether somebody was told.
pub fn stopping() -> bool {
    tell("STOPPING=1\nSTATUS=stopping")
}

fn tell(state: &str) -> bool {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(&socket, state).is_ok(),
        _ => false,
    }
}

/// `socket` is a path, or with `@` in front a name in the abstract namespace (sd_notify(3)).
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let count = receiver.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_both_hear_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        send(path.as_os_str(), "READY=1").expect("somebody listens");
        assert_eq!(received(&receiver), "READY=1");

        let name = format!("ringd-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let receiver = UnixDatagram::bind_addr(&address).expect("a socket");
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").expect("somebody listens");
        assert_eq!(received(&receiver), "STOPPING=1");
    }

    #[test]
    fn nobody_there_is_only_an_error() {
        for socket in ["/nonexistent/notify", "@ringd-nobody", "relative", "vsock:2:1234"] {
            assert!(send(OsStr::new(socket), "READY=1").is_err(), "{socket}");
        }
    }
}
