//! Rules that the world can break on purpose, so that tests prove that breaking them is seen.

/// What is done wrong. Each is a mistake that the code around the state machines could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: everything is done as it must be.
    None,
    /// A log write counts as durable though a device may still forget it (no O_DSYNC).
    LogWritesAreNotSynced,
    /// Raft hears that an append is durable before it was even written.
    DurableBeforeWritten,
    /// A checkpoint's meta page is written without the sync that must come before it.
    MetaBeforePagesAreSynced,
    /// The log hears of a checkpoint when its meta page is written, not when that is synced.
    LogDroppedBeforeMetaIsSynced,
    /// The log hears of a checkpoint when it begins.
    LogDroppedWhenCheckpointBegins,
    /// The log hears that a checkpoint covers what was applied when it ended, not when it began.
    CheckpointIndexTakenAtItsEnd,
    /// After a kill the tree file is used as the page cache shows it.
    TreeNotSyncedAtStart,
    /// After a kill the log is used as the device's cache shows it.
    LogNotSyncedAtStart,
    /// After a kill segments are used whose names may not be durable.
    DirectoryNotSyncedAtStart,
    /// A segment is used before its name is durable.
    SegmentUsedBeforeItsNameIsDurable,
}

impl Fault {
    /// All that must be found.
    pub const ALL: [Fault; 10] = [
        Fault::LogWritesAreNotSynced,
        Fault::DurableBeforeWritten,
        Fault::MetaBeforePagesAreSynced,
        Fault::LogDroppedBeforeMetaIsSynced,
        Fault::LogDroppedWhenCheckpointBegins,
        Fault::CheckpointIndexTakenAtItsEnd,
        Fault::TreeNotSyncedAtStart,
        Fault::LogNotSyncedAtStart,
        Fault::DirectoryNotSyncedAtStart,
        Fault::SegmentUsedBeforeItsNameIsDurable,
    ];
}
