//! Every command of ringctl against a running or a stopped server: what it prints, and how it ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use testkit::{Program, Server, ServerOptions};

/// ringd, which lies beside ringctl; built if a test of this package alone has not done so.
fn ringd() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_ringctl")).with_file_name("ringd");
    if !path.exists() {
        let status = Command::new(std::env::var_os("CARGO").expect("cargo runs its tests with CARGO set"))
            .args(["build", "--locked", "-p", "ringd", "--bin", "ringd"])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "ringd can be built");
    }
    path
}

fn start() -> Server {
    ServerOptions::new(Program::Ringd(ringd())).arg("--ringd-placement=unpinned").start()
}

fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
    command.arg("--endpoints").arg(server.url()).args(args).stdin(Stdio::null());
    command
}

fn run(server: &Server, args: &[&str]) -> Output {
    command(server, args).output().expect("ringctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints that must succeed.
fn good(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{args:?}");
    text(&output.stdout)
}

/// What a command says that must fail with code 1.
fn bad(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn keys() {
    let server = start();
    assert_eq!(good(&server, &["put", "a", "1"]), "OK  (revision 2)\n");
    assert_eq!(good(&server, &["put", "ab", "2"]), "OK  (revision 3)\n");
    assert_eq!(good(&server, &["put", "b", "3"]), "OK  (revision 4)\n");
    assert_eq!(good(&server, &["get", "a"]), "a = 1  (revision 2, version 1)\n");
    assert_eq!(good(&server, &["get", "a", "--prefix"]).lines().count(), 2);
    assert_eq!(good(&server, &["get", "a", "c"]).lines().count(), 3);
    assert_eq!(good(&server, &["get", "nothing"]), "");
    assert!(good(&server, &["get", "a", "c", "--limit=1"]).ends_with("… 3 in all\n"));
    assert_eq!(good(&server, &["del", "a", "--prefix"]), "2 deleted  (revision 5)\n");
    assert_eq!(good(&server, &["del", "a"]), "0 deleted  (revision 5)\n");
    assert_eq!(good(&server, &["get", "a", "--rev=2"]), "a = 1  (revision 2, version 1)\n");
    assert!(bad(&server, &["get", "a", "--rev=99"]).contains("required revision is a future revision"));
    assert!(bad(&server, &["put", "a", "1", "--lease=7b"]).contains("requested lease not found"));
    assert!(bad(&server, &["get", ""]).contains("key is not provided"));
}

#[test]
fn changes_as_they_happen() {
    let server = start();
    good(&server, &["put", "k", "1"]);
    let mut watch = command(&server, &["watch", "k", "--rev=2", "--count=3"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ringctl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("PUT k = 1  (revision 2)"));
    good(&server, &["put", "k", "2"]);
    assert_eq!(lines.next().as_deref(), Some("PUT k = 2  (revision 3)"));
    good(&server, &["del", "k"]);
    assert_eq!(lines.next().as_deref(), Some("DELETE k  (revision 4)"));
    assert_eq!(lines.next(), None);
    assert!(watch.wait().expect("our child").success(), "three events were asked for");
}

#[test]
fn members_and_endpoints() {
    let mut server = start();
    let members = good(&server, &["member", "list"]);
    assert!(members.contains("  default  peers http://") && members.contains(server.url()), "{members}");
    assert_eq!(members.lines().count(), 1);
    let status = good(&server, &["endpoint", "status"]);
    assert!(
        status.starts_with(server.url()) && status.contains("  version 3.7.1  leader  term 2  "),
        "{status}"
    );
    let health = good(&server, &["endpoint", "health"]);
    assert!(health.contains("  healthy, answered in "), "{health}");
    server.kill();
    for args in [&["endpoint", "status"][..], &["endpoint", "health"]] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stdout).contains("  FAILED: "), "{args:?}: {}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "ringctl: 1 of 1 endpoints failed\n");
    }
    let error = bad(&server, &["get", "k"]);
    assert!(error.starts_with("ringctl: ") && error.lines().count() == 1, "{error}");
}

/// A CA, and a certificate of "localhost" that it signed, as files; both sides show it.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::TempDir::new_in(testkit::scratch_dir()).expect("writable");
    let mut params = rcgen::CertificateParams::new(vec![]).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(dir.path().join("ca"), params.self_signed(&key).expect("signed").pem()).expect("writable");
    let authority = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let signed = params.signed_by(&key, &authority).expect("signed").pem();
    std::fs::write(dir.path().join("cert"), signed).expect("writable");
    std::fs::write(dir.path().join("key"), key.serialize_pem()).expect("writable");
    dir
}

/// Every command against three members that want certificates, one of which is gone.
#[test]
fn a_cluster_under_tls() {
    let files = certificates();
    let file = |name: &str| files.path().join(name).display().to_string();
    let ports: Vec<u16> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .map(|listener| listener.local_addr().expect("bound").port())
        .collect();
    let url = |port: &u16| format!("https://localhost:{port}");
    let each = ports.iter().map(|port| {
        ServerOptions::new(Program::Ringd(ringd()))
            .arg("--ringd-placement=unpinned")
            .arg(format!("--listen-client-urls={}", url(port)))
            .arg(format!("--advertise-client-urls={}", url(port)))
            .arg(format!("--cert-file={}", file("cert")))
            .arg(format!("--key-file={}", file("key")))
            .arg(format!("--trusted-ca-file={}", file("ca")))
            .arg("--client-cert-auth")
    });
    let mut cluster = testkit::Cluster::spawn_each(each.collect(), None);
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    let endpoints = ports.iter().map(url).collect::<Vec<_>>().join(",");
    let run = |with: &[&str], args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
        let output = command.args(with).args(args).stdin(Stdio::null()).output().expect("ringctl runs");
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    let all = ["--endpoints", &endpoints, "--cacert", &ca, "--cert", &cert, "--key", &key];
    let good = |args: &[&str]| {
        let (success, printed, error) = run(&all, args);
        assert!(success, "{args:?}: {printed}{error}");
        printed
    };
    good(&["put", "k", "1"]);
    assert!(good(&["get", "k"]).starts_with("k = 1  "));
    let status = good(&["endpoint", "status"]);
    assert_eq!(status.lines().filter(|line| line.contains("  leader  ")).count(), 1, "{status}");
    assert_eq!(good(&["endpoint", "health", "--cluster"]).matches("  healthy, ").count(), 3);
    let members = good(&["member", "list"]);
    let leader = status.lines().position(|line| line.contains("  leader  ")).expect("one leads");
    let follower = url(&ports[if leader == 1 { 2 } else { 1 }]);
    let line = members.lines().find(|line| line.contains(&follower)).expect("it is a member");
    let id = line.split(' ').next().expect("the id");
    assert!(good(&["move-leader", id]).starts_with("leadership moved from "));

    let without = ["--endpoints", &endpoints, "--cacert", &ca];
    assert!(!run(&without, &["get", "k"]).0, "a certificate is wanted");
    let (_, _, error) = run(&["--endpoints", &endpoints], &["get", "k"]);
    assert_eq!(error, "ringctl: TLS needs --cacert: the system's CAs are not used\n");
    let (_, _, error) = run(&["--endpoints", &endpoints, "--cacert", "/nonexistent"], &["get", "k"]);
    assert!(error.starts_with("ringctl: cannot read /nonexistent: "), "{error}");
    // Without a scheme it is https where a CA is given.
    let bare = endpoints.replace("https://", "");
    assert!(run(&["--endpoints", &bare, "--cacert", &ca, "--cert", &cert, "--key", &key], &["get", "k"]).0);

    // The first of the endpoints is gone, which does not lead.
    cluster.member(0).kill();
    good(&["put", "k", "2"]);
    assert!(good(&["get", "k"]).starts_with("k = 2  "));
    assert_eq!(good(&["member", "list"]).lines().count(), 3);
    assert!(good(&["watch", "k", "--rev=2", "--count=2"]).starts_with("PUT k = 1  "));
    assert_eq!(good(&["del", "k"]), "1 deleted  (revision 4)\n");
    let (success, printed, error) = run(&all, &["endpoint", "health"]);
    assert!(!success && printed.matches("  healthy, ").count() == 2, "{printed}{error}");
    assert_eq!(error, "ringctl: 1 of 3 endpoints failed\n");
}

/// With no checkpoint, with one, and with entries above it; and never beside a running server.
#[tokio::test]
async fn a_stopped_servers_files() {
    let mut server = start();
    let dir = server.data_dir().display().to_string();
    for args in [&["log", "dump", &dir][..], &["store", "check", &dir]] {
        assert!(bad(&server, args).contains("stop it first"), "{args:?}");
    }
    good(&server, &["put", "before", "1"]);
    server.kill();
    let dump = good(&server, &["log", "dump", &dir]);
    assert!(dump.contains("the last checkpoint holds what is applied up to index 0\n"), "{dump}");
    assert!(dump.contains(" put before = 1 bytes ("), "{dump}");
    assert_eq!(good(&server, &["store", "check", &dir]), "no checkpoint yet: all there is, is in the log\n");

    server.restart();
    let mut client = server.client().await;
    client.maintenance.defragment(testkit::pb::DefragmentRequest {}).await.expect("a checkpoint is made");
    good(&server, &["put", "after", "22"]);
    server.kill();
    let dump = good(&server, &["log", "dump", &dir]);
    assert!(!dump.contains("up to index 0\n"), "{dump}");
    assert!(dump.contains(" put after = 2 bytes ("), "{dump}");
    assert!(!dump.contains("put before"), "it is in the checkpoint: {dump}");
    assert!(dump.contains("hard state: ") && dump.contains("segment "), "{dump}");
    assert!(dump.ends_with(" entries above the checkpoint\n"), "{dump}");
    let check = good(&server, &["store", "check", &dir]);
    assert!(check.contains("Keys: 1 rows\n") && check.ends_with("all is as it must be\n"), "{check}");

    // A page of zeros where the metas are not.
    let tree = server.data_dir().join("tree");
    let mut bytes = std::fs::read(&tree).expect("the tree file");
    let damaged = bytes.len() / 2 / 4096 * 4096;
    bytes[damaged.max(2 * 4096)..].fill(0);
    std::fs::write(&tree, bytes).expect("writable");
    assert!(bad(&server, &["store", "check", &dir]).contains("findings"));
    assert!(bad(&server, &["log", "dump", "/nonexistent"]).contains("is no data directory of ringd"));
}

#[test]
fn help_and_wrong_words() {
    let ringctl = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ringctl")).args(args).output().expect("ringctl runs")
    };
    let help = text(&ringctl(&["--help"]).stdout);
    for command in ["get", "put", "del", "watch", "member", "endpoint", "log", "store"] {
        assert!(help.contains(&format!("\n  {command} ")), "no {command} in {help}");
        let one = ringctl(&[command, "--help"]);
        assert!(one.status.success() && text(&one.stdout).contains("Usage: ringctl "), "{command}");
    }
    for args in [&["frobnicate"][..], &["get"], &["put", "k"], &["get", "k", "--rev=x"], &["member"]] {
        let output = ringctl(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains("--help") || error.contains("Usage: ringctl"), "{args:?}: {error}");
    }
    let lease = ringctl(&["put", "k", "v", "--lease=xyz"]);
    assert!(text(&lease.stderr).contains("is no lease id"), "{}", text(&lease.stderr));
}
