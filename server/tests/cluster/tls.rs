//! Members that speak TLS among themselves.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use testkit::pb::{PutRequest, RangeRequest};
use testkit::{Cluster, Server, ServerOptions};

use crate::{options, program};

/// Where the kernel lets connections to loopback addresses come from.
const DIALED_FROM: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// How long something may take to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of certificates, made by authorities of its own.
struct Certificates {
    dir: TempDir,
    authorities: Vec<Issuer<'static, KeyPair>>,
}

impl Certificates {
    /// Of the first authority alone, which every member trusts, is there a file.
    fn new() -> Certificates {
        let dir = TempDir::new_in(testkit::scratch_dir()).unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
        };
        let (pem, ours) = authority("ours");
        std::fs::write(dir.path().join("ca.crt"), pem).unwrap();
        Certificates { dir, authorities: vec![ours, authority("another").1] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a member's certificate and key, signed by that authority.
    fn make(&self, name: &str, authority: usize, addresses: &[Ipv4Addr]) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names =
            addresses.iter().map(|&address| SanType::IpAddress(IpAddr::V4(address))).collect();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.authorities[authority]).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), signed.pem()).unwrap();
    }

    /// A member that shows the certificate of this name and wants one of others.
    fn options(&self, name: &str) -> ServerOptions {
        options(program())
            .peer_tls()
            .arg(format!("--peer-cert-file={}", self.path(&format!("{name}.crt")).display()))
            .arg(format!("--peer-key-file={}", self.path(&format!("{name}.key")).display()))
            .arg(format!("--peer-trusted-ca-file={}", self.path("ca.crt").display()))
            .arg("--peer-client-cert-auth")
    }

    /// Three members, `m<i>` with a certificate of authority `authorities[i]`.
    fn spawn(&self, authorities: [usize; 3]) -> Cluster {
        Cluster::spawn_with(3, None, |i, address| {
            let name = format!("m{i}");
            self.make(&name, authorities[i], &[address, DIALED_FROM]);
            self.options(&name)
        })
    }
}

/// What one member is told, all of them serve.
async fn assert_replicates(cluster: &Cluster, among: &[usize]) {
    for &at in among {
        let key = format!("from-m{at}").into_bytes();
        let put = PutRequest { key: key.clone(), value: b"v".to_vec(), ..Default::default() };
        cluster.client(at).await.kv.put(put).await.expect("a quorum is there");
        for &other in among {
            let range = RangeRequest { key: key.clone(), ..Default::default() };
            let found = cluster.client(other).await.kv.range(range).await.expect("a quorum is there");
            assert_eq!(found.into_inner().count, 1, "m{other} of m{at}'s key");
        }
    }
}

async fn eventually(what: &str, server: &Server, done: impl Fn(&str) -> bool) {
    let started = Instant::now();
    while !done(&server.log()) {
        assert!(started.elapsed() < PATIENCE, "{what}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn members_speak_tls() {
    let certificates = Certificates::new();
    let mut cluster = certificates.spawn([0, 0, 0]);
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    assert_replicates(&cluster, &[0, 1, 2]).await;
    // A follower that was away comes back over TLS.
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    cluster.member(away).kill();
    let rest: Vec<usize> = (0..3).filter(|&i| i != away).collect();
    assert_replicates(&cluster, &rest).await;
    cluster.member(away).restart();
    assert_replicates(&cluster, &[0, 1, 2]).await;
}

/// Neither side believes the other: both say so, and the rest goes on without it. With the right certificate in place of the
/// wrong one it is let in without a restart.
#[tokio::test]
async fn a_certificate_of_another_authority_is_not_let_in() {
    let certificates = Certificates::new();
    let mut cluster = certificates.spawn([0, 0, 1]);
    (0..2).for_each(|i| cluster.member(i).wait_ready());
    assert_replicates(&cluster, &[0, 1]).await;
    if program().is_ringd() {
        for i in [0, 1] {
            eventually("its certificate is refused when it dials", &cluster.members()[i], |log| {
                says(log, "rejected connection on peer endpoint", "UnknownIssuer")
            })
            .await;
            eventually("and when it is dialed", &cluster.members()[i], |log| {
                says(log, "no connection to a peer", "UnknownIssuer")
            })
            .await;
        }
        eventually("it hears why", &cluster.members()[2], |log| {
            says(log, "no connection to a peer", "UnknownCA")
        })
        .await;
    }
    assert!(!cluster.members()[2].log().contains("ready to serve"), "it has nobody to agree with");
    let address = cluster.members()[2].address();
    certificates.make("m2", 0, &[address, DIALED_FROM]);
    cluster.member(2).wait_ready();
    assert_replicates(&cluster, &[0, 1, 2]).await;
}

/// Whether a line of the log has both.
fn says(log: &str, what: &str, why: &str) -> bool {
    log.lines().any(|line| line.contains(what) && line.contains(why))
}

/// The kernel lets it come from an address that its certificate does not name.
#[tokio::test]
async fn a_certificate_comes_only_from_where_it_says_unless_nobody_asks() {
    let certificates = Certificates::new();
    let mut cluster = Cluster::spawn_with(3, None, |i, address| {
        let name = format!("m{i}");
        let addresses = [address, DIALED_FROM];
        certificates.make(&name, 0, if i == 2 { &addresses[..1] } else { &addresses });
        certificates.options(&name)
    });
    (0..2).for_each(|i| cluster.member(i).wait_ready());
    assert_replicates(&cluster, &[0, 1]).await;
    if program().is_ringd() {
        for i in [0, 1] {
            eventually("it is refused", &cluster.members()[i], |log| {
                says(log, "rejected connection on peer endpoint", "does not match any")
            })
            .await;
        }
    }
    assert!(!cluster.members()[2].log().contains("ready to serve"), "it is heard by nobody");
    for i in [0, 1] {
        cluster.member(i).add_arg("--peer-skip-client-san-verification");
        cluster.member(i).restart();
    }
    cluster.member(2).wait_ready();
    assert_replicates(&cluster, &[0, 1, 2]).await;
}

#[tokio::test]
async fn only_allowed_common_names() {
    let certificates = Certificates::new();
    let allowed = "--peer-cert-allowed-cn=m0,m1";
    let mut cluster = Cluster::spawn_with(3, None, |i, address| {
        let name = format!("m{i}");
        certificates.make(&name, 0, &[address, DIALED_FROM]);
        certificates.options(&name).arg(allowed)
    });
    (0..2).for_each(|i| cluster.member(i).wait_ready());
    assert_replicates(&cluster, &[0, 1]).await;
    if program().is_ringd() {
        eventually("m2 is refused", &cluster.members()[0], |log| {
            says(log, "rejected connection on peer endpoint", "ApplicationVerificationFailure")
        })
        .await;
    }
    assert!(!cluster.members()[2].log().contains("ready to serve"), "it has nobody to agree with");
}

#[tokio::test]
async fn certificates_that_members_make_themselves() {
    let options = options(program()).peer_tls().arg("--peer-auto-tls");
    let mut cluster = Cluster::start(options, 3);
    assert_replicates(&cluster, &[0, 1, 2]).await;
    cluster.member(1).restart();
    assert_replicates(&cluster, &[0, 1, 2]).await;
}
