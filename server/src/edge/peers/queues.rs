//! What has come and was not taken yet: events, then the vital lane, then bulk.
//!
//! Bounded by what connections may have in it: one that is above its share is not read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use consensus::{Lane, NodeId, PeerMessage};

use super::Incoming;
use super::conn::Handle;

/// What a message costs besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

struct Heard {
    from: NodeId,
    message: Box<PeerMessage>,
    cost: usize,
    conn: Rc<Handle>,
}

/// The queues.
#[derive(Default)]
pub(super) struct Queues {
    /// At most a few per lane: each is told once until its contrary has happened.
    events: RefCell<VecDeque<Incoming>>,
    vital: RefCell<VecDeque<Heard>>,
    bulk: RefCell<VecDeque<Heard>>,
    waker: RefCell<Option<Waker>>,
}

impl Queues {
    /// Queues an event.
    pub fn push(&self, event: Incoming) {
        self.events.borrow_mut().push_back(event);
        self.wake();
    }

    /// Queues a message of `bytes` that `conn` has heard.
    pub fn push_message(
        &self,
        from: NodeId,
        lane: Lane,
        message: PeerMessage,
        bytes: usize,
        conn: &Rc<Handle>,
    ) {
        let cost = bytes + MESSAGE_OVERHEAD_BYTES;
        conn.heard(cost);
        let heard = Heard { from, message: Box::new(message), cost, conn: conn.clone() };
        let queue = if lane == Lane::Vital { &self.vital } else { &self.bulk };
        queue.borrow_mut().push_back(heard);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Some(event) = self.events.borrow_mut().pop_front() {
            return Poll::Ready(event);
        }
        let vital = self.vital.borrow_mut().pop_front();
        match vital.or_else(|| self.bulk.borrow_mut().pop_front()) {
            Some(heard) => {
                heard.conn.taken(heard.cost);
                Poll::Ready(Incoming::Message(heard.from, heard.message))
            }
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
