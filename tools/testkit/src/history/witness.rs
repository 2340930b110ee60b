//! Watches of everything.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Event;
use super::load::text;
use crate::pb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion};
use crate::{Client, within};

/// How long a member may take to give all events up to a revision.
const PATIENCE: Duration = Duration::from_secs(30);

/// One member's word on what happened: it watches that member alone, over all its lives, and resumes where it was.
pub(super) struct Witness {
    member: usize,
    task: JoinHandle<Vec<Event>>,
    /// The revision at which it may end; 0: not yet.
    until: watch::Sender<i64>,
    /// The last revision it has seen.
    seen: watch::Receiver<i64>,
}

impl Witness {
    /// Begins to watch at `from`.
    pub fn start(member: usize, url: String, from: i64) -> Witness {
        let (until, ends) = watch::channel(0);
        let (saw, seen) = watch::channel(from - 1);
        let task = tokio::spawn(async move {
            let mut events = Vec::new();
            loop {
                let last = *saw.borrow();
                if *ends.borrow() > 0 && last >= *ends.borrow() {
                    return events;
                }
                if let Ok(client) = Client::connect(&url).await {
                    follow(&client, &mut events, &saw, &ends).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Witness { member, task, until, seen }
    }

    /// What it has seen up to `revision`, once it has seen that.
    ///
    /// # Errors
    /// If it does not come that far.
    pub async fn end(self, revision: i64) -> Result<Vec<Event>, String> {
        self.until.send_replace(revision);
        let seen = self.seen;
        match within(PATIENCE, self.task).await {
            Some(events) => {
                let mut events = events.expect("a witness does not panic");
                // A write without an answer may have come after it.
                events.retain(|event| event.revision <= revision);
                Ok(events)
            }
            None => Err(format!(
                "the watch on m{} has seen revision {} and not {revision}",
                self.member,
                *seen.borrow()
            )),
        }
    }
}

/// Watches until the stream breaks or the end is reached. A revision is never torn between two answers.
async fn follow(
    client: &Client,
    events: &mut Vec<Event>,
    saw: &watch::Sender<i64>,
    ends: &watch::Receiver<i64>,
) {
    let mut stream = client.open_watch();
    let start_revision = *saw.borrow() + 1;
    if !stream.try_send(request(start_revision)) {
        return; // the member was killed in between
    }
    let mut last_answer = Instant::now();
    loop {
        if *ends.borrow() > 0 && *saw.borrow() >= *ends.borrow() {
            return;
        }
        // A member that was cut off keeps its connection and says nothing: as long as that lasts there is nothing to see.
        match stream.next_within(Duration::from_millis(200)).await {
            Some(Ok(Some(answer))) if !answer.canceled => {
                last_answer = Instant::now();
                let made = events_of(answer);
                let last = made.last().map(|event| event.revision);
                events.extend(made);
                if let Some(last) = last {
                    saw.send_replace(last);
                }
            }
            Some(_) => return,
            None if last_answer.elapsed() > Duration::from_secs(5) => return,
            None => {}
        }
    }
}

fn request(start_revision: i64) -> WatchRequest {
    let create =
        WatchCreateRequest { key: vec![0], range_end: vec![0], start_revision, ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn events_of(answer: WatchResponse) -> Vec<Event> {
    let made = answer.events.into_iter().map(|event| {
        let put = event.r#type() == crate::pb::mvccpb::event::EventType::Put;
        let kv = event.kv.expect("every event shows a key");
        Event { revision: kv.mod_revision, key: text(kv.key), value: put.then(|| text(kv.value)) }
    });
    made.collect()
}

/// All events from revision `from` up to `revision`, by a watch that begins in the past.
///
/// # Errors
/// If they don't come.
pub(super) async fn past(url: &str, from: i64, revision: i64) -> Result<Vec<Event>, String> {
    Witness::start(0, url.to_owned(), from).end(revision).await
}
