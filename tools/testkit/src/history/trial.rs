//! A cluster under load and under watch, judged when asked.

use std::time::Duration;

use super::load::{Load, Worker};
use super::witness::{self, Witness};
use super::{Event, Op, Verdict, judge};
use crate::Client;
use crate::pb::RangeRequest;

/// See the module's header.
pub struct Trial {
    urls: Vec<String>,
    pause: Duration,
    load: Load,
    /// One per member, since the last judgement.
    witnesses: Vec<Witness>,
    ops: Vec<Op>,
    events: Vec<Event>,
}

impl Trial {
    /// Begins with `clients` clients, each with a pause between two calls. The cluster must be empty.
    pub fn start(urls: Vec<String>, clients: usize, pause: Duration, seed: u64) -> Trial {
        let workers = (0..clients).map(|number| Worker::new(number, seed)).collect();
        let load = Load::start(workers, &urls, pause);
        let witnesses = witnesses(&urls, 2);
        Trial { urls, pause, load, witnesses, ops: Vec::new(), events: Vec::new() }
    }

    /// Stops the clients, reads the past, judges all since the beginning, and goes on. All members must serve.
    ///
    /// # Panics
    /// If something is wrong, with what it is.
    pub async fn judge(mut self) -> (Verdict, Trial) {
        let mut workers = self.load.stop().await;
        for worker in &mut workers {
            self.ops.extend(worker.take());
        }
        let from = self.events.last().map_or(2, |event| event.revision + 1);
        let revision = revision(&self.urls[0]).await;
        let past =
            witness::past(&self.urls[0], from, revision).await.unwrap_or_else(|wrong| panic!("{wrong}"));
        for (member, witness) in self.witnesses.drain(..).enumerate() {
            let seen = witness.end(revision).await.unwrap_or_else(|wrong| panic!("{wrong}"));
            let first = past.iter().zip(&seen).position(|(past, seen)| past != seen);
            let at = first.unwrap_or(past.len().min(seen.len()));
            assert!(
                past == seen,
                "the watch on m{member} differs from the past at event {at} of {} and {}: {:?}, past {:?}",
                seen.len(),
                past.len(),
                seen.get(at),
                past.get(at)
            );
        }
        self.events.extend(past);
        let verdict = judge(&self.events, &self.ops).unwrap_or_else(|wrong| panic!("{wrong}"));
        self.witnesses = witnesses(&self.urls, revision + 1);
        self.load = Load::start(workers, &self.urls, self.pause);
        (verdict, self)
    }
}

fn witnesses(urls: &[String], from: i64) -> Vec<Witness> {
    urls.iter().enumerate().map(|(member, url)| Witness::start(member, url.clone(), from)).collect()
}

/// The newest revision. Nobody writes any more, but for what was sent without an answer: it may still come later, and is judged
/// later.
async fn revision(url: &str) -> i64 {
    let mut client = Client::connect(url).await.expect("it serves");
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    let answer = client.kv.range(range).await.expect("a linearizable read").into_inner();
    answer.header.expect("a header").revision
}
