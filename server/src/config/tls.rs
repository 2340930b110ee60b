//! TLS of the client side: which files, what they must allow, in etcd's words.

use std::path::{Path, PathBuf};

use net::tls::{Settings, SuiteError, Version, cipher_suite};

use super::args::Given;
use super::check::path;
use super::values::{self, Url};
use super::{ClientTls, SelfSigned};

/// Where self-made certificates lie below the data directory. etcd's place.
const SELF_SIGNED_DIR: &str = "fixtures/client";

/// A certificate that outlives everybody is a mistake of typing.
const VALIDITY_YEARS_MAX: u64 = 1000;

/// Certificate, key and CA of the client side; `None` where nothing is served under TLS.
pub(super) fn client(given: &mut Given, data_dir: &Path, urls: &[Url]) -> Result<Option<ClientTls>, String> {
    let settings = settings(given)?;
    let client_ca_file = path(given, "trusted-ca-file");
    if given.bool("client-cert-auth") && client_ca_file.is_none() {
        return Err("--client-cert-auth needs --trusted-ca-file: the system's CAs are not used".into());
    }
    let Some((cert_file, key_file, self_signed)) = files(given, data_dir, urls)? else { return Ok(None) };
    let crl_file = path(given, "client-crl-file");
    for (flag, is_given) in [
        ("client-crl-file", crl_file.is_some()),
        ("client-cert-allowed-hostname", !settings.allowed_hostnames.is_empty()),
    ] {
        if is_given && client_ca_file.is_none() {
            given.warn(format!("--{flag} has no effect without --trusted-ca-file"), flag);
        }
    }
    Ok(Some(ClientTls { cert_file, key_file, client_ca_file, crl_file, settings, self_signed }))
}

type CertAndKey = (PathBuf, PathBuf, Option<SelfSigned>);

fn files(given: &mut Given, data_dir: &Path, urls: &[Url]) -> Result<Option<CertAndKey>, String> {
    let auto = given.bool("auto-tls");
    match (path(given, "cert-file"), path(given, "key-file")) {
        (Some(cert), Some(key)) => {
            if auto {
                given.warn("ignoring client auto TLS since certs given".into(), "auto-tls");
            }
            Ok(Some((cert, key, None)))
        }
        (None, None) if auto => {
            let dir = data_dir.join(SELF_SIGNED_DIR);
            let hosts = urls.iter().filter(|url| url.is_tcp()).map(|url| url.host.clone()).collect();
            let self_signed = SelfSigned { validity_years: validity_years(given)?, hosts };
            Ok(Some((dir.join("cert.pem"), dir.join("key.pem"), Some(self_signed))))
        }
        (None, None) => Ok(None),
        (cert, key) => {
            let shown = |file: Option<PathBuf>| file.unwrap_or_default().display().to_string();
            let (cert, key) = (shown(cert), shown(key));
            Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"))
        }
    }
}

fn validity_years(given: &Given) -> Result<u32, String> {
    match values::parse_uint(given.text("self-signed-cert-validity"))? {
        0 => Err("selfSignedCertValidity is invalid,it should be greater than 0".into()),
        years if years > VALIDITY_YEARS_MAX => {
            Err(format!("--self-signed-cert-validity must be at most {VALIDITY_YEARS_MAX} (set to {years})"))
        }
        years => Ok(years as u32),
    }
}

/// etcd config.go, Validate; versions first, then suites.
fn settings(given: &Given) -> Result<Settings, String> {
    let (min_text, max_text) = (given.text("tls-min-version"), given.text("tls-max-version"));
    let (min, max) = (version(min_text)?, version(max_text)?);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(format!("min version ({min_text}) is greater than max version ({max_text})"));
    }
    let list =
        |name| given.text(name).split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let cipher_suites: Vec<String> = list("cipher-suites");
    if min == Some(Version::Tls13) && !cipher_suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    for name in &cipher_suites {
        match cipher_suite(name) {
            Ok(_) => {}
            Err(SuiteError::Unknown) => return Err(format!("unexpected TLS cipher suite {name:?}")),
            Err(SuiteError::Unsupported) => {
                return Err(format!(
                    "TLS cipher suite {name:?} is not supported: ringd speaks only those with forward secrecy and \
                     authenticated encryption (TLS_ECDHE_…_GCM_…, …_CHACHA20_POLY1305_…)"
                ));
            }
        }
    }
    Ok(Settings {
        min: min.unwrap_or(Version::Tls12),
        max: max.unwrap_or(Version::Tls13),
        cipher_suites,
        allowed_hostnames: list("client-cert-allowed-hostname"),
    })
}

/// `None`: the default.
fn version(text: &str) -> Result<Option<Version>, String> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(Version::Tls12)),
        "TLS1.3" => Ok(Some(Version::Tls13)),
        _ => Err(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)")),
    }
}
