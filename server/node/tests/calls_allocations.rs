//! What the calls that matter most cost in allocations, counted: their books take none once they have been as full before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ProposalId};
use crossbeam::epoch;
use engine::tree::{Identity as TreeIdentity, Map, PageId};
use engine::{RangeOptions, Store};
use net::grpc::Method;
use net::pb::{etcdserverpb as pb, healthpb};
use node::api::{Error, Limits, Refusal, Space};
use node::calls::{Caller, Calls, Facts, Full, LongRead, Settings, Shell};
use node::cluster::rules::Rules;
use node::cores::{PeerFigures, ToClient, ToRaft, ToStore};
use node::propose::IdGenerator;
use node::read::RangeReply;
use node::{Answer, Identity};
use prost::Message;

#[global_allocator]
static ALLOCATOR: counted::Allocator = counted::Allocator;

const WHO: Identity = Identity { cluster_id: 1, member_id: 2 };

/// There is no file: everything is in heap frames.
struct NoFile;

impl Map for NoFile {
    fn pages(&self, _: PageId, _: u32) -> Option<&[u8]> {
        None
    }
}

/// One that leads others, or that is the only voter.
struct Member {
    read_index: Option<Index>,
}

impl Facts for Member {
    fn term(&self) -> u64 {
        3
    }
    fn leader(&self) -> u64 {
        WHO.member_id
    }
    fn is_learner(&self) -> bool {
        false
    }
    fn commit(&self) -> u64 {
        0
    }
    fn read_index(&self) -> Option<Index> {
        self.read_index
    }
    fn space(&self) -> Space {
        Space::UNLIMITED
    }
    fn is_log_space_lost(&self) -> bool {
        false
    }
    fn peers(&self) -> Vec<PeerFigures> {
        Vec::new()
    }
    fn unix_s(&self) -> u64 {
        0
    }
}

/// Takes answers as the server does: into one buffer.
struct Server {
    member: Member,
    proposals: Vec<ProposalId>,
    reads: Vec<consensus::ReadId>,
    scratch: Vec<u8>,
    answered: usize,
}

impl Shell<u32> for Server {
    type Facts = Member;

    fn facts(&self) -> &Member {
        &self.member
    }
    fn to_raft(&mut self, message: ToRaft) -> Result<(), Full> {
        match message {
            ToRaft::Propose(id, _) => self.proposals.push(id),
            ToRaft::Read(id) => self.reads.push(id),
            _ => panic!("nothing else is asked"),
        }
        Ok(())
    }
    fn to_store(&mut self, _: ToStore) -> Result<(), Full> {
        Err(Full)
    }
    fn reply(&mut self, _: &Caller<u32>, _: Option<&Bytes>, result: &Result<Answer, Error>) {
        self.scratch.clear();
        result.as_ref().unwrap().encode(&WHO, 3, &mut self.scratch);
        self.answered += 1;
    }
    fn range(&mut self, _: &Caller<u32>, _: &RangeOptions, reply: RangeReply) {
        self.scratch.clear();
        reply.encode(&epoch::pin(), &mut self.scratch).unwrap();
        self.answered += 1;
    }
    fn refuse(&mut self, _: &Caller<u32>, refusal: Refusal) {
        panic!("{refusal:?}");
    }
    fn health(&mut self, _: &Caller<u32>, _: &healthpb::HealthCheckResponse) {}
    fn kept_alive(&mut self, _: &u32, _: &pb::LeaseKeepAliveResponse) {}
    fn end_stream(&mut self, _: &u32, _: Option<Error>) {}
    fn begin(&mut self, _: LongRead<u32>) {
        panic!("nothing is long here");
    }
    fn damaged(&mut self) {
        panic!("nothing is damaged");
    }
}

/// Allocations of `call`, once it has been done before as often.
fn cost(rounds: usize, mut call: impl FnMut(u32)) -> f64 {
    (0..rounds).for_each(|round| call(round as u32));
    let before = counted::allocations();
    (0..rounds).for_each(|round| call(round as u32));
    (counted::allocations() - before) as f64 / rounds as f64
}

#[test]
fn gets_and_puts_allocate_for_their_data_alone() {
    let config = engine::Config {
        tree: engine::tree::Config { identity: TreeIdentity { cluster: 1, member: 2 }, nonce: 0 },
        lease_ttl_s_min: 1,
    };
    let mut store = Store::create(config, Arc::new(NoFile));
    store.put(&engine::PutOptions { key: "k".into(), value: "v".into(), ..Default::default() }).unwrap();
    let settings = Settings {
        core: 0,
        first_number: 1,
        identity: WHO,
        limits: Limits::default(),
        rules: Rules { strict_reconfig_check: true, max_learners: 1 },
        request_timeout: Duration::from_secs(7),
        range_rows: 1000,
        hash_rows: 1000,
    };
    let mut calls = Calls::new(settings, IdGenerator::new(2, 0, 0, 1), store.publish().unwrap());
    let mut server = Server {
        member: Member { read_index: Some(Index(0)) },
        proposals: Vec::new(),
        reads: Vec::new(),
        scratch: Vec::with_capacity(1 << 10),
        answered: 0,
    };
    let get: Bytes = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec().into();
    let put: Bytes =
        pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }.encode_to_vec().into();
    let now = Duration::from_secs(1);

    let of_store = cost(100, |_| {
        let options = RangeOptions { key: "k".into(), ..Default::default() };
        let engine::Planned::Done(answer) = calls.view().plan_range(&epoch::pin(), &options, 1000).unwrap()
        else {
            panic!("one row is planned at once");
        };
        server.scratch.clear();
        RangeReply::new(answer, &WHO, 3).encode(&epoch::pin(), &mut server.scratch).unwrap();
    });
    let alone = cost(100, |who| calls.call(now, who, Method::KvRange, false, &get, &mut server));
    assert_eq!(alone, of_store, "a get is what the store's part of it costs");

    // Among others, a hundred at a time: books grow to that once.
    server.member.read_index = None;
    let round = |calls: &mut Calls<u32>, server: &mut Server| {
        (0..100).for_each(|who| calls.call(now, who, Method::KvRange, false, &get, server));
        calls.end_turn(server);
        let id = server.reads.pop().unwrap();
        calls.handle(now, ToClient::ReadIndex(id, Some(Index(0))), server);
    };
    (0..20).for_each(|_| round(&mut calls, &mut server));
    let before = counted::allocations();
    (0..20).for_each(|_| round(&mut calls, &mut server));
    let among = (counted::allocations() - before) as f64 / 2000.0;
    assert!(among < of_store + 0.2, "{among}, alone {of_store}: the list of those that one question is for");

    let mut proposed = Vec::new();
    let write = cost(10, |_| {
        for who in 0..100 {
            calls.call(now, who, Method::KvPut, false, &put, &mut server);
        }
        std::mem::swap(&mut proposed, &mut server.proposals);
        let outcomes = proposed.drain(..).map(|id| (id, Ok(Answer::bare(5)))).collect();
        calls.handle(now, ToClient::Outcomes(outcomes), &mut server);
        calls.tick(now, &mut server);
    });
    assert!(write <= 201.0, "{write} for a hundred puts: the entry, and its shared count");
    assert!(calls.is_empty());
    assert_eq!(server.answered, 200 + 4000 + 2000);
}
