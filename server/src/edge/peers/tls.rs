//! Certificates of the peer port and of connections to peers.
//!
//! What is dialed with is read anew for each connection, so a changed certificate is used at once, and one that can't be used
//! keeps that connection from being made; what is listened with as for clients ([`super::super::certificates`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use net::tls::{ClientConfig, ClientFiles, Trust};

use super::super::certificates::Certificates;
use crate::config::PeerTls;
use crate::sys::Fatal;

/// Where Linux distributions keep the CAs of the system (Go `crypto/x509/root_linux.go`).
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// Certificates of the peer port and of connections to peers.
#[derive(Clone)]
pub struct Tls {
    config: Arc<PeerTls>,
    listen: Arc<Certificates>,
}

impl Tls {
    /// Reads the files, and starts the thread that reads them again when they change.
    ///
    /// # Errors
    /// If they can't be used.
    pub fn start(config: &PeerTls) -> Result<Tls, Fatal> {
        let listen = Certificates::start(config.listen.clone())?;
        Ok(Tls { config: Arc::new(config.clone()), listen })
    }

    /// Whether a certificate may come only from an address that it names.
    pub fn checks_origin(&self) -> bool {
        !self.config.skip_san_verification
    }

    /// A session with a peer that has dialed us.
    ///
    /// # Errors
    /// The files can't be used now.
    pub fn accept(&self) -> io::Result<net::tls::Tls> {
        let config =
            self.listen.current().ok_or_else(|| unusable("the peer port's TLS files cannot be used"))?;
        net::tls::Tls::new(&config).map_err(unusable)
    }

    /// How a peer is dialed. Reads files: blocking.
    ///
    /// # Errors
    /// The files can't be used now.
    pub fn client(&self, protocol: &[u8]) -> io::Result<ClientConfig> {
        let (cert, key) = (read(&self.config.cert_file)?, read(&self.config.key_file)?);
        let listen = &self.config.listen;
        let roots = match (&listen.client_ca_file, &listen.self_signed) {
            (Some(file), _) => Some(read(file)?),
            (None, Some(_)) => None,
            (None, None) => Some(read(&system_roots()?)?),
        };
        let trust = roots.as_deref().map_or(Trust::Anybody, Trust::Roots);
        let files = ClientFiles { identity: Some((&cert, &key)), trust };
        ClientConfig::new(&files, &listen.settings, &[protocol]).map_err(unusable)
    }
}

fn unusable(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

fn system_roots() -> io::Result<PathBuf> {
    let found = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the system has no file of CAs"))
}
