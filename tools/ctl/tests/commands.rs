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
