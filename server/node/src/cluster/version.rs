//! The version of the whole cluster: what its oldest member understands.
//!
//! The leader alone decides it, when its first entry of a term is committed and every 4 s after that, from what all
//! members say at `/version` (etcd `version/monitor.go`). It goes through the log like a write and never goes down.

/// How often the leader looks (etcd `monitorVersionInterval`, less a jitter).
pub const MONITOR_INTERVAL: std::time::Duration = std::time::Duration::from_secs(4);

/// What is agreed on first if somebody can't be asked (etcd `MinClusterVersion`).
const OLDEST: (u64, u64) = (3, 0);

/// The version to propose, `X.Y.0`, or none. `servers` holds what each member (this one included) says its server is,
/// `None` for one that didn't answer; `decided` is the version that stands.
pub fn decide(servers: &[Option<&str>], decided: Option<&str>) -> Option<String> {
    let known: Option<Vec<_>> = servers.iter().map(|server| server.and_then(major_minor)).collect();
    let lowest = known.and_then(|known| known.into_iter().min());
    let wanted = match (lowest, decided.and_then(major_minor)) {
        (Some(lowest), None) => lowest,
        (None, None) => OLDEST,
        (Some(lowest), Some(decided)) if decided < lowest => lowest,
        _ => return None,
    };
    Some(format!("{}.{}.0", wanted.0, wanted.1))
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
        ];
        for (servers, decided, want) in cases {
            assert_eq!(decide(servers, decided).as_deref(), want, "{servers:?} {decided:?}");
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
