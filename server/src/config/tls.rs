//! TLS of the client and of the peer side: which files, what they must allow, in etcd's words.

use std::path::{Path, PathBuf};

use net::tls::{Settings, SuiteError, Version, cipher_suite};

use super::args::Given;
use super::check::path;
use super::values::{self, Url};
use super::{ClientTls, PeerTls, SelfSigned};

/// The flags of one side, and where its self-made certificates lie below the data directory (etcd's places).
struct Side {
    cert: &'static str,
    key: &'static str,
    auth: &'static str,
    ca: &'static str,
    revoked: &'static str,
    hostnames: &'static str,
    common_names: Option<&'static str>,
    auto: &'static str,
    self_signed_dir: &'static str,
}

const CLIENT: Side = Side {
    cert: "cert-file",
    key: "key-file",
    auth: "client-cert-auth",
    ca: "trusted-ca-file",
    revoked: "client-crl-file",
    hostnames: "client-cert-allowed-hostname",
    common_names: None,
    auto: "auto-tls",
    self_signed_dir: "fixtures/client",
};

const PEER: Side = Side {
    cert: "peer-cert-file",
    key: "peer-key-file",
    auth: "peer-client-cert-auth",
    ca: "peer-trusted-ca-file",
    revoked: "peer-crl-file",
    hostnames: "peer-cert-allowed-hostname",
    common_names: Some("peer-cert-allowed-cn"),
    auto: "peer-auto-tls",
    self_signed_dir: "fixtures/peer",
};

/// A certificate that outlives everybody is a mistake of typing.
const VALIDITY_YEARS_MAX: u64 = 1000;

/// Certificate, key and CA of the client side; `None` where nothing is served under TLS.
pub(super) fn client(given: &mut Given, data_dir: &Path, urls: &[Url]) -> Result<Option<ClientTls>, String> {
    side(given, &CLIENT, data_dir, urls)
}

/// The same of the peer port, and what is shown to peers that are dialed; `None` where no peer URL can be https.
pub(super) fn peer(given: &mut Given, data_dir: &Path, urls: &[Url]) -> Result<Option<PeerTls>, String> {
    let Some(listen) = side(given, &PEER, data_dir, urls)? else { return Ok(None) };
    let (cert_file, key_file) =
        match (path(given, "peer-client-cert-file"), path(given, "peer-client-key-file")) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => (listen.cert_file.clone(), listen.key_file.clone()),
            _ => {
                return Err(
                    "--peer-client-cert-file and --peer-client-key-file must both be given, or none".into()
                );
            }
        };
    let skip_san_verification = given.bool("peer-skip-client-san-verification");
    Ok(Some(PeerTls { listen, cert_file, key_file, skip_san_verification }))
}

fn side(given: &mut Given, side: &Side, data_dir: &Path, urls: &[Url]) -> Result<Option<ClientTls>, String> {
    let settings = settings(given, side)?;
    let client_ca_file = path(given, side.ca);
    if given.bool(side.auth) && client_ca_file.is_none() {
        return Err(format!("--{} needs --{}: the system's CAs are not used", side.auth, side.ca));
    }
    let Some((cert_file, key_file, self_signed)) = files(given, side, data_dir, urls)? else {
        return Ok(None);
    };
    let crl_file = path(given, side.revoked);
    let without_ca = [
        (side.revoked, crl_file.is_some()),
        (side.hostnames, !settings.allowed_hostnames.is_empty()),
        (side.common_names.unwrap_or_default(), !settings.allowed_common_names.is_empty()),
    ];
    for (flag, is_given) in without_ca {
        if is_given && client_ca_file.is_none() {
            given.warn(format!("--{flag} has no effect without --{}", side.ca), flag);
        }
    }
    Ok(Some(ClientTls { cert_file, key_file, client_ca_file, crl_file, settings, self_signed }))
}

type CertAndKey = (PathBuf, PathBuf, Option<SelfSigned>);

fn files(
    given: &mut Given,
    side: &Side,
    data_dir: &Path,
    urls: &[Url],
) -> Result<Option<CertAndKey>, String> {
    let auto = given.bool(side.auto);
    match (path(given, side.cert), path(given, side.key)) {
        (Some(cert), Some(key)) => {
            if auto {
                let what = if side.auto == CLIENT.auto { "client" } else { "peer" };
                given.warn(format!("ignoring {what} auto TLS since certs given"), side.auto);
            }
            Ok(Some((cert, key, None)))
        }
        (None, None) if auto => {
            let dir = data_dir.join(side.self_signed_dir);
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
fn settings(given: &Given, side: &Side) -> Result<Settings, String> {
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
    let allowed_hostnames = list(side.hostnames);
    let allowed_common_names = side.common_names.map_or_else(Vec::new, list);
    if let (Some(flag), false, false) =
        (side.common_names, allowed_hostnames.is_empty(), allowed_common_names.is_empty())
    {
        return Err(format!("--{flag} and --{} are mutually exclusive", side.hostnames));
    }
    Ok(Settings {
        min: min.unwrap_or(Version::Tls12),
        max: max.unwrap_or(Version::Tls13),
        cipher_suites,
        allowed_hostnames,
        allowed_common_names,
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
