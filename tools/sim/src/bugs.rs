//! The planted bugs: what each breaks. The code asks for them by name with `planted::is`.

/// A mistake that can be switched on.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// As it is asked for.
    pub name: &'static str,
    /// What is done wrong.
    pub what: &'static str,
}

const fn bug(name: &'static str, what: &'static str) -> Bug {
    Bug { name, what }
}

/// All of them. Each must be found.
pub const ALL: &[Bug] = &[
    bug("acknowledge-before-written", "an append counts as durable when its write is submitted"),
    bug("vote-not-persisted", "the log keeps the term but not the vote"),
    bug("promise-sent-early", "messages that say \"stored\" or \"voted\" leave before the disk has it"),
    bug("read-token-reused", "a leader's read-index attempts all carry the same token"),
    bug("forward-taken-twice", "a leader appends a forward as often as it arrives"),
    bug("entry-applied-twice", "a restart hands out the last applied entry again, and it is applied again"),
    bug("applied-index-apart", "a version holds the applied index of one entry before"),
    bug(
        "durable-batch-cut-as-torn",
        "recovery cuts a damaged batch though a later one proves it was durable",
    ),
    bug("intact-tail-cut", "recovery takes an intact last batch for a torn one"),
    bug(
        "recycled-block-taken-for-new",
        "recovery takes what an earlier use of a segment left for the next batch",
    ),
    bug("snapshot-with-old-term", "the log begins anew with the term that it had before the snapshot"),
    bug("watch-skips-after-snapshot", "watchers go on behind the newest revision when a version jumps"),
    bug("progress-ahead-of-events", "a progress mark names the newest revision, not what was dispatched"),
    bug("tombstone-dropped-at-compact-revision", "a compaction removes the tombstone at its very revision"),
    bug("new-leader-gives-no-time", "a new leader gives leases an election timeout instead of their time"),
    bug(
        "keep-alive-without-confirmation",
        "a keep-alive is answered without asking whether this member still leads",
    ),
    bug(
        "log-dropped-when-checkpoint-begins",
        "segments are reused when a checkpoint begins, not when it is durable",
    ),
    bug("follower-reads-locally", "a linearizable read is answered from what this member has applied"),
    bug("old-leader-revokes-leases", "an expiry seen by an old leader is proposed to the new one"),
    bug("segment-used-before-named", "a log segment is written to before its name is durable"),
    bug(
        "repair-votes-below-floor",
        "a member under repair votes for who lacks what it may have acknowledged",
    ),
    bug(
        "conf-change-at-append",
        "a change of the membership counts when it is appended, not when it is applied",
    ),
    bug("meta-before-pages-synced", "a checkpoint's meta page is written without the sync before it"),
    bug(
        "time-to-live-stands-still",
        "what is left of a lease is told as of when its time began anew, not as of now",
    ),
    bug(
        "leases-asked-before-applied",
        "a leader answers questions about leases before it has applied what its read index names",
    ),
    bug("frame-length-unchecked", "a frame's length is believed before its checksum is known to be right"),
];
