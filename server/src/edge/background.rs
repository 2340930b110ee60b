//! Plain OS threads for work that may block on anything: checkpoint writes, preparing log segments, warming the map.
//!
//! They run at low CPU and I/O priority and answer through the ring of the core that asked. A job that fails with an
//! I/O error is answered with that error; the core that owns the file decides what it means.

use std::thread;

/// Nice value of background threads: they yield to every core's own thread.
const BACKGROUND_NICE: i32 = 10;

/// A job for a background thread: runs there once, off every core.
pub type Job = Box<dyn FnOnce() + Send>;

/// Hands jobs to one background thread, which runs them in order.
#[derive(Clone)]
pub struct Background {
    jobs: crossbeam::channel::Sender<Job>,
}

impl Background {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(name: &str) -> std::io::Result<Background> {
        let (jobs, queue) = crossbeam::channel::unbounded::<Job>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            lower_priority();
            for job in queue {
                job();
            }
        })?;
        Ok(Background { jobs })
    }

    /// Queues `job`. The askers bound the queue: each has at most one job of a kind under way.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The thread only ends when all handles are gone, so the channel is open.
        let _ = self.jobs.send(Box::new(job));
    }
}

/// Lowers CPU and I/O priority of the calling thread. Best effort: without it, things work and disturb more.
pub fn lower_priority() {
    let _ = rustix::process::nice(BACKGROUND_NICE);
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_BEST_EFFORT_LOWEST: libc::c_int = (2 << 13) | 7;
    // SAFETY: ioprio_set takes three integers and touches no memory of ours; 0 means the calling thread.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_BEST_EFFORT_LOWEST) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_in_order_on_another_thread() {
        let (tx, rx) = crossbeam::channel::unbounded();
        let background = Background::start("test").unwrap();
        for i in 0..3 {
            let tx = tx.clone();
            background.run(move || tx.send((i, thread::current().name() == Some("test"))).unwrap());
        }
        let got: Vec<_> = (0..3).map(|_| rx.recv().unwrap()).collect();
        assert_eq!(got, [(0, true), (1, true), (2, true)]);
    }
}
