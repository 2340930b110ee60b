//! What goes in and what comes out: revisions, request options, outcomes.
//!
//! Requests carry the client's bytes as [`Bytes`], so that decoding a message copies nothing. The
//! names and the meaning of every field are those of etcd's `rpc.proto`.

use bytes::Bytes;

/// Version of the whole key space: `main` counts transactions, `sub` the changes inside one.
/// The derived order is the order of history, so the order of these fields matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store's revision that this change made; what clients call `mod_revision`.
    pub main: i64,
    /// Position of the change within its transaction, from 0.
    pub sub: i64,
}

impl Revision {
    /// The first change of transaction `main`, whether or not there is one.
    pub fn start_of(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }
}

/// Id of a lease. Zero means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// A key without a lease.
    pub const NONE: LeaseId = LeaseId(0);
}

/// `RangeRequest.SortOrder`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Key order; with a target other than the key it means ascending.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// `RangeRequest.SortTarget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The number of puts since the key was created.
    Version,
    /// The revision that created the key.
    Create,
    /// The revision that changed the key last.
    Mod,
    /// The value, as bytes.
    Value,
}

/// A Range request. `serializable` is not here: it decides which view is read, not what is read.
#[derive(Clone, Debug, Default)]
pub struct RangeOptions {
    /// First key, or the only one.
    pub key: Bytes,
    /// Empty: `key` alone. One zero byte: all keys from `key` on. Else: `key` up to here, exclusive.
    pub range_end: Bytes,
    /// Most rows to answer; 0 or less means all.
    pub limit: i64,
    /// Revision to read at; 0 or less means the newest.
    pub revision: i64,
    /// Sort order.
    pub sort_order: SortOrder,
    /// What is sorted by.
    pub sort_target: SortTarget,
    /// Answer keys and their revisions, not values.
    pub keys_only: bool,
    /// Answer the count alone.
    pub count_only: bool,
    /// Drop rows changed before this revision; 0 is off.
    pub min_mod_revision: i64,
    /// Drop rows changed after this revision; 0 is off.
    pub max_mod_revision: i64,
    /// Drop rows created before this revision; 0 is off.
    pub min_create_revision: i64,
    /// Drop rows created after this revision; 0 is off.
    pub max_create_revision: i64,
}

/// A Put request.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// The key; never empty.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease to attach; [`LeaseId::NONE`] detaches.
    pub lease: LeaseId,
    /// Answer the row that is replaced.
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    pub ignore_lease: bool,
}

/// A DeleteRange request.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// First key, or the only one.
    pub key: Bytes,
    /// As in [`RangeOptions::range_end`].
    pub range_end: Bytes,
    /// Answer the rows that are deleted.
    pub prev_kv: bool,
}

/// A Txn request: all compares true leads to `success`, else to `failure`.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Conditions; all must hold.
    pub compare: Vec<Compare>,
    /// Executed in order if they do.
    pub success: Vec<Op>,
    /// Executed in order if they do not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// etcd apply: a txn whose own two lists hold only ranges is a read. A nested txn, whatever it
    /// holds, makes it a write; an empty one is a read.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }
}

/// One operation of a [`Txn`].
#[derive(Clone, Debug)]
pub enum Op {
    /// Read.
    Range(RangeOptions),
    /// Write one key.
    Put(PutOptions),
    /// Delete keys.
    Delete(DeleteOptions),
    /// A nested transaction.
    Txn(Txn),
}

/// A condition on one key or on every key of a range.
#[derive(Clone, Debug)]
pub struct Compare {
    /// How actual and given must relate.
    pub result: CompareResult,
    /// What is compared, and the given side.
    pub target: CompareTarget,
    /// First key, or the only one.
    pub key: Bytes,
    /// As in [`RangeOptions::range_end`].
    pub range_end: Bytes,
}

/// `Compare.CompareResult`: the relation of actual to given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// Actual equals given.
    Equal,
    /// Actual is greater than given.
    Greater,
    /// Actual is less than given.
    Less,
    /// Actual differs from given.
    NotEqual,
    /// A number of no known meaning: etcd takes the condition as true.
    Unknown,
}

/// `Compare.CompareTarget` with the given side of the comparison. A request whose `target_union`
/// does not match its `target` compares with 0 or the empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// Number of puts since creation; 0 for a missing key.
    Version(i64),
    /// Revision that created the key; 0 for a missing key.
    Create(i64),
    /// Revision that changed the key last; 0 for a missing key.
    Mod(i64),
    /// The value. A missing key fails every comparison of values.
    Value(Bytes),
    /// The lease; 0 for none or a missing key.
    Lease(i64),
    /// A number of no known meaning: etcd takes actual and given as equal.
    Unknown,
}

/// Answer to a Put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Header revision.
    pub revision: i64,
    /// The replaced row as an encoded `mvccpb.KeyValue`, if asked for and there was one.
    pub prev_kv: Option<Bytes>,
}

/// Answer to a DeleteRange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// Header revision.
    pub revision: i64,
    /// How many keys were deleted.
    pub deleted: i64,
    /// The deleted rows in key order as encoded `mvccpb.KeyValue`s, if asked for.
    pub prev_kvs: Vec<Bytes>,
}

/// Answer to a Range inside a Txn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeOutcome {
    /// Header revision.
    pub revision: i64,
    /// The rows as they stand in a `RangeResponse`: for each the tag 0x12, the length, the
    /// encoded `mvccpb.KeyValue`.
    pub kvs: Bytes,
    /// The limit cut the answer.
    pub more: bool,
    /// Keys in the range, whatever limit and filters say.
    pub count: i64,
}

/// Answer to a Txn. Of a nested one `revision` is 0: only the outermost header has a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Header revision.
    pub revision: i64,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One per executed operation, in order.
    pub responses: Vec<OpOutcome>,
}

/// Answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Rows read.
    Range(RangeOutcome),
    /// One key written.
    Put(PutOutcome),
    /// Keys deleted.
    Delete(DeleteOutcome),
    /// A nested transaction.
    Txn(TxnOutcome),
}

/// What is known of a lease at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Time to live as granted, in seconds.
    pub granted_ttl: i64,
    /// Whole seconds left, at least 0; on a member that does not time leases, the granted TTL.
    pub ttl: i64,
}

/// Position of the store in the Raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last entry whose effects are in the store.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
}
