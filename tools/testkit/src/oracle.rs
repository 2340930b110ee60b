//! Where the real etcd is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The real etcd and its command-line client.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// The server.
    pub etcd: PathBuf,
    /// Its client.
    pub etcdctl: PathBuf,
    /// Whether this is etcd 3.7, which ringd promises to equal; Debian's 3.4 lacks some of what tests ask.
    pub is_current: bool,
}

/// The etcd to compare with: in the directory that `RINGD_ORACLE` names, else built by `tools/oracle/build`.
///
/// # Panics
/// Without an etcd there is nothing to compare with; the message says what to install.
pub fn oracle() -> &'static Oracle {
    static ORACLE: OnceLock<Oracle> = OnceLock::new();
    ORACLE.get_or_init(|| {
        let dir = match std::env::var_os("RINGD_ORACLE") {
            Some(dir) => PathBuf::from(dir),
            None => build(),
        };
        let etcd = dir.join("etcd");
        let version = Command::new(&etcd).arg("--version").output().expect("the etcd to compare with runs");
        let is_current = String::from_utf8_lossy(&version.stdout).starts_with("etcd Version: 3.7.");
        Oracle { etcdctl: dir.join("etcdctl"), etcd, is_current }
    })
}

fn build() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oracle/build");
    let target = crate::server::target_dir();
    let output = Command::new(script)
        .arg(target)
        .stderr(Stdio::inherit())
        .output()
        .expect("tools/oracle/build can be run");
    assert!(
        output.status.success(),
        "tools/oracle/build found no etcd to compare with; its message is above"
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
