//! Strict serializability by revision order.
//!
//! Every answer carries a revision, and every write makes one of its own. So the cluster itself claims an order, and that
//! claim is checked instead of searching for an order: each answer must be what the store was in its revision, and an
//! operation that began after another had ended must not stand before it. That takes time linear in the history (but
//! for sorting), and finds all that a search would find, for a store which answers with wrong revisions is wrong too.
//!
//! Writes without an answer are resolved by the events: each event names its write by the value, which is unique.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::{Ask, Event, Op, Row, Told};

/// What a history that is in order contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub written: usize,
    /// Swaps whose condition did not hold.
    pub not_swapped: usize,
    /// Linearizable reads that were answered.
    pub read: usize,
    /// Serializable reads that were answered.
    pub read_locally: usize,
    /// Writes without an answer that happened.
    pub unknown_happened: usize,
    /// Writes without an answer that did not happen.
    pub unknown_lost: usize,
}

/// Judges `ops` by `events`, which are all there ever were, in their order, from revision 2 on.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn judge(events: &[Event], ops: &[Op]) -> Result<Verdict, String> {
    let store = Store::of(events)?;
    let written_at = attribute(&store, ops)?;
    let mut verdict = Verdict::default();
    let mut points = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let place = check_answer(&store, op, written_at[at], &mut verdict)?;
        points.extend(place.map(|revision| Point {
            op: at,
            revision,
            writes: written_at[at].is_some(),
            invoked: op.invoked,
            returned: op.told.as_ref().map(|(when, _)| *when),
        }));
    }
    check_real_time(&points, ops)?;
    Ok(verdict)
}

/// All versions of all keys.
struct Store<'e> {
    /// Where the events of each revision begin; the first is that of revision 2.
    revisions: Vec<usize>,
    events: &'e [Event],
    /// Revision and value of each change, by key.
    keys: BTreeMap<&'e str, Vec<(i64, Option<&'e str>)>>,
}

impl<'e> Store<'e> {
    fn of(events: &'e [Event]) -> Result<Store<'e>, String> {
        let mut store = Store { revisions: Vec::new(), events, keys: BTreeMap::new() };
        for (at, event) in events.iter().enumerate() {
            if event.revision == store.last() + 1 {
                store.revisions.push(at);
            } else if event.revision != store.last() || at == 0 {
                return Err(format!("after revision {} comes {event:?}", store.last()));
            }
            store.keys.entry(&event.key).or_default().push((event.revision, event.value.as_deref()));
        }
        Ok(store)
    }

    fn last(&self) -> i64 {
        self.revisions.len() as i64 + 1
    }

    /// The events of each revision.
    fn changes(&self) -> impl Iterator<Item = (i64, &'e [Event])> {
        (0..self.revisions.len()).map(|at| {
            let end = self.revisions.get(at + 1).copied().unwrap_or(self.events.len());
            (at as i64 + 2, &self.events[self.revisions[at]..end])
        })
    }

    fn row(&self, key: &str, versions: &[(i64, Option<&str>)], revision: i64) -> Option<Row> {
        let upto = versions.partition_point(|(made, _)| *made <= revision);
        let (mod_revision, value) = *versions[..upto].last()?;
        Some(Row { key: key.to_owned(), value: value?.to_owned(), mod_revision })
    }

    fn key_at(&self, key: &str, revision: i64) -> Option<Row> {
        self.row(key, self.keys.get(key)?, revision)
    }

    fn rows_at(&self, key: &str, end: &str, revision: i64) -> Vec<Row> {
        if end.is_empty() {
            return self.key_at(key, revision).into_iter().collect();
        }
        let range = self.keys.range(key..end);
        range.filter_map(|(key, versions)| self.row(key, versions, revision)).collect()
    }
}

/// The revision that each write made. Every revision must be exactly one write's doing.
fn attribute(store: &Store, ops: &[Op]) -> Result<Vec<Option<i64>>, String> {
    let mut writers = HashMap::new();
    for (at, op) in ops.iter().enumerate() {
        if let Some(value) = op.ask.value()
            && writers.insert(value, at).is_some()
        {
            return Err(format!("the trial itself is wrong: {value} is written twice"));
        }
    }
    let mut written_at = vec![None; ops.len()];
    for (revision, events) in store.changes() {
        let value = events.iter().find_map(|event| event.value.as_deref());
        let Some(&at) = value.and_then(|value| writers.get(value)) else {
            return Err(format!("nobody asked for what revision {revision} did: {events:?}"));
        };
        if let Some(before) = written_at[at].replace(revision) {
            return Err(format!("{:?} happened in revision {before} and again in {revision}", ops[at]));
        }
        check_write(store, &ops[at], revision, events)?;
    }
    Ok(written_at)
}

/// A write did what it was asked to do, where it was allowed to.
fn check_write(store: &Store, op: &Op, revision: i64, events: &[Event]) -> Result<(), String> {
    let put = |key: &str, value: &str| Event { revision, key: key.to_owned(), value: Some(value.to_owned()) };
    let want = match &op.ask {
        Ask::Put { key, value } => vec![put(key, value)],
        Ask::Swap { key, expected, value } => {
            let before = store.key_at(key, revision - 1).map_or(0, |row| row.mod_revision);
            if before != *expected {
                return Err(format!("{op:?} happened in revision {revision}, but the key was of {before}"));
            }
            vec![put(key, value)]
        }
        Ask::Delete { key, mark, value } => {
            let there = store.key_at(key, revision - 1).is_some();
            let gone = there.then(|| Event { revision, key: key.clone(), value: None });
            gone.into_iter().chain([put(mark, value)]).collect()
        }
        Ask::Read { .. } => Vec::new(),
    };
    match events == want {
        true => Ok(()),
        false => Err(format!("{op:?} did {events:?} in revision {revision}")),
    }
}

/// The answer is what the store gives. Where the operation stands; `None` if it did not happen or may stand anywhere.
fn check_answer(
    store: &Store,
    op: &Op,
    written_at: Option<i64>,
    verdict: &mut Verdict,
) -> Result<Option<i64>, String> {
    let writes = op.ask.value().is_some();
    let Some((_, told)) = &op.told else {
        verdict.unknown_happened += usize::from(written_at.is_some());
        verdict.unknown_lost += usize::from(writes && written_at.is_none());
        return Ok(written_at);
    };
    let (revision, right) = match (&op.ask, told) {
        (Ask::Read { key, end, serializable }, Told::Read(revision, rows)) => {
            let counted = if *serializable { &mut verdict.read_locally } else { &mut verdict.read };
            *counted += 1;
            (*revision, *rows == store.rows_at(key, end, *revision))
        }
        (Ask::Swap { key, expected, .. }, Told::NotSwapped(revision, found)) => {
            verdict.not_swapped += 1;
            let there = store.key_at(key, *revision);
            let differs = there.as_ref().map_or(0, |row| row.mod_revision) != *expected;
            (*revision, written_at.is_none() && differs && *found == there)
        }
        (_, Told::Written(revision)) if writes => {
            verdict.written += 1;
            if written_at.is_none() {
                return Err(format!("{op:?} was acknowledged and is lost"));
            }
            (*revision, written_at == Some(*revision))
        }
        _ => return Err(format!("{op:?} has the answer to another question")),
    };
    if !right || revision > store.last() {
        let shown = match &op.ask {
            Ask::Read { key, end, .. } => store.rows_at(key, end, revision),
            Ask::Put { key, .. } | Ask::Swap { key, .. } | Ask::Delete { key, .. } => {
                store.rows_at(key, "", revision)
            }
        };
        return Err(format!("{op:?}: the store had {shown:?}; written in {written_at:?}"));
    }
    let local = matches!(&op.ask, Ask::Read { serializable: true, .. });
    Ok((!local).then_some(revision))
}

/// Where an operation stands in the order of revisions, and in time.
struct Point {
    op: usize,
    revision: i64,
    writes: bool,
    invoked: Instant,
    returned: Option<Instant>,
}

fn check_real_time(points: &[Point], ops: &[Op]) -> Result<(), String> {
    let mut by_start: Vec<&Point> = points.iter().collect();
    by_start.sort_by_key(|point| point.invoked);
    let mut by_end: Vec<(Instant, &Point)> =
        points.iter().filter_map(|point| Some((point.returned?, point))).collect();
    by_end.sort_by_key(|(returned, _)| *returned);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Point> = None;
    for point in by_start {
        while let Some((_, before)) = ended.next_if(|(returned, _)| *returned < point.invoked) {
            newest = Some(newest.filter(|newest| newest.revision >= before.revision).unwrap_or(before));
        }
        let Some(newest) = newest else { continue };
        let behind =
            if point.writes { newest.revision >= point.revision } else { newest.revision > point.revision };
        if behind {
            return Err(format!(
                "stale: {:?} stands at revision {}, but had begun {:?} after the end of {:?}, which stands at {}",
                ops[point.op],
                point.revision,
                point.returned.map(|_| point.invoked - newest.returned.expect("it has ended")),
                ops[newest.op],
                newest.revision
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An operation as text: `client start end ask = answer`; times in ms, `?` for an answer that never came.
    fn op(began: Instant, text: &str) -> Op {
        let words: Vec<&str> = text.split_whitespace().collect();
        let time = |word: &str| began + Duration::from_millis(word.parse().expect("a time"));
        let key = words[3].to_owned();
        let (ask, told) = match words[2] {
            "put" => (Ask::Put { key, value: words[4].into() }, words[5]),
            "swap" => {
                let expected = words[4].parse().expect("a revision");
                (Ask::Swap { key, expected, value: words[5].into() }, words[6])
            }
            "delete" => (Ask::Delete { key, mark: "mark".into(), value: words[4].into() }, words[5]),
            kind => {
                let end = if key == "a" { String::new() } else { "z".into() };
                let key = if key == "a" { key } else { "a".to_owned() };
                (Ask::Read { key, end, serializable: kind == "local" }, words[4])
            }
        };
        let row = |text: &str| {
            let parts: Vec<&str> = text.split(',').collect();
            Row { key: parts[0].into(), value: parts[1].into(), mod_revision: parts[2].parse().expect("one") }
        };
        let told = told.split_once(':').map(|(kind, rest)| {
            let mut parts = rest.split(';').filter(|part| !part.is_empty());
            let revision: i64 = parts.next().expect("a revision").parse().expect("a revision");
            match kind {
                "written" => Told::Written(revision),
                "not" => Told::NotSwapped(revision, parts.next().map(row)),
                _ => Told::Read(revision, parts.map(row).collect()),
            }
        });
        Op {
            client: 0,
            member: 0,
            ask,
            invoked: time(words[0]),
            told: told.map(|told| (time(words[1]), told)),
        }
    }

    fn events(text: &str) -> Vec<Event> {
        text.split_whitespace()
            .map(|event| {
                let parts: Vec<&str> = event.split(',').collect();
                let value = (parts[2] != "-").then(|| parts[2].to_owned());
                Event { revision: parts[0].parse().expect("one"), key: parts[1].into(), value }
            })
            .collect()
    }

    fn judged(past: &str, ops: &[&str]) -> Result<Verdict, String> {
        let began = Instant::now();
        let ops: Vec<Op> = ops.iter().map(|text| op(began, text)).collect();
        judge(&events(past), &ops)
    }

    const PAST: &str = "2,a,x 3,b,y 4,a,- 4,mark,d 5,a,z";

    #[test]
    fn a_history_in_order_is_counted() {
        let ops = [
            "0 10 put a x written:2",
            "5 20 put b y written:3",
            "5 21 read all read:3;a,x,2;b,y,3",
            "30 40 swap a 3 n not:3;a,x,2",
            "30 ? delete a d ?",
            "35 90 local a read:2;a,x,2",
            "40 80 swap a 0 z written:5",
            "85 86 read a read:5;a,z,5",
            "85 ? put a never ?",
            "1 50 read a read:4;",
        ];
        let want = Verdict {
            written: 3,
            not_swapped: 1,
            read: 3,
            read_locally: 1,
            unknown_happened: 1,
            unknown_lost: 1,
        };
        assert_eq!(judged(PAST, &ops), Ok(want));
    }

    #[test]
    fn every_kind_of_wrong_is_seen() {
        const BASE: [&str; 4] = [
            "0 10 put a x written:2",
            "5 20 put b y written:3",
            "30 ? delete a d ?",
            "40 80 swap a 0 z written:5",
        ];
        // the past, operations beside or instead of those, what is said
        let cases: &[(&str, &[&str], &str)] = &[
            (PAST, &["90 95 put c lost written:6"], "acknowledged and is lost"),
            (PAST, &["25 26 read a read:2;a,x,2"], "stale"),
            (PAST, &["21 22 read a read:3;a,x,2"], "ok"),
            (PAST, &["6 22 read a read:2;a,x,2"], "ok"),
            (PAST, &["90 95 local a read:2;a,x,2"], "ok"),
            (PAST, &["90 95 local a read:2;a,y,2"], "the store had"),
            (PAST, &["90 95 read a read:5;a,x,2"], "the store had"),
            (PAST, &["90 95 read a read:6;a,z,5"], "the store had"),
            (PAST, &["90 95 read all read:5;a,z,5"], "the store had"),
            (PAST, &["90 95 swap a 5 n not:5;a,z,5"], "the store had"),
            (PAST, &["90 95 swap a 4 n not:5"], "the store had"),
            (PAST, &["90 95 swap a 4 n not:5;a,z,5"], "ok"),
            (PAST, &["90 95 swap a 4 n read:5;a,z,5"], "another question"),
            ("2,a,x 3,b,y 4,a,- 4,mark,d 5,a,z 6,a,w", &[], "nobody asked"),
            ("2,a,x 3,b,y 4,a,- 4,mark,d 5,a,z 6,b,y", &[], "again in 6"),
            ("2,a,x 3,b,y 4,a,- 4,mark,d 6,a,z", &[], "after revision 4"),
            ("3,a,x", &[], "after revision 1"),
            ("2,a,x 3,b,y 4,mark,d 5,a,z", &[], "did"),
            ("2,a,x 3,b,y 4,a,- 5,a,z", &[], "nobody asked"),
            ("2,a,x 3,b,y 4,a,z 5,a,- 5,mark,d", &[], "but the key was of 2"),
            ("2,b,y 3,a,x 4,a,- 4,mark,d 5,a,z", &[], "the store had"),
            // A write without an answer that stands before what had ended when it began.
            (
                "2,a,x 3,b,y 4,a,- 4,mark,d 5,a,z 6,a,late 7,a,w",
                &["90 95 put a w written:7", "96 ? put a late ?"],
                "stale",
            ),
            (
                "2,a,x 3,b,y 4,a,- 4,mark,d 5,a,z 6,a,late 7,a,w",
                &["90 95 put a w written:7", "94 ? put a late ?"],
                "ok",
            ),
        ];
        for (past, more, want) in cases {
            let ops = [&BASE[..], more].concat();
            let said = judged(past, &ops).map_or_else(|wrong| wrong, |_| "ok".into());
            let right = said.contains(want) && (*want != "ok" || said == "ok");
            assert!(right, "{past} {more:?}: {want:?} was expected: {said}");
        }
    }

    #[test]
    fn writes_are_not_reordered() {
        let ops = ["0 10 put a x written:3", "20 30 put a w written:2"];
        let said = judged("2,a,w 3,a,x", &ops).expect_err("the second began after the end of the first");
        assert!(said.starts_with("stale"), "{said}");
    }
}
