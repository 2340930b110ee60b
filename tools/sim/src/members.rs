//! The membership as simply as it can be said: who belongs to the cluster after each entry, and who votes.
//!
//! As [`crate::model`], it shares no code with the members' own: it reads the bytes of committed entries, and the rules
//! are written down here once more (etcd `ValidateConfigurationChange`).

use std::collections::{BTreeMap, BTreeSet};

use consensus::{ConfChange, ConfChangeKind};
use net::pb::etcdserverpb as pb;
use net::pb::membershippb;
use node::api::Error;
use serde_json::Value;

use crate::model::{Answer, Answered};

/// Who votes from an entry on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The entry that made it so.
    pub index: u64,
    /// Ids, ascending.
    pub voters: Vec<u64>,
    /// Ids, ascending.
    pub learners: Vec<u64>,
}

impl Conf {
    /// Whether those of whom `has` is true are a majority of the voters.
    pub fn is_majority(&self, has: impl Fn(u64) -> bool) -> bool {
        self.voters.iter().filter(|id| has(**id)).count() * 2 > self.voters.len()
    }
}

/// See the module's header.
pub struct Members {
    rows: BTreeMap<u64, pb::Member>,
    removed: BTreeSet<u64>,
    /// Raft's configurations, by the entry that made them.
    confs: Vec<Conf>,
    /// The tables, by the entry that made them.
    tables: Vec<(u64, Vec<pb::Member>)>,
}

impl Default for Members {
    fn default() -> Members {
        Members {
            rows: BTreeMap::new(),
            removed: BTreeSet::new(),
            confs: vec![Conf::default()],
            tables: vec![(0, Vec::new())],
        }
    }
}

impl Members {
    /// All members now, by id.
    pub fn table(&self) -> Vec<pb::Member> {
        self.rows.values().cloned().collect()
    }

    /// Raft's configurations so far.
    pub fn changes(&self) -> u64 {
        self.confs.len() as u64 - 1
    }

    /// Whether this is the id of a member now.
    pub fn has(&self, id: u64) -> bool {
        self.rows.contains_key(&id)
    }

    /// Whether this is the id of a voter now.
    pub fn votes(&self, id: u64) -> bool {
        self.rows.get(&id).is_some_and(|member| !member.is_learner)
    }

    /// Whether a member of this id was removed.
    pub fn was_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The configuration after an entry.
    pub fn conf_at(&self, index: u64) -> &Conf {
        &self.confs[self.confs.partition_point(|conf| conf.index <= index) - 1]
    }

    /// The one before this one.
    pub fn conf_before(&self, conf: &Conf) -> &Conf {
        conf.index.checked_sub(1).map_or(&self.confs[0], |before| self.conf_at(before))
    }

    /// The first entry from `floor` on after which the members were these; `floor` itself if they were so by then.
    pub fn first_with(&self, table: &[pb::Member], floor: u64) -> Option<u64> {
        let at = self.tables.partition_point(|(index, _)| *index <= floor) - 1;
        let found = self.tables[at..].iter().find(|(_, then)| then == table);
        found.map(|(index, _)| (*index).max(floor))
    }

    /// A committed change of the configuration.
    pub fn change(&mut self, index: u64, change: &ConfChange) -> Answer {
        let id = change.node.0;
        let context: Value = serde_json::from_slice(&change.context).unwrap_or_default();
        let done = match change.kind {
            _ if self.removed.contains(&id) => Err(Error::MemberNotFound),
            ConfChangeKind::AddNode if context["isPromote"] == true => self.promote(id),
            ConfChangeKind::AddNode => self.add(id, &context, false),
            ConfChangeKind::AddLearnerNode => self.add(id, &context, true),
            ConfChangeKind::UpdateNode => self.update(id, &context),
            ConfChangeKind::RemoveNode => self.remove(id),
        };
        let added = done?;
        self.note(index);
        let ids = |learners: bool| {
            let rows = self.rows.values().filter(|member| member.is_learner == learners);
            rows.map(|member| member.id).collect::<Vec<u64>>()
        };
        let (voters, learners) = (ids(false), ids(true));
        let last = self.confs.last().expect("there is one");
        if (&last.voters, &last.learners) != (&voters, &learners) {
            self.confs.push(Conf { index, voters, learners });
        }
        Ok((0, Answered::Members(added, self.table())))
    }

    /// A member has said its name.
    pub fn attributes(&mut self, index: u64, said: &membershippb::ClusterMemberAttrSetRequest) {
        let Some(member) = self.rows.get_mut(&said.member_id) else { return };
        let attributes = said.member_attributes.clone().unwrap_or_default();
        member.name = attributes.name;
        member.client_ur_ls = attributes.client_urls;
        self.note(index);
    }

    fn note(&mut self, index: u64) {
        let table = self.table();
        self.tables.push((index, table));
    }

    fn is_taken(&self, id: u64, urls: &[String]) -> bool {
        let others = self.rows.values().filter(|other| other.id != id);
        others.flat_map(|other| &other.peer_ur_ls).any(|url| urls.contains(url))
    }

    fn add(&mut self, id: u64, context: &Value, is_learner: bool) -> Result<Option<pb::Member>, Error> {
        let peer_ur_ls = urls(context);
        let learners = self.rows.values().filter(|member| member.is_learner).count() as u64;
        let many = context["maxLearners"].as_u64().is_some_and(|max| learners >= max);
        match () {
            () if self.rows.contains_key(&id) => Err(Error::MemberExists),
            () if self.is_taken(id, &peer_ur_ls) => Err(Error::PeerUrlExists),
            () if is_learner && many => Err(Error::TooManyLearners),
            () => {
                let member = pb::Member { id, peer_ur_ls, is_learner, ..Default::default() };
                self.rows.insert(id, member.clone());
                Ok(Some(member))
            }
        }
    }

    fn promote(&mut self, id: u64) -> Result<Option<pb::Member>, Error> {
        let member = self.rows.get_mut(&id).ok_or(Error::MemberNotFound)?;
        if !std::mem::replace(&mut member.is_learner, false) {
            return Err(Error::MemberNotLearner);
        }
        Ok(None)
    }

    fn update(&mut self, id: u64, context: &Value) -> Result<Option<pb::Member>, Error> {
        let peer_ur_ls = urls(context);
        let is_taken = self.is_taken(id, &peer_ur_ls);
        let member = self.rows.get_mut(&id).ok_or(Error::MemberNotFound)?;
        if is_taken {
            return Err(Error::PeerUrlExists);
        }
        member.peer_ur_ls = peer_ur_ls;
        Ok(None)
    }

    fn remove(&mut self, id: u64) -> Result<Option<pb::Member>, Error> {
        let is_learner = self.rows.get(&id).ok_or(Error::MemberNotFound)?.is_learner;
        let voters = self.rows.values().filter(|member| !member.is_learner).count();
        if !is_learner && voters == 1 {
            return Err(Error::NotEnoughStartedMembers);
        }
        self.rows.remove(&id);
        self.removed.insert(id);
        Ok(None)
    }
}

fn urls(context: &Value) -> Vec<String> {
    let urls = context["peerURLs"].as_array();
    urls.map_or(Vec::new(), |urls| urls.iter().filter_map(|url| Some(url.as_str()?.to_owned())).collect())
}
