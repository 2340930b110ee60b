//! Listeners that serve one thing alone: `--listen-client-http-urls`, `--listen-metrics-urls`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use testkit::pb::PutRequest;
use testkit::{Client, Program, ServerOptions};

use crate::options;
use crate::tls::Certificates;

/// A port of 127.0.0.1 that nobody has.
fn unused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("127.0.0.1:{}", listener.local_addr().expect("bound").port())
}

/// The answer to a GET, if one comes.
fn get(address: &str, path: &str) -> String {
    ask(address, "GET", path)
}

/// The answer to an HTTP/1.1 request, if one comes.
fn ask(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()); // one that speaks no HTTP may close at once
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer with its headers and lines in order (etcd's checks have none), without the date and, of metrics, without their
/// text.
fn plain(path: &str, answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    lines.sort();
    let is_metrics = path == "/metrics" && head.contains(" 200 ");
    let varies = |line: &String| {
        line.starts_with("date:")
            || is_metrics && (line.starts_with("content-length:") || line.starts_with("transfer-encoding:"))
    };
    lines.retain(|line| !varies(line));
    let mut body: Vec<&str> = if is_metrics { vec!["metrics"] } else { body.lines().collect() };
    body.sort_unstable();
    format!("{}\n\n{}", lines.join("\n"), body.join("\n"))
}

/// Every page by every method: status, headers and text are etcd's.
#[test]
fn pages_are_etcds() {
    let (server, etcd) = (options().start(), ServerOptions::new(Program::etcd()).start());
    let paths = [
        "/health",
        "/health?serializable=true",
        "/health?serializable=1",
        "/health?exclude=x&exclude=CORRUPT",
        "/health/",
        "/version",
        "/version/",
        "/livez",
        "/livez/",
        "/livez?verbose",
        "/livez?verbose=0",
        "/livez/serializable_read?verbose",
        "/livez/x",
        "/readyz",
        "/readyz?verbose",
        "/readyz?exclude=x",
        "/readyz?exclude=linearizable_read&verbose",
        "/readyz/linearizable_read",
        "/readyz/data_corruption?exclude=data_corruption",
        "/readyz/non_learner",
        "/readyz?verbose&exclude=data_corruption&exclude=serializable_read&exclude=linearizable_read&exclude=non_learner",
        "/metrics",
        "/members",
        "/",
        "/x",
    ];
    let addresses = [&server, &etcd].map(|server| format!("{}:2379", server.address()));
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "FOO"] {
        for path in paths {
            let [got, want] = addresses.each_ref().map(|address| plain(path, &ask(address, method, path)));
            assert_eq!(got, want, "{method} {path}");
        }
    }
}

async fn put(url: &str) -> Result<(), String> {
    let mut client = Client::connect(url).await.map_err(|error| error.to_string())?;
    let request = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    client.kv.put(request).await.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn pages_on_a_port_of_their_own() {
    let pages = unused();
    let server = options().arg(format!("--listen-client-http-urls=http://{pages}")).start();
    put(server.url()).await.expect("the client port is for gRPC");
    assert!(put(&format!("http://{pages}")).await.is_err(), "the other one isn't");
    for (path, status) in
        [("/health", 200), ("/version", 200), ("/readyz", 200), ("/metrics", 200), ("/x", 404)]
    {
        let answer = get(&pages, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        let answer = get(&format!("{}:2379", server.address()), path);
        assert!(!answer.contains("HTTP/1.1"), "{path} on the client port: {answer}");
    }
    put(server.url()).await.expect("the client port is still there");
}

/// curl's exit says whether it was answered.
fn curl(certificates: &Certificates, version: &str, url: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "5", version, "--insecure", "--cert"])
        .arg(certificates.path("client.crt"))
        .arg("--key")
        .arg(certificates.path("client.key"))
        .args(["--write-out", " %{http_code} %{http_version}", url])
        .output()
        .expect("curl runs");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn etcdctl(certificates: &Certificates, url: &str) -> bool {
    let status = Command::new(&testkit::oracle().etcdctl)
        .args(["--command-timeout=3s", "--insecure-skip-tls-verify", "--endpoints", url, "--cert"])
        .arg(certificates.path("client.crt"))
        .arg("--key")
        .arg(certificates.path("client.key"))
        .args(["put", "k", "v"])
        .output()
        .expect("etcdctl runs")
        .status;
    status.success()
}

/// Under TLS a client may choose HTTP/2 there, too, and gets pages, but no gRPC.
#[test]
fn pages_alone_over_both_versions_of_http() {
    let certificates = Certificates::new();
    let (pages, metrics) = (unused(), unused());
    let options: ServerOptions = certificates.server();
    let server = options
        .arg(format!("--listen-client-http-urls=https://{pages}"))
        .arg(format!("--listen-metrics-urls=https://{metrics}"))
        .start();
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let cases = [
            (&pages, "/health", "200"),
            (&pages, "/version", "200"),
            (&pages, "/etcdserverpb.KV/Range", "404"),
            (&metrics, "/health", "200"),
            (&metrics, "/metrics", "200"),
            (&metrics, "/version", "404"),
        ];
        for (port, path, status) in cases {
            let answer = curl(&certificates, version, &format!("https://{port}{path}"));
            assert!(answer.ends_with(&format!(" {status} {number}")), "{version} {path}: {answer}");
        }
    }
    assert!(etcdctl(&certificates, server.url()), "the client port is for gRPC");
    assert!(!etcdctl(&certificates, &format!("https://{pages}")));
    assert!(!etcdctl(&certificates, &format!("https://{metrics}")));
    let answer = curl(&certificates, "--http1.1", &format!("{}/health", server.url()));
    assert!(!answer.contains("true"), "{answer}");
}
