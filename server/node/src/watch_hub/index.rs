//! Which watchers want an event: by key, or by a range that holds it.
//!
//! Most watchers name one key or one prefix, and many name the same one. So watchers are kept in groups: one group per
//! distinct key in a hash map, one per distinct range in a tree. A look-up costs one hash plus, for the ranges, the
//! logarithm of their number and the number of ranges that match; how many watchers share a group costs nothing until
//! they are answered.
//!
//! The tree is a treap ordered by (start, end), each node knowing the farthest end below it: whole subtrees that end
//! before the key are skipped. Priorities come from a counter through a mixer, so its shape does not depend on what
//! clients choose, and no randomness is needed.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;

/// What a watcher listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// One key.
    Key(Bytes),
    /// From the first key up to the second, exclusive.
    Range(Bytes, Bytes),
    /// From a key on.
    From(Bytes),
}

impl Span {
    /// The span of a watch request; `None` if it is empty. etcd: an empty key means the smallest one, `\0`.
    pub fn new(key: Bytes, range_end: Bytes) -> Option<Span> {
        let key = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
        match &range_end[..] {
            [] => Some(Span::Key(key)),
            [0] => Some(Span::From(key)),
            end if key < end => Some(Span::Range(key, range_end)),
            _ => None,
        }
    }

    /// Bytes of its keys.
    pub fn key_bytes(&self) -> usize {
        match self {
            Span::Key(key) | Span::From(key) => key.len(),
            Span::Range(key, end) => key.len() + end.len(),
        }
    }
}

/// Watchers that listen to the same span, by their place in the hub. Order is arbitrary but reproducible.
pub(super) type Group = Vec<u32>;

/// All groups.
pub(super) struct Index {
    keys: HashMap<Bytes, Group, Seeded>,
    ranges: Ranges,
}

/// SipHash begun with a seed: clients cannot choose keys that collide, and a simulation repeats itself.
#[derive(Clone)]
struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

impl Index {
    pub fn new(seed: u64) -> Index {
        Index { keys: HashMap::with_hasher(Seeded(seed)), ranges: Ranges::new(seed) }
    }

    /// Forgets all groups; keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.ranges.nodes.clear();
        self.ranges.free.clear();
        self.ranges.root = NIL;
    }

    /// The group of `span`, made if there is none.
    pub fn group_mut(&mut self, span: &Span) -> &mut Group {
        match span {
            Span::Key(key) => self.keys.entry(key.clone()).or_default(),
            Span::Range(start, end) => self.ranges.group_mut(start, Some(end)),
            Span::From(start) => self.ranges.group_mut(start, None),
        }
    }

    /// Forgets the group of `span`, which must be empty.
    pub fn drop_empty(&mut self, span: &Span) {
        match span {
            Span::Key(key) => {
                self.keys.remove(key);
            }
            Span::Range(start, end) => self.ranges.remove(start, Some(end)),
            Span::From(start) => self.ranges.remove(start, None),
        }
    }

    /// Calls `visit` with every group that wants events of `key`.
    pub fn matches(&self, key: &[u8], mut visit: impl FnMut(&[u32])) {
        if let Some(group) = self.keys.get(key) {
            visit(group);
        }
        self.ranges.matches(key, &mut visit);
    }
}

const NIL: u32 = u32::MAX;

struct Node {
    start: Bytes,
    /// `None` is behind every key.
    end: Option<Bytes>,
    /// The farthest end in the subtree.
    farthest: Option<Bytes>,
    group: Group,
    priority: u64,
    left: u32,
    right: u32,
}

struct Ranges {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    draws: u64,
}

/// Order of ends: `None` is the last.
fn compare_ends(a: Option<&Bytes>, b: Option<&Bytes>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

fn ends_behind(end: &Option<Bytes>, key: &[u8]) -> bool {
    end.as_ref().is_none_or(|end| key < end)
}

impl Ranges {
    fn new(seed: u64) -> Ranges {
        Ranges { nodes: Vec::new(), free: Vec::new(), root: NIL, draws: seed }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn compare(&self, start: &Bytes, end: Option<&Bytes>, at: u32) -> Ordering {
        let node = self.node(at);
        start.cmp(&node.start).then_with(|| compare_ends(end, node.end.as_ref()))
    }

    fn group_mut(&mut self, start: &Bytes, end: Option<&Bytes>) -> &mut Group {
        let at = match self.find(start, end) {
            NIL => self.insert(start, end),
            at => at,
        };
        &mut self.node_mut(at).group
    }

    fn find(&self, start: &Bytes, end: Option<&Bytes>) -> u32 {
        let mut at = self.root;
        while at != NIL {
            at = match self.compare(start, end, at) {
                Ordering::Less => self.node(at).left,
                Ordering::Greater => self.node(at).right,
                Ordering::Equal => return at,
            };
        }
        NIL
    }

    fn insert(&mut self, start: &Bytes, end: Option<&Bytes>) -> u32 {
        self.draws = self.draws.wrapping_add(1);
        let node = Node {
            start: start.clone(),
            end: end.cloned(),
            farthest: end.cloned(),
            group: Group::new(),
            priority: super::mix(self.draws),
            left: NIL,
            right: NIL,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.node_mut(at) = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        let (less, greater) = self.split(self.root, start, end);
        let left = self.merge(less, at);
        self.root = self.merge(left, greater);
        at
    }

    fn remove(&mut self, start: &Bytes, end: Option<&Bytes>) {
        self.root = self.remove_below(self.root, start, end);
    }

    fn remove_below(&mut self, at: u32, start: &Bytes, end: Option<&Bytes>) -> u32 {
        if at == NIL {
            return NIL;
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        match self.compare(start, end, at) {
            Ordering::Less => self.node_mut(at).left = self.remove_below(left, start, end),
            Ordering::Greater => self.node_mut(at).right = self.remove_below(right, start, end),
            Ordering::Equal => {
                let node = self.node_mut(at);
                debug_assert!(node.group.is_empty());
                (node.start, node.end, node.farthest) = (Bytes::new(), None, None);
                node.group = Group::new();
                self.free.push(at);
                return self.merge(left, right);
            }
        }
        self.update(at);
        at
    }

    /// Parts the subtree into what comes before (start, end) and the rest.
    fn split(&mut self, at: u32, start: &Bytes, end: Option<&Bytes>) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        if self.compare(start, end, at) == Ordering::Greater {
            let (less, greater) = self.split(self.node(at).right, start, end);
            self.node_mut(at).right = less;
            self.update(at);
            (at, greater)
        } else {
            let (less, greater) = self.split(self.node(at).left, start, end);
            self.node_mut(at).left = greater;
            self.update(at);
            (less, at)
        }
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return if left == NIL { right } else { left };
        }
        let top = if self.node(left).priority > self.node(right).priority {
            let below = self.merge(self.node(left).right, right);
            self.node_mut(left).right = below;
            left
        } else {
            let below = self.merge(left, self.node(right).left);
            self.node_mut(right).left = below;
            right
        };
        self.update(top);
        top
    }

    fn update(&mut self, at: u32) {
        let node = self.node(at);
        let mut farthest = node.end.as_ref();
        for child in [node.left, node.right] {
            if child != NIL {
                let below = self.node(child).farthest.as_ref();
                if compare_ends(below, farthest) == Ordering::Greater {
                    farthest = below;
                }
            }
        }
        let farthest = farthest.cloned();
        self.node_mut(at).farthest = farthest;
    }

    fn matches(&self, key: &[u8], visit: &mut impl FnMut(&[u32])) {
        // A stack of its own: the tree's depth is logarithmic only on average.
        let mut open = smallvec::SmallVec::<[u32; 64]>::new();
        open.push(self.root);
        while let Some(at) = open.pop() {
            if at == NIL || !ends_behind(&self.node(at).farthest, key) {
                continue;
            }
            let node = self.node(at);
            open.push(node.left);
            if node.start <= key {
                if ends_behind(&node.end, key) {
                    visit(&node.group);
                }
                open.push(node.right);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(index: &Index, key: &[u8]) -> Vec<u32> {
        let mut all = Vec::new();
        index.matches(key, |group| all.extend_from_slice(group));
        all.sort_unstable();
        all
    }

    #[test]
    fn spans_are_those_of_etcd() {
        let span = |key: &'static str, end: &'static str| Span::new(key.into(), end.into());
        assert_eq!(span("a", ""), Some(Span::Key("a".into())));
        assert_eq!(span("", ""), Some(Span::Key("\0".into())));
        assert_eq!(span("a", "\0"), Some(Span::From("a".into())));
        assert_eq!(span("", "\0"), Some(Span::From("\0".into())));
        assert_eq!(span("a", "b"), Some(Span::Range("a".into(), "b".into())));
        assert_eq!(span("b", "b"), None);
        assert_eq!(span("b", "a"), None);
        assert_eq!(span("\0", "\0"), Some(Span::From("\0".into())));
    }

    #[test]
    fn watchers_of_one_range_share_a_node() {
        let mut index = Index::new(1);
        let span = Span::new("a".into(), "b".into()).unwrap();
        for watcher in 0..1000 {
            index.group_mut(&span).push(watcher);
        }
        assert_eq!(index.ranges.nodes.len(), 1);
        assert_eq!(found(&index, b"a1").len(), 1000);
        assert!(found(&index, b"b").is_empty());
    }

    fn span_strategy() -> impl Strategy<Value = Span> {
        let key = "[a-d]{1,3}";
        (key, prop_oneof![Just(String::new()), Just("\0".to_owned()), key.prop_map(|k| k)])
            .prop_filter_map("empty range", |(key, end)| Span::new(key.into(), end.into()))
    }

    fn contains(span: &Span, key: &[u8]) -> bool {
        match span {
            Span::Key(only) => only == key,
            Span::From(start) => start <= key,
            Span::Range(start, end) => start <= key && key < end,
        }
    }

    proptest! {
        /// Against a plain list, with removals in between.
        #[test]
        fn finds_what_a_list_finds(
            seed: u64,
            spans in prop::collection::vec((span_strategy(), any::<bool>()), 1..60),
            keys in prop::collection::vec("[a-e]{1,3}", 20),
        ) {
            let mut index = Index::new(seed);
            let mut list: Vec<(u32, Span)> = Vec::new();
            for (watcher, (span, drop_first)) in spans.into_iter().enumerate() {
                if drop_first && !list.is_empty() {
                    let (gone, span) = list.remove(0);
                    let group = index.group_mut(&span);
                    group.retain(|w| *w != gone);
                    if group.is_empty() {
                        index.drop_empty(&span);
                    }
                }
                index.group_mut(&span).push(watcher as u32);
                list.push((watcher as u32, span));
            }
            for key in keys {
                let want: Vec<u32> =
                    list.iter().filter(|(_, span)| contains(span, key.as_bytes())).map(|(w, _)| *w).collect();
                prop_assert_eq!(found(&index, key.as_bytes()), want, "key {}", key);
            }
        }
    }
}
