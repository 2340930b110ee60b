//! The client's role: for connections to peers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::verifier::Allowed;
use super::{Error, Settings, Tls, certificates, roots};

/// Which servers are believed.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those with a certificate for the name that was dialed, signed by one of these CAs: PEM.
    Roots(&'a [u8]),
    /// All, as etcd with `--peer-auto-tls`: it keeps secrets from those who listen, not from those who answer.
    Anybody,
}

/// The contents of the files of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientFiles<'a> {
    /// Certificate chain and key to show to a server that asks for them: PEM.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// Which servers are believed.
    pub trust: Trust<'a>,
}

/// How connections are made.
#[derive(Clone)]
pub struct ClientConfig(Arc<rustls::ClientConfig>);

impl ClientConfig {
    /// Builds from the files' contents. `protocols`: what ALPN offers, the preferred one first.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason.
    pub fn new(
        files: &ClientFiles<'_>,
        settings: &Settings,
        protocols: &[&[u8]],
    ) -> Result<ClientConfig, Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites =
            settings.suites().map_err(|error| Error::Config(format!("cipher suites: {error:?}")))?;
        let provider = Arc::new(provider);
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&settings.versions())
            .map_err(|error| Error::Config(format!("TLS versions and cipher suites: {error}")))?;
        let verifier: Arc<dyn ServerCertVerifier> = match files.trust {
            Trust::Roots(pem) => {
                let chain = WebPkiServerVerifier::builder_with_provider(roots(pem)?, provider)
                    .build()
                    .map_err(|error| Error::Config(format!("trusted CA file: {error}")))?;
                Arc::new(Known { chain, allowed: Allowed::of(settings)? })
            }
            Trust::Anybody => Arc::new(Anybody(provider)),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match files.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| Error::Config(format!("key file holds no private key: {error}")))?;
                builder
                    .with_client_auth_cert(certificates(cert, "certificate file")?, key)
                    .map_err(|error| Error::Config(format!("certificate and key: {error}")))?
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(ClientConfig(Arc::new(config)))
    }

    /// A connection to the server of this name or IP address; its output begins with the greeting.
    ///
    /// # Errors
    /// [`Error::Config`]: the name is none.
    pub fn connect(&self, name: &str) -> Result<Tls, Error> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| Error::Config(format!("{name} is no name of a server: {error}")))?;
        let session = ClientConnection::new(self.0.clone(), name).map_err(Error::Peer)?;
        Ok(Tls::of(session.into()))
    }
}

/// Believes a certificate for the name that was dialed if it also has an allowed name: etcd asks that of those who are
/// dialed as of those who dial.
#[derive(Debug)]
struct Known {
    chain: Arc<WebPkiServerVerifier>,
    allowed: Allowed,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        self.allowed.check(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Believes every certificate, if only its owner has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
