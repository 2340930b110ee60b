//! The table of the module's header, row by row.

use super::*;

/// Members from words: `1` started voter, `2?` voter that has not started, `3L` learner.
fn members(words: &str) -> Vec<Member> {
    let member = |word: &str| {
        let id = word.trim_end_matches(['?', 'L']).parse().expect("an id");
        let name = if word.contains('?') { String::new() } else { format!("m{id}") };
        let peer_urls = vec![format!("http://{id}:1")];
        Member { id, peer_urls, is_learner: word.contains('L'), name, ..Member::default() }
    };
    words.split_whitespace().map(member).collect()
}

const STRICT: Rules = Rules { strict_reconfig_check: true, max_learners: 1 };
const LOOSE: Rules = Rules { strict_reconfig_check: false, max_learners: 1 };

/// Asks member 1. `up`: links that have been up for long; a `~` behind an id: for a moment only.
fn ask(rules: Rules, words: &str, up: &str, change: Change) -> Result<ConfChange, Error> {
    let members = members(words);
    let links: Vec<(u64, Duration)> = up
        .split_whitespace()
        .map(|word| match word.strip_suffix('~') {
            Some(id) => (id.parse().expect("an id"), HEALTH_INTERVAL),
            None => (word.parse().expect("an id"), HEALTH_INTERVAL + Duration::from_millis(1)),
        })
        .collect();
    let active_for = |id| links.iter().find(|(link, _)| *link == id).map(|(_, up)| *up);
    let matched = |id: u64| members.iter().any(|member| member.id == id).then_some(1000);
    let situation = Situation { own: 1, members: &members, active_for: &active_for, matched: Some(&matched) };
    propose(change, 9, 1_700_000_000, rules, &situation)
}

fn add() -> Change {
    Change::Add { peer_urls: vec!["http://x:1".into()], is_learner: false }
}

fn add_learner() -> Change {
    Change::Add { peer_urls: vec!["http://x:1".into()], is_learner: true }
}

fn remove(id: u64) -> Change {
    Change::Remove { id }
}

#[test]
fn the_quorum_of_the_resulting_set_is_protected() {
    let few = Some(Error::NotEnoughStartedMembers);
    let sick = Some(Error::Unhealthy);
    // members, links, change, error
    let cases = [
        // A cluster of one may always grow, and then not again before the second has started.
        ("1", "", add(), None),
        ("1?", "", add(), few),
        ("1 2?", "2", add(), few),
        ("1 2", "2", add(), None),
        ("1 2", "", add(), sick),
        ("1 2", "2~", add(), sick),
        ("1 2 3", "2 3", add(), None),
        ("1 2 3", "2", add(), sick),
        ("1 2 3?", "2 3", add(), few),
        ("1 2 3 4", "2 3", add(), None),
        ("1 2 3 4", "2", add(), sick),
        // Learners don't count, neither for nor against.
        ("1 2 3 4L", "2 3", add(), None),
        ("1 2L", "", add(), None),
        ("1", "", add_learner(), None),
        ("1 2?", "2", add_learner(), None),
        ("1 2 3", "2 3", add_learner(), None),
        ("1 2 3", "2", add_learner(), sick),
        // The one that is promoted counts as started.
        ("1 2L", "", Change::Promote { id: 2 }, None),
        ("1 2? 3L", "", Change::Promote { id: 3 }, None),
        ("1 2? 3? 4L", "", Change::Promote { id: 4 }, few),
        // Away goes who is down; who is up only if the others are enough.
        ("1 2 3", "2 3", remove(3), None),
        ("1 2 3", "2", remove(3), None),
        ("1 2 3", "2", remove(2), sick),
        ("1 2 3", "", remove(2), None),
        ("1 2 3", "2~ 3", remove(2), sick),
        ("1 2 3?", "2", remove(2), few),
        ("1 2 3", "2", remove(1), sick),
        ("1 2 3", "2 3", remove(1), None),
        ("1 2", "2", remove(2), None),
        ("1 2", "", remove(2), None),
        ("1 2?", "2", remove(2), None),
        ("1 2?", "", remove(1), few),
        ("1", "", remove(1), few),
        ("1 2L", "2", remove(1), few),
        ("1 2L", "2", remove(2), None),
        ("1 2 3", "", remove(77), None),
        ("1 2 3", "", Change::Update { id: 2, peer_urls: vec!["http://x:1".into()] }, None),
    ];
    for (words, up, change, want) in cases {
        let got = ask(STRICT, words, up, change.clone()).err();
        assert_eq!(got, want, "members {words:?}, links {up:?}, {change:?}");
    }
}

#[test]
fn without_the_check_only_the_last_voter_stays() {
    for (words, change, want) in [
        ("1 2? 3?", add(), None),
        ("1 2 3", remove(2), None),
        ("1? 2?", remove(2), None),
        ("1", remove(1), Some(Error::NotEnoughStartedMembers)),
        ("1 2L", remove(1), Some(Error::NotEnoughStartedMembers)),
        ("1 2? 3? 4L", Change::Promote { id: 4 }, None),
    ] {
        assert_eq!(ask(LOOSE, words, "", change.clone()).err(), want, "{words:?} {change:?}");
    }
}

#[test]
fn a_learner_is_promoted_when_it_has_caught_up() {
    let members = members("1 2L");
    let active_for = |_| None;
    let promote = |id, matched: Option<&dyn Fn(u64) -> Option<u64>>| {
        let situation = Situation { own: 1, members: &members, active_for: &active_for, matched };
        propose(Change::Promote { id }, 9, 0, LOOSE, &situation).err()
    };
    assert_eq!(promote(2, None), Some(Error::NotLeader));
    for (id, of_learner, of_leader, want) in [
        (2, 900, 1000, None),
        (2, 899, 1000, Some(Error::LearnerNotReady)),
        (2, 0, 1000, Some(Error::LearnerNotReady)),
        (2, 0, 0, None),
        (2, u64::MAX, u64::MAX, None),
        (3, 1000, 1000, Some(Error::MemberNotFound)),
    ] {
        let matched = |member| match member {
            1 => Some(of_leader),
            2 => Some(of_learner),
            _ => None,
        };
        assert_eq!(promote(id, Some(&matched)), want, "{id}: {of_learner} of {of_leader}");
    }
}

#[test]
fn conf_changes_are_etcds() {
    let id = added_member_id(&["http://x:1".into()], 1_700_000_000);
    let update = Change::Update { id: 2, peer_urls: vec!["http://y:1".into()] };
    use ConfChangeKind::*;
    let cases = [
        (add(), AddNode, id, format!(r#"{{"id":{id},"peerURLs":["http://x:1"]}}"#)),
        (
            add_learner(),
            AddLearnerNode,
            id,
            format!(r#"{{"id":{id},"peerURLs":["http://x:1"],"isLearner":true,"maxLearners":1}}"#),
        ),
        (remove(2), RemoveNode, 2, String::new()),
        (update, UpdateNode, 2, r#"{"id":2,"peerURLs":["http://y:1"]}"#.into()),
        (Change::Promote { id: 2 }, AddNode, 2, r#"{"id":2,"peerURLs":null,"isPromote":true}"#.into()),
    ];
    for (change, kind, node, context) in cases {
        let got = ask(LOOSE, "1 2L", "", change.clone()).expect("allowed");
        assert_eq!((got.id, got.kind, got.node.0), (9, kind, node), "{change:?}");
        assert_eq!(std::str::from_utf8(&got.context), Ok(&*context), "{change:?}");
    }
}

#[test]
fn leadership_moves_to_voters_from_the_leader_alone() {
    let members = members("1 2 3L");
    for (leader, target, want) in [
        (1, 2, Ok(())),
        (1, 1, Ok(())),
        (2, 2, Err(Error::NotLeader)),
        (0, 2, Err(Error::NotLeader)),
        (1, 3, Err(Error::BadLeaderTransferee)),
        (1, 4, Err(Error::BadLeaderTransferee)),
        (1, 0, Err(Error::BadLeaderTransferee)),
    ] {
        assert_eq!(check_transfer(1, leader, &members, target), want, "leader {leader}, target {target}");
    }
}
