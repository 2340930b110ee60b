//! Stories of one member, and of a few that talk to each other.

use bytes::Bytes;

use super::*;
use crate::testing::{Disk, Member, Store, small_log};
use crate::{ConfChangeKind, Envelope, Forward, ForwardRefused, ReadId};

const ME: NodeId = NodeId(7);

fn config() -> Config {
    Config::new(ME, 1, 2)
}

/// A lone leader after its first commit, and its log of outputs. Entries: 1 adds it, 2 opens its term.
fn leader(config: Config) -> Node {
    let state = State::bootstrap(&[(ME, Bytes::from_static(b"{}"))]);
    let mut node = Node::new(config, state, LogPosition::default(), ConfState::default());
    turn(&mut node, []);
    turn(&mut node, [Input::Durable(ReadyNumber(0))]);
    let change = ConfChange { id: 0, kind: ConfChangeKind::AddNode, node: ME, context: Bytes::new() };
    let out = turn(&mut node, [Input::ApplyConfChange(Index(1), Some(change)), Input::Applied(Index(1))]);
    turn(&mut node, [Input::Durable(appends(&out)[0].ready)]);
    turn(&mut node, [Input::Applied(Index(2))]);
    assert_eq!(node.status().role.role, Role::Leader);
    node
}

fn turn(node: &mut Node, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
    let mut out = Vec::new();
    for input in inputs {
        node.step(input, &mut out);
    }
    node.flush(&mut out);
    out
}

fn propose(id: u64, len: usize) -> Input {
    Input::Propose(ProposalId(id), Bytes::from(vec![id as u8; len]))
}

fn appends(out: &[Output]) -> Vec<Append> {
    out.iter()
        .filter_map(|output| if let Output::Append(append) = output { Some(append.clone()) } else { None })
        .collect()
}

fn commits(out: &[Output]) -> Vec<Entry> {
    out.iter()
        .filter_map(|output| if let Output::Commit(entries) = output { Some(entries.clone()) } else { None })
        .flatten()
        .collect()
}

fn raft_type(envelope: &Envelope) -> MessageType {
    match &*envelope.message {
        PeerMessage::Raft(message) => message.raft.get_msg_type(),
        other => panic!("not of raft: {other:?}"),
    }
}

fn dropped(out: &[Output]) -> Vec<(u64, DropReason)> {
    let drops = out.iter().filter_map(|output| match output {
        Output::ProposalDropped(id, reason) => Some((id.0, *reason)),
        _ => None,
    });
    drops.collect()
}

#[test]
fn a_thousand_proposals_without_a_completion_and_one_that_releases_them_all() {
    let mut node = leader(config());
    let mut last = ReadyNumber(0);
    for id in 0..1000 {
        let out = turn(&mut node, [propose(id, 10)]);
        assert_eq!(dropped(&out), []);
        assert_eq!(commits(&out), [], "nothing is committed before it is durable");
        let [append] = &appends(&out)[..] else { panic!("one append, not {out:?}") };
        assert!(append.ready > last);
        last = append.ready;
        if id % 10 == 0 {
            assert_eq!(turn(&mut node, [Input::Tick]), [], "time passes and nothing changes");
        }
    }
    // Reads see what was committed before, at once.
    let out = turn(&mut node, [Input::ReadIndex(ReadId(1))]);
    assert_eq!(out, [Output::ReadReady(ReadId(1), Index(2))]);
    assert_eq!(node.status().role, RoleChange { role: Role::Leader, term: Term(2), leader: Some(ME) });

    let out = turn(&mut node, [Input::Durable(last)]);
    assert_eq!(out[0], Output::SingleVoter(Some(Index(1002))), "readers know before anybody is answered");
    let committed = commits(&out);
    let want = (0..1000).map(|id| (Some(ProposalId(id)), Index(3 + id)));
    assert!(committed.iter().map(|entry| (entry.proposal, entry.index)).eq(want));
    assert!(committed.iter().all(|e| e.data[..] == vec![e.proposal.unwrap().0 as u8; 10][..]));
    assert_eq!(dropped(&out), []);
}

#[test]
fn a_turn_is_one_append() {
    let mut node = leader(config());
    let out = turn(&mut node, (0..500).map(|id| propose(id, 100)));
    let [append] = &appends(&out)[..] else { panic!("one append") };
    let ids = append.entries.iter().map(|entry| entry.proposal.unwrap().0);
    assert!(ids.eq(0..500), "in the order of proposals");
    // Beyond a bound it is several, so that the first is not kept waiting for the last.
    let mut node = leader(Config { append_bytes: 10_000, ..config() });
    let out = turn(&mut node, (0..500).map(|id| propose(id, 100)));
    let sizes: Vec<usize> = appends(&out).iter().map(|append| append.entries.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 500);
    assert!(sizes.len() >= 5 && sizes.iter().all(|&count| count <= 100), "{sizes:?}");
}

#[test]
fn bytes_not_yet_applied_are_bounded() {
    let cost = 1000 + std::mem::size_of::<Entry>();
    let mut node = leader(Config { proposal_bytes_limit: 3 * cost, ..config() });
    let out = turn(&mut node, (0..5).map(|id| propose(id, 1000)));
    let too_many = |id| (id, DropReason::TooManyRequests);
    assert_eq!(dropped(&out), [too_many(3), too_many(4)]);
    assert_eq!(node.status().unapplied_bytes, 3 * cost);
    // Neither durable nor committed makes room; applied does.
    let ready = appends(&out)[0].ready;
    let out = turn(&mut node, [Input::Durable(ready), propose(5, 1000)]);
    assert_eq!(dropped(&out), [too_many(5)]);
    let out = turn(&mut node, [Input::Applied(Index(3)), propose(6, 1000), propose(7, 1000)]);
    assert_eq!(dropped(&out), [too_many(7)]);
    // One that is larger than the bound passes when nothing else waits, else it never would.
    let ready = appends(&out)[0].ready;
    turn(&mut node, [Input::Durable(ready)]);
    let out = turn(&mut node, [Input::Applied(Index(6)), propose(8, 10 * cost), propose(9, 0)]);
    assert_eq!(dropped(&out), [too_many(9)]);
}

#[test]
fn proposals_are_refused_with_their_reason() {
    let state = State::bootstrap(&[(ME, Bytes::new())]);
    let mut early = Node::new(config(), state, LogPosition::default(), ConfState::default());
    assert_eq!(dropped(&turn(&mut early, [propose(1, 1)])), [(1, DropReason::NoLeader)]);

    let mut node = leader(Config { entry_bytes_max: 100, ..config() });
    assert_eq!(dropped(&turn(&mut node, [propose(1, 101), propose(2, 100)])), [(1, DropReason::TooLarge)]);
    let change = || add(ConfChangeKind::AddLearnerNode, NodeId(9));
    let out = turn(
        &mut node,
        [
            Input::ProposeConfChange(ProposalId(3), change()),
            Input::ProposeConfChange(ProposalId(4), change()),
        ],
    );
    assert_eq!(dropped(&out), [(4, DropReason::ConfChangePending)]);
    let out = turn(&mut node, [Input::ProposeConfChange(ProposalId(5), change())]);
    assert_eq!(dropped(&out), [(5, DropReason::ConfChangePending)]);
}

fn add(kind: ConfChangeKind, node: NodeId) -> ConfChange {
    ConfChange { id: 1, kind, node, context: Bytes::from_static(b"{}") }
}

/// The turn in which a change is handed out whose entry is in the append of `proposed`.
fn commit_change(node: &mut Node, proposed: &[Output]) -> Vec<Output> {
    let out = turn(node, [Input::Durable(appends(proposed)[0].ready)]);
    assert_eq!(commits(&out), [], "the log doesn't say yet that it is committed");
    turn(node, [Input::Durable(appends(&out)[0].ready)])
}

/// Whoever acts on a change must find after a power cut that it is committed: the member that was removed by it may be gone.
#[test]
fn a_change_is_handed_out_when_the_log_says_that_it_is_committed() {
    let mut node = leader(config());
    let change = add(ConfChangeKind::AddLearnerNode, NodeId(9));
    let proposed =
        turn(&mut node, [propose(1, 1), Input::ProposeConfChange(ProposalId(2), change), propose(3, 1)]);
    let out = turn(&mut node, [Input::Durable(appends(&proposed)[0].ready), propose(4, 1)]);
    assert_eq!(commits(&out), [], "what comes behind it waits, too");
    let [says_so, next] = &appends(&out)[..] else { panic!("two appends: {out:?}") };
    assert_eq!((says_so.hard_state.commit, says_so.entries.len()), (Index(5), 0));
    let mut durable = |ready| -> Vec<u64> {
        let out = turn(&mut node, [Input::Durable(ready)]);
        commits(&out).iter().map(|entry| entry.index.0).collect()
    };
    assert_eq!(durable(says_so.ready), [3, 4, 5]);
    assert_eq!(durable(next.ready), [6]);
}

#[test]
fn the_single_voters_index_is_cleared_before_anybody_hears_of_a_second() {
    let mut node = leader(config());
    let change = add(ConfChangeKind::AddNode, NodeId(9));
    let out = turn(&mut node, [Input::ProposeConfChange(ProposalId(1), change.clone())]);
    assert_eq!(out[0], Output::SingleVoter(None), "before the append: {out:?}");
    let out = commit_change(&mut node, &out);
    assert_eq!(commits(&out).len(), 1);
    assert!(!out.iter().any(|output| matches!(output, Output::SingleVoter(_))));
    let out = turn(&mut node, [Input::ApplyConfChange(Index(3), Some(change)), Input::Applied(Index(3))]);
    let conf = ConfState { voters: vec![ME, NodeId(9)], learners: vec![] };
    assert_eq!(out[0], Output::ConfState(conf));
    let sends = out.iter().filter(|output| matches!(output, Output::Send(_))).count();
    assert!(sends > 0, "now it speaks to the second voter");
    assert!(!out.iter().any(|output| matches!(output, Output::SingleVoter(_))));
    // A proposal needs both now.
    let out = turn(&mut node, [propose(2, 1)]);
    let ready = appends(&out)[0].ready;
    assert_eq!(commits(&turn(&mut node, [Input::Durable(ready)])), []);
    // And a read needs an answer.
    let out = turn(&mut node, [Input::ReadIndex(ReadId(1))]);
    assert!(!out.iter().any(|output| matches!(output, Output::ReadReady(..))), "{out:?}");
}

#[test]
fn a_refused_or_voteless_change_gives_the_index_back() {
    for change in [
        None,
        Some(add(ConfChangeKind::UpdateNode, ME)),
        Some(add(ConfChangeKind::AddLearnerNode, NodeId(9))),
    ] {
        let mut node = leader(config());
        let proposed = change.clone().unwrap_or(add(ConfChangeKind::AddNode, NodeId(9)));
        let out = turn(&mut node, [Input::ProposeConfChange(ProposalId(1), proposed)]);
        assert_eq!(out[0], Output::SingleVoter(None));
        commit_change(&mut node, &out);
        let out = turn(&mut node, [Input::ApplyConfChange(Index(3), change), Input::Applied(Index(3))]);
        assert!(out.contains(&Output::SingleVoter(Some(Index(3)))), "{out:?}");
    }
}

#[test]
fn the_commit_of_the_store_is_believed_over_the_hint_in_the_log() {
    let entry = |index| Entry {
        index: Index(index),
        term: Term(2),
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"x"),
        proposal: None,
    };
    let hard_state = HardState { term: Term(2), vote: ME, commit: Index(1) };
    let state = State { hard_state, entries: vec![entry(6), entry(7)], unwritten: false };
    let conf = ConfState { voters: vec![ME], learners: vec![] };
    let mut node = Node::new(config(), state, LogPosition::new(5, 2), conf);
    assert_eq!(node.status().committed, Index(5));
    let out = turn(&mut node, []);
    let [append] = &appends(&out)[..] else { panic!("{out:?}") };
    assert_eq!(append.entries[0].position(), LogPosition::new(8, 3));
    let committed = commits(&turn(&mut node, [Input::Durable(append.ready)]));
    let indexes: Vec<u64> = committed.iter().map(|entry| entry.index.0).collect();
    assert_eq!(indexes, [6, 7, 8]);
}

#[test]
fn a_long_replay_comes_in_pieces() {
    let entries = (1..=10_000).map(|index| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"x"),
        proposal: None,
    });
    let hard_state = HardState { term: Term(1), vote: ME, commit: Index(10_000) };
    let state = State { hard_state, entries: entries.collect(), unwritten: false };
    let conf = ConfState { voters: vec![ME], learners: vec![] };
    let mut node = Node::new(config(), state, LogPosition::default(), conf);
    let out = turn(&mut node, []);
    let pieces = out.iter().filter_map(|output| match output {
        Output::Commit(entries) => Some(entries.len()),
        _ => None,
    });
    assert_eq!(pieces.collect::<Vec<_>>(), [4096, 4096, 1808]);
}

#[test]
fn applied_entries_leave_memory_but_for_the_limit() {
    for (limit, kept) in [(0, 0), (5000, 4)] {
        let mut node = leader(Config { cache_bytes_limit: limit, ..config() });
        let out = turn(&mut node, (0..100).map(|id| propose(id, 1000)));
        turn(&mut node, [Input::Durable(appends(&out)[0].ready)]);
        let cost = 1000 + std::mem::size_of::<Entry>();
        assert!(node.status().cache_bytes >= 100 * cost, "not applied, not evicted");
        turn(&mut node, [Input::Applied(Index(102))]);
        assert_eq!(node.status().cache_bytes, kept * cost);
        // It goes on from there.
        let out = turn(&mut node, [propose(0, 1)]);
        assert_eq!(commits(&turn(&mut node, [Input::Durable(appends(&out)[0].ready)])).len(), 1);
    }
}

#[test]
fn too_many_reads_are_dropped() {
    let state = State::bootstrap(&[(ME, Bytes::new())]);
    let config = Config { reads_limit: 2, ..config() };
    let mut node = Node::new(config, state, LogPosition::default(), ConfState::default());
    let out = turn(&mut node, (0..3).map(|id| Input::ReadIndex(ReadId(id))));
    assert!(out.contains(&Output::ReadDropped(ReadId(2))));
    assert_eq!(node.status().reads, 2);
}

#[test]
fn an_entry_of_any_permitted_length_goes_through_log_and_restart() {
    let mut member = Member::new(small_log());
    for (id, len) in [0, 1, 4096, 8192, 16 << 10, 31 << 10].into_iter().enumerate() {
        member.put(id as u64, vec![1; len]);
        member.settle();
    }
    assert_eq!(member.acked.len(), 6);
    let want = member.store.data.clone();
    let mut member = Member::start(member.kill(), Store::default(), small_log()).unwrap();
    member.settle();
    assert_eq!(member.store.data, want);
    assert_eq!(Disk::default().segments.len(), 0);
}

/// Members that talk; everything is durable and applied at once unless said otherwise.
struct Cluster {
    nodes: Vec<Node>,
    stalled: Vec<NodeId>,
    /// What their disks owe.
    owed: Vec<Vec<ReadyNumber>>,
    sent: Vec<(NodeId, Envelope)>,
    committed: Vec<Vec<Entry>>,
}

impl Cluster {
    fn new(count: u64, seed: u64) -> Cluster {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let state = State {
            hard_state: HardState { term: Term(1), vote: NodeId(0), commit: Index(1) },
            entries: vec![],
            unwritten: false,
        };
        let conf = ConfState { voters: ids.clone(), learners: vec![] };
        let node = |id: &NodeId| {
            let config = Config::new(*id, seed ^ id.0, 1);
            Node::new(config, state.clone(), LogPosition::new(1, 1), conf.clone())
        };
        Cluster {
            nodes: ids.iter().map(node).collect(),
            stalled: vec![],
            owed: vec![vec![]; ids.len()],
            sent: vec![],
            committed: vec![vec![]; ids.len()],
        }
    }

    /// Gives a member inputs; what it says is kept in `sent` until `deliver`.
    fn turn(&mut self, id: NodeId, inputs: Vec<Input>) -> Vec<Output> {
        let at = id.0 as usize - 1;
        let mut inputs = inputs;
        let mut all = Vec::new();
        while !inputs.is_empty() {
            let out = turn(&mut self.nodes[at], inputs.drain(..));
            for output in &out {
                match output {
                    Output::Append(append) if self.stalled.contains(&id) => self.owed[at].push(append.ready),
                    Output::Append(append) => inputs.push(Input::Durable(append.ready)),
                    Output::Send(envelope) => self.sent.push((id, envelope.clone())),
                    Output::Commit(entries) => {
                        self.committed[at].extend(entries.iter().cloned());
                        // Changes of the membership are left to the test, and what follows them.
                        let is_change = |entry: &&Entry| entry.kind == EntryKind::ConfChange;
                        let before = entries.iter().take_while(|entry| !is_change(entry));
                        inputs.extend(before.last().map(|entry| Input::Applied(entry.index)));
                    }
                    _ => {}
                }
            }
            all.extend(out);
        }
        all
    }

    fn deliver(&mut self) {
        while !self.sent.is_empty() {
            for (from, envelope) in std::mem::take(&mut self.sent) {
                self.turn(envelope.to, vec![Input::Receive(from, envelope.message)]);
            }
        }
    }

    fn elect(&mut self) -> NodeId {
        for _ in 0..100 {
            for id in 1..=self.nodes.len() as u64 {
                self.turn(NodeId(id), vec![Input::Tick]);
            }
            self.deliver();
            if let Some(leader) = self.nodes.iter().find(|node| node.status().role.role == Role::Leader) {
                return leader.config.id;
            }
        }
        panic!("no leader after 100 ticks");
    }

    fn other(&self, than: &[NodeId]) -> NodeId {
        (1..=self.nodes.len() as u64).map(NodeId).find(|id| !than.contains(id)).unwrap()
    }
}

#[test]
fn three_members_commit_the_same_bytes() {
    let mut cluster = Cluster::new(3, 5);
    let leader = cluster.elect();
    for id in 0..20 {
        cluster.turn(leader, vec![propose(id, 100), propose(100 + id, 0)]);
        cluster.deliver();
    }
    cluster.turn(leader, vec![Input::Tick]);
    cluster.deliver();
    let own = cluster.committed[leader.0 as usize - 1].clone();
    assert_eq!(own.len(), 41, "the leader's first entry and forty proposals");
    assert!(own[1..].iter().all(|entry| entry.proposal.is_some()));
    for committed in &cluster.committed {
        let without_names = |entries: &[Entry]| -> Vec<Entry> {
            entries.iter().map(|entry| Entry { proposal: None, ..entry.clone() }).collect()
        };
        assert_eq!(without_names(committed), without_names(&own));
    }
    let follower = cluster.other(&[leader]);
    let out = cluster.turn(follower, vec![propose(9, 1)]);
    assert_eq!(dropped(&out), []);
    cluster.deliver();
    let last = cluster.committed[leader.0 as usize - 1].last().unwrap();
    assert_eq!((&last.data[..], last.proposal), (&[9][..], None), "forwarded, and nobody's by name");
}

#[test]
fn a_stalled_disk_holds_back_promises_and_nothing_else() {
    use raft::eraftpb::MessageType::*;
    let mut cluster = Cluster::new(3, 5);
    let leader = cluster.elect();
    let sick = cluster.other(&[leader]);
    cluster.stalled = vec![sick];
    let kinds = |cluster: &Cluster| -> Vec<raft::eraftpb::MessageType> {
        let from_sick = cluster.sent.iter().filter(|(from, _)| *from == sick);
        from_sick.map(|(_, envelope)| raft_type(envelope)).collect()
    };
    let to_sick = |cluster: &mut Cluster| {
        let (mine, others) = std::mem::take(&mut cluster.sent).into_iter().partition(|(_, e)| e.to == sick);
        cluster.sent = others;
        for (from, envelope) in mine {
            cluster.turn(sick, vec![Input::Receive(from, envelope.message)]);
        }
    };
    cluster.turn(leader, vec![propose(1, 10)]);
    to_sick(&mut cluster);
    assert_eq!(kinds(&cluster), [], "it has stored nothing, so it accepts nothing");
    cluster.sent.clear();
    cluster.turn(leader, vec![Input::Tick]);
    to_sick(&mut cluster);
    assert_eq!(kinds(&cluster), [MsgHeartbeatResponse], "its disk is no reason to look dead");
    cluster.sent.clear();
    let owed = std::mem::take(&mut cluster.owed[sick.0 as usize - 1]);
    cluster.turn(sick, owed.last().map(|ready| Input::Durable(*ready)).into_iter().collect());
    assert_eq!(kinds(&cluster), [MsgAppendResponse], "now it is true");
}

#[test]
fn a_vote_is_cast_after_it_is_durable() {
    use raft::eraftpb::MessageType::*;
    let mut cluster = Cluster::new(3, 5);
    let voter = NodeId(2);
    cluster.stalled = vec![voter];
    let mut request = RaftMessage { from: 1, to: 2, term: 5, log_term: 1, index: 1, ..Default::default() };
    request.set_msg_type(MsgRequestVote);
    let message = Box::new(PeerMessage::Raft(Message { raft: request, data: vec![] }));
    let out = cluster.turn(voter, vec![Input::Receive(NodeId(1), message)]);
    let [append] = &appends(&out)[..] else { panic!("{out:?}") };
    assert_eq!(append.hard_state, HardState { term: Term(5), vote: NodeId(1), commit: Index(1) });
    assert!(cluster.sent.is_empty());
    // Nor does anything else that would show the new term.
    let mut heartbeat = RaftMessage { from: 1, to: 2, term: 5, ..Default::default() };
    heartbeat.set_msg_type(MsgHeartbeat);
    let message = Box::new(PeerMessage::Raft(Message { raft: heartbeat, data: vec![] }));
    cluster.turn(voter, vec![Input::Receive(NodeId(1), message)]);
    assert!(cluster.sent.is_empty());
    cluster.turn(voter, vec![Input::Durable(append.ready)]);
    let kinds: Vec<_> = cluster.sent.iter().map(|(_, e)| raft_type(e)).collect();
    assert_eq!(kinds, [MsgRequestVoteResponse, MsgHeartbeatResponse]);
}

#[test]
fn the_seed_decides_who_leads() {
    let trace = |seed| {
        let mut cluster = Cluster::new(5, seed);
        let leader = cluster.elect();
        let ticks: Vec<usize> =
            cluster.nodes.iter().map(|node| node.raft.raft.randomized_election_timeout()).collect();
        (leader, ticks)
    };
    let traces: Vec<_> = (0..20).map(trace).collect();
    assert_eq!(traces, (0..20).map(trace).collect::<Vec<_>>());
    assert!((0..20).any(|seed| traces[seed].0 != traces[0].0), "other seeds, other leaders");
}

#[test]
fn a_cluster_shrunk_to_one_elects_it_when_its_writes_are_durable() {
    let mut cluster = Cluster::new(2, 5);
    let leader = cluster.elect();
    let rest = cluster.other(&[leader]);
    let remove = ConfChange { id: 1, kind: ConfChangeKind::RemoveNode, node: leader, context: Bytes::new() };
    cluster.turn(leader, vec![Input::ProposeConfChange(ProposalId(1), remove.clone())]);
    cluster.deliver();
    // The entry after it reaches the survivor's memory and not its disk.
    cluster.stalled = vec![rest];
    cluster.turn(leader, vec![propose(2, 10)]);
    cluster.deliver();
    let node = &mut cluster.nodes[rest.0 as usize - 1];
    let index = Index(3);
    let out = turn(node, [Input::ApplyConfChange(index, Some(remove)), Input::Applied(index)]);
    assert!(out.contains(&Output::ConfState(ConfState { voters: vec![rest], learners: vec![] })));
    for _ in 0..50 {
        turn(node, [Input::Tick]);
    }
    turn(node, [Input::Campaign]);
    assert_eq!(node.status().role.role, Role::Follower, "raft would panic with writes in flight");
    let owed = cluster.owed[rest.0 as usize - 1].pop().unwrap();
    let out = turn(node, [Input::Durable(owed)]);
    assert_eq!(node.status().role.role, Role::Leader, "{out:?}");
}

#[test]
fn a_cluster_shrunk_to_one_waits_for_what_came_in_the_same_turn() {
    let remove =
        ConfChange { id: 1, kind: ConfChangeKind::RemoveNode, node: NodeId(2), context: Bytes::new() };
    let conf = ConfState { voters: vec![NodeId(1), NodeId(2)], learners: vec![] };
    let (kind, data) = (EntryKind::ConfChange, remove.encode());
    let change = Entry { index: Index(2), term: Term(1), kind, data, proposal: None };
    let hard_state = HardState { term: Term(1), vote: NodeId(2), commit: Index(2) };
    let state = State { hard_state, entries: vec![change], unwritten: false };
    for asks in [vec![], vec![Input::Campaign], (0..50).map(|_| Input::Tick).collect()] {
        let config = Config::new(NodeId(1), 1, 2);
        let mut node = Node::new(config, state.clone(), LogPosition::new(1, 1), conf.clone());
        turn(&mut node, []);
        // An entry that was on its way when the leader removed itself, and then the change.
        let append = append_from(2, 1, (2, 1), &[(1, "")], 2);
        let applied = [Input::ApplyConfChange(Index(2), Some(remove.clone())), Input::Applied(Index(2))];
        let out = turn(&mut node, [append].into_iter().chain(applied).chain(asks));
        assert_eq!(appends(&out).len(), 1);
        assert_eq!(node.status().role.role, Role::Follower, "raft would panic with writes in flight");
        let durable = Input::Durable(appends(&out)[0].ready);
        turn(&mut node, [durable]);
        assert_eq!(node.status().role.role, Role::Leader);
    }
}

fn forward(term: u64, boot_nonce: u64, sequence: u64, ids: std::ops::Range<u64>) -> Input {
    let proposals = ids.map(|id| (ProposalId(id), EntryKind::Normal, Bytes::from(vec![id as u8; 10])));
    let forward = Forward { term: Term(term), boot_nonce, sequence, proposals: proposals.collect() };
    Input::Receive(NodeId(2), Box::new(PeerMessage::Forward(forward)))
}

fn refusals(sent: &[(NodeId, Envelope)]) -> Vec<ForwardRefused> {
    let refusals = sent.iter().filter_map(|(_, envelope)| match &*envelope.message {
        PeerMessage::ForwardRefused(refusal) => Some(refusal.clone()),
        _ => None,
    });
    refusals.collect()
}

/// Makes member 1 of a fair cluster lead, in term 2.
fn led_by_one(count: u64) -> Cluster {
    let mut cluster = Cluster::new(count, 5);
    cluster.turn(NodeId(1), vec![Input::Campaign]);
    cluster.deliver();
    assert_eq!(cluster.nodes[0].status().role.role, Role::Leader);
    cluster
}

#[test]
fn a_forward_is_appended_once_and_only_in_its_term() {
    let mut cluster = led_by_one(3);
    let one = NodeId(1);
    let term = cluster.nodes[0].status().role.term.0;
    // (forward, entries appended)
    let story = [
        (forward(term, 7, 1, 0..3), 3),
        (forward(term, 7, 1, 0..3), 0),     // a copy
        (forward(term, 7, 3, 3..5), 2),     // one was lost
        (forward(term, 7, 2, 5..6), 0),     // it comes late
        (forward(term, 8, 1, 6..7), 1),     // the origin has restarted
        (forward(term, 7, 3, 3..5), 0),     // a copy of its predecessor's
        (forward(term - 1, 9, 9, 7..8), 0), // of a term that this process may have seen end
    ];
    for (forward, count) in story {
        let what = format!("{forward:?}");
        let out = cluster.turn(one, vec![forward]);
        let appended: usize = appends(&out).iter().map(|append| append.entries.len()).sum();
        assert_eq!(appended, count, "{what}");
        assert!(
            appends(&out).iter().flat_map(|append| &append.entries).all(|entry| entry.proposal.is_none())
        );
        assert_eq!(refusals(&cluster.sent), [], "{what}");
    }
    let Input::Receive(_, message) = forward(term, 1, 1, 0..1) else { unreachable!() };
    let out = cluster.turn(one, vec![Input::Receive(NodeId(9), message)]);
    assert_eq!(appends(&out), [], "not of a member");
}

#[test]
fn a_refused_forward_is_refused_for_good_and_an_accepted_one_is_never_refused() {
    let mut cluster = led_by_one(3);
    let one = NodeId(1);
    let term = cluster.nodes[0].status().role.term.0;
    cluster.turn(one, vec![forward(term, 7, 1, 0..1)]);
    cluster.turn(one, vec![Input::TransferLeader(Some(NodeId(3)))]);
    cluster.sent.clear();
    cluster.turn(one, vec![forward(term, 7, 2, 1..2)]);
    let refused = |id, reason| [ForwardRefused { boot_nonce: 7, refused: vec![(ProposalId(id), reason)] }];
    assert_eq!(refusals(&cluster.sent), refused(1, DropReason::LeaderTransfer));
    cluster.sent.clear();
    // Another leads; copies of both arrive: of the first it can't be said that it was not appended.
    let mut beat = RaftMessage { from: 3, to: 1, term: term + 1, ..Default::default() };
    beat.set_msg_type(MessageType::MsgHeartbeat);
    let beat = Box::new(PeerMessage::Raft(Message { raft: beat, data: vec![] }));
    cluster.turn(one, vec![Input::Receive(NodeId(3), beat)]);
    cluster.turn(one, vec![forward(term, 7, 1, 0..1), forward(term, 7, 2, 1..2)]);
    assert_eq!(refusals(&cluster.sent), []);
    // One that was never seen is refused, once.
    cluster.turn(one, vec![forward(term, 7, 3, 2..3), forward(term, 7, 3, 2..3)]);
    assert_eq!(refusals(&cluster.sent), refused(2, DropReason::NotLeader(NodeId(3))));
    // The origin believes refusals of its own process only.
    for (boot_nonce, want) in [(1, vec![(5, DropReason::NoLeader)]), (2, vec![])] {
        let refusal = ForwardRefused { boot_nonce, refused: vec![(ProposalId(5), DropReason::NoLeader)] };
        let refusal = Box::new(PeerMessage::ForwardRefused(refusal));
        assert_eq!(dropped(&cluster.turn(NodeId(2), vec![Input::Receive(one, refusal)])), want);
    }
}

fn append_from(from: u64, term: u64, log: (u64, u64), entries: &[(u64, &'static str)], commit: u64) -> Input {
    let (index, log_term) = log;
    let stubs = entries.iter().zip(index + 1..);
    let stubs = stubs.map(|(&(term, _), index)| stub(EntryKind::Normal, LogPosition::new(index, term)));
    let entries_of = stubs.collect();
    let mut raft =
        RaftMessage { from, to: 1, term, index, log_term, commit, entries: entries_of, ..Default::default() };
    raft.set_msg_type(MessageType::MsgAppend);
    let data = entries.iter().map(|(_, data)| Bytes::from_static(data.as_bytes())).collect();
    Input::Receive(NodeId(from), Box::new(PeerMessage::Raft(Message { raft, data })))
}

#[test]
fn a_replaced_proposal_is_lost_when_another_entry_is_committed_there_and_may_come_back_before() {
    for comes_back in [false, true] {
        let mut cluster = led_by_one(3);
        let one = NodeId(1);
        // Entry 1 is the first of the cluster, 2 opens term 2; the proposal is entry 3 and reaches nobody soon.
        let out = cluster.turn(one, vec![Input::Propose(ProposalId(9), Bytes::from_static(b"mine"))]);
        assert_eq!(appends(&out)[0].entries[0].position(), LogPosition::new(3, 2));
        // The leader of term 3 replaces it. That proves nothing: it may be on a third member.
        let out = cluster.turn(one, vec![append_from(2, 3, (2, 2), &[(3, "")], 2)]);
        assert_eq!(dropped(&out), []);
        if comes_back {
            let entries = [(2, "mine"), (4, "")];
            let out = cluster.turn(one, vec![append_from(3, 4, (2, 2), &entries, 4)]);
            let committed = commits(&out);
            let names: Vec<_> = committed.iter().map(|entry| (entry.index.0, entry.proposal)).collect();
            assert_eq!(dropped(&out), []);
            assert_eq!(names, [(3, Some(ProposalId(9))), (4, None)]);
        } else {
            let out = cluster.turn(one, vec![append_from(2, 3, (3, 3), &[], 3)]);
            assert_eq!(dropped(&out), [(9, DropReason::LeaderChanged)]);
        }
    }
}

#[test]
fn a_replaced_proposal_is_lost_when_an_entry_of_a_later_term_is_committed_before_it() {
    let mut cluster = led_by_one(3);
    let one = NodeId(1);
    for number in [8, 9] {
        let out = cluster.turn(one, vec![Input::Propose(ProposalId(number), Bytes::from_static(b"mine"))]);
        assert_eq!(appends(&out)[0].entries[0].position(), LogPosition::new(number - 5, 2));
    }
    // The leader of term 3 has a shorter log; nothing is ever proposed to it.
    assert_eq!(dropped(&cluster.turn(one, vec![append_from(2, 3, (2, 2), &[(3, "")], 2)])), []);
    let out = cluster.turn(one, vec![append_from(2, 3, (3, 3), &[], 3)]);
    assert_eq!(dropped(&out), [(8, DropReason::LeaderChanged), (9, DropReason::LeaderChanged)]);
    assert_eq!(cluster.nodes[0].books_open(), 0);
}

#[test]
fn a_member_that_lost_what_it_acknowledged_says_so_instead_of_dying_in_raft() {
    let mut cluster = led_by_one(3);
    let mut raft = RaftMessage { from: 2, to: 1, term: 3, commit: 100, ..Default::default() };
    raft.set_msg_type(MessageType::MsgHeartbeat);
    let message = Box::new(PeerMessage::Raft(Message { raft, data: vec![] }));
    let out = cluster.turn(NodeId(1), vec![Input::Receive(NodeId(2), message)]);
    let lost = Output::AcknowledgedLost { acknowledged: Index(100), last: LogPosition::new(2, 2) };
    assert_eq!(out, [lost]);
}

/// A message may be waiting for the end of the turn whose entries were read back for it, and the next ones arrive.
#[test]
fn entries_read_back_stay_for_the_turn_in_which_they_are_sent() {
    const PEER: NodeId = NodeId(2);
    let entry = |index: u64| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![index as u8; 100]),
        proposal: None,
    };
    let read =
        |first: u64, last: u64| Input::Fetched(PEER, Index(first), Some((first..=last).map(entry).collect()));
    let hard_state = HardState { term: Term(1), vote: ME, commit: Index(20) };
    let state = State { hard_state, entries: (6..=20).map(entry).collect(), unwritten: false };
    let conf = ConfState { voters: vec![ME], learners: vec![PEER] };
    let config = Config { append_bytes: 2 * entry(6).cost_bytes(), ..config() };
    let mut node = Node::new(config, state, LogPosition::new(5, 1), conf);
    let out = turn(&mut node, [Input::LogStartsAt(Index(6))]);
    turn(&mut node, appends(&out).iter().map(|append| Input::Durable(append.ready)));
    turn(&mut node, [Input::Applied(Index(20))]);
    assert_eq!(node.status().role.role, Role::Leader);
    let says = |kind: MessageType, index: u64, reject: bool| {
        let mut raft = RaftMessage { from: PEER.0, to: ME.0, term: 2, index, reject, ..Default::default() };
        raft.reject_hint = if reject { 5 } else { 0 };
        raft.set_msg_type(kind);
        Input::Receive(PEER, Box::new(PeerMessage::Raft(Message { raft, data: Vec::new() })))
    };
    let fetch = |out: &[Output]| {
        out.iter()
            .find_map(|output| if let Output::Fetch(fetch) = output { Some(fetch.first.0) } else { None })
    };
    let sent = |out: &[Output]| {
        let messages = out.iter().filter_map(|output| match output {
            Output::Send(Envelope { message, .. }) => match &**message {
                PeerMessage::Raft(message) if !message.data.is_empty() => Some(message.raft.entries[0].index),
                _ => None,
            },
            _ => None,
        });
        messages.collect::<Vec<_>>()
    };
    let out = turn(&mut node, [says(MessageType::MsgAppendResponse, 20, true)]);
    assert_eq!(fetch(&out), Some(6));
    assert_eq!(sent(&turn(&mut node, [read(6, 10)])), [6]);
    let out = turn(&mut node, [says(MessageType::MsgAppendResponse, 7, false)]);
    assert_eq!((sent(&out), fetch(&out)), (vec![8, 10], Some(11)));
    // They seem to be lost, so the peer is asked where it is, and they are read again.
    let lost = [Input::Unreachable(PEER), says(MessageType::MsgHeartbeatResponse, 0, false)];
    assert_eq!(sent(&turn(&mut node, lost)), [0; 0]);
    assert_eq!(fetch(&turn(&mut node, [read(11, 15)])), Some(8));
    // But it has them, and gets the next ones, which are here; and in the same turn the others are.
    let late = [says(MessageType::MsgAppendResponse, 10, false), read(8, 10)];
    let out = turn(&mut node, late);
    assert_eq!((sent(&out), fetch(&out)), (vec![11, 13, 15], Some(16)));
}
