//! TLS on the client port, through etcdctl and curl.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams,
};
use tempfile::TempDir;
use testkit::{Server, ServerOptions};

use crate::options;

/// The serial number of the client's certificate.
const CLIENT_SERIAL: u64 = 77;

/// A certificate authority, a server's and a client's certificate, as files.
pub(crate) struct Certificates {
    dir: TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let dir = TempDir::new_in(testkit::scratch_dir()).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With rcgen's one default name for all, OpenSSL takes what it signs for signed by itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let certificates = Certificates { dir, authority: Issuer::new(params, key) };
        certificates.write("ca.crt", &ca);
        for (name, subject, serial) in
            [("server", "ringd.test", 1_u64), ("client", "client.test", CLIENT_SERIAL)]
        {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            params.serial_number = Some(serial.into());
            let signed = params.signed_by(&key, &certificates.authority).unwrap().pem();
            certificates.write(&format!("{name}.crt"), &signed);
            certificates.write(&format!("{name}.key"), key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, pem: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), pem).unwrap();
    }

    /// A list that revokes these, in DER, as etcd wants it.
    fn write_revoked(&self, serials: &[u64]) {
        let entry = |&serial: &u64| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: rcgen::date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 1),
            next_update: rcgen::date_time_ymd(2045, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("revoked.crl", list.signed_by(&self.authority).unwrap().der());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server with this certificate.
    pub(crate) fn server(&self) -> ServerOptions {
        options()
            .tls()
            .arg(format!("--cert-file={}", self.path("server.crt").display()))
            .arg(format!("--key-file={}", self.path("server.key").display()))
    }

    /// A server that wants certificates of clients, too.
    fn strict_server(&self) -> ServerOptions {
        self.server()
            .arg(format!("--trusted-ca-file={}", self.path("ca.crt").display()))
            .arg("--client-cert-auth")
    }
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn start() -> (Server, Certificates) {
    let certificates = Certificates::new();
    let server = certificates.strict_server().start();
    (server, certificates)
}

fn etcdctl(server: &Server, certificates: &Certificates, with_certificate: bool, args: &[&str]) -> Output {
    let (ca, cert, key) =
        (certificates.path("ca.crt"), certificates.path("client.crt"), certificates.path("client.key"));
    // The server's address is drawn when it starts, after its certificate was made: its name is not checked here.
    let mut all = vec!["--command-timeout=3s", "--insecure-skip-tls-verify", "--cacert", show(&ca)];
    if with_certificate {
        all.extend(["--cert", show(&cert), "--key", show(&key)]);
    }
    all.extend(args);
    server.etcdctl(&all).output().expect("etcdctl runs")
}

#[test]
fn a_client_with_a_certificate_is_served_and_one_without_is_not() {
    let (server, certificates) = start();
    let put = etcdctl(&server, &certificates, true, &["put", "k", "v"]);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let big = "x".repeat(100_000);
    assert!(etcdctl(&server, &certificates, true, &["put", "big", &big]).status.success());
    let get = etcdctl(&server, &certificates, true, &["get", "big", "--print-value-only"]);
    assert_eq!(get.stdout.len(), 100_001, "the value and a newline");
    let refused = etcdctl(&server, &certificates, false, &["get", "k"]);
    assert!(!refused.status.success(), "without a certificate nothing is answered");
    assert!(refused.stdout.is_empty());
    assert!(
        server.etcdctl(&["--command-timeout=2s", "get", "k"]).output().is_ok_and(|o| !o.status.success())
    );
}

/// curl chooses HTTP/2 for the pages under TLS; both versions are answered.
#[test]
fn the_pages_are_served_over_both_versions_of_http() {
    let (server, certificates) = start();
    for version in ["--http1.1", "--http2"] {
        for (path, want) in [("/health", "{\"health\":\"true\""), ("/version", "{\"etcdserver\":\"3.7.1\"")] {
            let output = Command::new("curl")
                .args(["-sS", "--max-time", "5", version, "--insecure", "--cert"])
                .arg(certificates.path("client.crt"))
                .arg("--key")
                .arg(certificates.path("client.key"))
                .arg(format!("{}{path}", server.url()))
                .output()
                .expect("curl runs");
            let body = String::from_utf8_lossy(&output.stdout);
            assert!(
                body.starts_with(want),
                "{version} {path}: {body} {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// Whether curl gets `/health` with these arguments, by the name in the server's certificate.
fn curl(server: &Server, args: &[&str]) -> bool {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "5", "--resolve", &format!("ringd.test:2379:{}", server.address())])
        .args(args)
        .arg("https://ringd.test:2379/health")
        .output()
        .expect("curl runs");
    output.stdout.starts_with(b"{\"health\":\"true\"")
}

fn as_client(server: &Server, certificates: &Certificates) -> bool {
    let (cert, key) = (certificates.path("client.crt"), certificates.path("client.key"));
    curl(server, &["--insecure", "--cert", show(&cert), "--key", show(&key)])
}

fn eventually(what: &str, server: &Server, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn versions_and_suites_are_those_chosen() {
    let certificates = Certificates::new();
    let new = certificates.server().arg("--tls-min-version=TLS1.3").start();
    assert!(curl(&new, &["--insecure"]));
    assert!(!curl(&new, &["--insecure", "--tls-max", "1.2"]));
    let old = certificates
        .server()
        .arg("--tls-max-version=TLS1.2")
        .arg("--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
        .start();
    assert!(!curl(&old, &["--insecure", "--tlsv1.3"]));
    for (suite, want) in [("ECDHE-ECDSA-AES128-GCM-SHA256", true), ("ECDHE-ECDSA-AES256-GCM-SHA384", false)] {
        assert_eq!(curl(&old, &["--insecure", "--tls-max", "1.2", "--ciphers", suite]), want, "{suite}");
    }
}

/// The list is read again; one that can't be read refuses everybody and ends nothing.
#[test]
fn a_client_is_revoked_while_the_server_runs() {
    let certificates = Certificates::new();
    certificates.write_revoked(&[1000]);
    let list = certificates.path("revoked.crl");
    let server = certificates.strict_server().arg(format!("--client-crl-file={}", list.display())).start();
    let served = || as_client(&server, &certificates);
    assert!(served());
    certificates.write_revoked(&[1000, CLIENT_SERIAL]);
    eventually("a revoked client is refused", &server, || !served());
    certificates.write_revoked(&[1000]);
    eventually("it is not revoked any more", &server, served);
    certificates.write("revoked.crl", "no list");
    eventually("without a list nobody is served", &server, || !served());
    if server.is_ringd() {
        assert_eq!(server.log().matches("cannot use the changed TLS files").count(), 1, "{}", server.log());
    }
    std::fs::remove_file(&list).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert!(!served(), "nor with none");
    certificates.write_revoked(&[1000]);
    eventually("the next good list is taken", &server, served);
}

#[test]
fn a_new_certificate_is_taken_while_the_server_runs() {
    let (first, second) = (Certificates::new(), Certificates::new());
    let server = first.server().start();
    let trusts =
        |certificates: &Certificates| curl(&server, &["--cacert", show(&certificates.path("ca.crt"))]);
    assert!(trusts(&first) && !trusts(&second));
    let replace = |name: &str| std::fs::copy(second.path(name), first.path(name)).unwrap();
    replace("server.crt");
    eventually("half a change serves nobody", &server, || !curl(&server, &["--insecure"]));
    replace("server.key");
    eventually("the new certificate is shown", &server, || trusts(&second));
    assert!(!trusts(&first));
}

#[test]
fn only_clients_with_an_allowed_name() {
    let certificates = Certificates::new();
    for (names, want) in [("other.test,client.test", true), ("other.test", false)] {
        let server =
            certificates.strict_server().arg(format!("--client-cert-allowed-hostname={names}")).start();
        assert_eq!(as_client(&server, &certificates), want, "{names}");
    }
}

#[test]
fn a_certificate_that_the_server_makes_itself() {
    let mut server = options().tls().arg("--auto-tls").arg("--self-signed-cert-validity=2").start();
    assert!(curl(&server, &["--insecure"]));
    assert!(!curl(&server, &[]), "nobody vouches for it");
    let dir = server.data_dir().join("fixtures/client");
    let made = std::fs::read(dir.join("cert.pem")).expect("where etcd puts it");
    let mode = std::fs::metadata(dir.join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.restart();
    assert!(curl(&server, &["--insecure"]));
    assert_eq!(std::fs::read(dir.join("cert.pem")).unwrap(), made, "it is kept");
}
