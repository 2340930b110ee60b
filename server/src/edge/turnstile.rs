//! Lets connections with more output than fits into one turn through one at a time.
//!
//! An executor runs its tasks in the order in which they became ready. Twenty connections that each send a large list would
//! wake themselves again and again, and a short request would wait for a turn of all twenty at each of its steps. Here such
//! a connection gives way instead: between two of their turns, everything else that is ready runs once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;
use glommio::timer::Timer;

/// Turns between two looks: about half a millisecond of writing.
const TURNS_PER_LOOK: u64 = 4;

/// How far ahead [`look_around`]'s timer lies: longer than from its making to its first poll.
const AHEAD: Duration = Duration::from_micros(1);

/// Whether its owner waits at a [`Turnstile`].
pub type Ticket = Rc<Cell<bool>>;

/// See the module's header. Holds at most one entry per ticket, so as many as there are connections.
#[derive(Default)]
pub struct Turnstile {
    queue: RefCell<VecDeque<(Ticket, Waker)>>,
    guard: RefCell<Option<Waker>>,
}

impl Turnstile {
    /// Wakes `task` when it is its turn. A second call with the same ticket before that has no effect.
    pub fn wait(&self, ticket: &Ticket, task: &Waker) {
        if ticket.replace(true) {
            return;
        }
        self.queue.borrow_mut().push_back((ticket.clone(), task.clone()));
        if let Some(guard) = self.guard.take() {
            guard.wake();
        }
    }

    /// Lets them through, for ever. After every few, `look` is awaited: it comes back when the executor has looked at its
    /// sockets and at the other cores, which it does by itself only when no task is ready.
    pub async fn run<F: Future<Output = ()>>(&self, look: impl Fn() -> F) {
        for turn in 1_u64.. {
            if turn.is_multiple_of(TURNS_PER_LOOK) {
                look().await;
            }
            let (ticket, task) = poll_fn(|cx| self.poll_next(cx)).await;
            ticket.set(false);
            task.wake();
            // What has been woken, and all that was ready before, comes first.
            yield_now().await;
        }
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<(Ticket, Waker)> {
        match self.queue.borrow_mut().pop_front() {
            Some(next) => Poll::Ready(next),
            None => {
                *self.guard.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Comes back when glommio's executor has looked at its sockets, its timers and the other cores: what [`Turnstile::run`]
/// wants.
///
/// A timer is the executor's only promise to come back after such a look, and one that is due when it is polled first is
/// ready without any. So this one lies a moment ahead, and the moment is spent here: nobody sleeps for it.
pub async fn look_around() {
    let due = Instant::now() + AHEAD;
    let mut timer = pin!(Timer::new(AHEAD));
    poll_fn(|cx| {
        let polled = timer.as_mut().poll(cx);
        while polled.is_pending() && Instant::now() <= due + AHEAD {
            std::hint::spin_loop();
        }
        polled
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_passes_between_two_turns_of_the_rest() {
        let turnstile = Turnstile::default();
        let tasks: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
        let tickets: Vec<Ticket> = (0..3).map(|_| Ticket::default()).collect();
        let guard = Arc::new(Count::default());
        let guard_waker = Waker::from(guard.clone());
        let mut cx = Context::from_waker(&guard_waker);
        let mut run = pin!(turnstile.run(|| std::future::ready(())));
        assert!(run.as_mut().poll(&mut cx).is_pending());
        assert_eq!(guard.0.load(Ordering::Relaxed), 0, "nobody waits, so it sleeps");

        for (ticket, task) in tickets.iter().zip(&tasks) {
            turnstile.wait(ticket, &task.clone().into());
            turnstile.wait(ticket, &task.clone().into()); // waits already
        }
        assert_eq!(guard.0.load(Ordering::Relaxed), 1, "woken once");
        let woken = || tasks.iter().map(|task| task.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        for want in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]] {
            assert!(run.as_mut().poll(&mut cx).is_pending());
            assert_eq!(woken(), want);
        }
        assert!(tickets.iter().all(|ticket| !ticket.get()), "they may come again");
    }

    /// As the executor of a client core runs it: tasks that always have more to send must not keep it from its timers (and
    /// with them its sockets and rings) for longer than a few turns.
    #[test]
    fn the_executor_looks_at_its_timers_between_turns() {
        let turns_until_fired = glommio::LocalExecutorBuilder::default()
            .spawn(|| async {
                let turns = Rc::new(Cell::new(0_u64));
                let turnstile = Rc::new(Turnstile::default());
                let guard = turnstile.clone();
                let guard = glommio::spawn_local(async move { guard.run(look_around).await }).detach();
                let busy: Vec<_> = (0..3)
                    .map(|_| glommio::spawn_local(endless(turnstile.clone(), turns.clone())).detach())
                    .collect();
                Timer::new(Duration::from_millis(1)).await;
                let turns = turns.get();
                for task in busy.into_iter().chain([guard]) {
                    task.cancel();
                }
                turns
            })
            .unwrap()
            .join()
            .unwrap();
        // A millisecond is ten turns; the runtime's own preemption would come after a thousand.
        assert!(turns_until_fired < 200, "{turns_until_fired} turns");
    }

    /// Turns of 100 µs.
    async fn endless(turnstile: Rc<Turnstile>, turns: Rc<Cell<u64>>) {
        let ticket = Ticket::default();
        poll_fn(|cx| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(100) {}
            turns.set(turns.get() + 1);
            turnstile.wait(&ticket, cx.waker());
            Poll::<()>::Pending
        })
        .await;
    }
}
