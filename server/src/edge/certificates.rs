//! Certificate, key, CA and revocation list of the client side, read again when they change.
//!
//! A thread looks at the files a few times a second, so that no handshake waits for a file system. New handshakes take
//! what was read last. A file that can't be used refuses all of them until it can: to go on with the one before would
//! keep a revoked certificate alive. Connections that are there stay.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use net::tls::{Files, ServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::config::{ClientTls, SelfSigned};
use crate::sys::{Fatal, FatalReason};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What new handshakes get; `None` while the files can't be used.
pub struct Certificates {
    current: Mutex<Option<ServerConfig>>,
}

impl Certificates {
    /// Reads the files and starts the thread that reads them again.
    ///
    /// # Errors
    /// If they can't be used, or there is no thread.
    pub fn start(tls: ClientTls) -> Result<Arc<Certificates>, Fatal> {
        let unusable = |error| Fatal::new(FatalReason::TlsUnusable, error);
        if let Some(how) = &tls.self_signed {
            make_self_signed(&tls, how).map_err(unusable)?;
        }
        let seen = look(&tls);
        let config = load(&tls).map_err(unusable)?;
        let certificates = Arc::new(Certificates { current: Mutex::new(Some(config)) });
        let (ours, thread) = (certificates.clone(), std::thread::Builder::new().name("ringd-tls".into()));
        let thread = thread.spawn(move || ours.watch(&tls, seen));
        thread.map_err(|error| {
            Fatal::new(FatalReason::StartFailed, format!("cannot start a thread: {error}"))
        })?;
        Ok(certificates)
    }

    /// For the next handshake.
    pub fn current(&self) -> Option<ServerConfig> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn watch(&self, tls: &ClientTls, mut seen: Seen) {
        let mut failure = None;
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            let now = look(tls);
            // While they can't be used they are read each time: a file may have been half written when it was read.
            if now == seen && failure.is_none() {
                continue;
            }
            seen = now;
            let result = load(tls);
            match (&result, &failure) {
                (Ok(_), _) => tracing::info!("read the changed TLS files"),
                (Err(error), known) if known.as_ref() != Some(error) => {
                    tracing::warn!(%error, "cannot use the changed TLS files; new connections are refused");
                }
                (Err(_), _) => {}
            }
            failure = result.as_ref().err().cloned();
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = result.ok();
        }
    }
}

/// What tells one state of the files from another: device, inode, size, time of the last change of each.
type Seen = Vec<Option<(u64, u64, u64, i64, i64)>>;

fn look(tls: &ClientTls) -> Seen {
    let facts = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    let optional = [&tls.client_ca_file, &tls.crl_file];
    let paths = [&tls.cert_file, &tls.key_file].into_iter().chain(optional.into_iter().flatten());
    paths.map(|path| facts(path)).collect()
}

fn load(tls: &ClientTls) -> Result<ServerConfig, String> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error: io::Error| format!("cannot read {}: {error}", path.display()))
    };
    let (cert, key) = (read(&tls.cert_file)?, read(&tls.key_file)?);
    let client_ca = tls.client_ca_file.as_deref().map(read).transpose()?;
    let revoked = tls.crl_file.as_deref().map(read).transpose()?;
    let files =
        Files { cert: &cert, key: &key, client_ca: client_ca.as_deref(), revoked: revoked.as_deref() };
    ServerConfig::new(&files, &tls.settings).map_err(|error| format!("TLS cannot start: {error}"))
}

/// Makes the self-made certificate of `--auto-tls`, unless it is there from an earlier start. It is its own CA, so only a
/// client that checks no server can use it, as with etcd.
fn make_self_signed(tls: &ClientTls, how: &SelfSigned) -> Result<(), String> {
    if tls.cert_file.exists() && tls.key_file.exists() {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| format!("cannot make a certificate: {error}");
    let mut params = CertificateParams::new(how.hosts.clone()).map_err(|error| failed(&error))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "ringd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let from = SystemTime::now();
    let until = from + how.validity_years * Duration::from_secs(365 * 24 * 60 * 60);
    (params.not_before, params.not_after) = (from.into(), until.into());
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let cert = params.self_signed(&key).map_err(|error| failed(&error))?;
    let dir = tls.cert_file.parent().unwrap_or(Path::new("."));
    let write = |path: &Path, mode, pem: &str| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(pem.as_bytes())
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| write(&tls.key_file, 0o600, &key.serialize_pem()))
        .and_then(|()| write(&tls.cert_file, 0o644, &cert.pem()))
        .map_err(|error| format!("cannot write {}: {error}", dir.display()))?;
    tracing::warn!(path = %tls.cert_file.display(), years = how.validity_years, "made a certificate");
    Ok(())
}
