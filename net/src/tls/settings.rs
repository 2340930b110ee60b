//! What an operator may choose of TLS: versions, cipher suites, whose certificates are accepted.
//!
//! Suites have Go's names, because that is what etcd takes. rustls has the AEAD suites with forward secrecy only; the
//! others of Go's list are known here, so that they can be refused as what they are. As in Go, suites can be chosen for
//! TLS 1.2 alone: those of 1.3 may be named, and are all on anyway.

use rustls::crypto::ring::cipher_suite as suites;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246
    Tls12,
    /// RFC 8446
    Tls13,
}

/// What a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The oldest version.
    pub min: Version,
    /// The newest version.
    pub max: Version,
    /// Go's names of the cipher suites for TLS 1.2; none: all that there are.
    pub cipher_suites: Vec<String>,
    /// A client's certificate must be valid for one of these names or IP addresses; none: for any.
    pub allowed_hostnames: Vec<String>,
    /// Its subject's common name must be one of these; none: any.
    pub allowed_common_names: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            min: Version::Tls12,
            max: Version::Tls13,
            cipher_suites: Vec::new(),
            allowed_hostnames: Vec::new(),
            allowed_common_names: Vec::new(),
        }
    }
}

/// Why a cipher suite can't be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteError {
    /// Go has no suite of this name.
    Unknown,
    /// It lacks forward secrecy or authenticated encryption, and this server does not speak it.
    Unsupported,
}

/// Go's names, and what is meant by them here.
const SUITES: [(&str, Option<SupportedCipherSuite>); 27] = [
    ("TLS_AES_128_GCM_SHA256", Some(suites::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_256_GCM_SHA384", Some(suites::TLS13_AES_256_GCM_SHA384)),
    ("TLS_CHACHA20_POLY1305_SHA256", Some(suites::TLS13_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Some(suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Some(suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Some(suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Some(suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    // etcd tlsutil/cipher_suites.go: the names of Go before 1.14
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", Some(suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", Some(suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", None),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", None),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_RSA_WITH_RC4_128_SHA", None),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", None),
];

/// The suite of this name.
///
/// # Errors
/// Why there is none.
pub fn cipher_suite(name: &str) -> Result<SupportedCipherSuite, SuiteError> {
    match SUITES.iter().find(|(known, _)| *known == name) {
        Some((_, Some(suite))) => Ok(*suite),
        Some((_, None)) => Err(SuiteError::Unsupported),
        None => Err(SuiteError::Unknown),
    }
}

impl Settings {
    /// All suites of TLS 1.3, and the chosen ones of TLS 1.2.
    pub(super) fn suites(&self) -> Result<Vec<SupportedCipherSuite>, SuiteError> {
        let all = rustls::crypto::ring::ALL_CIPHER_SUITES;
        if self.cipher_suites.is_empty() {
            return Ok(all.to_vec());
        }
        let chosen = self.cipher_suites.iter().map(|name| cipher_suite(name));
        let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
        Ok(all.iter().filter(|suite| suite.tls13().is_some() || chosen.contains(suite)).copied().collect())
    }

    /// The versions from the oldest to the newest.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)];
        let within = all.into_iter().filter(|(version, _)| (self.min..=self.max).contains(version));
        within.map(|(_, version)| version).collect()
    }
}
