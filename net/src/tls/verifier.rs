//! Whose certificate is accepted: the chain first, then etcd's two further questions.
//!
//! Revoked? etcd compares serial numbers alone, of all certificates presented, whoever issued list and certificate. That
//! is stricter than RFC 5280 where issuers share serials, and an operator's list works whatever signed it. Named as
//! wanted? The leaf must be valid for one of the allowed names. Both are asked of a chain that has been verified.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use super::{Names, Settings};

/// A list of revoked certificates: DER, which is all that etcd takes, or PEM.
pub(super) fn revocation_list(bytes: &[u8]) -> Result<CertRevocationList<'static>, String> {
    let der = match bytes.starts_with(b"-----BEGIN") {
        true => CertificateRevocationListDer::from_pem_slice(bytes).map_err(|error| error.to_string())?,
        false => CertificateRevocationListDer::from(bytes.to_vec()),
    };
    let list = OwnedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
    Ok(list.into())
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Verifier {
    pub chain: Arc<dyn ClientCertVerifier>,
    pub revoked: Option<CertRevocationList<'static>>,
    pub allowed: Allowed,
}

/// Whose leaf certificates are wanted: those with one of these names. Of a chain that has been verified.
#[derive(Debug)]
pub(super) struct Allowed {
    hostnames: Vec<ServerName<'static>>,
    common_names: Vec<String>,
}

impl Allowed {
    /// # Errors
    /// One can be the name of no host.
    pub fn of(settings: &Settings) -> Result<Allowed, super::Error> {
        let hostnames = settings.allowed_hostnames.iter().map(|name| ServerName::try_from(name.clone()));
        let hostnames = hostnames
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| super::Error::Config(format!("allowed hostnames: {error}")))?;
        Ok(Allowed { hostnames, common_names: settings.allowed_common_names.clone() })
    }

    pub fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !self.hostnames.is_empty() {
            let parsed = ParsedCertificate::try_from(leaf)?;
            if !self.hostnames.iter().any(|name| verify_server_name(&parsed, name).is_ok()) {
                return Err(refused);
            }
        }
        if !self.common_names.is_empty() {
            let names =
                Names::of(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            if !self.common_names.contains(&names.common_name) {
                return Err(refused);
            }
        }
        Ok(())
    }
}

impl Verifier {
    fn check_revoked(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(list) = &self.revoked else { return Ok(()) };
        let parsed = EndEntityCert::try_from(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match list.find_serial(parsed.serial()) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            Err(_) => Err(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)),
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        self.allowed.check(leaf)?;
        for certificate in std::iter::once(leaf).chain(intermediates) {
            self.check_revoked(certificate)?;
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
