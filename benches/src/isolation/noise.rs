//! The disturbances. Each begins when it is made and ends when it is dropped.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message;
use rustix::process::{Pid, Signal, kill_process_group};
use testkit::pb::RangeRequest;

use crate::raw::Connection;
use crate::work::{LIST_END, LIST_PREFIX};

/// Clients that list.
const LISTERS: usize = 20;

/// Processes that write and sync.
const WRITERS: usize = 4;

/// Processes that spin.
const SPINNERS: usize = 8;

/// Lists on one connection: its window, which the raw client never opens again, has room for so many.
const LISTS_PER_CONNECTION: usize = 8;

/// Which disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None.
    None,
    /// Clients that list all keys from the leader, linearizably, each as soon as it has the last list.
    Lists,
    /// `dd` with `conv=fsync` in loops on the disk of the data directories.
    Disk,
    /// Shells that loop.
    Cpu,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Kind; 4] = [Kind::None, Kind::Lists, Kind::Disk, Kind::Cpu];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::None => "none",
            Kind::Lists => "lists",
            Kind::Disk => "disk",
            Kind::Cpu => "cpu",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| format!("{text} is none of none, lists, disk, cpu"))
    }
}

/// A disturbance that goes on.
#[derive(Debug, Default)]
pub struct Noise {
    children: Vec<Child>,
    files: Vec<PathBuf>,
    listers: Vec<JoinHandle<Result<(), String>>>,
    stop: Arc<AtomicBool>,
    listed: Arc<Listed>,
}

/// What the listers have got.
#[derive(Debug, Default)]
struct Listed {
    /// Whole lists.
    lists: AtomicU64,
    /// DATA frames. A slow server may not finish a list of 200 MB while it is measured.
    frames: AtomicU64,
}

impl Noise {
    /// Begins it: lists from `leader`, files in `dir`.
    ///
    /// # Errors
    /// A process can't be started.
    pub fn start(kind: Kind, leader: SocketAddr, dir: &Path) -> io::Result<Noise> {
        let mut noise = Noise::default();
        match kind {
            Kind::None => {}
            Kind::Lists => (0..LISTERS).for_each(|_| noise.list(leader)),
            Kind::Disk => {
                for number in 0..WRITERS {
                    let file = dir.join(format!("noise-{number}"));
                    let dd = "dd if=/dev/zero of=\"$0\" bs=1M count=64 conv=fsync";
                    noise.shell(&format!("while :; do {dd}; done"), &file)?;
                    noise.files.push(file);
                }
            }
            Kind::Cpu => (0..SPINNERS).try_for_each(|_| noise.shell("while :; do :; done", dir))?,
        }
        Ok(noise)
    }

    /// What it did, if there is something to say.
    ///
    /// # Errors
    /// It did not disturb at all.
    pub fn end(mut self) -> Result<String, String> {
        for child in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("a process of the noise has ended: {status}"));
            }
        }
        if let Some(missing) = self.files.iter().find(|file| !file.exists()) {
            return Err(format!("{} was never written", missing.display()));
        }
        self.stop.store(true, Ordering::Relaxed);
        let is_lists = !self.listers.is_empty();
        for lister in self.listers.drain(..) {
            lister.join().map_err(|_| "a lister panicked".to_owned())??;
        }
        let lists = self.listed.lists.load(Ordering::Relaxed);
        match self.listed.frames.load(Ordering::Relaxed) {
            _ if !is_lists => Ok(String::new()),
            0 => Err("no list was even begun to be answered".to_owned()),
            frames => Ok(format!("{lists} whole lists, {frames} frames")),
        }
    }

    fn shell(&mut self, script: &str, argument: &Path) -> io::Result<()> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(argument).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(command.spawn()?);
        Ok(())
    }

    fn list(&mut self, leader: SocketAddr) {
        let (stop, listed) = (self.stop.clone(), self.listed.clone());
        self.listers.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                list_on_one_connection(leader, &stop, &listed).map_err(|error| format!("a list: {error}"))?;
            }
            Ok(())
        }));
    }
}

fn list_on_one_connection(leader: SocketAddr, stop: &AtomicBool, listed: &Listed) -> io::Result<()> {
    let request = RangeRequest { key: LIST_PREFIX.into(), range_end: LIST_END.into(), ..Default::default() };
    let request = request.encode_to_vec();
    let mut connection = Connection::connect(leader)?;
    connection.socket().set_read_timeout(Some(Duration::from_millis(500)))?;
    for _ in 0..LISTS_PER_CONNECTION {
        connection.open("/etcdserverpb.KV/Range", &request, true)?;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match connection.read() {
                Ok(received) => {
                    listed.frames.fetch_add(received.messages as u64, Ordering::Relaxed);
                    if received.ended > 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        listed.lists.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for child in &mut self.children {
            // The group is the child's own: the shell and what it runs.
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}
