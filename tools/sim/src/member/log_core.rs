//! The log core and the background thread: writes, segments, checkpoints, each a matter of time.

use engine::tree::Checkpoint;
use node::cores::FromLog;
use node::raft_core;
use node::store_core::{Input, Written};

use super::{Done, Member, Phase, RunningCheckpoint};
use crate::check::Failure;
use crate::disk::Disk;
use crate::env::{Env, Wake};
use crate::queue::{S, Time};

/// Bytes per write of a checkpoint.
const WRITE_BYTES: usize = 16 << 10;

/// How long after a failure (no space) the next segment or checkpoint is tried.
const SEGMENT_RETRY: Time = S;

impl Member {
    pub(super) fn log_turn(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        self.want_segments(env);
        if disk.log.is_writing() {
            return Ok(());
        }
        let Some(plan) = self.log.log.poll_write() else {
            self.schedule_log_timeout(env);
            return Ok(());
        };
        let mut bytes = vec![0xee; plan.len]; // whatever the buffer held before
        self.log.log.encode(&plan, &mut bytes);
        disk.log.submit(plan, bytes);
        self.log.writing_since = Some(env.queue.now());
        if planted::is("acknowledge-before-written") {
            self.report_durable(env);
        }
        let slow = env.config.slow_writes > 0 && env.schedule.permille(env.config.slow_writes);
        let (least, more) = env.config.write;
        let takes = env.takes(if slow { (50 * least, 50 * more) } else { (least, more) });
        let at = (env.queue.now() + takes).max(self.log.stalled_until);
        env.queue.at(at, crate::env::Event::Wake(self.number, self.life, Wake::LogWritten));
        Ok(())
    }

    pub(super) fn log_written(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        if self.log.stalled_until > env.queue.now() {
            let at = self.log.stalled_until;
            env.queue.at(at, crate::env::Event::Wake(self.number, self.life, Wake::LogWritten));
            return Ok(());
        }
        if self.log.fail_next {
            return Err(Failure { checker: "write-error", what: String::new() });
        }
        disk.log.complete();
        self.log.writing_since = None;
        if !planted::is("acknowledge-before-written") {
            self.report_durable(env);
        }
        if let Some(ready) = self.log.completing.take() {
            while let Some(append) = self.log.appends.pop_front_if(|append| append.ready <= ready) {
                if let Some(position) = append.reset {
                    env.oracle.snapshot_durable(self.number, position.index.0);
                }
                env.oracle.raft.durable(self.number, &append.places, append.hard_state)?;
            }
        }
        self.log_turn(env, disk)
    }

    fn report_durable(&mut self, env: &mut Env) {
        let now = self.now(env);
        self.log.completing = self.log.log.written(now);
        if let Some(ready) = self.log.completing {
            self.tell_raft(env, raft_core::Input::Log(FromLog::Durable(ready)));
        }
    }

    fn schedule_log_timeout(&mut self, env: &mut Env) {
        let now = self.now(env);
        if let Some(at) = self.log.log.next_timeout() {
            let after = env.true_span(self.number, at.saturating_sub(now)) + 1_000;
            self.wake_after(env, after, Wake::LogTimeout);
        }
    }

    pub(super) fn log_timeout(&mut self, env: &mut Env) -> Done {
        let now = self.now(env);
        self.log.log.handle_timeout(now);
        self.wake(env, Wake::Log);
        Ok(())
    }

    fn want_segments(&mut self, env: &mut Env) {
        if env.queue.now() < self.log.segments_from {
            return;
        }
        if self.log.log.has_spares() {
            self.shared.is_log_space_lost = false; // a checkpoint has given some back
        }
        while let Some(new) = self.log.log.segment_wanted() {
            self.log.preparing.push_back((new, false));
            if self.log.preparing.len() == 1 {
                self.segment_step(env);
            }
        }
    }

    fn segment_step(&mut self, env: &mut Env) {
        let after = env.takes(env.config.write);
        self.wake_after(env, after, Wake::Segment);
    }

    /// Written under another name and synced, renamed, directory synced.
    pub(super) fn prepare_segment(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some((new, is_named)) = self.log.preparing.pop_front() else { return Ok(()) };
        if !is_named && !disk.has_room(new.size as usize) {
            self.log.log.segment_failed();
            self.shared.is_log_space_lost = true;
            self.log.segments_from = env.queue.now() + SEGMENT_RETRY;
            self.wake_after(env, SEGMENT_RETRY, Wake::Log);
            if !self.log.preparing.is_empty() {
                self.segment_step(env);
            }
            return Ok(());
        }
        if !is_named {
            disk.log.name(&new);
            self.log.preparing.push_front((new, true));
            self.segment_step(env);
            if planted::is("segment-used-before-named") {
                self.log.preparing.pop_front();
                self.log.log.segment_ready(new.id, new.size);
                self.wake(env, Wake::Log);
            }
            return Ok(());
        }
        disk.log.sync_directory();
        self.shared.is_log_space_lost = false;
        self.log.log.segment_ready(new.id, new.size);
        if !self.log.preparing.is_empty() {
            self.segment_step(env);
        }
        self.wake(env, Wake::Log);
        Ok(())
    }

    /// The store core wants a checkpoint written.
    pub(super) fn begin_checkpoint(&mut self, env: &mut Env, checkpoint: Box<Checkpoint>) {
        self.store.checkpoint = Some(RunningCheckpoint { checkpoint, phase: Phase::Grow });
        self.checkpoint_step(env);
    }

    fn checkpoint_step(&mut self, env: &mut Env) {
        let after = env.schedule.exponential(env.config.checkpoint_step);
        self.wake_after(env, after, Wake::Checkpoint);
    }

    pub(super) fn advance_checkpoint(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some(running) = &mut self.store.checkpoint else { return Ok(()) };
        let unlinked = self.store.unlinked.as_mut();
        let growth = disk.tree.growth_to_pages(running.checkpoint.file_pages());
        if unlinked.is_none() && matches!(running.phase, Phase::Grow) && !disk.has_room(growth) {
            return self.checkpoint_done(env, Written::NoRoom);
        }
        let tree = unlinked.unwrap_or(&mut disk.tree);
        running.phase = match running.phase {
            Phase::Grow => {
                tree.grow_to_pages(running.checkpoint.file_pages());
                Phase::Pages
            }
            Phase::Pages => {
                let mut pages = Vec::new();
                match running.checkpoint.fill(&mut pages, WRITE_BYTES) {
                    Some(first) => {
                        tree.write(first, &pages);
                        Phase::Pages
                    }
                    None => Phase::Sync,
                }
            }
            Phase::Sync => {
                if !planted::is("meta-before-pages-synced") {
                    tree.sync();
                }
                Phase::Meta
            }
            Phase::Meta => {
                let (slot, meta) = running.checkpoint.meta();
                tree.write(slot, &meta[..]);
                Phase::MetaSync
            }
            Phase::MetaSync => {
                tree.sync();
                return self.checkpoint_done(env, Written::Durable);
            }
        };
        self.checkpoint_step(env);
        Ok(())
    }

    fn checkpoint_done(&mut self, env: &mut Env, written: Written) -> Done {
        let done = self.store.checkpoint.take().expect("it was there");
        self.ask_store(env, Input::CheckpointDone(done.checkpoint, written));
        Ok(())
    }
}
