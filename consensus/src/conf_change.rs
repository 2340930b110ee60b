//! One change of the membership, in the bytes of etcd's `raftpb.ConfChange`.
//!
//! | field | number | wire type | |
//! |---|---|---|---|
//! | id | 1 | varint | request id of the proposer, so that it can find its answer |
//! | type | 2 | varint | 0 add node, 1 remove node, 2 update node, 3 add learner |
//! | node_id | 3 | varint | whom |
//! | context | 4 | bytes | etcd: the member as JSON |
//!
//! Fields 1 to 3 are always written, also when zero, as etcd does (gogoproto, proto2). The numbers of `type` are etcd's;
//! the `raft` crate counts differently (2 is its learner), so its types never meet these bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::NodeId;

/// What is done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// It becomes a voter: a new member, or a promoted learner.
    AddNode,
    /// It leaves for good.
    RemoveNode,
    /// Only what the context says about it changes.
    UpdateNode,
    /// It receives entries without voting.
    AddLearnerNode,
}

/// A change of the membership. Raft allows one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// Request id of the proposer; zero in bootstrap entries.
    pub id: u64,
    /// What is done.
    pub kind: ConfChangeKind,
    /// To whom.
    pub node: NodeId,
    /// Not read here. etcd: the member as JSON.
    pub context: Bytes,
}

/// The bytes of an entry are not a `raftpb.ConfChange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidConfChange;

impl std::fmt::Display for InvalidConfChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a raftpb.ConfChange")
    }
}

impl std::error::Error for InvalidConfChange {}

impl ConfChange {
    /// The bytes that go into an entry.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.context.len());
        out.put_u8(1 << 3);
        put_varint(&mut out, self.id);
        out.put_u8(2 << 3);
        put_varint(&mut out, self.kind.number());
        out.put_u8(3 << 3);
        put_varint(&mut out, self.node.0);
        if !self.context.is_empty() {
            out.put_u8(4 << 3 | 2);
            put_varint(&mut out, self.context.len() as u64);
            out.put_slice(&self.context);
        }
        out.freeze()
    }

    /// Reads an entry's bytes; unknown fields are skipped, missing ones are zero. The context shares `data`.
    pub fn decode(data: &Bytes) -> Result<ConfChange, InvalidConfChange> {
        let (mut id, mut kind, mut node, mut context) = (0, 0, 0, Bytes::new());
        let mut rest = data.clone();
        while !rest.is_empty() {
            let tag = take_varint(&mut rest)?;
            match (tag >> 3, tag & 7) {
                (1, 0) => id = take_varint(&mut rest)?,
                (2, 0) => kind = take_varint(&mut rest)?,
                (3, 0) => node = take_varint(&mut rest)?,
                (4, 2) => context = take_bytes(&mut rest)?,
                (_, 0) => drop(take_varint(&mut rest)?),
                (_, 2) => drop(take_bytes(&mut rest)?),
                (_, 1) => drop(take(&mut rest, 8)?),
                (_, 5) => drop(take(&mut rest, 4)?),
                _ => return Err(InvalidConfChange),
            }
        }
        let kind = ConfChangeKind::from_number(kind).ok_or(InvalidConfChange)?;
        Ok(ConfChange { id, kind, node: NodeId(node), context })
    }

    /// The form in which raft applies it; `None` where raft's configuration stays as it is.
    pub(crate) fn to_raft(&self) -> Option<raft::eraftpb::ConfChange> {
        use raft::eraftpb::ConfChangeType as Raft;
        let kind = match self.kind {
            ConfChangeKind::AddNode => Raft::AddNode,
            ConfChangeKind::RemoveNode => Raft::RemoveNode,
            ConfChangeKind::AddLearnerNode => Raft::AddLearnerNode,
            ConfChangeKind::UpdateNode => return None,
        };
        let mut change = raft::eraftpb::ConfChange { node_id: self.node.0, ..Default::default() };
        change.set_change_type(kind);
        Some(change)
    }
}

impl ConfChangeKind {
    fn number(self) -> u64 {
        match self {
            ConfChangeKind::AddNode => 0,
            ConfChangeKind::RemoveNode => 1,
            ConfChangeKind::UpdateNode => 2,
            ConfChangeKind::AddLearnerNode => 3,
        }
    }

    fn from_number(number: u64) -> Option<ConfChangeKind> {
        Some(match number {
            0 => ConfChangeKind::AddNode,
            1 => ConfChangeKind::RemoveNode,
            2 => ConfChangeKind::UpdateNode,
            3 => ConfChangeKind::AddLearnerNode,
            _ => return None,
        })
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(from: &mut Bytes) -> Result<u64, InvalidConfChange> {
    let mut value = 0;
    for (i, &byte) in from.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return Err(InvalidConfChange);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            drop(from.split_to(i + 1));
            return Ok(value);
        }
    }
    Err(InvalidConfChange)
}

fn take_bytes(from: &mut Bytes) -> Result<Bytes, InvalidConfChange> {
    let len = take_varint(from)?;
    take(from, usize::try_from(len).map_err(|_| InvalidConfChange)?)
}

fn take(from: &mut Bytes, len: usize) -> Result<Bytes, InvalidConfChange> {
    if from.len() < len {
        return Err(InvalidConfChange);
    }
    Ok(from.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(id: u64, kind: ConfChangeKind, node: u64, context: &'static str) -> ConfChange {
        ConfChange { id, kind, node: NodeId(node), context: Bytes::from_static(context.as_bytes()) }
    }

    #[test]
    fn bytes_are_those_of_etcd() {
        use ConfChangeKind::*;
        // Byte by byte from etcd's generated marshaller: fields 1 to 3 always, 4 if there is a context.
        let cases: [(ConfChange, &[u8]); 4] = [
            (change(0, AddNode, 1, "{}"), &[0x08, 0, 0x10, 0, 0x18, 1, 0x22, 2, b'{', b'}']),
            (change(300, RemoveNode, 2, ""), &[0x08, 0xac, 0x02, 0x10, 1, 0x18, 2]),
            (change(0, UpdateNode, 127, ""), &[0x08, 0, 0x10, 2, 0x18, 127]),
            (change(0, AddLearnerNode, 128, ""), &[0x08, 0, 0x10, 3, 0x18, 0x80, 0x01]),
        ];
        for (change, bytes) in cases {
            assert_eq!(&change.encode()[..], bytes, "{change:?}");
            assert_eq!(ConfChange::decode(&Bytes::copy_from_slice(bytes)).unwrap(), change);
        }
    }

    #[test]
    fn decode_refuses_what_is_not_a_conf_change() {
        let cases: [(&str, &[u8]); 5] = [
            ("truncated varint", &[0x08, 0x80]),
            ("context longer than the entry", &[0x22, 5, 1]),
            ("a group", &[0x0b]),
            ("unknown kind", &[0x10, 9]),
            ("varint of eleven bytes", &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ];
        for (name, bytes) in cases {
            let got = ConfChange::decode(&Bytes::copy_from_slice(bytes));
            assert_eq!(got, Err(InvalidConfChange), "{name}");
        }
        // Unknown fields of each wire type are skipped.
        let unknown = [0x28, 1, 0x32, 1, 7, 0x39, 1, 2, 3, 4, 5, 6, 7, 8, 0x45, 1, 2, 3, 4, 0x18, 9];
        assert_eq!(ConfChange::decode(&Bytes::copy_from_slice(&unknown)).unwrap().node, NodeId(9));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(change) = ConfChange::decode(&Bytes::from(bytes)) {
                prop_assert_eq!(ConfChange::decode(&change.encode()).unwrap(), change);
            }
        }
    }
}
