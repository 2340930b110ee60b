//! The data directory of a stopped server: its lock, whose it is, its files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use consensus::NodeId;
use consensus::log::{Identity, ReadError, SegmentId, SegmentInfo, SegmentReader};
use engine::tree::{Map, PAGE_SIZE, PageId};
use memmap2::Mmap;
use rustix::fs::{FlockOperation, flock};

/// A data directory that no server has open for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Whose data it is.
    pub identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Takes the lock and reads whose data it is.
    pub fn open(path: &Path) -> Result<Self, String> {
        let in_file = |name: &str| path.join(name);
        let lock = File::open(in_file("lock"))
            .map_err(|error| format!("{} is no data directory of ringd: {error}", path.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("a server has {} open: stop it first", path.display()))?;
        let text = fs::read_to_string(in_file("identity"))
            .map_err(|error| format!("{}: {error}", in_file("identity").display()))?;
        let identity = identity(&text).ok_or(format!("{} is not readable", in_file("identity").display()))?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    /// The tree file, mapped.
    pub fn tree(&self) -> Result<TreeFile, String> {
        let path = self.path.join("tree");
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // SAFETY: the map is read-only, and nobody changes the file: its server would hold the lock that we hold.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(TreeFile(map))
    }

    /// The segments of the log, in `wal_dir` if the server has one.
    pub fn segments(&self, wal_dir: Option<&Path>) -> Result<Segments, String> {
        let dir = wal_dir.map_or_else(|| self.path.join("log"), Path::to_owned);
        Segments::open(&dir).map_err(|error| format!("{}: {error}", dir.display()))
    }
}

fn identity(text: &str) -> Option<Identity> {
    let id = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(Identity { cluster: id("cluster ")?, member: NodeId(id("member ")?) })
}

/// The tree file.
#[derive(Debug)]
pub struct TreeFile(Mmap);

impl Map for TreeFile {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let from = (first.0 as usize).checked_mul(PAGE_SIZE)?;
        let to = from.checked_add((count as usize).checked_mul(PAGE_SIZE)?)?;
        self.0.get(from..to)
    }
}

/// The segment files of the log.
#[derive(Debug)]
pub struct Segments(Vec<(SegmentInfo, File)>);

impl Segments {
    fn open(dir: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(SegmentId::from_file_name) {
                let file = File::open(entry.path())?;
                let size = file.metadata()?.len();
                files.push((SegmentInfo { id, size }, file));
            }
        }
        files.sort_by_key(|(info, _)| info.id);
        Ok(Self(files))
    }
}

impl SegmentReader for Segments {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.0.iter().map(|(info, _)| *info).collect()
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let (_, file) = self.0.iter().find(|(info, _)| info.id == segment).ok_or(ReadError)?;
        file.read_exact_at(buf, offset).map_err(|_| ReadError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whose_data_it_is() {
        let text =
            "ringd data directory\nformat 1\nmember 8e9e05c52164694d\ncluster 00f818194e3a8c32\ncrc32 0\n";
        let want = Identity { cluster: 0xf8_1819_4e3a_8c32, member: NodeId(0x8e9e_05c5_2164_694d) };
        assert_eq!(identity(text), Some(want));
        assert_eq!(identity("ringd data directory\n"), None);
        assert_eq!(identity("member x\ncluster 1\n"), None);
    }

    #[test]
    fn what_is_no_data_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = DataDir::open(dir.path()).expect_err("empty");
        assert!(error.contains("no data directory of ringd"), "{error}");
    }
}
