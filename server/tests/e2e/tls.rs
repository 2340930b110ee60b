//! TLS on the client port, through etcdctl and curl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use testkit::Server;

use crate::options;

/// A certificate authority, a server's and a client's certificate, as files.
pub(crate) struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let dir = TempDir::new_in(testkit::scratch_dir()).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificates = Certificates { dir };
        certificates.write("ca.crt", &params.self_signed(&key).unwrap().pem());
        let authority = Issuer::new(params, key);
        for (name, subject) in [("server", "ringd.test"), ("client", "client")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            certificates.write(&format!("{name}.crt"), &params.signed_by(&key, &authority).unwrap().pem());
            certificates.write(&format!("{name}.key"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, pem: &str) {
        std::fs::write(self.path(name), pem).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server that wants a client certificate.
fn start() -> (Server, Certificates) {
    let certificates = Certificates::new();
    let server = options()
        .tls()
        .arg(format!("--cert-file={}", certificates.path("server.crt").display()))
        .arg(format!("--key-file={}", certificates.path("server.key").display()))
        .arg(format!("--trusted-ca-file={}", certificates.path("ca.crt").display()))
        .arg("--client-cert-auth")
        .start();
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
