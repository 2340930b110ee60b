//! What CPUs are ours: affinity, cpusets and the cgroups' CPU quota.
//!
//! `Cpus_allowed_list` of `/proc/self/status` is what affinity and all cpusets leave together. A quota may sit on any
//! cgroup between ours and the root, and the tightest counts; `cpu.max` in version 2, `cpu.cfs_quota_us` and
//! `cpu.cfs_period_us` in version 1. In a container the path in `/proc/self/cgroup` may not exist below the mount, because
//! the mount shows only a part of the tree; then the top of the mount is where our limits are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::placement::{Machine, Quota};

/// CPUs and quota of this process.
///
/// # Errors
/// If `/proc/self/status` can't be read or has no list of CPUs. An unreadable cgroup counts as none.
pub fn usable() -> io::Result<Machine> {
    usable_below(Path::new("/"))
}

/// As [`usable`], with another root directory, for tests.
fn usable_below(root: &Path) -> io::Result<Machine> {
    let status = fs::read_to_string(root.join("proc/self/status"))?;
    let cpus = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(parse_cpu_list)
        .filter(|cpus| !cpus.is_empty())
        .ok_or_else(|| io::Error::other("/proc/self/status has no list of allowed CPUs"))?;
    Ok(Machine { cpus, quota: tightest_quota(root) })
}

/// The kernel's list format: `0-3,8,10-11`. `None` if it is something else.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    /// More than any kernel is built for; a longer range is not a list of CPUs.
    const CPUS_MAX: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

fn tightest_quota(root: &Path) -> Option<Quota> {
    let cgroups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mut quotas = Vec::new();
    for line in cgroups.lines() {
        // hierarchy-id:controllers:path; version 2 has id 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if id == "0" {
            each_level(root, &mounts, "cgroup2", "", path, |dir| quotas.extend(read_v2(dir)));
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            each_level(root, &mounts, "cgroup", "cpu", path, |dir| quotas.extend(read_v1(dir)));
        }
    }
    // a.quota / a.period < b.quota / b.period, without fractions
    quotas.into_iter().min_by(|a: &Quota, b: &Quota| {
        let left = u128::from(a.quota_us) * u128::from(b.period_us);
        left.cmp(&(u128::from(b.quota_us) * u128::from(a.period_us)))
    })
}

/// Calls `visit` for the cgroup's directory and all above it up to the mount.
fn each_level(root: &Path, mounts: &str, kind: &str, option: &str, path: &str, mut visit: impl FnMut(&Path)) {
    for mount in mounts.lines().filter_map(Mount::parse) {
        if mount.kind != kind || !(option.is_empty() || mount.options.split(',').any(|given| given == option))
        {
            continue;
        }
        let top = root.join(mount.point.trim_start_matches('/'));
        let relative = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or("");
        let own = top.join(relative.trim_start_matches('/'));
        let mut dir: PathBuf = if own.is_dir() { own } else { top.clone() };
        loop {
            visit(&dir);
            if dir == top || !dir.pop() {
                break;
            }
        }
        return;
    }
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn parse(line: &str) -> Option<Mount<'_>> {
        let (first, second) = line.split_once(" - ")?;
        let mut first = first.split(' ').skip(3);
        let (root, point) = (first.next()?, first.next()?);
        let mut second = second.split(' ');
        let (kind, _source, options) = (second.next()?, second.next()?, second.next().unwrap_or(""));
        Some(Mount { root, point, kind, options })
    }
}

/// `cpu.max`: `max 100000` or `200000 100000`.
fn read_v2(dir: &Path) -> Option<Quota> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(Quota { quota_us: quota.parse().ok()?, period_us: period.parse().ok()? })
}

/// `cpu.cfs_quota_us`, -1 for none, and `cpu.cfs_period_us`.
fn read_v1(dir: &Path) -> Option<Quota> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<i64>().ok();
    let quota_us = u64::try_from(read("cpu.cfs_quota_us")?).ok()?;
    let period_us = u64::try_from(read("cpu.cfs_period_us")?).ok()?;
    Some(Quota { quota_us, period_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        let cases: [(&str, Option<&[usize]>); 10] = [
            ("0", Some(&[0])),
            (" 0-2\n", Some(&[0, 1, 2])),
            ("0-1,4,6-7", Some(&[0, 1, 4, 6, 7])),
            ("3,1,3", Some(&[1, 3])),
            ("", Some(&[])),
            ("2-1", None),
            ("a", None),
            ("1-", None),
            ("0-99999999999", None),
            ("-1", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_cpu_list(text).as_deref(), want, "{text:?}");
        }
    }

    /// A root directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        root
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    const STATUS: (&str, &str) = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3\n");

    fn quota_of(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        let root = root(files);
        let machine = usable_below(root.path()).expect("a status file");
        assert_eq!(machine.cpus, [0, 1, 2, 3]);
        machine.quota.map(|quota| (quota.quota_us, quota.period_us))
    }

    #[test]
    fn version_2_takes_the_tightest_level() {
        let cgroup = ("proc/self/cgroup", "0::/pods/pod1/app\n");
        let mount = ("proc/self/mountinfo", V2);
        let none = ("sys/fs/cgroup/pods/pod1/app/cpu.max", "max 100000\n");
        let pod = ("sys/fs/cgroup/pods/pod1/cpu.max", "300000 100000\n");
        let pods = ("sys/fs/cgroup/pods/cpu.max", "100000 50000\n");
        assert_eq!(quota_of(&[STATUS, cgroup, mount, none]), None);
        assert_eq!(quota_of(&[STATUS, cgroup, mount, none, pod]), Some((300_000, 100_000)));
        assert_eq!(quota_of(&[STATUS, cgroup, mount, none, pod, pods]), Some((100_000, 50_000)));
    }

    #[test]
    fn a_path_outside_of_the_mount_means_its_top() {
        let cgroup = ("proc/self/cgroup", "0::/../../elsewhere\n");
        let top = ("sys/fs/cgroup/cpu.max", "150000 100000\n");
        assert_eq!(quota_of(&[STATUS, cgroup, ("proc/self/mountinfo", V2), top]), Some((150_000, 100_000)));
    }

    #[test]
    fn version_1_and_its_mount_root() {
        let mount = "33 30 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let files = [
            STATUS,
            ("proc/self/cgroup", "4:memory:/docker/abc\n3:cpuacct,cpu:/docker/abc/inner\n"),
            ("proc/self/mountinfo", mount),
            ("sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota_of(&files), Some((50_000, 100_000)));
        assert_eq!(quota_of(&files[..5]), None);
    }

    #[test]
    fn no_cgroups_mean_no_quota() {
        assert_eq!(quota_of(&[STATUS]), None);
        assert_eq!(quota_of(&[STATUS, ("proc/self/cgroup", "x\n"), ("proc/self/mountinfo", V1)]), None);
        assert_eq!(quota_of(&[STATUS, ("proc/self/cgroup", "1:cpu:/\n"), ("proc/self/mountinfo", V1)]), None);
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!usable().expect("a kernel with /proc").cpus.is_empty());
    }
}
