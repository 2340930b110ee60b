//! What members remember: it is bounded, and when everything is done nothing is left of it.
//!
//! Something is always under way in a cluster whose leases run out. So what counts is that each member was once, after everything
//! asked was answered, done with everything: what is forgotten in a book stays there, and it never is.

use super::{Done, World};
use crate::check::fail;
use crate::env::NodeNumber;
use crate::member::Books;

/// What a member remembers at a time, at most: clients have one request each, and members forget those that were given up. (The
/// most that was seen is 2 006: messages of a member whose disk is slow wait for its log.)
const BOOKS_OPEN_MAX: usize = 10_000;

/// Bytes of entries that are not applied, at most.
const UNAPPLIED_BYTES_MAX: usize = 16 << 20;

impl World {
    /// Looks at all members. Each must have been done with everything once.
    pub(super) fn are_books_closed(&mut self) -> Done {
        for number in 0..self.hosts.len() {
            let expected = self.watching(number);
            let belongs = self.belongs(number);
            let host = &mut self.hosts[number];
            let (false, true, Some(member)) = (host.rested, belongs, &host.member) else { continue };
            let (books, watching) = (member.books(), member.watching());
            host.rested = books == Books::default() && watching == expected;
        }
        let tired = (0..self.hosts.len()).find(|number| {
            let host = &self.hosts[*number];
            host.member.is_some() && self.belongs(*number) && !host.rested
        });
        let Some(number) = tired else { return Ok(()) };
        let member = self.hosts[number].member.as_ref().expect("it was there");
        let (books, watching, expected) = (member.books(), member.watching(), self.watching(number));
        fail(
            "resources",
            format!("member {number} holds {books:?} and watches {watching:?}, {expected:?} are open"),
        )
    }

    /// Streams and watchers that clients have at a member.
    fn watching(&self, number: NodeNumber) -> (usize, usize) {
        let life = self.hosts[number].life;
        let here = self.watchers.iter().filter(|client| client.member == number);
        let streams = here.filter_map(|client| client.stream).filter(|(_, of)| *of == life);
        streams.fold((0, 0), |(streams, watchers), (stream, _)| {
            (streams + 1, watchers + self.env.oracle.watches.remembered(stream))
        })
    }

    /// No book grows without bound.
    pub(super) fn check_books_bounded(&self, number: NodeNumber) -> Done {
        let Some(member) = &self.hosts[number].member else { return Ok(()) };
        let books = member.books();
        match books.open() > BOOKS_OPEN_MAX || books.unapplied_bytes > UNAPPLIED_BYTES_MAX {
            true => fail("resources", format!("member {number} holds {books:?}")),
            false => Ok(()),
        }
    }
}
