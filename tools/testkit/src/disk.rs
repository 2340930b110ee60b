//! A disk that is soon full.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::scratch_dir;

/// A file system of a fixed size in a file, mounted; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// One of `mib` MiB, ext4.
    ///
    /// # Panics
    /// If it can't be made, as for somebody who is not root.
    pub fn new(mib: u64) -> SmallDisk {
        let dir = tempfile::tempdir_in(scratch_dir()).expect("the target directory is writable");
        let disk = SmallDisk { dir };
        let image = disk.dir.path().join("image");
        fs::create_dir(disk.path()).expect("a mount point");
        File::create(&image).expect("an image").set_len(mib << 20).expect("its length");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may still have files open for a moment.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} (needs root): {}", String::from_utf8_lossy(&output.stderr));
}
