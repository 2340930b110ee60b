//! A bounded queue from one core to another, with one wake-up per batch.
//!
//! The producer pushes as many items as its turn yields and then calls [`Sender::flush`] once; only that wakes the
//! consumer, and only if something was pushed since the last flush. A wake-up of a sleeping executor costs about
//! 40 µs of CPU, so it is the thing to count, not the pushes.
//!
//! A full ring refuses the item and gives it back: what then happens (answer "too many requests", stop reading a
//! socket, keep it in an outbox) is the producer's decision, never an unbounded queue here. A producer that waits for
//! room is woken when the consumer has drained the ring.
//!
//! Safe throughout: [`ArrayQueue`] for the items, [`AtomicWaker`] for both directions. The waker protocol is the usual
//! one: register, then look again, so that no push between the look and the registration is missed.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;

struct Shared<T> {
    items: ArrayQueue<T>,
    consumer: AtomicWaker,
    producer: AtomicWaker,
    /// The producer found the ring full and wants to hear of room.
    starved: AtomicBool,
    /// One side is gone; the other learns it from here.
    closed: AtomicBool,
}

/// The producing end. Not clonable: one producer, one thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    dirty: Cell<bool>,
}

/// The consuming end. Not clonable: one consumer, one thread.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// A ring for at most `limit` items.
pub fn ring<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        items: ArrayQueue::new(limit),
        consumer: AtomicWaker::new(),
        producer: AtomicWaker::new(),
        starved: AtomicBool::new(false),
        closed: AtomicBool::new(false),
    });
    (Sender { shared: shared.clone(), dirty: Cell::new(false) }, Receiver { shared })
}

impl<T> Sender<T> {
    /// Appends `item`, or gives it back if the ring is full. Nobody is woken before [`Sender::flush`].
    pub fn push(&self, item: T) -> Result<(), T> {
        self.shared.items.push(item)?;
        self.dirty.set(true);
        Ok(())
    }

    /// Ends the producer's turn: wakes the consumer if anything was pushed since the last call.
    pub fn flush(&self) {
        if self.dirty.replace(false) {
            self.shared.consumer.wake();
        }
    }

    /// Appends `item` as soon as there is room, and flushes. An item for a consumer that is gone is dropped.
    pub async fn send(&self, item: T) {
        let mut item = Some(item);
        poll_fn(|cx| self.poll_send(cx, &mut item)).await;
        self.flush();
    }

    fn poll_send(&self, cx: &mut Context<'_>, item: &mut Option<T>) -> Poll<()> {
        for attempt in 0..2 {
            let Some(value) = item.take() else { return Poll::Ready(()) };
            if self.shared.closed.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            match self.push(value) {
                Ok(()) => return Poll::Ready(()),
                Err(value) => *item = Some(value),
            }
            if attempt == 0 {
                self.register_for_room(cx);
            }
        }
        self.flush();
        Poll::Pending
    }

    /// Asks for a wake-up when the consumer takes an item. The caller tries [`Sender::push`] again after this call: room
    /// may have come in between.
    pub fn register_for_room(&self, cx: &mut Context<'_>) {
        self.shared.producer.register(cx.waker());
        self.shared.starved.store(true, Ordering::SeqCst);
    }

    /// Items waiting, for the queue-depth metrics.
    pub fn queued(&self) -> usize {
        self.shared.items.len()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.consumer.wake();
    }
}

impl<T> Receiver<T> {
    /// The next item, if there is one now.
    pub fn pop(&self) -> Option<T> {
        let item = self.shared.items.pop();
        if item.is_some() && self.shared.starved.swap(false, Ordering::SeqCst) {
            self.shared.producer.wake();
        }
        item
    }

    /// Items waiting, for the queue-depth metrics.
    pub fn queued(&self) -> usize {
        self.shared.items.len()
    }

    /// Ready once there is an item to [`Receiver::pop`] or the producer is gone and the ring is empty.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Ready> {
        for attempt in 0..2 {
            if !self.shared.items.is_empty() {
                return Poll::Ready(Ready::Items);
            }
            if self.shared.closed.load(Ordering::Acquire) && self.shared.items.is_empty() {
                return Poll::Ready(Ready::Closed);
            }
            if attempt == 0 {
                self.shared.consumer.register(cx.waker());
            }
        }
        Poll::Pending
    }

    /// Waits until [`Receiver::poll_ready`] is.
    pub async fn ready(&self) -> Ready {
        poll_fn(|cx| self.poll_ready(cx)).await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.producer.wake();
    }
}

/// What [`Receiver::ready`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// At least one item.
    Items,
    /// No item, and there will be none.
    Closed,
}

/// Moves what `outbox` holds into the ring, as far as there is room, and wakes the consumer.
pub fn drain<T>(outbox: &mut VecDeque<T>, ring: &Sender<T>) {
    while let Some(message) = outbox.pop_front() {
        if let Err(message) = ring.push(message) {
            outbox.push_front(message);
            break;
        }
    }
    ring.flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::thread;

    #[test]
    fn full_ring_gives_the_item_back_and_keeps_order() {
        let (tx, rx) = ring(2);
        assert_eq!(tx.push(1), Ok(()));
        assert_eq!(tx.push(2), Ok(()));
        assert_eq!(tx.push(3), Err(3));
        assert_eq!(rx.pop(), Some(1));
        assert_eq!(tx.push(3), Ok(()));
        assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn consumer_sleeps_until_flush_and_learns_of_the_end() {
        let (tx, rx) = ring(8);
        assert!(block_on(poll_once(rx.ready())).is_none());
        tx.push(1).unwrap();
        tx.flush();
        assert_eq!(block_on(rx.ready()), Ready::Items);
        drop(tx);
        assert_eq!(block_on(rx.ready()), Ready::Items, "what was sent before the end is still delivered");
        assert_eq!(rx.pop(), Some(1));
        assert_eq!(block_on(rx.ready()), Ready::Closed);
    }

    #[test]
    fn a_million_items_cross_threads_in_order_through_a_small_ring() {
        let (tx, rx) = ring(64);
        let producer = thread::spawn(move || {
            block_on(async {
                for i in 0..1_000_000u64 {
                    tx.send(i).await;
                }
            })
        });
        let mut next = 0;
        block_on(async {
            while rx.ready().await == Ready::Items {
                while let Some(i) = rx.pop() {
                    assert_eq!(i, next);
                    next += 1;
                }
            }
        });
        producer.join().unwrap();
        assert_eq!(next, 1_000_000);
    }
}
