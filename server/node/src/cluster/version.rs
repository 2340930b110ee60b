//! The version of the whole cluster: what its oldest member understands.
//!
//! The leader alone decides it, when its first entry of a term is committed and every 4 s after that, from what all
//! members say that they are (etcd `version/monitor.go`). It goes through the log like a write and never goes down.
//!
//! etcd's leader asks at `/version` when it looks; here members say it when they connect (`peer::hello`), and the version of
//! one that is not connected is not known. So the first look comes as soon as all are known, and does without those that are
//! not only after one interval: about as long as etcd's waits for an answer.

use std::time::Duration;

/// How often the leader looks (etcd `monitorVersionInterval`, less a jitter).
pub const MONITOR_INTERVAL: Duration = Duration::from_secs(4);

/// What is agreed on first if somebody can't be asked (etcd `MinClusterVersion`). Nothing older is spoken with.
pub const OLDEST: (u64, u64) = (3, 0);

/// When a leader looks at what its members say they are.
#[derive(Debug, Default)]
pub struct Monitor {
    /// The next look in any case; none on a member that does not lead.
    due: Option<Duration>,
    /// The versions of all were known at the last look, and since.
    seen_all: bool,
}

impl Monitor {
    /// This member leads a term from now on, or does not.
    pub fn lead(&mut self, leads: bool, now: Duration) {
        *self = Monitor { due: leads.then_some(now + MONITOR_INTERVAL), seen_all: false };
    }

    /// Whether this member looks at all.
    pub fn leads(&self) -> bool {
        self.due.is_some()
    }

    /// Whether to look now: when the versions of all members have become known, and every [`MONITOR_INTERVAL`].
    pub fn looks(&mut self, all_known: bool, now: Duration) -> bool {
        let Some(due) = self.due else { return false };
        let completed = all_known && !self.seen_all;
        self.seen_all = all_known;
        if now >= due {
            self.due = Some(now + MONITOR_INTERVAL);
        }
        completed || now >= due
    }
}

/// The version to propose, `X.Y.0`, or none. `servers` holds what each member (this one included) says its server is,
/// `None` for one that didn't answer; `decided` is the version that stands.
pub fn decide(servers: &[Option<&str>], decided: Option<&str>) -> Option<String> {
    let known: Option<Vec<_>> = servers.iter().map(|server| server.and_then(major_minor)).collect();
    let lowest = known.and_then(|known| known.into_iter().min());
    let wanted = match (lowest, decided.and_then(major_minor)) {
        (Some(lowest), None) => lowest,
        (None, None) => OLDEST,
        (Some(lowest), Some(decided)) if decided < lowest && decided.0 == lowest.0 => lowest,
        _ => return None,
    };
    Some(format!("{}.{}.0", wanted.0, wanted.1))
}

/// What the store's own version is, given the cluster's: the same, once that was decided with everybody's word (etcd
/// `UpdateStorageVersionIfNeeded`).
pub fn storage(cluster: Option<&str>) -> Option<&str> {
    cluster.filter(|cluster| major_minor(cluster) != Some(OLDEST))
}

/// Whether a server of version `own` is too old for a cluster that has decided on `cluster` (etcd `MustDetectDowngrade`).
pub fn is_downgrade(own: &str, cluster: &str) -> bool {
    matches!((major_minor(own), major_minor(cluster)), (Some(own), Some(cluster)) if own < cluster)
}

/// Major and minor of `X.Y.Z`, `X.Y.Z-pre`, with or without a `v` in front.
pub fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next()?.split(['-', '+']).next()?;
    patch.parse::<u64>().ok().map(|_| (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_member_decides_and_nothing_goes_down() {
        let cases = [
            (&[Some("3.7.1")][..], None, Some("3.7.0")),
            (&[Some("3.7.1"), Some("3.6.9"), Some("3.7.0")], None, Some("3.6.0")),
            (&[Some("3.7.1"), None], None, Some("3.0.0")),
            (&[Some("3.7.1"), Some("garbage")], None, Some("3.0.0")),
            (&[Some("3.7.1"), Some("v3.7.0-rc.1")], Some("3.0.0"), Some("3.7.0")),
            (&[Some("3.7.1"), None], Some("3.0.0"), None),
            (&[Some("3.7.1"), Some("3.7.1")], Some("3.7.0"), None),
            (&[Some("3.7.1"), Some("3.6.0")], Some("3.7.0"), None),
            (&[Some("3.10.0"), Some("3.9.0")], Some("3.7.0"), Some("3.9.0")),
            (&[Some("4.0.0"), Some("4.0.1")], Some("3.7.0"), None),
            (&[], None, Some("3.0.0")),
        ];
        for (servers, decided, want) in cases {
            assert_eq!(decide(servers, decided).as_deref(), want, "{servers:?} {decided:?}");
        }
    }

    /// One line per moment: seconds, what happens, whether the leader looks.
    #[test]
    fn the_leader_looks_when_all_are_known_and_every_four_seconds() {
        const LEADS: Option<bool> = Some(true);
        const FOLLOWS: Option<bool> = Some(false);
        let story = [
            (0.0, None, true, false), // does not lead
            (1.0, LEADS, false, false),
            (2.0, None, false, false),
            (2.1, None, true, true), // the last one has spoken
            (2.2, None, true, false),
            (5.0, None, true, true), // four seconds after the election
            (8.9, None, true, false),
            (9.0, None, true, true),
            (9.5, None, false, false), // one is lost
            (9.6, None, true, true),   // and back, maybe as another version
            (10.0, LEADS, true, true), // of another term
            (20.0, FOLLOWS, true, false),
            (30.0, LEADS, false, false),
            (34.0, None, false, true), // without those who don't answer
            (34.1, None, false, false),
        ];
        let mut monitor = Monitor::default();
        for (seconds, leads, all_known, want) in story {
            let now = Duration::from_secs_f64(seconds);
            if let Some(leads) = leads {
                monitor.lead(leads, now);
            }
            assert_eq!(monitor.looks(all_known, now), want, "at {seconds}");
        }
    }

    #[test]
    fn a_server_older_than_its_cluster_is_a_downgrade() {
        for (own, cluster, want) in [
            ("3.7.1", "3.7.0", false),
            ("3.7.1", "3.6.0", false),
            ("3.6.9", "3.7.0", true),
            ("3.9.0", "3.10.0", true),
            ("3.7.1", "4.0.0", true),
            ("3.7.1", "not_decided", false),
        ] {
            assert_eq!(is_downgrade(own, cluster), want, "{own} in {cluster}");
        }
    }

    #[test]
    fn the_store_has_no_version_before_all_have_spoken() {
        for (cluster, want) in [(None, None), (Some("3.0.0"), None), (Some("3.6.0"), Some("3.6.0"))] {
            assert_eq!(storage(cluster), want);
        }
    }

    #[test]
    fn what_is_a_version() {
        for (text, want) in [
            ("3.7.1", Some((3, 7))),
            ("v3.7.1", Some((3, 7))),
            ("3.8.0-alpha", Some((3, 8))),
            ("not_decided", None),
            ("3.7", None),
            ("3.7.x", None),
            ("", None),
        ] {
            assert_eq!(major_minor(text), want, "{text:?}");
        }
    }
}
