//! A store that travels as a stream is the same store at the other end, and a bad stream is none.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Disk, NoFile, config, delete, put, range, read, store, with_lease};
use crossbeam::epoch;
use engine::snapshot::{Export, Import, ImportError};
use engine::{Alarm, AlarmKind, LeaseId, RangeOptions, Store, View};

fn filled() -> (Store, Arc<View>) {
    let mut store = store();
    store.lease_grant(Duration::ZERO, LeaseId(7), 100).unwrap();
    for number in 0..300 {
        store.put(&put(&format!("key-{}", number % 97), &"v".repeat(number))).unwrap();
    }
    store.put(&with_lease(put("long", &"x".repeat(100_000)), 7)).unwrap();
    store.delete_range(&delete("key-5")).unwrap();
    store.alarm_activate(Alarm { member: 1, kind: AlarmKind::NoSpace }).unwrap();
    store.set_member(9, Some(b"nine")).unwrap();
    store.set_user_meta(b"cluster_version", b"3.7.0").unwrap();
    store.compact(20).unwrap();
    while store.compact_slice(10).unwrap() == engine::compact::Progress::More {}
    store.set_applied(420, 3);
    let view = store.publish().unwrap();
    (store, view)
}

fn exported(view: &Arc<View>, piece: usize) -> Vec<u8> {
    let mut export = Export::new(view.clone());
    let mut out = Vec::new();
    while export.fill(&epoch::pin(), piece, &mut out).unwrap() {}
    out
}

fn imported(stream: &[u8], piece: usize) -> Result<Store, ImportError> {
    let mut import = Import::new(config(), Arc::new(NoFile));
    for bytes in stream.chunks(piece) {
        import.push(bytes)?;
    }
    import.finish()
}

#[test]
fn the_store_at_the_other_end_is_the_same() {
    let (before, view) = filled();
    let stream = exported(&view, 1);
    assert_eq!(stream, exported(&view, 1 << 20), "the pieces don't show in the stream");
    for piece in [1, 7, 4096, stream.len()] {
        let mut store = imported(&stream, piece).unwrap();
        assert_eq!((store.revision(), store.applied()), (before.revision(), before.applied()));
        assert_eq!(store.compact_revision(), before.compact_revision());
        assert_eq!(store.finished_compact_revision(), before.finished_compact_revision());
        assert_eq!(store.alarms(None), before.alarms(None));
        assert_eq!(store.members().unwrap(), before.members().unwrap());
        assert_eq!(store.leases(), before.leases());
        assert_eq!(store.lease_keys(LeaseId(7)).unwrap(), ["long"]);
        let after = store.publish().unwrap();
        let guard = epoch::pin();
        assert_eq!(after.hash(&guard).unwrap(), view.hash(&guard).unwrap());
        for revision in [0, 150] {
            let all = RangeOptions { revision, ..range("\0", "\0") };
            assert_eq!(read(&after, &all, 5000).unwrap(), read(&view, &all, 5000).unwrap());
        }
        assert_eq!(exported(&after, 4096), stream);
    }
}

#[test]
fn an_import_may_write_its_tree_out_on_the_way_and_survives_a_restart() {
    let (_, view) = filled();
    let stream = exported(&view, 1 << 20);
    let disk = Disk::new();
    let mut import = Import::new(config(), disk.map());
    for bytes in stream.chunks(30_000) {
        import.push(bytes).unwrap();
        disk.checkpoint_tree(import.tree_mut());
    }
    let mut store = import.finish().unwrap();
    store.publish().unwrap();
    disk.checkpoint(&mut store);
    drop(store);
    let mut store = Store::open(config(), disk.map()).unwrap();
    let after = store.publish().unwrap();
    assert_eq!(exported(&after, 4096), stream);
}

#[test]
fn a_stream_has_the_documented_form() {
    let mut store = store();
    store.set_member(2, Some(b"two")).unwrap();
    store.set_applied(5, 1);
    let stream = exported(&store.publish().unwrap(), 1);
    let member = [&[5][..], &8u32.to_be_bytes(), &3u32.to_be_bytes(), &2u64.to_be_bytes(), b"two"].concat();
    let begin = [&b"ringd snapshot 1\n"[..], &5u64.to_be_bytes(), &1u64.to_be_bytes(), &member].concat();
    assert_eq!(stream[..begin.len()], begin);
    let end = [&[0xff][..], &3u64.to_be_bytes()].concat();
    assert_eq!(stream[stream.len() - end.len()..], end, "the member, the applied index, the revision");
}

#[test]
fn bad_streams_are_refused() {
    let (_, view) = filled();
    let stream = exported(&view, 1 << 20);
    let changed = |at: usize, byte: u8| {
        let mut stream = stream.clone();
        stream[at] = byte;
        imported(&stream, 1000).err()
    };
    let (begin, end) = (17 + 16, stream.len() - 9);
    assert_eq!(changed(3, b'?'), Some(ImportError::Begin));
    assert_eq!(changed(24, 1), Some(ImportError::Applied));
    assert_eq!(changed(begin, 7), Some(ImportError::Row { number: 0 }), "an unknown table");
    assert_eq!(changed(begin + 1, 0xff), Some(ImportError::Row { number: 0 }), "a key of 4 GB");
    assert_eq!(changed(begin, 6), Some(ImportError::Row { number: 1 }), "out of order");
    assert_eq!(changed(end + 8, 0), Some(ImportError::End));
    for len in [0, 10, begin, begin + 5, end, stream.len() - 1] {
        assert_eq!(imported(&stream[..len], 1000).err(), Some(ImportError::Cut), "{len} bytes");
    }
    let longer = [&stream[..], b"x"].concat();
    assert_eq!(imported(&longer, 1000).err(), Some(ImportError::End));
}
