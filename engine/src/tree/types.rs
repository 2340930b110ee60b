//! Names of places in the file, and what can be wrong with them.

use std::fmt;

/// Bytes in a page: the unit of copying, of checksums and of allocation.
pub const PAGE_SIZE: usize = 4096;

/// Number of a page in the file: its bytes start at `id * PAGE_SIZE`. Pages 0 and 1 are the metas.
///
/// Thirty-two bits address 16 TiB, three orders of magnitude beyond the quota etcd advises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

impl PageId {
    /// Where the page starts in the file, in bytes.
    pub fn offset(self) -> u64 {
        u64::from(self.0) * PAGE_SIZE as u64
    }
}

/// The tables of the store. They share one file and are committed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Revision → row, in the order of events.
    History = 0,
    /// User key → revisions, version, lease and row length of its newest row or tombstone.
    Keys = 1,
    /// Lease id → lease.
    Leases = 2,
    /// (Lease id, user key) → nothing.
    LeaseKeys = 3,
    /// Users, roles and the switch.
    Auth = 4,
    /// Members of the cluster.
    Members = 5,
    /// Applied index and term, revisions, alarms, cluster version and the like.
    Meta = 6,
}

impl Table {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them, in the order of their roots in the meta page.
    pub const ALL: [Table; Table::COUNT] = [
        Table::History,
        Table::Keys,
        Table::Leases,
        Table::LeaseKeys,
        Table::Auth,
        Table::Members,
        Table::Meta,
    ];

    /// What a row counts for in `count`: for `Keys` bit 0 of the value's first byte (1 = the key is alive), else 1.
    pub(super) fn weight(self, first_byte: Option<u8>) -> bool {
        self != Table::Keys || first_byte.is_some_and(|byte| byte & 1 == 1)
    }
}

/// Bytes of the file that are not what was written there. Nothing read from them was handed out.
///
/// The way out is not in this process: restore the member from a peer's snapshot or from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the damaged page or run of pages starts in the file, in bytes.
    pub offset: u64,
    /// The page at that place.
    pub page: PageId,
    /// What was expected and not found.
    pub fault: Fault,
}

impl Damage {
    pub(super) fn new(page: PageId, fault: Fault) -> Damage {
        Damage { offset: page.offset(), page, fault }
    }
}

/// Which check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends before the page does.
    BeyondFile,
    /// The bytes don't match their checksum: a flipped bit or a torn write.
    Checksum,
    /// A whole page, but of another place: a misdirected write.
    WrongPage,
    /// A whole page of this place, but of another time: a lost write.
    WrongBirth,
    /// A whole page, but not of the kind or level its parent points to.
    WrongKind,
    /// Counts, offsets or lengths inside the page contradict each other.
    Structure,
    /// The page is whole, but a row in it is none of its table's.
    Row,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::BeyondFile => "lies beyond the end of the file",
            Fault::Checksum => "fails its checksum",
            Fault::WrongPage => "holds another page (misdirected write)",
            Fault::WrongBirth => "holds an older or newer page than its parent points to (lost write)",
            Fault::WrongKind => "is not of the kind its parent points to",
            Fault::Structure => "contradicts itself",
            Fault::Row => "holds a row that is none of its table's",
        };
        write!(f, "page {} at offset {} {what}", self.page.0, self.offset)
    }
}

impl std::error::Error for Damage {}

/// Whose file it is. Stored in both metas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: u64,
    /// The member's id.
    pub member: u64,
}

/// What the caller must know to create or open a tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Whose file it is; `open` refuses another's.
    pub identity: Identity,
    /// A number that differs from the last start's (drawn at random). It goes into the births of pages, so that a page
    /// which an earlier, crashed process wrote at the same place is not taken for one of ours whose write was lost.
    pub nonce: u16,
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No checkpoint was ever completed here: an empty file, or (`torn`) one whose first meta page is not whole.
    ///
    /// Then the log must hold everything since index 1, and the caller goes on with `Tree::create`. Where it does not,
    /// `torn` is the damage to report.
    Empty {
        /// The meta page that is neither whole nor empty.
        torn: Option<Damage>,
    },
    /// The file belongs to another cluster or member.
    Foreign {
        /// Whose it is.
        found: Identity,
    },
    /// Written by a version of this program that stores pages differently.
    Version {
        /// The format version in the file.
        found: u32,
    },
    /// A page without which nothing can be read.
    Damage(Damage),
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> OpenError {
        OpenError::Damage(damage)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Empty { torn: None } => write!(f, "no checkpoint was ever completed in this file"),
            OpenError::Empty { torn: Some(damage) } => {
                write!(f, "no checkpoint was ever completed in this file, and {damage}")
            }
            OpenError::Foreign { found } => {
                write!(f, "the file belongs to cluster {:x}, member {:x}", found.cluster, found.member)
            }
            OpenError::Version { found } => {
                write!(f, "the file has format version {found}, which is not known here")
            }
            OpenError::Damage(damage) => damage.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// A read-only view of the file.
///
/// What it shows of a page may only change through the writes of a checkpoint, and growing the file must not move it:
/// slices stay valid as long as the map does.
pub trait Map: Send + Sync {
    /// The bytes of `count` pages from `first` on; `None` if the file ends before.
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]>;
}
