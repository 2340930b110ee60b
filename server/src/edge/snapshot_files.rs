//! Snapshots as files: a version of the store read for a peer, and a received one built into a tree beside the present
//! one. All of it runs on background threads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use consensus::LogPosition;
use crossbeam::epoch;
use engine::snapshot::{Export, Import};
use engine::tree::Tree;
use engine::{Store, View};

use super::checkpoint;
use super::failpoint::fault;
use super::peers::SnapshotSource;
use super::tree_file::TreeFile;
use crate::sys::data_dir::TREE_FILE;

/// Name of a tree that waits to take the place of the present one.
pub const NEXT_TREE_FILE: &str = "tree.next";

/// Bytes read from a received file at once.
const READ_BYTES: usize = 1 << 20;

/// Heap frames of a tree that is being built, beyond which they are written out.
const IMPORT_HEAP_BYTES: u64 = 64 << 20;

/// A version of the store as the bytes of a snapshot.
pub struct Source {
    export: Option<Export>,
    /// Bytes that were made and not given out: a row may be longer than a chunk.
    buffer: Vec<u8>,
    given: usize,
    /// Bytes of the pages that the version uses: no less than what its rows take.
    size: u64,
}

impl Source {
    /// Keeps the version until the end.
    pub fn new(view: Arc<View>) -> Source {
        let size = view.in_use_bytes();
        Source { export: Some(Export::new(view)), buffer: Vec::new(), given: 0, size }
    }

    fn fill(&mut self, max: usize) -> io::Result<()> {
        let Some(export) = &mut self.export else { return Ok(()) };
        self.buffer.clear();
        self.given = 0;
        let more = export
            .fill(&epoch::pin(), max, &mut self.buffer)
            .map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage.to_string()))?;
        if !more {
            self.export = None;
        }
        Ok(())
    }
}

impl SnapshotSource for Source {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_chunk(&mut self, max: usize) -> io::Result<Option<Vec<u8>>> {
        if self.given == self.buffer.len() {
            self.fill(max)?;
        }
        let rest = &self.buffer[self.given..];
        let chunk = &rest[..rest.len().min(max)];
        self.given += chunk.len();
        Ok((!chunk.is_empty()).then(|| chunk.to_vec()))
    }
}

/// A received snapshot as a store of its own.
pub struct Imported {
    /// The store.
    pub store: Box<Store>,
    /// Its file, still under the name of the next one.
    pub tree: Arc<TreeFile>,
}

/// Builds a tree of the snapshot in `path`, durable under the name of the next one, and removes `path`.
///
/// # Errors
/// What is wrong with the snapshot or the disk, as a sentence. Nothing is left then.
pub fn import(dir: &Path, path: &Path, config: engine::Config) -> Result<Imported, String> {
    let result = build(dir, path, config);
    let _ = fs::remove_file(path);
    if result.is_err() {
        let _ = fs::remove_file(dir.join(NEXT_TREE_FILE));
    }
    result
}

fn build(dir: &Path, path: &Path, config: engine::Config) -> Result<Imported, String> {
    let said = |error: io::Error| error.to_string();
    match fs::remove_file(dir.join(NEXT_TREE_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(said(error)),
        _ => {}
    }
    fault("snapshot-import").map_err(said)?;
    let (tree, _) = TreeFile::open_as(dir, NEXT_TREE_FILE).map_err(said)?;
    let mut import = Import::new(config, tree.clone());
    let mut file = File::open(path).map_err(said)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).map_err(said)?;
        if count == 0 {
            break;
        }
        import.push(&buffer[..count]).map_err(|error| error.to_string())?;
        if import.heap_bytes() >= IMPORT_HEAP_BYTES {
            write_out(&tree, import.tree_mut())?;
        }
    }
    let mut store = import.finish().map_err(|error| error.to_string())?;
    store.publish().map_err(|damage| damage.to_string())?;
    write_out(&tree, store.tree_mut())?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(said)?;
    Ok(Imported { store: Box::new(store), tree })
}

fn write_out(file: &TreeFile, tree: &mut Tree) -> Result<(), String> {
    let Some(mut checkpoint) = tree.begin_checkpoint() else { return Ok(()) };
    checkpoint::write_all(file, &mut checkpoint).map_err(|error| error.to_string())?;
    tree.end_checkpoint(checkpoint);
    Ok(())
}

/// Lets the next tree take the place of the present one, durably.
///
/// # Errors
/// Those of the file system.
pub fn install(dir: &Path) -> io::Result<()> {
    fs::rename(dir.join(NEXT_TREE_FILE), dir.join(TREE_FILE))?;
    File::open(dir)?.sync_all()
}

/// Finishes the installation that a start found begun: the log goes on behind `position`, and the store that covers it
/// waits under the name of the next tree, complete and durable since before the log was told.
///
/// # Errors
/// It is not there, or not the one.
pub fn finish(
    dir: &Path,
    config: engine::Config,
    position: LogPosition,
) -> Result<(Store, Arc<TreeFile>), String> {
    let gone = |why: &str| {
        format!(
            "the log goes on behind a snapshot of index {position}, but {NEXT_TREE_FILE} {why}",
            position = position.index
        )
    };
    if !dir.join(NEXT_TREE_FILE).exists() {
        return Err(gone("is not there"));
    }
    let (tree, _) = TreeFile::open_as(dir, NEXT_TREE_FILE).map_err(|error| gone(&error.to_string()))?;
    let store = Store::open(config, tree.clone()).map_err(|error| gone(&error.to_string()))?;
    let applied = store.applied();
    if (applied.index, applied.term) != (position.index.0, position.term.0) {
        return Err(gone(&format!("covers index {}", applied.index)));
    }
    install(dir).map_err(|error| gone(&error.to_string()))?;
    tracing::info!(index = applied.index, "finished the installation of a snapshot");
    Ok((store, tree))
}

/// Removes what an interrupted reception or import has left.
///
/// # Errors
/// Those of the file system.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == NEXT_TREE_FILE || (name.starts_with("snapshot-") && name.ends_with(".tmp")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
