//! Entries read back from the log's files for peers that lag, on a thread of their own: neither the raft core nor the log
//! core waits for these reads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use consensus::log::{Fetcher, Identity};
use consensus::{Fetch, NodeId};
use rustc_hash::FxHashMap;

use super::background::Background;
use super::messages::FromBackground;
use super::ring::Sender;
use super::segment_files::SegmentFiles;

/// Reads back for all peers, one after the other. Raft has one fetch per peer under way.
pub struct Fetches {
    dir: PathBuf,
    identity: Identity,
    background: Background,
    /// Where each peer's last read ended.
    fetchers: Arc<Mutex<FxHashMap<NodeId, Fetcher>>>,
}

impl Fetches {
    /// Nothing read yet.
    pub fn new(dir: PathBuf, identity: Identity, background: Background) -> Fetches {
        Fetches { dir, identity, background, fetchers: Arc::default() }
    }

    /// Begins one; `answer` gets what it has found.
    pub fn start(&self, fetch: Fetch, answer: Arc<Mutex<Sender<FromBackground>>>) {
        let (dir, identity, fetchers) = (self.dir.clone(), self.identity, self.fetchers.clone());
        self.background.run(move || {
            let mut fetchers = fetchers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let fetcher = fetchers.entry(fetch.peer).or_default();
            let entries = match SegmentFiles::open_beside_writer(&dir) {
                Ok(files) => fetcher.fetch(&files, identity, &fetch),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the log back for a peer");
                    None
                }
            };
            let answer = answer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // The ring has room for one per peer beside the segments; without, raft asks for a snapshot in time.
            let _ = answer.push(FromBackground::Fetched(fetch.peer, fetch.first, entries));
            answer.flush();
        });
    }
}
