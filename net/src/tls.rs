//! TLS as a pure filter between socket bytes and protocol bytes: `rustls`, fed as bytes.

use std::fmt;
use std::sync::Arc;

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

/// Certificate, key and client authentication of a listener.
#[derive(Clone)]
pub struct ServerConfig(#[expect(dead_code)] Arc<rustls::ServerConfig>);

impl ServerConfig {
    /// Builds from PEM bytes. With `client_ca`, a client must show a certificate that one of these CAs signed.
    pub fn from_pem(cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<ServerConfig, Error> {
        let _ = (cert, key, client_ca);
        Err(Error::Config("not built yet".into()))
    }
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

/// One TLS connection in the server's role.
pub struct Tls {
    _private: (),
}

impl Tls {
    /// A connection that has received nothing.
    pub fn new(config: &ServerConfig) -> Result<Tls, Error> {
        let _ = config;
        Ok(Tls { _private: () })
    }

    /// Takes bytes from the socket, appends what they decrypt to.
    pub fn handle_bytes(&mut self, bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let _ = (bytes, plaintext);
        Ok(())
    }

    /// Encrypts `plaintext`; the records come out of `poll_transmit`.
    pub fn write(&mut self, plaintext: &[u8]) {
        let _ = plaintext;
    }

    /// Appends bytes for the socket.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// The handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        true
    }

    /// The protocol chosen, once the handshake is complete.
    pub fn alpn(&self) -> Alpn {
        Alpn::None
    }

    /// The peer has said goodbye (close_notify).
    pub fn is_closed_by_peer(&self) -> bool {
        false
    }

    /// Says goodbye.
    pub fn close(&mut self) {}
}
