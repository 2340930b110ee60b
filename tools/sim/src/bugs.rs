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
    bug("follower-reads-locally", "a linearizable read is answered from what this member has applied"),
    bug("old-leader-revokes-leases", "an expiry seen by an old leader is proposed to the new one"),
    bug("segment-used-before-named", "a log segment is written to before its name is durable"),
    bug("meta-before-pages-synced", "a checkpoint's meta page is written without the sync before it"),
];
