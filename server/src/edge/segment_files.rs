//! Reads segment files back at start, for `consensus::log::recover`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::segments;
use consensus::log::{ReadError, SegmentId, SegmentInfo, SegmentReader};

/// The segment files of a directory, open for reading.
pub struct SegmentFiles {
    dir: File,
    files: Vec<(SegmentInfo, File)>,
}

impl SegmentFiles {
    /// Opens all segments in `dir`. Files with other names are left alone; half-made segments (`.new`) are removed.
    pub fn open(dir: &Path) -> io::Result<SegmentFiles> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(".new")) {
                std::fs::remove_file(entry.path())?;
            }
        }
        let files = SegmentFiles::open_beside_writer(dir)?;
        files.files.iter().try_for_each(|(_, file)| segments::lock(file))?;
        Ok(files)
    }

    /// Opens all segments in `dir` while another part of this process writes to them.
    pub fn open_beside_writer(dir: &Path) -> io::Result<SegmentFiles> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(SegmentId::from_file_name) else { continue };
            let file = File::open(entry.path())?;
            let size = file.metadata()?.len();
            files.push((SegmentInfo { id, size }, file));
        }
        files.sort_by_key(|(info, _)| info.id);
        Ok(SegmentFiles { dir: File::open(dir)?, files })
    }

    /// Makes durable whatever recovery may have read from a cache: what a killed predecessor wrote, and the names it gave.
    pub fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|(_, file)| file.sync_data())?;
        self.dir.sync_all()
    }

    /// The segments' numbers, ascending.
    pub fn ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.files.iter().map(|(info, _)| info.id)
    }
}

impl SegmentReader for SegmentFiles {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.files.iter().map(|(info, _)| *info).collect()
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let (_, file) = self.files.iter().find(|(info, _)| info.id == segment).ok_or(ReadError)?;
        file.read_exact_at(buf, offset).map_err(|_| ReadError)
    }
}
