//! From a checked request to the data of a Raft entry, and back.
//!
//! An entry holds etcd's `InternalRaftRequest`: the header (field 100) with an ID that is unique in the cluster, then
//! one request under the field number of its kind. The client's message travels verbatim; only a LeaseGrant without an
//! ID gets one appended, because all members must grant the same (a later field wins when protobuf is decoded).
//!
//! ```text
//! a2 06 <len> 08 <ID varint>      header { ID }
//!          … [78 <term varint>]   of a lease's expiry: in which term it was found (field 15, ours; etcd skips it)
//!          … [70 <index varint>]  and which entry had granted that lease (field 14, ours)
//! <field << 3 | 2> <len> <bytes>  the request, as the client sent it
//! ```
//!
//! The member that proposed keeps the decoded [`Command`] beside the entry; the others, and a replay, decode it here.

use bytes::{BufMut, Bytes, BytesMut};
use engine::lease::Checkpoint;
use engine::{DeleteOptions, LeaseId, PutOptions, Txn};
use net::pb::etcdserverpb as pb;
use net::pb::membershippb;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field};

use crate::convert;
use crate::lease::Expired;

mod forwarded;

pub use forwarded::Forwarded;

/// Field numbers of `InternalRaftRequest` that we write or understand.
pub mod field {
    #![expect(missing_docs, reason = "the names are the protocol's")]
    pub const PUT: u32 = 4;
    pub const DELETE_RANGE: u32 = 5;
    pub const TXN: u32 = 6;
    pub const COMPACTION: u32 = 7;
    pub const LEASE_GRANT: u32 = 8;
    pub const LEASE_REVOKE: u32 = 9;
    pub const ALARM: u32 = 10;
    pub const LEASE_CHECKPOINT: u32 = 11;
    pub const HEADER: u32 = 100;
    pub const CLUSTER_VERSION_SET: u32 = 1300;
    pub const CLUSTER_MEMBER_ATTR_SET: u32 = 1301;
}

/// Field of the entry's header that says in which term a lease was found expired.
const TERM_IN_HEADER: u32 = 15;

/// Field of the entry's header that says which entry had granted the lease that was found expired.
const GRANT_IN_HEADER: u32 = 14;

/// What a normal entry asks of the store, decoded.
#[derive(Clone, Debug)]
pub enum Command {
    /// Put one key.
    Put(PutOptions),
    /// Delete keys.
    DeleteRange(DeleteOptions),
    /// A transaction that may write.
    Txn(Txn),
    /// Forget history before `revision`; with `physical` the answer waits until the rows are gone.
    Compact {
        /// The new compact revision.
        revision: i64,
        /// Answer only when the rows are deleted.
        physical: bool,
    },
    /// Grant a lease.
    LeaseGrant {
        /// Never 0 here.
        id: i64,
        /// Seconds asked for.
        ttl: i64,
    },
    /// Revoke a lease and delete its keys, asked by a client.
    LeaseRevoke {
        /// The lease.
        id: i64,
    },
    /// Revoke a lease that the leader of `term` found expired: in any other term it does nothing, because a leader
    /// after that one may have heard of a keep-alive.
    LeaseExpire {
        /// The lease.
        id: i64,
        /// The term of the leader that proposes it.
        term: u64,
        /// Index of the entry that granted it: a lease that was granted later under the same number lives on. `None`
        /// in entries of before this was said: whichever has the number.
        granted_at: Option<u64>,
    },
    /// Write down what is left of leases, as the leader of `term` knows it: in any other term it does nothing. The
    /// header says the term as that of an expiry does; `None`: in any term.
    LeaseCheckpoint {
        /// The term of the leader that proposes it.
        term: Option<u64>,
        /// What is left.
        checkpoints: Vec<Checkpoint>,
    },
    /// List, raise or clear alarms.
    Alarm(pb::AlarmRequest),
    /// The version that all members have reached.
    ClusterVersionSet {
        /// `X.Y.0`.
        version: String,
    },
    /// A member makes its name and client URLs known.
    ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest),
    /// An empty entry (a new leader's first), or a request without effect here.
    Nothing,
}

/// A command and the entry that says the same.
#[derive(Clone, Debug)]
pub struct Write {
    /// What the local member applies.
    pub command: Command,
    /// What the log keeps.
    pub entry: Bytes,
    /// The ID in the entry's header.
    pub id: u64,
}

/// Makes IDs that no other member, no other core of this member and no earlier run of it makes: 2 bytes of the member's
/// id, 5 bytes of the milliseconds at start, 1 byte of counter that runs over into them (etcd `pkg/idutil`).
#[derive(Clone, Debug)]
pub struct IdGenerator {
    prefix: u64,
    suffix: u64,
    stride: u64,
}

impl IdGenerator {
    /// A generator for one of `lanes` cores (`lane` counts from 0) of `member`, started at `unix_ms`.
    pub fn new(member: u64, unix_ms: u64, lane: u16, lanes: u16) -> IdGenerator {
        let suffix = ((unix_ms & 0xff_ffff_ffff) << 8).wrapping_add(u64::from(lane));
        IdGenerator { prefix: member << 48, suffix, stride: u64::from(lanes.max(1)) }
    }

    /// All that it is: prefix, suffix, stride.
    pub(crate) fn parts(&self) -> [u64; 3] {
        [self.prefix, self.suffix, self.stride]
    }

    /// The one of these parts.
    pub(crate) fn of_parts([prefix, suffix, stride]: [u64; 3]) -> IdGenerator {
        IdGenerator { prefix, suffix, stride }
    }

    /// The next ID; never 0 in practice and never the same twice within 2^48 calls.
    pub fn next_id(&mut self) -> u64 {
        self.suffix = self.suffix.wrapping_add(self.stride);
        self.prefix | (self.suffix & 0xffff_ffff_ffff)
    }

    /// A positive lease ID.
    pub fn next_lease(&mut self) -> i64 {
        loop {
            // The sign bit is cut off, as etcd does.
            let id = (self.next_id() & (u64::MAX >> 1)) as i64;
            if id != 0 {
                return id;
            }
        }
    }
}

/// The entry for `message` under `field`, followed by `suffix`, which overrides fields of the message.
pub fn encode(id: u64, field: u32, message: &[u8], suffix: &[u8]) -> Bytes {
    encode_with(id, &[], field, message, suffix)
}

/// `more`: fields of the header behind the ID, all varints below field 16.
fn encode_with(id: u64, more: &[(u32, u64)], field: u32, message: &[u8], suffix: &[u8]) -> Bytes {
    let more_size: usize = more.iter().map(|&(_, value)| 1 + encoded_len_varint(value)).sum();
    let header_size = 1 + encoded_len_varint(id) + more_size;
    let request_size = message.len() + suffix.len();
    let key = u64::from(field) << 3 | 2;
    let size = 2
        + 1
        + header_size
        + encoded_len_varint(key)
        + encoded_len_varint(request_size as u64)
        + request_size;
    let mut out = BytesMut::with_capacity(size);
    encode_varint(u64::from(field::HEADER) << 3 | 2, &mut out);
    out.put_u8(header_size as u8);
    out.put_u8(0x08);
    encode_varint(id, &mut out);
    for &(field, value) in more {
        out.put_u8((field << 3) as u8);
        encode_varint(value, &mut out);
    }
    encode_varint(key, &mut out);
    encode_varint(request_size as u64, &mut out);
    out.put_slice(message);
    out.put_slice(suffix);
    debug_assert_eq!(out.len(), size);
    out.freeze()
}

/// The ID in an entry's header, where the entry begins with one as [`encode`] writes it.
pub fn request_id(mut entry: &[u8]) -> Option<u64> {
    let key = decode_varint(&mut entry).ok()?;
    let header_size = decode_varint(&mut entry).ok()?;
    let mut header = entry.get(..usize::try_from(header_size).ok()?)?;
    let is_header = key == u64::from(field::HEADER) << 3 | 2 && header.first() == Some(&0x08);
    header = header.get(1..)?;
    is_header.then(|| decode_varint(&mut header).ok()).flatten()
}

/// The bytes that set field 2 (`ID`) of a LeaseGrantRequest.
pub(crate) fn lease_id_field(id: i64) -> Vec<u8> {
    let mut out = vec![0x10];
    encode_varint(id as u64, &mut out);
    out
}

/// The revocation of a lease that the leader of `term` found expired.
pub fn lease_expired(ids: &mut IdGenerator, expired: Expired, term: u64) -> Write {
    let Expired { lease, granted_at } = expired;
    let message = pb::LeaseRevokeRequest { id: lease }.encode_to_vec();
    let id = ids.next_id();
    let more = [(TERM_IN_HEADER, term), (GRANT_IN_HEADER, granted_at)];
    let entry = encode_with(id, &more, field::LEASE_REVOKE, &message, &[]);
    let command = Command::LeaseExpire { id: lease, term, granted_at: Some(granted_at) };
    Write { command, entry, id }
}

/// What the leader of `term` knows to be left of these leases.
///
/// ```text
/// 0a <len> 08 <ID varint> 10 <remaining_TTL varint> 70 <index varint>   for each; field 14, the entry that granted it, is ours
/// ```
pub fn lease_checkpoint(ids: &mut IdGenerator, checkpoints: Vec<Checkpoint>, term: u64) -> Write {
    let row = |one: &Checkpoint| OwnCheckpoint {
        id: one.lease.0,
        remaining_ttl: one.remaining_ttl,
        granted_at: one.granted_at,
    };
    let request = OwnCheckpoints { checkpoints: checkpoints.iter().map(row).collect() };
    let id = ids.next_id();
    let more = [(TERM_IN_HEADER, term)];
    let entry = encode_with(id, &more, field::LEASE_CHECKPOINT, &request.encode_to_vec(), &[]);
    Write { command: Command::LeaseCheckpoint { term: Some(term), checkpoints }, entry, id }
}

/// etcd's `LeaseCheckpointRequest`, and which entry granted each lease.
#[derive(Clone, PartialEq, Message)]
struct OwnCheckpoints {
    #[prost(message, repeated, tag = "1")]
    checkpoints: Vec<OwnCheckpoint>,
}

/// See [`OwnCheckpoints`].
#[derive(Clone, PartialEq, Message)]
struct OwnCheckpoint {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    remaining_ttl: i64,
    #[prost(uint64, tag = "14")]
    granted_at: u64,
}

/// A compaction that the server asks for itself; its rows go in the background.
pub fn compact(ids: &mut IdGenerator, revision: i64) -> Write {
    let message = pb::CompactionRequest { revision, physical: false }.encode_to_vec();
    own(ids, field::COMPACTION, &message, Command::Compact { revision, physical: false })
}

/// Raises an alarm of `member`.
pub fn raise_alarm(ids: &mut IdGenerator, member: u64, alarm: pb::AlarmType) -> Write {
    let request = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: member,
        alarm: alarm as i32,
    };
    own(ids, field::ALARM, &request.encode_to_vec(), Command::Alarm(request))
}

/// Makes the cluster version (`X.Y.0`) known.
pub fn cluster_version_set(ids: &mut IdGenerator, version: &str) -> Write {
    let message = membershippb::ClusterVersionSetRequest { ver: version.to_owned() }.encode_to_vec();
    own(ids, field::CLUSTER_VERSION_SET, &message, Command::ClusterVersionSet { version: version.to_owned() })
}

/// Makes a member's name and client URLs known.
pub fn member_attributes_set(
    ids: &mut IdGenerator,
    member: u64,
    name: &str,
    client_urls: &[String],
) -> Write {
    let request = membershippb::ClusterMemberAttrSetRequest {
        member_id: member,
        member_attributes: Some(membershippb::Attributes {
            name: name.to_owned(),
            client_urls: client_urls.to_vec(),
        }),
    };
    let message = request.encode_to_vec();
    own(ids, field::CLUSTER_MEMBER_ATTR_SET, &message, Command::ClusterMemberAttrSet(request))
}

fn own(ids: &mut IdGenerator, field: u32, message: &[u8], command: Command) -> Write {
    let id = ids.next_id();
    Write { command, entry: encode(id, field, message, &[]), id }
}

/// Why the data of a committed entry cannot be understood. Every member would fail alike, and none may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// Not an `InternalRaftRequest`.
    Malformed(String),
    /// A request that this version does not know; skipping it would let members differ.
    Unsupported {
        /// Its field number in `InternalRaftRequest`.
        field: u32,
    },
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryError::Malformed(why) => write!(f, "entry is not an InternalRaftRequest: {why}"),
            EntryError::Unsupported { field } => {
                write!(f, "entry holds a request of field {field}, which this version cannot apply")
            }
        }
    }
}

impl std::error::Error for EntryError {}

impl From<prost::DecodeError> for EntryError {
    fn from(error: prost::DecodeError) -> EntryError {
        EntryError::Malformed(error.to_string())
    }
}

/// What a committed normal entry asks for. `data` is shared, not copied.
pub fn decode(data: &Bytes) -> Result<Command, EntryError> {
    let mut rest = data.clone();
    let mut command = Command::Nothing;
    let mut header = OwnHeader::default();
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, number, &mut rest, Default::default())?;
            continue;
        }
        let size = decode_varint(&mut rest)?;
        if size > rest.len() as u64 {
            return Err(EntryError::Malformed(format!("field {number} is cut off")));
        }
        let message = rest.split_to(size as usize);
        match number {
            field::HEADER => header = OwnHeader::decode(message)?,
            number => command = decode_request(number, message)?,
        }
    }
    Ok(match (command, header.term) {
        (Command::LeaseRevoke { id }, Some(term)) => {
            Command::LeaseExpire { id, term, granted_at: header.granted_at }
        }
        (Command::LeaseCheckpoint { checkpoints, .. }, term) => {
            Command::LeaseCheckpoint { term, checkpoints }
        }
        (command, _) => command,
    })
}

/// The fields of an entry's header that are not etcd's.
#[derive(Default)]
struct OwnHeader {
    term: Option<u64>,
    granted_at: Option<u64>,
}

impl OwnHeader {
    fn decode(mut header: Bytes) -> Result<OwnHeader, EntryError> {
        let mut own = OwnHeader::default();
        while !header.is_empty() {
            match decode_key(&mut header)? {
                (TERM_IN_HEADER, WireType::Varint) => own.term = Some(decode_varint(&mut header)?),
                (GRANT_IN_HEADER, WireType::Varint) => own.granted_at = Some(decode_varint(&mut header)?),
                (number, wire) => skip_field(wire, number, &mut header, Default::default())?,
            }
        }
        Ok(own)
    }
}

fn decode_request(number: u32, message: Bytes) -> Result<Command, EntryError> {
    Ok(match number {
        field::PUT => Command::Put(convert::put(pb::PutRequest::decode(message)?)),
        field::DELETE_RANGE => {
            Command::DeleteRange(convert::delete(pb::DeleteRangeRequest::decode(message)?))
        }
        field::TXN => Command::Txn(convert::txn(pb::TxnRequest::decode(message)?)),
        field::COMPACTION => {
            let request = pb::CompactionRequest::decode(message)?;
            Command::Compact { revision: request.revision, physical: request.physical }
        }
        field::LEASE_GRANT => {
            let request = pb::LeaseGrantRequest::decode(message)?;
            Command::LeaseGrant { id: request.id, ttl: request.ttl }
        }
        field::LEASE_REVOKE => Command::LeaseRevoke { id: pb::LeaseRevokeRequest::decode(message)?.id },
        field::LEASE_CHECKPOINT => {
            let of = |one: OwnCheckpoint| Checkpoint {
                lease: LeaseId(one.id),
                granted_at: one.granted_at,
                remaining_ttl: one.remaining_ttl,
            };
            let checkpoints = OwnCheckpoints::decode(message)?.checkpoints.into_iter().map(of).collect();
            Command::LeaseCheckpoint { term: None, checkpoints }
        }
        field::ALARM => Command::Alarm(pb::AlarmRequest::decode(message)?),
        field::CLUSTER_VERSION_SET => {
            let request = membershippb::ClusterVersionSetRequest::decode(message)?;
            Command::ClusterVersionSet { version: request.ver }
        }
        field::CLUSTER_MEMBER_ATTR_SET => {
            Command::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest::decode(message)?)
        }
        field => return Err(EntryError::Unsupported { field }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_header_and_the_message_verbatim() {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let entry = encode(0x81, field::PUT, &put.encode_to_vec(), &[]);
        let golden = b"\xa2\x06\x03\x08\x81\x01\x22\x06\x0a\x01k\x12\x01v";
        assert_eq!(&entry[..], golden);
        let whole = pb::InternalRaftRequest::decode(entry.clone()).unwrap();
        assert_eq!(whole.header.unwrap().id, 0x81);
        assert_eq!(whole.put.unwrap(), put);
        assert!(matches!(decode(&entry), Ok(Command::Put(p)) if p.key == "k" && p.value == "v"));
    }

    #[test]
    fn fields_above_15_and_1299_have_longer_tags() {
        let mut ids = IdGenerator::new(1, 2, 0, 1);
        let write = member_attributes_set(&mut ids, 7, "a", &["http://x".to_owned()]);
        let whole = pb::InternalRaftRequest::decode(write.entry.clone()).unwrap();
        assert_eq!(whole.header.unwrap().id, write.id);
        assert_eq!(whole.cluster_member_attr_set.unwrap().member_id, 7);
        assert!(matches!(decode(&write.entry), Ok(Command::ClusterMemberAttrSet(r)) if r.member_id == 7));
        let write = cluster_version_set(&mut ids, "3.7.0");
        assert!(
            matches!(decode(&write.entry), Ok(Command::ClusterVersionSet { version }) if version == "3.7.0")
        );
    }

    #[test]
    fn a_lease_id_chosen_here_wins_over_the_message() {
        let message = pb::LeaseGrantRequest { ttl: 60, id: 0 }.encode_to_vec();
        let entry = encode(1, field::LEASE_GRANT, &message, &lease_id_field(77));
        assert!(matches!(decode(&entry), Ok(Command::LeaseGrant { id: 77, ttl: 60 })));
    }

    #[test]
    fn an_expired_lease_says_in_which_term_it_was_found_and_which_it_was() {
        let mut ids = IdGenerator::new(0, 0, 0, 1);
        let write = lease_expired(&mut ids, Expired { lease: 5, granted_at: 129 }, 300);
        assert_eq!(&write.entry[..], b"\xa2\x06\x08\x08\x01\x78\xac\x02\x70\x81\x01\x4a\x02\x08\x05");
        assert!(matches!(
            decode(&write.entry),
            Ok(Command::LeaseExpire { id: 5, term: 300, granted_at: Some(129) })
        ));
        let before_grants_were_named =
            Bytes::from_static(b"\xa2\x06\x05\x08\x01\x78\xac\x02\x4a\x02\x08\x05");
        assert!(matches!(
            decode(&before_grants_were_named),
            Ok(Command::LeaseExpire { id: 5, term: 300, granted_at: None })
        ));
        assert_eq!(request_id(&write.entry), Some(write.id));
        // etcd reads the same revocation, and a client that sends the field in its own message gets no expiry.
        let whole = pb::InternalRaftRequest::decode(write.entry.clone()).unwrap();
        assert_eq!((whole.header.unwrap().id, whole.lease_revoke.unwrap().id), (write.id, 5));
        let sly = encode(1, field::LEASE_REVOKE, b"\x08\x05\x78\x07", &[]);
        assert!(matches!(decode(&sly), Ok(Command::LeaseRevoke { id: 5 })));
    }

    #[test]
    fn a_checkpoint_says_what_is_left_of_which_grant() {
        let mut ids = IdGenerator::new(0, 0, 0, 1);
        let left = |lease, granted_at, remaining_ttl| Checkpoint {
            lease: LeaseId(lease),
            granted_at,
            remaining_ttl,
        };
        let all = vec![left(5, 129, 300), left(6, 2, 0)];
        let write = lease_checkpoint(&mut ids, all.clone(), 7);
        let golden = b"\xa2\x06\x04\x08\x01\x78\x07\x5a\x10\x0a\x08\x08\x05\x10\xac\x02\x70\x81\x01\x0a\x04\x08\x06\x70\x02";
        assert_eq!(&write.entry[..], golden);
        match decode(&write.entry).unwrap() {
            Command::LeaseCheckpoint { term: Some(7), checkpoints } => assert_eq!(checkpoints, all),
            other => panic!("{other:?}"),
        }
        // etcd reads the same, but for which grant it is.
        let whole = pb::InternalRaftRequest::decode(write.entry).unwrap();
        let rows = whole.lease_checkpoint.unwrap().checkpoints;
        let rows: Vec<_> = rows.iter().map(|row| (row.id, row.remaining_ttl)).collect();
        assert_eq!(rows, [(5, 300), (6, 0)]);
    }

    #[test]
    fn broken_entries_are_errors_not_panics() {
        let good = raise_alarm(&mut IdGenerator::new(1, 2, 0, 1), 5, pb::AlarmType::Nospace).entry;
        for cut in 1..good.len() {
            // a cut between two fields leaves a valid message: the header alone
            let part = good.slice(..cut);
            match decode(&part) {
                Ok(Command::Nothing) => assert!(pb::InternalRaftRequest::decode(part).is_ok(), "cut={cut}"),
                Ok(other) => panic!("cut={cut} gave {other:?}"),
                Err(EntryError::Malformed(_)) => {}
                Err(other) => panic!("cut={cut} gave {other:?}"),
            }
        }
        assert_eq!(decode(&encode(1, 1000, b"", b"")).unwrap_err(), EntryError::Unsupported { field: 1000 });
        assert!(matches!(decode(&Bytes::new()), Ok(Command::Nothing)));
    }

    #[test]
    fn ids_differ_between_cores_members_and_starts() {
        let mut seen = std::collections::HashSet::new();
        for member in [1, 2] {
            for ms in [1_700_000_000_000, 1_700_000_000_500] {
                for lane in 0..3 {
                    let mut ids = IdGenerator::new(member, ms, lane, 3);
                    for _ in 0..1000 {
                        assert!(seen.insert(ids.next_id()), "member={member} ms={ms} lane={lane}");
                    }
                }
            }
        }
        let mut ids = IdGenerator::new(0xffff, u64::MAX, 0, 1);
        assert!((0..1000).all(|_| ids.next_lease() > 0));
    }
}
