//! The program as an operator meets it: what it says, with which code it ends, and what it refuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const RINGD: &str = env!("CARGO_BIN_EXE_ringd");
const READY: &str = "ready to serve client requests";

/// Longer than any start or end here takes on a busy machine; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory on the disk of the target directory, because /tmp may be a tmpfs.
fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable")
}

/// A URL that nobody else listens on: loopback addresses are plenty, and this one is made of our process id.
fn unused_url() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 100, "the third byte of the address is used up");
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("http://127.{}.{high}.{low}:12379", 100 + number)
}

fn ringd(args: &[&str]) -> Command {
    let mut command = Command::new(RINGD);
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("no exit code: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Arguments of a server with its own directory and address.
fn own(data_dir: &Path, url: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        // Nobody dials these servers, and several run at once.
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        "--ringd-placement=unpinned".into(),
    ]
}

/// A running server and the lines it has logged.
struct Server {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Server {
    fn spawn(mut command: Command, url: &str) -> Server {
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary runs");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stderr, kept) = (child.stderr.take().expect("piped"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("not poisoned").push(line);
            }
        });
        Server { child, lines, url: url.into() }
    }

    fn start(args: &[String], url: &str) -> Server {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut server = Server::spawn(ringd(&args), url);
        server.wait_for(READY);
        server
    }

    fn log(&self) -> String {
        self.lines.lock().expect("not poisoned").join("\n")
    }

    /// Waits for a line with these words and returns it.
    fn wait_for(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(words)) {
                return line.into();
            }
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none(), "ended with {ended:?} before {words:?}:\n{}", self.log());
            assert!(Instant::now() < deadline, "never said {words:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our child");
    }

    /// Waits for the end; the time it took.
    fn wait(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "doesn't end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// One HTTP/1.1 request; the whole answer.
    fn get(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").expect("a plain URL");
        let mut socket = TcpStream::connect(address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts what must fail, and returns its code and the last line of its log.
fn failure(command: Command) -> (i32, Value) {
    let output = output(command);
    let stderr = text(&output.stderr);
    let last = stderr.lines().last().unwrap_or_else(|| panic!("ended without a word: {:?}", output.status));
    let line = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (code(&output), line)
}

fn failing_start(args: &[String]) -> (i32, String) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    sentence(failure(ringd(&args)))
}

fn sentence((code, line): (i32, Value)) -> (i32, String) {
    assert_eq!((&line["level"], &line["exit-code"]), (&"fatal".into(), &code.into()), "{line}");
    (code, line["msg"].as_str().expect("a sentence").to_string())
}

#[test]
fn version_help_and_wrong_flags() {
    let version = output(ringd(&["--version"]));
    let stdout = text(&version.stdout);
    assert_eq!((code(&version), text(&version.stderr).as_str()), (0, ""));
    assert_eq!(stdout.lines().next(), Some(concat!("ringd Version: ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(stdout.lines().nth(1), Some("etcd Version: 3.7.1"));
    let help = output(ringd(&["-h"]));
    assert_eq!((code(&help), text(&help.stderr).as_str()), (0, ""));
    // words, exit code, words on stderr
    let cases = [
        (&["--nosuch"][..], 2, "flag provided but not defined: -nosuch"),
        (
            &["--heartbeat-interval", "soon"],
            2,
            "invalid value \"soon\" for flag -heartbeat-interval: parse error",
        ),
        (&["start"], 1, r#"\"start\" is not a valid flag"#),
        (&["--election-timeout=100"], 1, "should be at least as 5 times as --heartbeat-interval"),
        (&["--enable-pprof"], 1, "--enable-pprof is not there yet"),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            1,
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
        (&["--peer-cert-allowed-cn=x", "--peer-cert-allowed-hostname=y"], 1, "are mutually exclusive"),
    ];
    for (args, want, words) in cases {
        let output = output(ringd(args));
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), want, "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
}

#[test]
fn a_flag_and_its_variable_are_too_much() {
    let mut command = ringd(&["--name=a"]);
    command.env("ETCD_NAME", "b");
    let output = output(command);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("is shadowed by corresponding command-line flag"), "{output:?}");
}

#[test]
fn it_serves_says_so_and_ends_within_a_second_when_asked() {
    let dir = scratch();
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let url = unused_url();
        let mut server = Server::start(&own(&dir.path().join("data"), &url), &url);
        let ready: Value = serde_json::from_str(&server.wait_for(READY)).expect("a JSON line");
        for key in ["level", "ts", "caller", "msg"] {
            assert!(ready[key].is_string(), "no {key} in {ready}");
        }
        assert!(server.log().contains("8e9e05c52164694d"), "etcd's member id: {}", server.log());
        let health = server.get("/health");
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
        assert!(health.ends_with(r#"{"health":"true","reason":""}"#), "{health}");
        server.signal(signal);
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(0), "round {round}: {}", server.log());
        assert!(took < Duration::from_secs(1), "round {round} took {took:?}:\n{}", server.log());
    }
}

#[test]
fn variables_are_enough() {
    let (dir, url) = (scratch(), unused_url());
    let mut command = ringd(&[]);
    command
        .env("ETCD_DATA_DIR", dir.path().join("data"))
        .env("ETCD_LISTEN_CLIENT_URLS", &url)
        .env("ETCD_ADVERTISE_CLIENT_URLS", &url)
        .env("ETCD_RINGD_PLACEMENT", "unpinned")
        .env("ETCD_NO_SUCH_FLAG", "x")
        .env("ETCD_LOG_FORMAT", "console")
        .env("ETCD_BACKEND_BATCH_INTERVAL", "10ms");
    let mut server = Server::spawn(command, &url);
    let line = server.wait_for(READY);
    assert_eq!(line.split('\t').nth(1), Some("info"), "the console's look: {line}");
    assert!(server.log().contains("unrecognized environment variable"), "{}", server.log());
    assert_eq!(server.log().matches("backend-batch-interval").count(), 1, "one warning: {}", server.log());
}

#[test]
fn metrics_under_etcds_names() {
    let (dir, url) = (scratch(), unused_url());
    let server = Server::start(&own(&dir.path().join("data"), &url), &url);
    let answer = server.get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for want in [
        "\netcd_server_has_leader 1\n",
        "\netcd_server_is_leader 1\n",
        "\netcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n",
        "\netcd_cluster_version{cluster_version=\"3.7\"} 1\n",
        "\netcd_server_quota_backend_bytes 2147483648\n",
        "\netcd_server_version{server_version=\"3.7.1\"} 1\n",
        "\ngrpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0\n",
        "\n# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n",
        "\nringd_log_write_duration_seconds_bucket{le=\"+Inf\"} ",
    ] {
        assert!(answer.contains(want), "no {want:?} in {answer}");
    }
    let value = |name: &str| -> f64 {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    };
    assert!(value("etcd_disk_wal_fsync_duration_seconds_count") >= 1.0, "a start writes to the log");
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("os_fd_used") > 3.0);
}

/// `ringd --help | head -1`
#[test]
fn a_reader_of_the_help_may_go_away() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = ringd(&["--help"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
}

#[test]
fn the_metrics_port_serves_metrics_and_health() {
    let (dir, url, metrics) = (scratch(), unused_url(), unused_url());
    let mut args = own(&dir.path().join("data"), &url);
    args.push(format!("--listen-metrics-urls={metrics}"));
    let mut server = Server::start(&args, &url);
    server.url = metrics;
    let cases =
        [("/metrics", "200"), ("/health", "200"), ("/readyz", "200"), ("/version", "404"), ("/x", "404")];
    for (path, status) in cases {
        let answer = server.get(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

/// What the kernel says of a process under this name.
fn status_of(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("the kernel says").trim().to_owned()
}

/// Bytes that a process has locked into memory.
fn locked_bytes(pid: u32) -> u64 {
    let line = status_of(pid, "VmLck");
    let number = line.strip_suffix(" kB").expect("in kB").trim();
    number.parse::<u64>().expect("a number") * 1024
}

/// An idle server would hold three times as much memory with them, and is no faster.
#[test]
fn its_heap_lies_in_small_pages() {
    let (dir, url) = (scratch(), unused_url());
    let server = Server::start(&own(&dir.path().join("data"), &url), &url);
    assert_eq!(status_of(server.pid(), "THP_enabled"), "0");
}

/// The tree file's pages, also of a file that grows; nothing else is locked.
#[test]
fn the_tree_is_locked_into_memory_if_asked_for() {
    let (dir, url) = (scratch(), unused_url());
    let args = own(&dir.path().join("data"), &url);
    let tree = dir.path().join("data/tree");
    let plain = Server::start(&args, &url);
    let without = locked_bytes(plain.pid());
    drop(plain);
    let args = [args, vec!["--memory-mlock".into()]].concat();
    let server = Server::start(&args, &url);
    // The first checkpoint, which makes the file grow, may still be to come.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = std::fs::metadata(&tree).expect("it is there").len();
        let locked = locked_bytes(server.pid()) - without;
        if bytes > 0 && locked == bytes.next_multiple_of(4096) {
            break;
        }
        assert!(Instant::now() < deadline, "{locked} of {bytes} bytes are locked");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_second_server_on_the_directory_or_the_port_is_turned_away() {
    let (dir, other, url) = (scratch(), scratch(), unused_url());
    let data = dir.path().join("data");
    let server = Server::start(&own(&data, &url), &url);
    let (code, sentence) = failing_start(&own(&data, &unused_url()));
    assert_eq!(code, 12, "{sentence}");
    assert!(sentence.contains(&format!("(id {})", server.pid())), "{sentence}");
    let (code, sentence) = failing_start(&own(&other.path().join("data"), &url));
    assert_eq!(code, 16, "{sentence}");
    assert!(sentence.contains(&url), "{sentence}");
    assert!(server.get("/health").starts_with("HTTP/1.1 200"), "the first one goes on");
}

/// The kernel gives a killed server's socket back some milliseconds after its process is gone, with its rings.
#[test]
fn a_killed_server_can_be_started_again_at_once() {
    let (dir, url) = (scratch(), unused_url());
    for round in 0..5 {
        let server = Server::start(&own(&dir.path().join("data"), &url), &url);
        assert!(server.get("/health").starts_with("HTTP/1.1 200"), "round {round}");
        drop(server); // SIGKILL
    }
}

#[test]
fn directories_that_cannot_be_ours() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "x").expect("writable");
    std::fs::create_dir_all(at("etcd/member/wal")).expect("writable");
    std::fs::create_dir_all(at("other")).expect("writable");
    std::fs::write(at("other/pg_control"), "x").expect("writable");
    // directory, exit code, words of the sentence
    let cases = [
        (at("file"), 10, "cannot write in"),
        (PathBuf::from("/proc/ringd"), 10, "cannot write in /proc/ringd"),
        (at("etcd"), 11, "is a data directory of etcd"),
        (at("other"), 11, "holds \"pg_control\""),
    ];
    for (path, want, words) in cases {
        let (code, sentence) = failing_start(&own(&path, &unused_url()));
        assert_eq!(code, want, "{sentence}");
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn tmpfs_is_no_disk() {
    let dir = TempDir::new_in("/dev/shm").expect("this test needs /dev/shm");
    let (code, sentence) = failing_start(&own(&dir.path().join("data"), &unused_url()));
    assert_eq!(code, 13, "{sentence}");
    assert!(sentence.contains("tmpfs"), "{sentence}");
}

#[test]
fn an_address_of_another_machine() {
    let dir = scratch();
    let (code, sentence) = failing_start(&own(&dir.path().join("data"), "http://192.0.2.1:12379"));
    assert_eq!(code, 17, "{sentence}");
    assert!(sentence.contains("192.0.2.1"), "{sentence}");
}

#[test]
fn a_mistake_in_the_initial_cluster_counts_only_without_data() {
    let (dir, url) = (scratch(), unused_url());
    let mut wrong = own(&dir.path().join("data"), &url);
    wrong.push("--initial-cluster=other=http://localhost:2380".into());
    let (code, sentence) = failing_start(&wrong);
    assert_eq!(code, 1, "{sentence}");
    assert!(sentence.contains("couldn't find local name \"default\""), "{sentence}");
    drop(Server::start(&own(&dir.path().join("data"), &url), &url));
    let again = unused_url();
    wrong.extend([format!("--listen-client-urls={again}"), format!("--advertise-client-urls={again}")]);
    drop(Server::start(&wrong, &again));
}

#[test]
fn too_little_locked_memory() {
    let dir = scratch();
    // Root may raise any limit, unless it has lost the right to.
    let mut command = Command::new("setpriv");
    let drop_rights: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["--bounding-set=-sys_resource,-ipc_lock", "--inh-caps=-sys_resource,-ipc_lock"],
        false => &["--no-new-privs"],
    };
    command.args(drop_rights).args(["prlimit", "--memlock=65536:65536", RINGD]);
    command.args(own(&dir.path().join("data"), &unused_url()));
    let (code, sentence) = sentence(failure(command));
    assert_eq!(code, 14, "{sentence}");
    assert!(sentence.contains("LimitMEMLOCK"), "{sentence}");
}

/// Runs `command` under a seccomp filter; the filter belongs to a thread, and its children inherit it.
fn under_filter<T: Send>(filter: seccompiler::BpfProgram, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            seccompiler::apply_filter(&filter).expect("a filter may always be added");
            run()
        });
        filtered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A filter in seccompiler's own JSON.
fn compile(mismatch: &Value, on_match: &Value, names: &[&str]) -> seccompiler::BpfProgram {
    let rules: Vec<Value> = names.iter().map(|name| serde_json::json!({ "syscall": name })).collect();
    let json = serde_json::json!({
        "thread": { "mismatch_action": mismatch, "match_action": on_match, "filter": rules }
    });
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let mut programs =
        seccompiler::compile_from_json(json.to_string().as_bytes(), arch).expect("names of system calls");
    programs.remove("thread").expect("the only one")
}

#[test]
fn a_filter_that_denies_io_uring_is_named() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let (dir, url) = (scratch(), unused_url());
        let filter = compile(&"allow".into(), &serde_json::json!({ "errno": errno }), &["io_uring_setup"]);
        let args = own(&dir.path().join("data"), &url);
        let (code, sentence) = under_filter(filter, || failing_start(&args));
        assert_eq!(code, 15, "{sentence}");
        assert!(sentence.contains("seccomp") && sentence.contains("tuning/seccomp/ringd.json"), "{sentence}");
    }
}

/// A kernel that has no memory for a ring: something that no list of reasons foresees.
#[test]
fn what_the_system_refuses_otherwise_is_told() {
    let (dir, url) = (scratch(), unused_url());
    let errno = serde_json::json!({ "errno": libc::ENOMEM });
    let filter = compile(&"allow".into(), &errno, &["io_uring_setup"]);
    let args = own(&dir.path().join("data"), &url);
    let (code, sentence) = under_filter(filter, || failing_start(&args));
    assert_eq!(code, 26, "{sentence}");
    assert!(sentence.contains("io_uring_setup failed"), "{sentence}");
}

/// `--host-whitelist`, `--cors`, `--enable-log-rotation`.
#[test]
fn pages_are_for_hosts_and_origins_that_are_listed() {
    let (dir, url) = (scratch(), unused_url());
    let log = dir.path().join("log.txt");
    let mut args = own(&dir.path().join("data"), &url);
    args.extend(["--host-whitelist=known".into(), "--cors=http://page:80".into()]);
    args.extend([format!("--log-outputs=stderr,{}", log.display()), "--enable-log-rotation".into()]);
    let _server = Server::start(&args, &url);
    let ask = |head: &str| {
        let mut socket = TcpStream::connect(url.trim_start_matches("http://")).expect("it listens");
        write!(socket, "GET /version HTTP/1.1\r\n{head}Connection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        answer
    };
    let origin = "Access-Control-Allow-Origin: ";
    let known = ask("Host: known:2379\r\nOrigin: http://page:80\r\n");
    assert!(
        known.starts_with("HTTP/1.1 200") && known.contains(&format!("{origin}http://page:80\r\n")),
        "{known}"
    );
    let other_page = ask("Host: known\r\nOrigin: http://other:80\r\n");
    assert!(other_page.starts_with("HTTP/1.1 200") && !other_page.contains(origin), "{other_page}");
    let other_host = ask("Host: other\r\nOrigin: http://page:80\r\n");
    assert!(other_host.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{other_host}");
    assert!(other_host.contains("etcd --host-whitelist \"other\""), "{other_host}");
    let written = std::fs::read_to_string(log).expect("a log file");
    assert!(written.contains(READY), "{written}");
}

#[test]
fn certificates_that_cannot_be_used() {
    let dir = scratch();
    let broken = dir.path().join("broken.pem");
    std::fs::write(&broken, "no certificate").expect("writable");
    for (file, words) in [(broken, "TLS cannot start"), (dir.path().join("none.pem"), "none.pem")] {
        let url = unused_url().replace("http:", "https:");
        let mut args = own(&dir.path().join("data"), &url);
        for flag in ["cert-file", "key-file"] {
            args.push(format!("--{flag}={}", file.display()));
        }
        let (code, sentence) = failing_start(&args);
        assert_eq!(code, 18, "{sentence}");
        assert!(sentence.contains(words), "{sentence}");
    }
}

/// Everything from a file, and a line that says so.
#[test]
fn a_configuration_file_is_enough() {
    let (dir, url) = (scratch(), unused_url());
    let file = dir.path().join("ringd.yaml");
    let text = format!(
        "name: from-file\ndata-dir: {}\nlisten-client-urls: {url}\nadvertise-client-urls: {url}\n\
         listen-peer-urls: http://127.0.0.1:0\nringd-placement: unpinned\n",
        dir.path().join("data").display()
    );
    std::fs::write(&file, text).expect("writable");
    let mut server =
        Server::start(&["--name=flag".into(), format!("--config-file={}", file.display())], &url);
    let line = server.wait_for("loaded server configuration, other configuration command line flags");
    assert!(line.contains(&file.display().to_string()), "{line}");
    assert!(server.log().contains(r#""local-member-name":"from-file""#), "{}", server.log());
}

#[test]
fn the_shipped_profile_is_enough_to_serve() {
    let profile: Value = serde_json::from_str(include_str!("../../tuning/seccomp/ringd.json")).expect("JSON");
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&"SCMP_ACT_ERRNO".into(), &1.into())
    );
    let mut allowed = Vec::new();
    for group in profile["syscalls"].as_array().expect("groups") {
        let names = group["names"].as_array().expect("names");
        if group["action"] == "SCMP_ACT_ALLOW" {
            allowed.extend(names.iter().map(|name| name.as_str().expect("a name")));
        }
    }
    for ring in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&ring), "{ring}");
    }
    // `clone3` gets ENOSYS there and EPERM here, which glibc doesn't take for "use clone": allow it for this test.
    allowed.push("clone3");
    let filter = compile(&serde_json::json!({ "errno": libc::EPERM }), &"allow".into(), &allowed);
    let (dir, url) = (scratch(), unused_url());
    let args = own(&dir.path().join("data"), &url);
    let server = under_filter(filter, || Server::start(&args, &url));
    assert!(server.get("/health").contains(r#"{"health":"true","reason":""}"#));
    assert!(server.get("/metrics").contains("etcd_server_has_leader 1"));
    server.signal(Signal::TERM);
    let mut server = server;
    assert_eq!(server.wait().0.code(), Some(0), "{}", server.log());
}

#[test]
fn the_log_is_written_directly_and_durably() {
    let (dir, url) = (scratch(), unused_url());
    let data = dir.path().join("data");
    let server = Server::start(&own(&data, &url), &url);
    let proc = PathBuf::from(format!("/proc/{}", server.pid()));
    let log = std::fs::canonicalize(data.join("log")).expect("it exists");
    let mut segments = 0;
    for entry in std::fs::read_dir(proc.join("fd")).expect("our child") {
        let entry = entry.expect("a descriptor");
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        // Segments that are still being prepared (`.new`) hold nothing yet.
        if !target.starts_with(&log) || target.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let info = std::fs::read_to_string(proc.join("fdinfo").join(entry.file_name())).expect("its state");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        let flags = i32::from_str_radix(flags, 8).expect("octal");
        let wanted = libc::O_DIRECT | libc::O_DSYNC;
        assert_eq!(flags & wanted, wanted, "{} has {flags:o}", target.display());
        segments += 1;
    }
    assert!(segments >= 1, "no segment is open");
}

#[test]
fn systemd_hears_of_ready_and_stopping() {
    let (dir, url) = (scratch(), unused_url());
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let hear = || {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).expect("a datagram");
        text(&bytes[..count])
    };
    let args = own(&dir.path().join("data"), &url);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = ringd(&args);
    command.env("NOTIFY_SOCKET", &path);
    let mut server = Server::spawn(command, &url);
    assert!(hear().starts_with("READY=1\n"));
    assert!(server.get("/health").starts_with("HTTP/1.1 200"), "ready means ready");
    server.signal(Signal::TERM);
    assert!(hear().starts_with("STOPPING=1\n"));
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn the_log_goes_where_it_is_sent() {
    let (dir, url) = (scratch(), unused_url());
    let file = dir.path().join("ringd.log");
    let mut args = own(&dir.path().join("data"), &url);
    args.push(format!("--log-outputs=stderr,{}", file.display()));
    let mut server = Server::start(&args, &url);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0.code(), Some(0));
    let written = std::fs::read_to_string(&file).expect("a log file");
    assert!(written.lines().count() >= 3, "{written}");
    for line in written.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["ts"].as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')), "{line}");
    }
    args.push("--log-outputs=/nonexistent/ringd.log".into());
    let (code, sentence) = failing_start(&args);
    assert_eq!(code, 1, "{sentence}");
    assert!(sentence.contains("/nonexistent/ringd.log"), "{sentence}");
}

#[test]
fn the_plan_is_printed() {
    let (dir, url) = (scratch(), unused_url());
    let mut args = own(&dir.path().join("data"), &url);
    args.push("--ringd-executors=1".into());
    let server = Server::start(&args, &url);
    assert!(server.log().contains("{log raft store client}"), "{}", server.log());
}
