//! The log core: turns appends into aligned, direct, synchronous writes, one in flight at a time.
//!
//! An idle device gets a write at once; a busy one gets all that queued meanwhile. Everything that decides (where a
//! batch goes, what it contains, when a segment may be reused) is `consensus::log::Log`; here are only the descriptors.
//!
//! A write that fails ends the process: what reached the disk is unknown, and retrying a failed sync is how data is lost
//! quietly.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use consensus::Index;
use consensus::log::{Log, SegmentId, WritePlan};
use futures_lite::future::or;
use glommio::io::{DmaBuffer, DmaFile};
use rustc_hash::FxHashMap;

use super::background::Background;
use super::clock::now;
use super::failpoint::{failpoint, fault};
use super::fetches::Fetches;
use super::messages::{FromBackground, FromLog, SegmentPrepared, ToLog};
use super::ring::{Ready, Receiver, Sender};
use super::segments;
use super::shared::Shared;
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Everything the log core owns.
pub struct LogCore {
    /// The pure half.
    pub log: Log,
    /// Directory of the segment files.
    pub dir: PathBuf,
    /// From the raft core.
    pub appends: Receiver<ToLog>,
    /// To the raft core.
    pub durable: Sender<FromLog>,
    /// From the background threads.
    pub prepared: Receiver<FromBackground>,
    /// To give back to the background thread's jobs.
    pub prepared_sender: std::sync::Arc<std::sync::Mutex<Sender<FromBackground>>>,
    /// Where segments are made.
    pub background: Background,
    /// Entries read back for peers that lag.
    pub fetches: Fetches,
    /// The first entry that can be read back, as the raft core knows it.
    pub starts_at: Index,
    /// Figures and the way to stop the process.
    pub shared: std::sync::Arc<Shared>,
    /// Segments that exist and are still to be opened.
    pub existing: Vec<SegmentId>,
    /// Open segments.
    pub files: FxHashMap<SegmentId, DmaFile>,
    /// When to ask again for a segment that could not be made.
    pub retry_at: Option<Duration>,
}

/// How long after a failure (no space) the next segment is tried.
const SEGMENT_RETRY: Duration = Duration::from_secs(1);

impl LogCore {
    /// Runs until the raft core is gone.
    pub async fn run(mut self) {
        for id in std::mem::take(&mut self.existing) {
            self.open(id).await;
        }
        loop {
            self.take_appends();
            self.take_segments().await;
            self.want_segments();
            if let Some(plan) = self.log.poll_write() {
                self.write(&plan).await;
                continue;
            }
            if self.wait().await == Ready::Closed {
                return;
            }
        }
    }

    fn take_appends(&mut self) {
        while let Some(message) = self.appends.pop() {
            match message {
                ToLog::Append(append) => self.log.append(append),
                ToLog::Checkpointed(index) => self.log.checkpointed(index),
                ToLog::Fetch(fetch) => self.fetches.start(fetch, self.prepared_sender.clone()),
            }
        }
        self.tell_start();
    }

    /// Tells the raft core from where on entries can be read back.
    fn tell_start(&mut self) {
        let first = self.log.first_index();
        if first != self.starts_at && self.durable.push(FromLog::StartsAt(first)).is_ok() {
            self.starts_at = first;
            self.durable.flush();
        }
    }

    async fn take_segments(&mut self) {
        while let Some(message) = self.prepared.pop() {
            match message {
                FromBackground::Prepared(prepared) => self.take_segment(prepared).await,
                FromBackground::Fetched(peer, first, entries) => {
                    self.durable.send(FromLog::Fetched(peer, first, entries)).await;
                    self.durable.flush();
                }
            }
        }
    }

    async fn take_segment(&mut self, SegmentPrepared { segment, result }: SegmentPrepared) {
        match result {
            Ok(()) => {
                self.open(segment.id).await;
                self.shared.log_space_lost(false);
                self.log.segment_ready(segment.id, segment.size);
            }
            Err(error) => {
                tracing::error!(segment = segment.id.file_name(), %error, "failed to prepare a log segment");
                // Another reason, such as that no descriptor is left, passes or ends in a stalled log; it is no alarm.
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                    self.shared.log_space_lost(true);
                }
                self.log.segment_failed();
                self.retry_at = Some(now() + SEGMENT_RETRY);
            }
        }
    }

    fn want_segments(&mut self) {
        if self.retry_at.is_some_and(|at| now() < at) {
            return;
        }
        if self.retry_at.take().is_some() && self.log.has_spares() {
            self.shared.log_space_lost(false); // a checkpoint has given some back meanwhile, and no new one is wanted
        }
        while let Some(segment) = self.log.segment_wanted() {
            let (dir, answer) = (self.dir.clone(), self.prepared_sender.clone());
            self.background.run(move || {
                let result = segments::prepare(&dir, &segment);
                let answer = answer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                // The ring holds more answers than segments may be under preparation.
                let _ = answer.push(FromBackground::Prepared(SegmentPrepared { segment, result }));
                answer.flush();
            });
        }
    }

    /// Opens a segment for writing; not being able to is the end.
    async fn open(&mut self, id: SegmentId) {
        match segments::open_direct(&self.dir, id).await {
            Ok(file) => {
                self.files.insert(id, file);
                metrics::here().plain.log_segments.set_unsigned(self.files.len() as u64);
            }
            Err(error) => self.die(&id, "open", &error),
        }
    }

    async fn write(&mut self, plan: &WritePlan) {
        let started = now();
        self.shared.log_writes(Some(started));
        let Some(file) = self.files.get(&plan.segment) else {
            return self.die(&plan.segment, "find", &std::io::ErrorKind::NotFound.into());
        };
        let mut buffer = file.alloc_dma_buffer(plan.len);
        self.log.encode(plan, buffer.as_bytes_mut());
        failpoint("log-before-submit");
        match submit(file, buffer, plan.offset).await {
            Ok(count) if count == plan.len => {}
            Ok(_) => return self.die(&plan.segment, "write", &std::io::ErrorKind::WriteZero.into()),
            Err(error) => return self.die(&plan.segment, "write", &error),
        }
        failpoint("log-after-completion");
        self.shared.log_writes(None);
        self.shared.metrics.log_write(now() - started, plan.len, self.log.batch_entries());
        if let Some(ready) = self.log.written(now()) {
            // The ring holds more Readys than raft may have open.
            if self.durable.push(FromLog::Durable(ready)).is_err() {
                self.durable.send(FromLog::Durable(ready)).await;
            }
            self.durable.flush();
            failpoint("log-after-report");
        }
    }

    fn die(&self, segment: &SegmentId, verb: &str, error: &std::io::Error) {
        self.shared.fatal(Fatal::new(
            FatalReason::LogWriteFailed,
            format!(
                "failed to {verb} log segment {}: {error}; nothing that was not durable has been acknowledged",
                self.dir.join(segment.file_name()).display()
            ),
        ));
    }

    /// Sleeps until there is something to append, a segment, or the idle marker is due.
    async fn wait(&mut self) -> Ready {
        let rings = poll_fn(|cx| {
            if self.prepared.poll_ready(cx) == Poll::Ready(Ready::Items) {
                return Poll::Ready(Ready::Items);
            }
            self.appends.poll_ready(cx)
        });
        let due = self.log.next_timeout().into_iter().chain(self.retry_at).min();
        let Some(due) = due else { return rings.await };
        let idle = pin!(async {
            glommio::timer::sleep(due.saturating_sub(now())).await;
            None
        });
        match or(async { Some(rings.await) }, idle).await {
            Some(ready) => ready,
            None => {
                self.log.handle_timeout(now());
                Ready::Items
            }
        }
    }
}

/// One durable write. Its completion is its durability.
async fn submit(file: &DmaFile, buffer: DmaBuffer, offset: u64) -> std::io::Result<usize> {
    fault("log-write")?;
    let write = async { file.write_at(buffer, offset).await.map_err(std::io::Error::from) };
    #[cfg(feature = "failpoints")]
    let write = or(write, async {
        if super::failpoint::is_planned("log-after-submit") {
            // A timer fires only after the executor has handed to the kernel what was queued before.
            glommio::timer::sleep(Duration::from_micros(10)).await;
            failpoint("log-after-submit");
        }
        std::future::pending().await
    });
    let count = write.await?;
    fault("log-write-report")?;
    Ok(count)
}
