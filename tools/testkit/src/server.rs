//! A server as a child process.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::patience::Running;
use crate::{Client, oracle};

/// How long a server may take from its start until it says that it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What both servers log when clients can come.
const READY: &str = "ready to serve client requests";

/// Which server is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// ringd, by the path of its binary.
    Ringd(PathBuf),
    /// The real etcd, by the path of its binary.
    Etcd(PathBuf),
}

impl Program {
    /// The real etcd.
    pub fn etcd() -> Self {
        Program::Etcd(oracle().etcd.clone())
    }

    /// ringd at `ringd`, or the real etcd if the environment says `RINGD_TEST_SERVER=etcd`: so every test can be
    /// proved against etcd before ringd is judged by it.
    pub fn under_test(ringd: &str) -> Self {
        match std::env::var("RINGD_TEST_SERVER").as_deref() {
            Ok("etcd") => Program::etcd(),
            Ok(path) if path.starts_with('/') => Program::Ringd(path.into()),
            _ => Program::Ringd(ringd.into()),
        }
    }

    /// Whether this is ringd.
    pub fn is_ringd(&self) -> bool {
        matches!(self, Program::Ringd(_))
    }

    fn path(&self) -> &Path {
        match self {
            Program::Ringd(path) | Program::Etcd(path) => path,
        }
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    program: Program,
    args: Vec<String>,
    env: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    scheme: &'static str,
    peer_scheme: &'static str,
    seat: Option<Seat>,
}

/// Of a member of a cluster: where it is and whom it is told of.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub name: String,
    pub address: Ipv4Addr,
    /// The network namespace it runs in, if that is not the test's.
    pub namespace: Option<String>,
    /// `--initial-cluster`
    pub initial_cluster: String,
    /// `--initial-cluster-state`
    pub state: &'static str,
}

impl ServerOptions {
    /// A server on a loopback address and in a data directory of its own, with the defaults otherwise.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            args: Vec::new(),
            env: Vec::new(),
            data_dir: None,
            scheme: "http",
            peer_scheme: "http",
            seat: None,
        }
    }

    /// One more command-line argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A data directory of the caller's, which stays when the server is dropped.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// TLS on the client port; the arguments with the certificate are the caller's.
    pub fn tls(mut self) -> Self {
        self.scheme = "https";
        self
    }

    /// TLS on the peer port; the arguments with the certificate are the caller's.
    pub fn peer_tls(mut self) -> Self {
        self.peer_scheme = "https";
        self
    }

    /// The peer URL of a server with these options at `address`.
    pub(crate) fn peer_url(&self, address: Ipv4Addr) -> String {
        format!("{}://{address}:2380", self.peer_scheme)
    }

    pub(crate) fn seat(mut self, seat: Seat) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Starts and waits until it serves.
    ///
    /// # Panics
    /// If it ends or does not serve in time, with its log.
    pub fn start(self) -> Server {
        let mut server = self.spawn();
        server.wait_ready();
        server
    }

    /// Starts and does not wait.
    pub fn spawn(self) -> Server {
        let scratch = TempDir::new_in(scratch_dir()).expect("the target directory is writable");
        let data_dir = self.data_dir.clone().unwrap_or_else(|| scratch.path().join("data"));
        let address = self.seat.as_ref().map_or_else(unused_address, |seat| seat.address);
        let mut server = Server {
            url: format!("{}://{address}:2379", self.scheme),
            address,
            log_path: scratch.path().join("log"),
            data_dir,
            options: self,
            child: None,
            ready_after: Duration::ZERO,
            _scratch: scratch,
        };
        server.spawn_child();
        server
    }
}

/// A running (or stopped) server.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    address: Ipv4Addr,
    url: String,
    data_dir: PathBuf,
    log_path: PathBuf,
    child: Option<Child>,
    ready_after: Duration,
    _scratch: TempDir,
}

impl Server {
    /// Where clients connect: `http://127.x.y.z:2379`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where other members connect: `http://127.x.y.z:2380`.
    pub fn peer_url(&self) -> String {
        self.options.peer_url(self.address)
    }

    /// One more argument for its next start.
    pub fn add_arg(&mut self, arg: impl Into<String>) {
        self.options.args.push(arg.into());
    }

    /// One more environment variable for its next start.
    pub fn add_env(&mut self, name: &str, value: &str) {
        self.options.env.push((name.to_owned(), value.to_owned()));
    }

    /// One environment variable less for its next start.
    pub fn remove_env(&mut self, name: &str) {
        self.options.env.retain(|(known, _)| known != name);
    }

    /// The loopback address it listens on, port 2379.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether this is ringd.
    pub fn is_ringd(&self) -> bool {
        self.options.program.is_ringd()
    }

    /// All it has written to stdout and stderr in its present run.
    pub fn log(&self) -> String {
        fs::read(&self.log_path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How long the last start took until it served.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A new connection to it.
    pub async fn client(&self) -> Client {
        match Client::connect(&self.url).await {
            Ok(client) => client,
            Err(error) => panic!("{} does not take a connection: {error:?}\n{}", self.url, self.log()),
        }
    }

    /// A new connection through the `etcd-client` crate.
    pub async fn etcd_client(&self) -> etcd_client::Client {
        match etcd_client::Client::connect([&self.url], None).await {
            Ok(client) => client,
            Err(error) => panic!("{} does not take an etcd-client: {error:?}\n{}", self.url, self.log()),
        }
    }

    /// Runs etcdctl against it.
    pub fn etcdctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&oracle().etcdctl);
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.url).args(args);
        command
    }

    /// Ends it as `kill -9` does: no file is written, no connection is closed in order.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("the server runs"));
        rustix::process::kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// Asks it to stop with SIGTERM and waits: how it ended, and how long that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait_exit(Duration::from_secs(20));
        (status, started.elapsed())
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {timeout:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts it again with the same options and data, and waits until it serves.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn_child();
        self.wait_ready();
    }

    /// Starts it again with the same options and data, and does not wait.
    pub fn restart_unready(&mut self) {
        self.kill();
        self.spawn_child();
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status =
            self.child.as_mut().expect("the server was started").try_wait().expect("a child of ours")?;
        self.child = None;
        Some(status)
    }

    fn spawn_child(&mut self) {
        let log = File::create(&self.log_path).expect("the scratch directory is writable");
        let client = &self.url;
        let peer = self.peer_url();
        let (name, cluster, state) = match &self.options.seat {
            Some(seat) => (seat.name.as_str(), seat.initial_cluster.clone(), seat.state),
            None => ("default", format!("default={peer}"), "new"),
        };
        let program = self.options.program.path();
        let mut command = match self.options.seat.as_ref().and_then(|seat| seat.namespace.as_ref()) {
            Some(namespace) => {
                // It becomes the program, so the child is still the server.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--name={name}"))
            .arg(format!("--initial-cluster={cluster}"))
            .arg(format!("--initial-cluster-state={state}"))
            .args(&self.options.args)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle to the log"))
            .stderr(log)
            // A signal to the group of a test run must not reach the server behind the test's back.
            .process_group(0);
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => panic!("{} can't be run: {error}", self.options.program.path().display()),
        }
    }

    /// Waits until it serves, if it was started without waiting.
    ///
    /// # Panics
    /// If it ends or does not serve in time, with its log.
    pub fn wait_ready(&mut self) {
        let started = Instant::now();
        let mut running = Running::start();
        while !self.log().contains(READY) {
            if let Some(status) = self.exited() {
                panic!("ended with {status} before it served:\n{}", self.log());
            }
            if running.time() > READY_TIMEOUT {
                let log = self.log();
                self.kill();
                panic!("does not serve after {READY_TIMEOUT:?}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ready_after = started.elapsed();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            eprintln!(
                "--- end of the log of {} ---\n{}",
                self.url,
                String::from_utf8_lossy(&log.as_bytes()[from..])
            );
        }
    }
}

/// A loopback address that nobody else uses: 127/8 has one for every process and server, so the usual ports can be
/// kept and none has to be guessed free.
pub(crate) fn unused_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    assert!(count < 250, "more servers in one test process than addresses were planned for");
    let pid = std::process::id();
    Ipv4Addr::new(127, 1 + ((pid >> 8) % 254) as u8, pid as u8, 2 + count as u8)
}

/// A directory below `target/` for data of servers: on the disk of the build, so with O_DIRECT, which a tmpfs
/// would not have.
pub fn scratch_dir() -> PathBuf {
    let dir = target_dir().join("tmp");
    fs::create_dir_all(&dir).unwrap_or_else(|error: io::Error| panic!("{}: {error}", dir.display()));
    dir
}

/// Cargo's target directory: the one that holds this program.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let dir = program.ancestors().find(|dir| dir.join(".rustc_info.json").exists());
    dir.unwrap_or_else(|| panic!("{} does not lie in a target directory of cargo", program.display()))
        .to_owned()
}
