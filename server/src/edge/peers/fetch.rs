//! Asks peers over HTTP/1.1, blocking: for the main thread before anything else runs.
//!
//! The answers decide whether this member may found or join a cluster ([`crate::bootstrap`]). No redirect is followed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use net::http1::Response;
use node::membership::Member;
use serde_json::Value;

use super::Tls;
use super::dial::parse;
use crate::bootstrap::Fetched;
use crate::config::limits::PEER_PAGE_BYTES_MAX;
use crate::config::values::Url;

/// `GET /members` of the first of `urls` that answers.
///
/// # Errors
/// The last one's, if none answers rightly within `timeout` each.
pub fn members(urls: &[String], tls: Option<&Tls>, timeout: Duration) -> io::Result<Fetched> {
    first(urls, |url| {
        let response = get(&parse(url)?, "/members", tls, timeout)?;
        let cluster_id = response
            .header("x-etcd-cluster-id")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| invalid("the answer names no cluster".to_owned()))?;
        let rows: Vec<Value> =
            serde_json::from_slice(&response.body).map_err(|why| invalid(why.to_string()))?;
        let members: Result<Vec<Member>, _> =
            rows.iter().map(|row| Member::decode(row.to_string().as_bytes())).collect();
        Ok(Fetched { cluster_id, members: members.map_err(|why| invalid(why.to_string()))? })
    })
}

/// What a member says of itself at `GET /version`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `etcdserver`
    pub server: String,
    /// `etcdcluster`
    pub cluster: String,
}

/// `GET /version` of the first of `urls` that answers.
///
/// # Errors
/// The last one's, if none answers rightly within `timeout` each.
pub fn version(urls: &[String], tls: Option<&Tls>, timeout: Duration) -> io::Result<Version> {
    first(urls, |url| {
        let response = get(&parse(url)?, "/version", tls, timeout)?;
        let json: Value = serde_json::from_slice(&response.body).map_err(|why| invalid(why.to_string()))?;
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        match (text("etcdserver"), text("etcdcluster")) {
            (Some(server), Some(cluster)) => Ok(Version { server, cluster }),
            _ => Err(invalid("the answer names no versions".to_owned())),
        }
    })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn first<T>(urls: &[String], ask: impl Fn(&str) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no peer to ask");
    for url in urls {
        match ask(url) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = io::Error::new(error.kind(), format!("{url}: {error}")),
        }
    }
    Err(last)
}

/// One request on a connection of its own; an answer other than 200 is an error.
fn get(url: &Url, path: &str, tls: Option<&Tls>, timeout: Duration) -> io::Result<Response> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(url, deadline)?;
    let mut tls = match tls {
        _ if url.scheme != "https" => None,
        Some(tls) => {
            let config = tls.client(b"http/1.1")?;
            Some(config.connect(&url.host).map_err(|why| invalid(why.to_string()))?)
        }
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "https without certificates")),
    };
    let mut request =
        format!("GET {path} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n\r\n", url.host, url.port);
    let mut received = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        send(&mut stream, tls.as_mut(), &mut request, deadline)?;
        stream.set_read_timeout(Some(left(deadline)?))?;
        let size = match stream.read(&mut buffer) {
            // A signal, or the process was stopped and goes on.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(as_timeout)?,
        };
        match &mut tls {
            None => received.extend_from_slice(&buffer[..size]),
            Some(tls) => {
                tls.handle_bytes(&buffer[..size], &mut received).map_err(|why| invalid(why.to_string()))?
            }
        }
        let response = Response::parse(&received, size == 0, PEER_PAGE_BYTES_MAX)
            .map_err(|why| invalid(format!("the answer to {path} is unusable: {}", why.0)))?;
        match response {
            Some(response) if response.status == 200 => return Ok(response),
            Some(response) => return Err(invalid(format!("{path} was answered with {}", response.status))),
            None => {}
        }
    }
}

/// Sends what there is: the request, unless a handshake comes first.
fn send(
    stream: &mut TcpStream,
    tls: Option<&mut net::tls::Tls>,
    request: &mut String,
    deadline: Instant,
) -> io::Result<()> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    let Some(tls) = tls else {
        return stream.write_all(std::mem::take(request).as_bytes()).map_err(as_timeout);
    };
    if !tls.is_handshaking() {
        tls.write(std::mem::take(request).as_bytes());
    }
    let mut records = Vec::new();
    tls.poll_transmit(&mut records);
    stream.write_all(&records).map_err(as_timeout)
}

fn connect(url: &Url, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (url.host.as_str(), url.port).to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A socket whose time is over says "would block".
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}
