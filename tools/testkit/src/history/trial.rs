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
    /// The clients, while they work.
    load: Option<Load>,
    /// The clients, while they don't.
    idle: Vec<Worker>,
    /// One per member, since the clients began to work.
    witnesses: Vec<Witness>,
    ops: Vec<Op>,
    events: Vec<Event>,
}

impl Trial {
    /// Begins with `clients` clients, each with a pause between two calls. The cluster must be empty.
    pub fn start(urls: Vec<String>, clients: usize, pause: Duration, seed: u64) -> Trial {
        let idle = (0..clients).map(|number| Worker::new(number, seed)).collect();
        let (witnesses, ops, events) = (Vec::new(), Vec::new(), Vec::new());
        let mut trial = Trial { urls, pause, load: None, idle, witnesses, ops, events };
        trial.go_on();
        trial
    }

    /// Lets the clients work again.
    pub fn go_on(&mut self) {
        let from = self.next_revision();
        self.witnesses =
            self.urls.iter().enumerate().map(|(i, url)| Witness::start(i, url.clone(), from)).collect();
        self.load = Some(Load::start(std::mem::take(&mut self.idle), &self.urls, self.pause));
    }

    fn next_revision(&self) -> i64 {
        self.events.last().map_or(2, |event| event.revision + 1)
    }

    /// Stops the clients, reads the past and judges all since the beginning. All members must serve.
    ///
    /// # Panics
    /// If something is wrong, with what it is; or if the clients don't work.
    pub async fn judge(&mut self) -> Verdict {
        self.idle = self.load.take().expect("the clients work").stop().await;
        for worker in &mut self.idle {
            self.ops.extend(worker.take());
        }
        let from = self.next_revision();
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
        judge(&self.events, &self.ops).unwrap_or_else(|wrong| panic!("{wrong}"))
    }
}

/// The newest revision. Nobody writes any more, but for what was sent without an answer: it may still come later, and is judged
/// later. An election that the last fault has left behind refuses a read with "leader changed": such a one is asked again.
async fn revision(url: &str) -> i64 {
    let mut client = Client::connect(url).await.expect("it serves");
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    for _ in 0..20 {
        match client.kv.range(range.clone()).await {
            Ok(answer) => return answer.into_inner().header.expect("a header").revision,
            Err(status) if status.message() == "etcdserver: leader changed" => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(status) => panic!("a linearizable read: {status}"),
        }
    }
    panic!("a linearizable read: no leader stays for 5 s");
}
