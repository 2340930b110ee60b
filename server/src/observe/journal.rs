//! `--log-outputs=systemd/journal`: lines as datagrams in journald's native protocol.
//!
//! A datagram holds fields, one `NAME=value` per line (systemd.io, "Native Journal Protocol"); our lines hold no line
//! break, so that simple form is enough. The line is the message as it is, as etcd does it, and its level becomes the
//! priority, so that `journalctl -p warning` works.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends each line it is given to journald.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects to journald.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Journal { socket })
    }
}

impl Write for Journal {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let message = line.strip_suffix(b"\n").unwrap_or(line);
        let mut datagram = Vec::with_capacity(message.len() + 64);
        let _ = write!(datagram, "SYSLOG_IDENTIFIER=ringd\nPRIORITY={}\nMESSAGE=", priority(message));
        datagram.extend_from_slice(message);
        datagram.push(b'\n');
        self.socket.send(&datagram)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// syslog's number of a line's level, in either look.
fn priority(line: &[u8]) -> u8 {
    let json = line.strip_prefix(br#"{"level":""#).and_then(|rest| rest.split(|&byte| byte == b'"').next());
    let level = json.or_else(|| line.split(|&byte| byte == b'\t').nth(1));
    match level {
        Some(b"fatal" | b"panic") => 2,
        Some(b"error") => 3,
        Some(b"warn") => 4,
        Some(b"debug") => 7,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_entry_with_its_priority() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal");
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        let mut journal = Journal::connect(&path).expect("somebody listens");
        for (line, priority) in [
            ("{\"level\":\"warn\",\"msg\":\"x\"}\n", 4),
            ("{\"level\":\"fatal\",\"msg\":\"x\"}\n", 2),
            ("2026-01-02T15:04:05.000000Z\terror\ta/b.rs:1\tx\n", 3),
            ("2026-01-02T15:04:05.000000Z\tinfo\ta/b.rs:1\tx\n", 6),
            ("anything\n", 6),
        ] {
            journal.write_all(line.as_bytes()).expect("somebody listens");
            let mut bytes = [0; 256];
            let count = receiver.recv(&mut bytes).expect("a datagram");
            let want = format!("SYSLOG_IDENTIFIER=ringd\nPRIORITY={priority}\nMESSAGE={line}");
            assert_eq!(String::from_utf8_lossy(&bytes[..count]), want);
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(Journal::connect(Path::new("/nonexistent/journal")).is_err());
    }
}
