//! The store core among others: who the members are, who this one is, and stores that travel between them.

use consensus::{Index, LogPosition, NodeId, Term};

use super::{Announced, Done, Fatal, Leadership, Observer, Output, StoreCore, conf_state};
use crate::apply;
use crate::cluster::{change, version};
use crate::cores::{PinnedSnapshot, ToRaft};
use crate::propose;

impl<O: Observer> StoreCore<O> {
    /// Tells the raft core whom it may talk to.
    pub(super) fn publish_members(&mut self) -> Done {
        if !std::mem::take(&mut self.members_changed) {
            return Ok(());
        }
        let members = apply::members(&self.store)?;
        let removed = change::removed_ids(&self.store)?.into_iter().map(NodeId).collect();
        let own = members.iter().find(|member| member.id == self.settings.member);
        self.out.push(Output::Learner(own.is_some_and(|member| member.is_learner)));
        self.tell_raft(ToRaft::Members(members, removed));
        Ok(())
    }

    /// A version for a peer that is too far behind for the log.
    pub(super) fn pin_snapshot(&mut self, peer: NodeId) -> Done {
        let conf = conf_state(&apply::members(&self.store)?);
        let view = self.store.publish()?;
        let applied = view.applied();
        let position = LogPosition { index: Index(applied.index), term: Term(applied.term) };
        self.tell_raft(ToRaft::SnapshotPinned(Box::new(PinnedSnapshot { peer, position, conf, view })));
        Ok(())
    }

    /// Goes on with a store that came from a peer. Readers of the old one keep its pages until they are done; watchers go
    /// on with the new one's history, from where they are.
    pub(super) fn install(&mut self) -> Done {
        if self.checkpoints.is_running() {
            return Ok(()); // its end is near, and what it writes is not needed any more
        }
        let Some((ready, store)) = self.installation.take() else { return Ok(()) };
        self.store = *store;
        self.observer.installed(&self.store);
        let covered = Index(self.store.applied().index);
        self.out.push(Output::Installed);
        self.checkpoints.replace(covered, self.present.now);
        self.members_changed = true;
        self.compacting = true;
        self.changed = true;
        self.tell_version()?;
        self.tell_raft(ToRaft::SnapshotInstalled(ready));
        self.tell_raft(ToRaft::Checkpointed(covered));
        Ok(())
    }

    /// As etcd: each start publishes name and client URLs through the log; the first one also decides the cluster
    /// version.
    pub(super) fn announce(&mut self) {
        let settings = &self.settings;
        let write = propose::member_attributes_set(
            &mut self.ids,
            settings.member,
            &settings.name,
            &settings.client_urls,
        );
        self.announced = Announced::Proposed(self.propose(write), self.present.now);
    }

    /// The leader decides the cluster's version by what its members are. A proposal that gets lost is made again when the
    /// leader next looks.
    pub(super) fn decide_version(&mut self) -> Done {
        let (Leadership::Leads, Some(versions)) = (self.leadership, &self.versions) else { return Ok(()) };
        let decided = apply::cluster_version(&self.store)?;
        let servers: Vec<Option<&str>> = versions.iter().map(Option::as_deref).collect();
        if let Some(version) = version::decide(&servers, decided.as_deref()) {
            self.observer.version_decided(decided.as_deref(), &version);
            let write = propose::cluster_version_set(&mut self.ids, &version);
            self.propose(write);
        }
        Ok(())
    }

    /// The store has another version of the cluster: all that show it hear of it.
    pub(super) fn tell_version(&mut self) -> Done {
        let Some(version) = apply::cluster_version(&self.store)? else { return Ok(()) };
        let own = &self.settings.server_version;
        if version::is_downgrade(own, &version) {
            return Err(Fatal::Downgrade { own: own.clone(), cluster: version });
        }
        self.out.push(Output::ClusterVersion(version.clone()));
        self.tell_raft(ToRaft::ClusterVersion(version));
        Ok(())
    }
}
