//! Responses that are too large to be held: they are read from the store while the client takes them.
//!
//! All events of a revision belong into one response, unless the watcher takes fragments, and a revision may be of any
//! size: a deletion of everything, with the previous rows. A copy for each watcher of each slow client would be memory
//! without a bound. So such a response is a list of places in history under a pinned view, sixteen bytes per event, and
//! its bytes are spliced from the store as they leave, like the rows of a Range.

use std::sync::Arc;

use crossbeam::epoch::Guard;
use engine::tree::Damage;
use engine::{Revision, View};
use net::grpc::Fill;

use super::encode::encode_event;
use crate::api::Error;

/// A WatchResponse whose bytes are pulled.
pub struct LargeResponse {
    view: Arc<View>,
    head: Vec<u8>,
    events: Vec<Revision>,
    /// Where history begins for previous rows, if they are wanted.
    prev_from: Option<i64>,
    len: u64,
    /// The part to go on with: 0 is the head, `n` the event `n - 1`.
    part: usize,
    /// Bytes of it that were given.
    given: usize,
}

impl LargeResponse {
    /// A response of `len` bytes: `head`, then these events of `view`.
    pub(super) fn new(
        view: Arc<View>,
        head: Vec<u8>,
        events: Vec<Revision>,
        prev_from: Option<i64>,
        len: u64,
    ) -> LargeResponse {
        LargeResponse { view, head, events, prev_from, len, part: 0, given: 0 }
    }

    /// Bytes of the whole message.
    pub fn message_len(&self) -> u64 {
        self.len
    }

    /// Appends at most `max` bytes, the next ones of the message. The guard is new for each call.
    pub fn fill(&mut self, guard: &Guard, max: usize, out: &mut Vec<u8>) -> Fill {
        let start = out.len();
        match self.fill_parts(guard, start + max, out) {
            Ok(()) if self.part > self.events.len() => Fill::Done(out.len() - start),
            Ok(()) => Fill::Wrote(out.len() - start),
            Err(_) => {
                out.truncate(start);
                Fill::Abort(Error::Corrupt.status())
            }
        }
    }

    fn fill_parts(&mut self, guard: &Guard, end: usize, out: &mut Vec<u8>) -> Result<(), Damage> {
        while out.len() < end && self.part <= self.events.len() {
            let mut window = Window { skip: self.given, end, out, left: 0 };
            let before = window.out.len();
            match self.part.checked_sub(1) {
                None => window.take(&self.head),
                Some(at) => give_event(&self.view, guard, self.events[at], self.prev_from, &mut window)?,
            }
            let (left, wrote) = (window.left, window.out.len() - before);
            if left == 0 {
                self.part += 1;
                self.given = 0;
            } else {
                self.given += wrote;
            }
        }
        Ok(())
    }
}

fn give_event(
    view: &View,
    guard: &Guard,
    at: Revision,
    prev_from: Option<i64>,
    window: &mut Window<'_>,
) -> Result<(), Damage> {
    let event = view.events(guard, at).next()?.filter(|event| event.revision == at);
    // The view is pinned, and it had this event.
    let event = event.expect("a version that is pinned does not change");
    let prev = match prev_from {
        Some(first) => view.prev_kv_from(guard, &event, first)?,
        None => None,
    };
    encode_event(&event, prev, |part| window.take(part));
    Ok(())
}

/// The piece of a part that is asked for.
struct Window<'o> {
    /// Bytes that were given before.
    skip: usize,
    /// Length of `out` at which it is full.
    end: usize,
    out: &'o mut Vec<u8>,
    /// Bytes that did not fit.
    left: usize,
}

impl Window<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let bytes = &bytes[skipped..];
        let fits = bytes.len().min(self.end - self.out.len());
        self.out.extend_from_slice(&bytes[..fits]);
        self.left += bytes.len() - fits;
    }
}
