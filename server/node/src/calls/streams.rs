//! Keep-alive streams: each request is a question to the store core, and the answers leave in the order of the requests.

use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;

use super::{Calls, Facts, Shell, Waits};
use crate::api::{self, Error};
use crate::cores::{Query, QueryId, ToStore};
use crate::lease::{InOrder, KeepAliveResult, keep_alive_response};

/// A LeaseKeepAlive stream.
#[derive(Default)]
pub struct KeepAlives {
    answers: InOrder,
    /// The client sends no more; the stream ends with the last answer.
    half_closed: bool,
}

impl<W: Copy + Eq + Hash> Calls<W> {
    /// A request of a keep-alive stream has come at `now`.
    ///
    /// # Errors
    /// [`Error::Malformed`]: it is none. [`Error::TooManyRequests`]: too many of the stream have no answer yet. In either case the
    /// stream is forgotten, and the shell must end it.
    pub fn keep_alive(
        &mut self,
        now: Duration,
        who: W,
        message: &Bytes,
        shell: &mut impl Shell<W>,
    ) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&who) else { return Ok(()) };
        let lease = match api::lease::decode_keep_alive(message) {
            Ok(lease) => lease,
            Err(error) => {
                self.streams.remove(&who);
                return Err(error);
            }
        };
        if stream.answers.is_full() {
            self.streams.remove(&who);
            return Err(Error::TooManyRequests);
        }
        let request = stream.answers.begin(lease);
        let number = self.number();
        let id = QueryId { core: self.settings.core, number };
        match shell.to_store(ToStore::Query(id, Query::KeepAlive { lease })) {
            Ok(()) => self.wait(number, now, Waits::KeepAlive(who, request)),
            Err(_) => self.renewed(who, request, Err(Error::TooManyRequests), shell),
        }
        Ok(())
    }

    /// The client of a keep-alive stream sends no more.
    pub fn half_close(&mut self, who: W, shell: &mut impl Shell<W>) {
        if let Some(stream) = self.streams.get_mut(&who) {
            stream.half_closed = true;
            self.send_answers(who, shell);
        }
    }

    /// A keep-alive stream has ended: its answers are for nobody.
    pub fn forget_stream(&mut self, who: W) {
        self.streams.remove(&who);
    }

    /// One answer has come; those whose turn it is leave.
    pub(super) fn renewed(
        &mut self,
        who: W,
        request: u64,
        result: KeepAliveResult,
        shell: &mut impl Shell<W>,
    ) {
        if let Some(stream) = self.streams.get_mut(&who) {
            stream.answers.complete(request, result);
            self.send_answers(who, shell);
        }
    }

    fn send_answers(&mut self, who: W, shell: &mut impl Shell<W>) {
        let Some(stream) = self.streams.get_mut(&who) else { return };
        let end = loop {
            match stream.answers.poll() {
                Some(Ok((lease, ttl))) => {
                    let term = shell.facts().term();
                    let header = self.settings.identity.header(self.view.revision(), term);
                    shell.kept_alive(&who, &keep_alive_response(header, lease, ttl));
                }
                Some(Err(error)) => break Some(error),
                None if stream.half_closed && stream.answers.is_idle() => break None,
                None => return,
            }
        };
        self.streams.remove(&who);
        shell.end_stream(&who, end);
    }
}
