//! TLS as a pure filter between socket bytes and protocol bytes: `rustls`, fed as bytes.
//!
//! TLS 1.2 and 1.3 only, no renegotiation, no early data, ALPN `h2` and `http/1.1`. With a client CA every client must
//! show a certificate that it signed, and that is neither revoked nor named otherwise than allowed. A listener builds one
//! [`ServerConfig`] per reading of its files and each new connection takes the current one; a bad new file thus refuses new
//! handshakes and breaks nothing that runs.

mod client;
mod names;
mod settings;
#[cfg(test)]
mod tests;
mod verifier;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{Connection, RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use client::{ClientConfig, ClientFiles, Trust};
pub use names::{Fit, Names, Resolver};
pub use settings::{Settings, SuiteError, Version, cipher_suite};
use verifier::{Allowed, Verifier};

/// A handshake must be complete within this time of the connection's beginning (etcd's figure).
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Why a configuration or a connection failed.
#[derive(Debug)]
pub enum Error {
    /// A PEM file has no usable certificate, key or CA; or they don't fit together.
    Config(String),
    /// The peer broke the protocol, or its certificate was refused.
    Peer(rustls::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(reason) => f.write_str(reason),
            Error::Peer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// The contents of the files of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The server's certificate and what leads from it to a CA: PEM.
    pub cert: &'a [u8],
    /// Its key: PEM.
    pub key: &'a [u8],
    /// Given, a client must show a certificate that one of these CAs signed: PEM.
    pub client_ca: Option<&'a [u8]>,
    /// Certificates that are no longer accepted, by their serial numbers: DER or PEM.
    pub revoked: Option<&'a [u8]>,
}

/// Certificate, key and client authentication of a listener.
#[derive(Clone)]
pub struct ServerConfig(Arc<rustls::ServerConfig>);

impl ServerConfig {
    /// Builds from the files' contents.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason.
    pub fn new(files: &Files<'_>, settings: &Settings) -> Result<ServerConfig, Error> {
        let chain = certificates(files.cert, "certificate file")?;
        let key = PrivateKeyDer::from_pem_slice(files.key)
            .map_err(|error| Error::Config(format!("key file holds no private key: {error}")))?;
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites =
            settings.suites().map_err(|error| Error::Config(format!("cipher suites: {error:?}")))?;
        let provider = Arc::new(provider);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&settings.versions())
            .map_err(|error| Error::Config(format!("TLS versions and cipher suites: {error}")))?;
        let builder = match files.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_cert_verifier(verifier(pem, files.revoked, settings, provider)?),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| Error::Config(format!("certificate and key: {error}")))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerConfig(Arc::new(config)))
    }
}

fn verifier(
    client_ca: &[u8],
    revoked: Option<&[u8]>,
    settings: &Settings,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let chain = WebPkiClientVerifier::builder_with_provider(roots(client_ca)?, provider)
        .build()
        .map_err(|error| Error::Config(format!("trusted CA file: {error}")))?;
    let revoked = revoked.map(verifier::revocation_list).transpose();
    let revoked = revoked.map_err(|error| Error::Config(format!("revocation list: {error}")))?;
    Ok(Arc::new(Verifier { chain, revoked, allowed: Allowed::of(settings)? }))
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Err(error) => Err(Error::Config(format!("{file} is no PEM: {error}"))),
        Ok(chain) if chain.is_empty() => Err(Error::Config(format!("{file} holds no certificate"))),
        Ok(chain) => Ok(chain),
    }
}

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "trusted CA file")? {
        roots.add(certificate).map_err(|error| Error::Config(format!("trusted CA file: {error}")))?;
    }
    Ok(Arc::new(roots))
}

/// What ALPN chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`
    H2,
    /// `http/1.1`
    Http1,
    /// The client offered nothing: sniff.
    None,
}

/// One TLS connection, in the server's role or ([`ClientConfig::connect`]) the client's.
///
/// Socket bytes go in through [`Tls::handle_bytes`], which appends what they decrypt to; answers go in through
/// [`Tls::write`]; whatever is for the socket (handshake, records, alerts) comes out of [`Tls::poll_transmit`], which
/// is to be called after each of these, also after an error: the alert tells the client why.
pub struct Tls {
    session: Connection,
    closed_by_peer: bool,
}

impl Tls {
    /// A connection that has received nothing.
    pub fn new(config: &ServerConfig) -> Result<Tls, Error> {
        Ok(Tls::of(ServerConnection::new(config.0.clone()).map_err(Error::Peer)?.into()))
    }

    fn of(mut session: Connection) -> Tls {
        // What is written is bounded by the caller, who takes the records at once. Before the handshake is complete only
        // a greeting is.
        session.set_buffer_limit(None);
        Tls { session, closed_by_peer: false }
    }

    /// Takes bytes from the socket, appends what they decrypt to.
    pub fn handle_bytes(&mut self, mut bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let before = bytes.len();
            // From a slice this fails only if the session's own buffer is full; then packets must be processed.
            let _ = self.session.read_tls(&mut bytes);
            let state = self.session.process_new_packets().map_err(Error::Peer)?;
            self.closed_by_peer |= state.peer_has_closed();
            let size = state.plaintext_bytes_to_read();
            let at = plaintext.len();
            plaintext.resize(at + size, 0);
            if self.session.reader().read_exact(&mut plaintext[at..]).is_err() {
                plaintext.truncate(at); // the session has fewer than it said: nothing more can come
            }
            if bytes.len() == before {
                break; // after close_notify nothing is taken any more
            }
        }
        Ok(())
    }

    /// Encrypts `plaintext`; the records come out of `poll_transmit`.
    pub fn write(&mut self, plaintext: &[u8]) {
        self.session.writer().write_all(plaintext).expect("a session without a limit takes all");
    }

    /// Appends bytes for the socket.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        while self.session.wants_write() {
            self.session.write_tls(out).expect("a Vec takes all");
        }
    }

    /// The handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// The protocol chosen, once the handshake is complete.
    pub fn alpn(&self) -> Alpn {
        match self.session.alpn_protocol() {
            Some(b"h2") => Alpn::H2,
            Some(_) => Alpn::Http1,
            None => Alpn::None,
        }
    }

    /// The certificate that the peer has shown and that was verified, once the handshake is complete; `None` if it was not
    /// asked for one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.session.peer_certificates()?.first()
    }

    /// The peer has said goodbye (close_notify).
    pub fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        self.session.send_close_notify();
    }
}
