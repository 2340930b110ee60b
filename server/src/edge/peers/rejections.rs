//! What the log says of connections that are not let in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::config::limits::PEER_REJECTIONS_TOLD_MAX;

/// A member that is not let in tries again and again: each address is told of once per reason, not once per attempt.
#[derive(Clone, Default)]
pub(super) struct Rejections(Rc<RefCell<BTreeMap<IpAddr, String>>>);

impl Rejections {
    /// Writes a line (etcd's words) unless the last of that address was the same.
    pub fn tell(&self, remote: Option<SocketAddr>, why: &str) {
        let Some(remote) = remote else { return };
        if self.note(remote.ip(), why) {
            tracing::warn!(remote = %remote, error = why, "rejected connection on peer endpoint");
        }
    }

    /// Addresses whose last rejection is kept.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether it is to be told. At the bound all is forgotten, and told anew.
    fn note(&self, remote: IpAddr, why: &str) -> bool {
        let mut told = self.0.borrow_mut();
        if told.get(&remote).is_some_and(|last| last == why) {
            return false;
        }
        if told.len() >= PEER_REJECTIONS_TOLD_MAX {
            told.clear();
        }
        told.insert(remote, why.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_once_per_reason() {
        let rejections = Rejections::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        for (last, why, want) in
            [(1, "a", true), (1, "a", false), (2, "a", true), (1, "b", true), (1, "a", true), (2, "a", false)]
        {
            assert_eq!(rejections.note(address(last), why), want, "{last} {why}");
        }
        for i in 0..=u8::MAX {
            rejections.note(address(i), "c");
            assert!(rejections.0.borrow().len() <= PEER_REJECTIONS_TOLD_MAX);
        }
    }
}
