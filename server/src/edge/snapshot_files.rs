//! Snapshots as files: a version of the store read for a peer, and a received one built into a tree beside the present
//! one. All of it runs on background threads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use consensus::LogPosition;
use crossbeam::epoch;
use engine::snapshot::{Export, Import};
use engine::tree::{Scrub, Tree, check_metas};
use engine::{Store, View};
use sha2::{Digest, Sha256};

use super::checkpoint;
use super::failpoint::fault;
use super::peers::{SnapshotFile, SnapshotSource};
use super::tree_file::TreeFile;
use crate::sys::data_dir::TREE_FILE;

/// Name of a tree that waits to take the place of the present one.
pub const NEXT_TREE_FILE: &str = "tree.next";

/// Bytes read from a received file at once.
const READ_BYTES: usize = 1 << 20;

/// Pages of a new tree that are verified at once.
const VERIFY_PAGES: u64 = 1024;

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

/// Builds a tree of the received snapshot, durable under the name of the next one, and removes the file. Both files are
/// verified as they are read from the disk: what it has done to them goes no further.
///
/// # Errors
/// What is wrong with the snapshot or the disk, as a sentence. Nothing is left then.
pub fn import(dir: &Path, file: &SnapshotFile, config: engine::Config) -> Result<Imported, String> {
    let result = build(dir, file, config);
    let _ = fs::remove_file(&file.path);
    if result.is_err() {
        let _ = fs::remove_file(dir.join(NEXT_TREE_FILE));
    }
    result
}

fn build(dir: &Path, file: &SnapshotFile, config: engine::Config) -> Result<Imported, String> {
    let said = |error: io::Error| error.to_string();
    match fs::remove_file(dir.join(NEXT_TREE_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(said(error)),
        _ => {}
    }
    fault("snapshot-import").map_err(said)?;
    let (tree, _) = TreeFile::open_as(dir, NEXT_TREE_FILE).map_err(said)?;
    let mut import = Import::new(config, tree.clone());
    read(file, |bytes| {
        import.push(bytes).map_err(|error| error.to_string())?;
        if import.heap_bytes() >= IMPORT_HEAP_BYTES {
            write_out(&tree, import.tree_mut())?;
        }
        Ok(())
    })?;
    let mut store = import.finish().map_err(|error| error.to_string())?;
    store.publish().map_err(|damage| damage.to_string())?;
    write_out(&tree, store.tree_mut())?;
    verify(&tree, &store)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(said)?;
    Ok(Imported { store: Box::new(store), tree })
}

/// Gives out what the file holds, which must be what was received.
fn read(file: &SnapshotFile, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    let mut source = File::open(&file.path).map_err(said)?;
    // It is synced, so the page cache may forget it: what counts is what the disk has. A hint.
    let _ = rustix::fs::fadvise(&source, 0, None, rustix::fs::Advice::DontNeed);
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = source.read(&mut buffer).map_err(said)?;
        if count == 0 {
            break;
        }
        size += count as u64;
        hasher.update(&buffer[..count]);
        take(&buffer[..count])?;
    }
    match (size, hasher.finalize().into()) == (file.end.bytes, file.end.digest) {
        true => Ok(()),
        false => Err("its file does not hold what was received".to_owned()),
    }
}

/// Reads a tree back that was just written, every page of it.
fn verify(tree: &TreeFile, store: &Store) -> Result<(), String> {
    tree.read_through().map_err(|error| error.to_string())?;
    let (snapshot, mut scrub) = (store.tree().published(), Scrub::default());
    while !scrub.step(&snapshot, VERIFY_PAGES).map_err(|damage| damage.to_string())?.finished {}
    check_metas(tree, None).map_err(|damage| damage.to_string())?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use node::peer::snapshot::End;

    use super::*;

    const MEMBERS: u64 = 1000;

    fn config() -> engine::Config {
        engine::Config { tree: Default::default(), lease_ttl_s_min: 2 }
    }

    fn value(id: u64) -> Vec<u8> {
        format!("value {id:04} ").repeat(50).into_bytes()
    }

    /// A snapshot as it was received into `dir`.
    fn received(dir: &Path) -> SnapshotFile {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut store = Store::create(config(), TreeFile::open(elsewhere.path()).unwrap().0);
        (0..MEMBERS).for_each(|id| store.set_member(id, Some(&value(id))).unwrap());
        store.set_applied(7, 3);
        let mut source = Source::new(store.publish().unwrap());
        let mut bytes = Vec::new();
        while let Some(chunk) = source.next_chunk(100_000).unwrap() {
            bytes.extend(chunk);
        }
        let end = End { chunks: 0, bytes: bytes.len() as u64, digest: Sha256::digest(&bytes).into() };
        let path = dir.join("snapshot-1-7-0.tmp");
        fs::write(&path, bytes).unwrap();
        SnapshotFile { path, end }
    }

    /// Turns a bit over in the middle of a value.
    fn flip(path: &Path) {
        let value = value(MEMBERS / 2);
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(value.len()).position(|window| window == value).expect("it is there");
        let at = at + value.len() / 2;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn what_was_received_becomes_a_durable_store() {
        let dir = tempfile::tempdir().unwrap();
        let imported = import(dir.path(), &received(dir.path()), config()).unwrap();
        assert_eq!(names(dir.path()), [NEXT_TREE_FILE]);
        drop(imported);
        let position = LogPosition { index: consensus::Index(7), term: consensus::Term(3) };
        let (store, _) = finish(dir.path(), config(), position).unwrap();
        assert_eq!(names(dir.path()), [TREE_FILE]);
        let members = store.members().unwrap();
        assert_eq!(members.len(), MEMBERS as usize);
        assert!(members.iter().all(|(id, bytes)| *bytes == value(*id)));
    }

    #[test]
    fn a_bit_that_the_disk_turned_over_in_the_received_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = received(dir.path());
        flip(&file.path);
        let why = import(dir.path(), &file, config()).err();
        assert_eq!(why.as_deref(), Some("its file does not hold what was received"));
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_bit_that_the_disk_turned_over_in_the_new_tree_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let Imported { store, tree } = import(dir.path(), &received(dir.path()), config()).unwrap();
        assert_eq!(verify(&tree, &store), Ok(()));
        flip(&dir.path().join(NEXT_TREE_FILE));
        let why = verify(&tree, &store).expect_err("a page is damaged");
        assert!(why.contains("checksum"), "{why}");
    }
}
