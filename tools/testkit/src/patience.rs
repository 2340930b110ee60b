//! Waiting, by a clock that stands while this process does.

use std::pin::pin;
use std::time::{Duration, Instant};

/// The longest time that counts at once.
const STEP: Duration = Duration::from_millis(50);

/// What `work` comes to within `wait`; `None` if it is not done by then.
///
/// Who was stopped for a while (SIGSTOP, a virtual machine that pauses) finds that all deadlines are over when it goes on, and
/// what came meanwhile still unread behind them. That says nothing of a server. So time is counted in steps, and a step that
/// took long counts as one.
pub async fn within<T>(wait: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = wait;
    while !left.is_zero() {
        let step = left.min(STEP);
        if let Ok(done) = tokio::time::timeout(step, &mut work).await {
            return Some(done);
        }
        left -= step;
    }
    None
}

/// The same for a loop: how long this process has run since the first look, if it looks more often than every 50 ms.
#[derive(Debug)]
pub(crate) struct Running {
    last: Instant,
    counted: Duration,
}

impl Running {
    /// Begins to count.
    pub fn start() -> Running {
        Running { last: Instant::now(), counted: Duration::ZERO }
    }

    /// Time that counts so far.
    pub fn time(&mut self) -> Duration {
        let now = Instant::now();
        self.counted += (now - self.last).min(STEP);
        self.last = now;
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stood_has_not_waited() {
        let mut running = Running::start();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(running.time(), STEP);
        std::thread::sleep(Duration::from_millis(10));
        assert!(running.time() >= STEP + Duration::from_millis(10));
    }

    /// A thread that stands still is what a stopped process looks like to its own timers.
    #[tokio::test]
    async fn what_came_while_the_process_stood_is_still_taken() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let standing = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            std::thread::sleep(Duration::from_millis(400)); // the deadline passes in this poll
            tokio::time::sleep(Duration::from_millis(10)).await; // and what is asked next still takes a while
            receiver.await.expect("sent")
        };
        sender.send(7).expect("the receiver is there");
        assert_eq!(within(Duration::from_millis(200), standing).await, Some(7));
    }

    #[tokio::test]
    async fn what_does_not_come_is_given_up_in_time() {
        let started = Instant::now();
        assert_eq!(within(Duration::from_millis(120), std::future::pending::<()>()).await, None);
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(120) && waited < Duration::from_secs(2), "{waited:?}");
    }
}
