//! What recovery has to say to the operator.

use std::fmt;

use super::{Identity, SegmentId, record};
use crate::LogPosition;

/// Something found that did not stop recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A batch was begun and not completed; nobody was told about it. It will be overwritten.
    TornTail {
        /// Where it is.
        segment: SegmentId,
        /// Where it is.
        offset: u64,
        /// Its sequence number.
        sequence: u64,
        /// The entries it held: the first, or index 0 if none.
        first: LogPosition,
    },
    /// Damage, wholly within what the store has checkpointed. The log begins behind it.
    Dropped {
        /// Where it begins.
        segment: SegmentId,
        /// Where it begins.
        offset: u64,
        /// The first batch kept.
        sequence: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::TornTail { segment, offset, sequence, first } => write!(
                f,
                "the last batch of the log was not completed and is discarded: file {} offset {offset}, \
                 batch {sequence}, first entry {} of term {}",
                segment.file_name(),
                first.index,
                first.term,
            ),
            Note::Dropped { segment, offset, sequence } => write!(
                f,
                "a damaged part of the log is skipped, the store covers it: file {} offset {offset}; \
                 the log begins at batch {sequence}",
                segment.file_name(),
            ),
        }
    }
}

/// Why a log can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// Something that may have been acknowledged is not readable.
    Damage(Damage),
    /// The log is of another member or cluster.
    Foreign {
        /// Where that was seen.
        segment: SegmentId,
        /// Whose it is.
        found: Identity,
    },
    /// The log was written by a newer version.
    Version {
        /// Where that was seen.
        segment: SegmentId,
        /// Where that was seen.
        offset: u64,
        /// Its format version.
        version: u16,
    },
}

/// Where a log is damaged, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub segment: SegmentId,
    /// Where in it the log can't be read on.
    pub offset: u64,
    /// The end of what can be read.
    pub last: LogPosition,
    /// How it is known that more was durable.
    pub proof: Proof,
}

/// How it is known that more was durable than can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A later batch exists.
    LaterBatch {
        /// Its number.
        sequence: u64,
        /// Where it is.
        segment: SegmentId,
        /// Where it is.
        offset: u64,
    },
    /// The store has applied this.
    Applied(LogPosition),
    /// The entry at the store's applied index has this other term in the log.
    OtherTerm(LogPosition),
    /// The file is not as long as it was made.
    FileLength {
        /// Its length when it was made, in bytes; 0 if that is not known.
        expected: u64,
        /// Its length now, in bytes.
        found: u64,
    },
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Damage(damage) => damage.fmt(f),
            RecoverError::Foreign { segment, found } => write!(
                f,
                "file {} belongs to member {:x} of cluster {:x}: this is another member's log; use that member's own \
                 data directory",
                segment.file_name(),
                found.member.0,
                found.cluster,
            ),
            RecoverError::Version { segment, offset, version } => write!(
                f,
                "file {} offset {offset} has log format version {version}, newer than this program's {}; start the \
                 version that wrote it",
                segment.file_name(),
                record::VERSION,
            ),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { segment, offset, last, proof } = self;
        write!(
            f,
            "the log is damaged in file {} at offset {offset}: it can be read up to entry {}, but ",
            segment.file_name(),
            last.index
        )?;
        match proof {
            Proof::LaterBatch { sequence, segment, offset } => {
                write!(
                    f,
                    "batch {sequence} in file {} at offset {offset} proves that more was durable",
                    segment.file_name()
                )?;
            }
            Proof::Applied(applied) => write!(f, "the store has applied entry {}", applied.index)?,
            Proof::FileLength { expected, found } => {
                write!(f, "the file has {found} bytes and was made with {expected}")?;
            }
            Proof::OtherTerm(found) => {
                write!(
                    f,
                    "entry {} is of term {} there and of another term in the store",
                    found.index, found.term
                )?;
            }
        }
        f.write_str(
            ". Acknowledged writes may be lost, so this member refuses to start. Check the disk, then restore the data \
             directory from a snapshot, or remove the member and add it again",
        )
    }
}

impl std::error::Error for RecoverError {}
