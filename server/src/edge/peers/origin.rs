//! Whether a certificate may come from the address that it comes from (etcd `checkSAN`; the rule is [`net::tls::Names`]).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;

use net::tls::{Fit, Names, Resolver};
use socket2::SockAddr;

use super::super::transport::Transport;
use super::Inner;
use super::conn::Handle;
use super::dial::on_thread;
use crate::config::limits::PEER_NAME_CHECKS_MAX;

/// `Ask`: a thread asks, and [`Handle::vouch`] tells. `No`: the log has been told and the connection ends.
pub(super) fn check(inner: &Inner, transport: &Transport, conn: &Rc<Handle>) -> Fit {
    let wanted = inner.settings.tls.as_ref().is_some_and(|tls| tls.checks_origin());
    let certificate = transport.tls().and_then(|tls| tls.peer_certificate());
    let (true, Some(certificate)) = (wanted, certificate) else { return Fit::Yes };
    let Some(remote) = transport.peer_addr() else {
        conn.kill();
        return Fit::No;
    };
    let verdict = match Names::of(certificate) {
        Err(error) => Err(format!("the certificate cannot be read: {error}")),
        Ok(names) => match names.fit(remote.ip()) {
            Fit::Yes => return Fit::Yes,
            Fit::No => Err(mismatch(&names, remote)),
            Fit::Ask => ask(inner, names, remote, conn),
        },
    };
    match verdict {
        Ok(()) => Fit::Ask,
        Err(why) => {
            inner.rejections.tell(Some(remote), &why);
            conn.kill();
            Fit::No
        }
    }
}

fn mismatch(names: &Names, remote: SocketAddr) -> String {
    format!(
        "tls: {:?} does not match any of the certificate's names {:?} {:?}",
        remote.ip(),
        names.ips,
        names.dns
    )
}

/// Asks the name servers on a thread.
fn ask(inner: &Inner, names: Names, remote: SocketAddr, conn: &Rc<Handle>) -> Result<(), String> {
    let (count, rejections, conn) = (inner.name_checks.clone(), inner.rejections.clone(), conn.clone());
    if count.get() >= PEER_NAME_CHECKS_MAX {
        return Err("too many name look-ups are under way".to_owned());
    }
    count.set(count.get() + 1);
    glommio::spawn_local(async move {
        let theirs = names.clone();
        let fits = on_thread("ringd-names", move || theirs.belong_to(remote.ip(), &System)).await;
        count.set(count.get() - 1);
        if fits.as_ref().is_ok_and(|fits| *fits) {
            return conn.vouch(true);
        }
        let why = fits.err().map_or_else(|| mismatch(&names, remote), |error| error.to_string());
        rejections.tell(Some(remote), &why);
        conn.kill();
    })
    .detach();
    Ok(())
}

/// Look-ups that are under way.
pub(super) type NameChecks = Rc<Cell<usize>>;

/// The system's resolver: files, name servers. Blocking.
struct System;

impl Resolver for System {
    fn names(&self, address: IpAddr) -> Vec<String> {
        name_of(address).into_iter().collect()
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        (name, 0)
            .to_socket_addrs()
            .map(|found| found.map(|address| address.ip()).collect())
            .unwrap_or_default()
    }
}

/// `getnameinfo(3)`: std has none.
fn name_of(address: IpAddr) -> io::Result<String> {
    let address = SockAddr::from(SocketAddr::new(address, 0));
    let mut name = [0_u8; libc::NI_MAXHOST as usize];
    // SAFETY: `address` holds a socket address of `len()` bytes and `name` has room for the length that is given; both
    // outlive the call, which keeps no pointer. No name of a service is wanted.
    let result = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
    match result {
        0 => Ok(String::from_utf8_lossy(text).into_owned()),
        code => Err(io::Error::other(format!("getnameinfo: {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of itself: anything else would ask the network.
    #[test]
    fn the_system_knows_itself() {
        assert!(System.addresses("localhost").iter().any(IpAddr::is_loopback));
        let found = name_of("127.0.0.1".parse().unwrap()).unwrap();
        assert!(!found.is_empty() && found.parse::<IpAddr>().is_err(), "{found}");
    }
}
