//! The store core among others: who the members are, who this one is, and stores that travel between them.

use consensus::{Index, LogPosition, NodeId, Term};
use node::apply;
use node::cluster::{self, version};
use node::propose;

use super::{Announced, Leadership, StoreCore, conf_state};
use crate::edge::clock::now;
use crate::edge::failpoint::server_version;
use crate::edge::messages::{Installation, PinnedSnapshot, ToRaft};
use crate::sys::{Fatal, FatalReason};

impl StoreCore {
    /// Tells the raft core whom it may talk to.
    pub(super) fn publish_members(&mut self) {
        if !std::mem::take(&mut self.members_changed) {
            return;
        }
        let known = apply::members(&self.store)
            .and_then(|members| Ok((members, cluster::change::removed_ids(&self.store)?)));
        match known {
            Ok((members, removed)) => {
                let removed = removed.into_iter().map(NodeId).collect();
                let own = members.iter().find(|member| member.id == self.shared.identity.member_id);
                self.shared.publish_learner(own.is_some_and(|member| member.is_learner));
                self.to_raft.push_back(ToRaft::Members(members, removed));
            }
            Err(fatal) => self.cannot_apply(&fatal),
        }
    }

    /// A version for a peer that is too far behind for the log.
    pub(super) fn pin_snapshot(&mut self, peer: NodeId) {
        let members = match apply::members(&self.store) {
            Ok(members) => members,
            Err(fatal) => self.cannot_apply(&fatal),
        };
        let view = match self.store.publish() {
            Ok(view) => view,
            Err(damage) => self.cannot_apply(&damage.into()),
        };
        let applied = view.applied();
        let position = LogPosition { index: Index(applied.index), term: Term(applied.term) };
        let conf = conf_state(&members);
        self.to_raft.push_back(ToRaft::SnapshotPinned(Box::new(PinnedSnapshot {
            peer,
            position,
            conf,
            view,
        })));
    }

    /// Goes on with a store that came from a peer. Readers of the old one keep its pages until they are done; watchers go
    /// on with the new one's history, from where they are.
    pub(super) fn install(&mut self) -> bool {
        if self.checkpoints.is_running() {
            return false; // its end is near, and what it writes is not needed any more
        }
        let Some(installation) = self.installation.take() else { return false };
        let Installation { ready, store, tree } = *installation;
        tracing::info!(index = store.applied().index, revision = store.revision(), "installed a snapshot");
        self.store = store;
        let covered = Index(self.store.applied().index);
        self.shared.replace_tree(tree.clone());
        self.scrubber.replace(tree.clone());
        self.checkpoints.replace(tree, covered);
        self.members_changed = true;
        self.compacting = true;
        self.tell_version();
        self.to_raft.push_back(ToRaft::SnapshotInstalled(ready));
        self.to_raft.push_back(ToRaft::Checkpointed(covered));
        true
    }

    /// As etcd: each start publishes name and client URLs through the log; the first one also decides the cluster
    /// version.
    pub(super) fn announce(&mut self) {
        let shared = self.shared.clone();
        let (member, config) = (shared.identity.member_id, &shared.config);
        let write = propose::member_attributes_set(
            &mut self.ids,
            member,
            &config.name,
            &config.advertise_client_urls,
        );
        self.announced = Announced::Proposed(self.propose(write), now());
    }

    /// The leader decides the cluster's version by what its members are. A proposal that gets lost is made again when the
    /// leader next looks.
    pub(super) fn decide_version(&mut self) {
        let (Leadership::Leads, Some(versions)) = (self.leadership, &self.versions) else { return };
        let decided = match apply::cluster_version(&self.store) {
            Ok(decided) => decided,
            Err(fatal) => self.cannot_apply(&fatal),
        };
        let servers: Vec<Option<&str>> = versions.iter().map(Option::as_deref).collect();
        let Some(version) = version::decide(&servers, decided.as_deref()) else { return };
        match &decided {
            None => {
                tracing::info!("cluster-version" = version, "setting up initial cluster version using v3 API")
            }
            Some(from) => tracing::info!(from, to = version, "updating cluster version using v3 API"),
        }
        let write = propose::cluster_version_set(&mut self.ids, &version);
        self.propose(write);
    }

    /// The store has another version of the cluster: all that show it hear of it.
    pub(super) fn tell_version(&mut self) {
        let version = match apply::cluster_version(&self.store) {
            Ok(Some(version)) => version,
            Ok(None) => return,
            Err(fatal) => self.cannot_apply(&fatal),
        };
        let own = server_version();
        if version::is_downgrade(own, &version) {
            self.shared.fatal(Fatal::new(
                FatalReason::DataDirForeign,
                format!(
                    "invalid downgrade; server version is lower than determined cluster version: this is {own}, and the \
                     cluster has decided on {version}"
                ),
            ));
        }
        if let Some((major, minor)) = version::major_minor(&version) {
            self.shared.metrics.cluster_version_is(format!("{major}.{minor}"));
        }
        self.to_raft.push_back(ToRaft::ClusterVersion(version));
    }
}
