//! Every command of etcdctl that has a service here, and what it prints.

use testkit::Server;

use crate::start;

/// Runs etcdctl; its output must be a success.
fn etcdctl(server: &Server, args: &[&str]) -> String {
    let output = server.etcdctl(args).output().expect("etcdctl runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "etcdctl {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Runs etcdctl with text on its standard input.
fn etcdctl_with_input(server: &Server, args: &[&str], input: &str) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = server
        .etcdctl(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn keys() {
    let server = start();
    assert_eq!(etcdctl(&server, &["put", "k", "v1"]), "OK\n");
    assert_eq!(etcdctl(&server, &["put", "--prev-kv", "k", "v2"]), "OK\nk\nv1\n");
    assert_eq!(etcdctl_with_input(&server, &["put", "from-stdin"], "piped"), "OK\n");
    assert_eq!(etcdctl(&server, &["get", "k"]), "k\nv2\n");
    assert_eq!(etcdctl(&server, &["get", "k", "--rev=2", "--print-value-only"]), "v1\n");
    assert_eq!(etcdctl(&server, &["get", "", "--from-key", "--keys-only"]), "from-stdin\n\nk\n\n");
    assert_eq!(
        etcdctl(&server, &["get", "--prefix", "", "--order=DESCEND", "--sort-by=MODIFY", "--limit=1"]),
        "from-stdin\npiped\n"
    );
    let fields = etcdctl(&server, &["get", "k", "-w", "fields"]);
    for line in
        ["\"Revision\" : 4", "\"ModRevision\" : 3", "\"Version\" : 2", "\"Count\" : 1", "\"More\" : false"]
    {
        assert!(fields.lines().any(|found| found == line), "{line} in {fields}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&etcdctl(&server, &["get", "k", "-w", "json"])).unwrap();
    assert_eq!(json["kvs"][0]["value"], "djI=");
    assert_eq!(etcdctl(&server, &["del", "--prev-kv", "k"]), "1\nk\nv2\n");
    assert_eq!(etcdctl(&server, &["del", "nothing"]), "0\n");
    let old = server.etcdctl(&["get", "k", "--rev=99"]).output().unwrap();
    assert!(!old.status.success());
    assert!(String::from_utf8_lossy(&old.stderr).contains("required revision is a future revision"));
}

#[test]
fn transactions() {
    let server = start();
    etcdctl(&server, &["put", "k", "v"]);
    let txn = "mod(\"k\") > \"0\"\nvalue(\"k\") = \"v\"\n\nput k w\nget k\n\nget other\n\n";
    let output = etcdctl_with_input(&server, &["txn"], txn);
    assert_eq!(output, "SUCCESS\n\nOK\n\nk\nw\n");
    let txn = "create(\"absent\") > \"0\"\n\nput k x\n\ndel k\n\n";
    assert_eq!(etcdctl_with_input(&server, &["txn"], txn), "FAILURE\n\n1\n");
}

#[test]
fn compaction_defragmentation_hash() {
    let server = start();
    for i in 0..10 {
        etcdctl(&server, &["put", "k", &i.to_string()]);
    }
    assert_eq!(etcdctl(&server, &["compaction", "5"]), "compacted revision 5\n");
    assert_eq!(etcdctl(&server, &["compaction", "--physical", "8"]), "compacted revision 8\n");
    let again = server.etcdctl(&["compaction", "5"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("required revision has been compacted"));
    assert!(etcdctl(&server, &["defrag"]).starts_with("Finished defragmenting etcd member["));
    let hash = etcdctl(&server, &["endpoint", "hashkv"]);
    let parts: Vec<&str> = hash.trim().split(", ").collect();
    assert_eq!((parts.len(), parts[0], parts[2]), (3, server.url(), "11"), "{hash}");
    assert!(parts[1].parse::<u32>().is_ok(), "{hash}");
}

#[test]
fn watches() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let server = start();
    etcdctl(&server, &["put", "k", "v1"]);
    let mut watch = server
        .etcdctl(&["watch", "k", "--rev=2", "--prev-kv"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl runs");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut take = |count| lines.by_ref().take(count).collect::<Vec<_>>();
    // A put has key and value lines before and after; an absent previous row has none.
    assert_eq!(take(3), ["PUT", "k", "v1"]);
    etcdctl(&server, &["put", "k", "v2"]);
    assert_eq!(take(5), ["PUT", "k", "v1", "k", "v2"]);
    etcdctl(&server, &["del", "k"]);
    assert_eq!(take(5), ["DELETE", "k", "v2", "k", ""]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn leases() {
    let server = start();
    let granted = etcdctl(&server, &["lease", "grant", "100"]);
    let id = granted.strip_prefix("lease ").unwrap().split(' ').next().unwrap();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    assert_eq!(etcdctl(&server, &["put", "--lease", id, "k", "v"]), "OK\n");
    let ttl = etcdctl(&server, &["lease", "timetolive", "--keys", id]);
    assert!(ttl.starts_with(&format!("lease {id} granted with TTL(100s), remaining(")), "{ttl}");
    assert!(ttl.ends_with("attached keys([k])\n"), "{ttl}");
    assert_eq!(etcdctl(&server, &["lease", "list"]), format!("found 1 leases\n{id}\n"));
    let kept = etcdctl(&server, &["lease", "keep-alive", "--once", id]);
    assert_eq!(kept, format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(etcdctl(&server, &["lease", "revoke", id]), format!("lease {id} revoked\n"));
    assert_eq!(etcdctl(&server, &["get", "k"]), "");
    assert_eq!(etcdctl(&server, &["lease", "timetolive", id]), format!("lease {id} already expired\n"));
}

#[test]
fn members_and_endpoints() {
    let server = start();
    let list = etcdctl(&server, &["member", "list"]);
    let parts: Vec<&str> = list.trim().split(", ").collect();
    assert_eq!(
        (parts[1], parts[2], parts[4], parts[5]),
        ("started", "default", server.url(), "false"),
        "{list}"
    );
    let health = etcdctl(&server, &["endpoint", "health"]);
    assert!(health.contains("is healthy: successfully committed proposal: took = "), "{health}");
    let status = etcdctl(&server, &["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let member = &status[0]["Status"];
    assert_eq!(member["version"], "3.7.1");
    assert_eq!(member["storageVersion"], "3.7.0");
    assert_eq!(member["leader"], member["header"]["member_id"]);
    assert_eq!(member["dbSizeQuota"], 2_147_483_648_u64);
    assert!(member["dbSize"].as_u64() >= member["dbSizeInUse"].as_u64());
    assert!(
        etcdctl(&server, &["endpoint", "status"]).contains(", 3.7.1, 3.7.0, "),
        "the simple form divides by dbSize"
    );
    assert_eq!(etcdctl(&server, &["alarm", "list"]), "");
    assert_eq!(etcdctl(&server, &["alarm", "disarm"]), "");
}
