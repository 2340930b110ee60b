//! The same random requests to the server under test and to the real etcd; the answers compared field by field.
//!
//! What may differ is made equal first and nothing else: cluster, member and raft term of headers, ids of leases that
//! the server chooses, and remaining seconds of leases. Keys, values and revisions collide often, because few of each
//! are drawn from.

use testkit::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use testkit::pb::request_op::Request;
use testkit::pb::response_op::Response;
use testkit::pb::{
    AlarmRequest, CompactionRequest, Compare, DefragmentRequest, DeleteRangeRequest, HashKvRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use testkit::{Client, Program, ServerOptions};
use tonic::Status;

use crate::{long_runs, start};

/// A small generator of its own, so that a seed means the same for ever (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn key(&mut self) -> Vec<u8> {
        const KEYS: [&[u8]; 9] = [b"a", b"aa", b"ab", b"b", b"ba", b"c", b"c\x00", b"\xff", b"d/e"];
        match self.below(40) {
            0 => Vec::new(),
            1 => vec![0],
            _ => KEYS[self.below(9) as usize].to_vec(),
        }
    }

    pub fn range_end(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 | 1 => self.key(),
            2 => vec![0],
            3 => vec![self.below(256) as u8],
            _ => Vec::new(),
        }
    }

    pub fn value(&mut self) -> Vec<u8> {
        vec![b'v'; self.below(4) as usize * 7]
    }

    fn lease(&mut self) -> i64 {
        if self.one_in(3) { self.below(4) as i64 } else { 0 }
    }

    /// A lease that may be there; not 0, with which the server chooses. Any number may name one.
    fn lease_id(&mut self) -> i64 {
        [1, 2, 3, -2][self.below(4) as usize]
    }

    /// A revision about the present one: compacted, past, present, future, or none.
    pub fn revision(&mut self, now: i64) -> i64 {
        match self.below(8) {
            0 => now + 1 + self.below(3) as i64,
            1 => now,
            2 => -1,
            3 | 4 => self.below(now.max(1) as u64 + 1) as i64,
            _ => 0,
        }
    }

    fn range(&mut self, now: i64) -> RangeRequest {
        let bound =
            |random: &mut Self| if random.one_in(8) { random.below(now as u64 + 2) as i64 } else { 0 };
        let mut range = RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: if self.one_in(3) { self.below(5) as i64 } else { 0 },
            revision: self.revision(now),
            sort_order: if self.one_in(4) { self.below(4) as i32 } else { 0 },
            sort_target: if self.one_in(4) { self.below(6) as i32 } else { 0 },
            serializable: self.one_in(3),
            keys_only: self.one_in(5),
            count_only: self.one_in(6),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
        };
        // The order of equal elements is not specified, and with a limit neither is which of them are kept; so sort by
        // what is unique.
        if matches!(range.sort_target, 1 | 2 | 4) {
            range.sort_target = 3;
            // etcd reads limit+1 rows first and sorts only these if no order is given (a trap of its own).
            range.limit = 0;
        }
        if range.sort_target == 3 && range.sort_order == 0 {
            range.limit = 0;
        }
        range
    }

    fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.lease(),
            prev_kv: self.one_in(3),
            ignore_value: self.one_in(12),
            ignore_lease: self.one_in(12),
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.range_end(), prev_kv: self.one_in(2) }
    }

    fn compare(&mut self, now: i64) -> Compare {
        let number = if self.one_in(2) { 0 } else { self.below(now as u64 + 2) as i64 };
        let (target, union) = match self.below(5) {
            0 => (CompareTarget::Version, TargetUnion::Version(self.below(4) as i64)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(number)),
            2 => (CompareTarget::Mod, TargetUnion::ModRevision(number)),
            3 => (CompareTarget::Value, TargetUnion::Value(self.value())),
            _ => (CompareTarget::Lease, TargetUnion::Lease(self.below(4) as i64)),
        };
        let result =
            [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        Compare {
            result: result[self.below(4) as usize].into(),
            target: target.into(),
            key: self.key(),
            range_end: if self.one_in(4) { self.range_end() } else { Vec::new() },
            target_union: if self.one_in(15) { None } else { Some(union) },
        }
    }

    fn op(&mut self, now: i64, depth: u32) -> RequestOp {
        let request = match self.below(if depth == 0 { 9 } else { 12 }) {
            0..=2 => Request::RequestRange(self.range(now)),
            3..=6 => Request::RequestPut(self.put()),
            7..=8 => Request::RequestDeleteRange(self.delete()),
            _ => Request::RequestTxn(self.txn(now, depth - 1)),
        };
        RequestOp { request: if self.one_in(60) { None } else { Some(request) } }
    }

    fn txn(&mut self, now: i64, depth: u32) -> TxnRequest {
        let ops = |random: &mut Self| (0..random.below(4)).map(|_| random.op(now, depth)).collect();
        TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare(now)).collect(),
            success: ops(self),
            failure: ops(self),
        }
    }
}

/// One request of the sequence.
#[derive(Clone, Debug)]
enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    /// One stream, these requests on it, then its end.
    KeepAlive(Vec<i64>),
    Leases,
    HashKv(HashKvRequest),
    Alarm(AlarmRequest),
}

/// etcd 3.7.1 checks before a transaction that the keys of its `ignore_value` and `ignore_lease` puts exist. If the same
/// transaction has deleted such a key when its put is executed, etcd panics ("unexpected error during txn") and the
/// process is gone, so there is nothing to compare with: no such put beside a deletion.
fn spare_etcd(txn: &mut TxnRequest) {
    if deletes(txn) {
        ignore_nothing(txn);
    }
}

fn requests(txn: &mut TxnRequest) -> impl Iterator<Item = &mut Request> {
    txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut())
}

fn deletes(txn: &mut TxnRequest) -> bool {
    requests(txn).any(|request| match request {
        Request::RequestDeleteRange(_) => true,
        Request::RequestTxn(inner) => deletes(inner),
        _ => false,
    })
}

fn ignore_nothing(txn: &mut TxnRequest) {
    for request in requests(txn) {
        match request {
            Request::RequestPut(put) => (put.ignore_value, put.ignore_lease) = (false, false),
            Request::RequestTxn(inner) => ignore_nothing(inner),
            _ => {}
        }
    }
}

fn draw(random: &mut Random, now: i64) -> Call {
    match random.below(100) {
        0..=29 => Call::Range(random.range(now)),
        30..=54 => Call::Put(random.put()),
        55..=64 => Call::Delete(random.delete()),
        65..=86 => {
            let mut txn = random.txn(now, 2);
            spare_etcd(&mut txn);
            Call::Txn(txn)
        }
        87..=88 => Call::Compact(CompactionRequest { revision: random.revision(now), physical: true }),
        89..=91 => {
            let ttl = if random.one_in(6) { 9_000_000_001 } else { 1000 };
            Call::Grant(LeaseGrantRequest { id: random.lease_id(), ttl })
        }
        92..=93 => Call::Revoke(LeaseRevokeRequest { id: random.lease_id() }),
        94..=95 => Call::TimeToLive(LeaseTimeToLiveRequest { id: random.lease_id(), keys: random.one_in(2) }),
        96 => Call::KeepAlive((0..random.below(4)).map(|_| random.lease_id()).collect()),
        97 => Call::Leases,
        _ => Call::HashKv(HashKvRequest { revision: random.revision(now) }),
    }
}

fn plain_header(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn plain_range(mut answer: RangeResponse) -> RangeResponse {
    plain_header(&mut answer.header);
    answer
}

fn plain_txn(mut answer: TxnResponse) -> TxnResponse {
    plain_header(&mut answer.header);
    for op in &mut answer.responses {
        match op.response.as_mut() {
            // Headers inside have a revision only, which `Debug` shows, so ids that slipped in would be seen: they are
            // left as they are.
            Some(Response::ResponseTxn(inner)) => {
                for op in &mut inner.responses {
                    assert!(op.response.is_some(), "an answer for each operation");
                }
            }
            Some(_) => {}
            None => panic!("an answer for each operation"),
        }
    }
    answer
}

/// The answer as text, with what may differ made equal.
async fn ask(client: &mut Client, call: Call) -> String {
    fn show<T: std::fmt::Debug>(
        answer: Result<tonic::Response<T>, Status>,
        plain: impl FnOnce(T) -> T,
    ) -> String {
        match answer {
            Ok(answer) => format!("{:#?}", plain(answer.into_inner())),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }
    macro_rules! headed {
        ($answer:expr) => {
            show($answer, |mut answer| {
                plain_header(&mut answer.header);
                answer
            })
        };
    }
    match call {
        Call::Range(request) => show(client.kv.range(request).await, plain_range),
        Call::Put(request) => headed!(client.kv.put(request).await),
        Call::Delete(request) => headed!(client.kv.delete_range(request).await),
        Call::Txn(request) => show(client.kv.txn(request).await, plain_txn),
        Call::Compact(request) => headed!(client.kv.compact(request).await),
        Call::Grant(request) => headed!(client.lease.lease_grant(request).await),
        Call::Revoke(request) => headed!(client.lease.lease_revoke(request).await),
        Call::TimeToLive(request) => show(client.lease.lease_time_to_live(request).await, |mut answer| {
            plain_header(&mut answer.header);
            answer.keys.sort(); // unsorted by definition
            answer.ttl = answer.ttl.min(900); // time passes
            answer
        }),
        Call::KeepAlive(leases) => {
            let mut stream = client.open_keep_alive();
            for &id in &leases {
                stream.send(LeaseKeepAliveRequest { id });
            }
            stream.half_close();
            let mut answers = Vec::new();
            loop {
                match stream.next().await {
                    Ok(Some(mut answer)) => {
                        plain_header(&mut answer.header);
                        answers.push(format!("{answer:?}"));
                    }
                    Ok(None) => break format!("{answers:#?} and the end"),
                    Err(status) => break format!("{answers:#?}, {:?}: {}", status.code(), status.message()),
                }
            }
        }
        Call::Leases => headed!(client.lease.lease_leases(LeaseLeasesRequest {}).await),
        Call::HashKv(request) => headed!(client.maintenance.hash_kv(request).await),
        Call::Alarm(request) => show(client.maintenance.alarm(request).await, |mut answer| {
            plain_header(&mut answer.header);
            answer.alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id)); // in no order in etcd
            answer
        }),
    }
}

async fn revision(client: &mut Client) -> i64 {
    let request = RangeRequest { key: "x".into(), ..Default::default() };
    client.kv.range(request).await.unwrap().into_inner().header.unwrap().revision
}

async fn compare_with_etcd(seed: u64, calls: usize) {
    let server = start();
    let etcd = ServerOptions::new(Program::etcd()).start();
    let (mut ours, mut theirs) = (server.client().await, etcd.client().await);
    let mut random = Random(seed);
    let mut history = Vec::new();
    for at in 0..calls {
        let now = revision(&mut theirs).await;
        let call = draw(&mut random, now);
        history.push(format!("{call:?}"));
        let (got, want) = tokio::join!(ask(&mut ours, call.clone()), ask(&mut theirs, call.clone()));
        if got != want {
            let before = history[history.len().saturating_sub(6)..].join("\n");
            panic!(
                "seed {seed}, call {at} at revision {now}:\n{before}\n--- got\n{got}\n--- etcd says\n{want}"
            );
        }
    }
    // All keys at every revision that is still there.
    let now = revision(&mut theirs).await;
    for revision in 0..=now {
        let all = RangeRequest { key: vec![0], range_end: vec![0], revision, ..Default::default() };
        let (got, want) = tokio::join!(
            ask(&mut ours, Call::Range(all.clone())),
            ask(&mut theirs, Call::Range(all.clone()))
        );
        assert_eq!(got, want, "seed {seed}: all keys at revision {revision} of {now}");
    }
}

#[tokio::test]
async fn random_requests_are_answered_as_etcd_answers_them() {
    assert!(testkit::oracle().is_current, "the comparison needs etcd 3.7 (Go >= 1.26)");
    let seeds = if long_runs() { 40 } else { 4 };
    for seed in 0..seeds {
        compare_with_etcd(seed, 600).await;
    }
}

/// A step of the comparison of hashes.
enum Step {
    Ask(Call),
    /// Both write everything to their files (Defragment does), are killed and started again: hashes of compactions live in
    /// memory, what was compacted doesn't. (A compaction that is replayed from the log leaves its hash again, in both.)
    Restart,
}

fn put(key: &str) -> Step {
    Step::Ask(Call::Put(PutRequest { key: key.into(), value: b"v".to_vec(), ..Default::default() }))
}

fn delete(key: &str) -> Step {
    Step::Ask(Call::Delete(DeleteRangeRequest { key: key.into(), ..Default::default() }))
}

fn compact(revision: i64) -> Step {
    Step::Ask(Call::Compact(CompactionRequest { revision, physical: true }))
}

fn hash(revision: i64) -> Step {
    Step::Ask(Call::HashKv(HashKvRequest { revision }))
}

/// A finished compaction leaves its hash in a cache that is asked first: one at revision 0, which is allowed once, is
/// what HashKV without a revision answers from then on, until ten later ones have pushed it out.
#[tokio::test]
async fn hashes_of_compactions_are_kept_and_forgotten_as_etcd_does() {
    assert!(testkit::oracle().is_current, "the comparison needs etcd 3.7 (Go >= 1.26)");
    let stories: Vec<(&str, Vec<Step>)> = vec![
        (
            "compact at 0 before anything",
            vec![
                hash(0),
                compact(0),
                hash(0),
                put("a"),
                hash(0),
                hash(2),
                compact(0),
                compact(-1),
                hash(-1),
                compact(2),
                hash(0),
                hash(2),
                hash(1),
                Step::Restart,
                hash(0),
                hash(2),
                compact(0),
            ],
        ),
        (
            "compact at 0 later, and restart at once",
            vec![
                put("a"),
                put("a"),
                delete("a"),
                compact(0),
                hash(0),
                Step::Restart,
                hash(0),
                hash(3),
                compact(0),
                compact(3),
                hash(3),
                hash(0),
            ],
        ),
        (
            "tombstones at the compacted revision",
            vec![
                put("a"),
                put("b"),
                delete("a"),
                hash(4),
                compact(4),
                hash(4),
                hash(0),
                put("a"),
                hash(0),
                compact(5),
                hash(5),
                hash(4),
                Step::Restart,
                hash(5),
                hash(0),
            ],
        ),
    ];
    for (name, steps) in stories {
        tell(name, steps).await;
    }
    let mut steps = vec![compact(0)];
    for revision in 2..16 {
        steps.extend([put("k"), compact(revision), hash(0), hash(revision), hash(2)]);
    }
    tell("ten are kept", steps).await;
}

/// What each kind of request says while an alarm is on, whoever raised it, and when it is off again.
#[tokio::test]
async fn alarms_refuse_what_they_refuse_in_etcd() {
    assert!(testkit::oracle().is_current, "the comparison needs etcd 3.7 (Go >= 1.26)");
    // NONE, NOSPACE, CORRUPT; GET, ACTIVATE, DEACTIVATE. Of other alarms etcd keeps the number, which means nothing, and
    // at another action it panics.
    let alarm = |action, member_id, alarm| Step::Ask(Call::Alarm(AlarmRequest { action, member_id, alarm }));
    let list = || (0..3).map(move |kind| alarm(0, 77, kind));
    let txn = |request| {
        let success = vec![RequestOp { request: Some(request) }];
        Step::Ask(Call::Txn(TxnRequest { success, ..Default::default() }))
    };
    let range = |serializable| RangeRequest { key: "k".into(), serializable, ..Default::default() };
    let requests = || {
        vec![
            put("k"),
            Step::Ask(Call::Range(range(false))),
            Step::Ask(Call::Range(range(true))),
            txn(Request::RequestRange(range(false))),
            txn(Request::RequestPut(PutRequest { key: "k".into(), ..Default::default() })),
            txn(Request::RequestDeleteRange(DeleteRangeRequest { key: "k".into(), ..Default::default() })),
            txn(Request::RequestTxn(TxnRequest::default())),
            delete("k"),
            put(""),
            Step::Ask(Call::Grant(LeaseGrantRequest { id: 5, ttl: 1000 })),
            Step::Ask(Call::KeepAlive(vec![4, 5])),
            Step::Ask(Call::TimeToLive(LeaseTimeToLiveRequest { id: 4, keys: true })),
            Step::Ask(Call::Leases),
            Step::Ask(Call::Revoke(LeaseRevokeRequest { id: 5 })),
            Step::Ask(Call::Revoke(LeaseRevokeRequest { id: 6 })),
            compact(1),
            compact(99),
            hash(0),
        ]
    };
    let mut steps = vec![Step::Ask(Call::Grant(LeaseGrantRequest { id: 4, ttl: 1000 })), put("k"), put("l")];
    steps.extend(list());
    for kind in [1, 2] {
        steps.push(alarm(1, 5, kind));
        steps.push(alarm(1, 5, kind));
        steps.push(alarm(1, 0, kind));
        steps.extend(list());
        steps.extend(requests());
        steps.push(alarm(2, 6, kind));
        steps.push(alarm(2, 5, 0));
        steps.push(alarm(2, 5, kind));
        steps.extend(list());
        steps.extend(requests());
        steps.push(alarm(2, 0, kind));
        steps.push(alarm(2, 0, kind));
        steps.extend(requests());
    }
    for action in 0..3 {
        steps.push(alarm(action, 5, 0));
        steps.extend(list());
    }
    tell("alarms", steps).await;
}

async fn tell(name: &str, steps: Vec<Step>) {
    let (mut server, mut etcd) = (start(), ServerOptions::new(Program::etcd()).start());
    let (mut ours, mut theirs) = (server.client().await, etcd.client().await);
    let mut differences = Vec::new();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Restart => {
                for client in [&mut ours, &mut theirs] {
                    client.maintenance.defragment(DefragmentRequest {}).await.expect("defragmented");
                }
                server.restart();
                etcd.restart();
                (ours, theirs) = (server.client().await, etcd.client().await);
            }
            Step::Ask(call) => {
                let (got, want) = tokio::join!(ask(&mut ours, call.clone()), ask(&mut theirs, call.clone()));
                if got != want {
                    differences
                        .push(format!("{name}, step {at}, {call:?}\n--- got\n{got}\n--- etcd says\n{want}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
