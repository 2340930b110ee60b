//! Pins, frames, space: what is kept for whom, and for how long.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::super::{PAGE_SIZE, Snapshot, Table, Tree, verify};
use super::support::{CONFIG, TestFile};

fn tree() -> (Arc<TestFile>, Tree) {
    let file = TestFile::new();
    let mut tree = Tree::create(CONFIG, file.clone());
    assert!(file.checkpoint(&mut tree));
    (file, tree)
}

/// Waits until retired frames are freed; other tests' guards may be in the way for a moment.
fn collect(tree: &mut Tree) {
    for _ in 0..100_000 {
        tree.reclaim();
        if tree.retired_bytes() == 0 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{} bytes of retired frames were never freed", tree.retired_bytes());
}

#[test]
fn appends_leave_full_pages() {
    let (_, mut tree) = tree();
    for number in 0..20_000u64 {
        tree.put(Table::History, &number.to_be_bytes(), &[&[1; 88]]).unwrap();
    }
    // 8 + 88 bytes, 4 of the cell and 2 of the slot: 39 to a page.
    let leaves = 20_000 / 39;
    let pages = tree.in_use_bytes() as usize / PAGE_SIZE;
    assert!((leaves..leaves + leaves / 50 + 5).contains(&pages), "{pages} pages for {leaves} leaves");
}

#[test]
fn a_batch_copies_a_page_once_and_unpinned_copies_are_reused() {
    let (file, mut tree) = tree();
    (0..10_000u32).for_each(|key| tree.put(Table::Keys, &key.to_be_bytes(), &[&[1; 30]]).unwrap());
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    collect(&mut tree);
    let (pages, frames) = (tree.allocated_bytes(), tree.heap_bytes());
    assert_eq!(frames, 0, "all is in the map");
    for round in 0..1000u32 {
        let number = round % 7;
        (0..100).for_each(|_| {
            tree.put(Table::Keys, &number.to_be_bytes(), &[&round.to_be_bytes(), &[0; 26]]).unwrap()
        });
        drop(tree.publish());
    }
    tree.reclaim();
    // The path to one leaf, twice: the newest version and the one before it while it was being replaced.
    assert!(tree.heap_bytes() <= 3 * PAGE_SIZE as u64 * 2, "{} bytes of frames", tree.heap_bytes());
    assert!(tree.allocated_bytes() <= pages + 8 * PAGE_SIZE as u64);
}

#[test]
fn a_pin_keeps_pages_but_no_frames() {
    let (file, mut tree) = tree();
    (0..2_000u32).for_each(|key| tree.put(Table::Leases, &key.to_be_bytes(), &[&[1; 100]]).unwrap());
    let pinned = tree.publish();
    let used = tree.in_use_bytes();
    for round in 2..6u8 {
        (0..2_000u32).for_each(|key| tree.put(Table::Leases, &key.to_be_bytes(), &[&[round; 100]]).unwrap());
        tree.publish();
        assert!(file.checkpoint(&mut tree));
        assert_eq!(tree.heap_bytes(), 0);
        collect(&mut tree);
    }
    let guard = crossbeam::epoch::pin();
    for key in 0..2_000u32 {
        assert_eq!(pinned.reader(&guard).get(Table::Leases, &key.to_be_bytes()), Ok(Some(&[1; 100][..])));
    }
    assert!(tree.allocated_bytes() >= 2 * used);
    let kept = tree.allocated_bytes();
    drop(pinned);
    tree.reclaim();
    assert!(tree.allocated_bytes() + used / 2 < kept, "the pinned version's own pages are free");
}

#[test]
fn trim_gives_the_end_back_when_nothing_reaches_it() {
    let (file, mut tree) = tree();
    (0..5_000u32).for_each(|key| tree.put(Table::History, &key.to_be_bytes(), &[&[1; 400]]).unwrap());
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    let full = tree.trim();
    assert!(full >= 5_000 * 400);
    for key in 0..5_000u32 {
        tree.remove(Table::History, &key.to_be_bytes()).unwrap();
    }
    let pin = tree.publish();
    assert_eq!(tree.trim(), full, "the newer meta reaches all of it");
    assert!(tree.in_use_bytes() < 20 * PAGE_SIZE as u64);
    assert!(file.checkpoint(&mut tree));
    assert!(tree.trim() >= full, "the older meta still does");
    drop(pin);
    // What is written while the old pages are kept lies above them, and moves down when it is written again.
    let mut trimmed = full;
    for round in 0..4u8 {
        tree.put(Table::Meta, b"applied", &[&[round]]).unwrap();
        tree.publish();
        assert!(file.checkpoint(&mut tree));
        trimmed = tree.trim();
    }
    assert!(trimmed < 20 * PAGE_SIZE as u64, "{trimmed}");
    file.file.set_len(trimmed).unwrap();
    assert_eq!(verify(&*file).unwrap().findings, []);
    let tree = Tree::open(CONFIG, file).unwrap();
    assert_eq!(tree.get(Table::Meta, b"applied"), Ok(Some(&[3][..])));
}

/// Work that goes on for ever in a store of the same size: the file must not grow for ever.
#[test]
fn steady_work_with_runs_and_pins_has_a_bounded_file() {
    let (file, mut tree) = tree();
    let mut pins: Vec<Snapshot> = Vec::new();
    let mut seed = 7u64;
    let mut pages = Vec::new();
    for round in 0..400 {
        for _ in 0..20 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (key, len) = ((seed >> 40) % 200, (seed >> 33) % 12_000);
            tree.put(Table::Leases, &key.to_be_bytes(), &[&vec![round as u8; len as usize]]).unwrap();
        }
        pins.push(tree.publish());
        if pins.len() > 4 {
            pins.remove((seed >> 20) as usize % 5);
        }
        if round % 10 == 9 {
            assert!(file.checkpoint(&mut tree));
            pages.push(tree.file_pages());
        }
        tree.check();
    }
    assert!(pages[39] <= pages[10] * 3 / 2, "{pages:?}");
    assert_eq!(verify(&*file).unwrap().findings, []);
}

#[test]
fn values_of_all_lengths_around_the_borders_and_the_largest_request_come_back() {
    let (file, mut tree) = tree();
    let lens = (0..10).chain(2000..2040).chain(4050..4070).chain(8150..8165).chain([1 << 20, 3 << 19]);
    let rows: Vec<(Vec<u8>, Vec<u8>)> = lens
        .flat_map(|len: usize| {
            let value: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let key = value.iter().map(|byte| byte ^ 0x80).collect();
            [(len.to_be_bytes().to_vec(), value.clone()), (key, value)]
        })
        .collect();
    for (key, value) in &rows {
        tree.put(Table::Auth, key, &[value]).unwrap();
    }
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    let opened = Tree::open(CONFIG, file.clone()).unwrap();
    for (key, value) in &rows {
        let want = if key.is_empty() { &[][..] } else { value };
        assert_eq!(tree.get(Table::Auth, key), Ok(Some(want)));
        assert_eq!(opened.get(Table::Auth, key), Ok(Some(want)));
    }
    for (key, _) in &rows {
        tree.remove(Table::Auth, key).unwrap();
    }
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    assert_eq!(verify(&*file).unwrap().findings, []);
    assert_eq!(tree.in_use_bytes(), 3 * PAGE_SIZE as u64, "two metas and a bitmap are left");
}

/// Leaves of three rows whose neighbours are too full to merge with become empty, and separators in runs go with them.
#[test]
fn long_keys_removed_from_the_front_leave_no_page_behind() {
    let (file, mut tree) = tree();
    let key = |number: u32| [&[b'k'; 2000][..], &number.to_be_bytes()].concat();
    for number in 0..300 {
        tree.put(Table::Leases, &key(number), &[&[7; 1000]]).unwrap();
    }
    for number in 0..280 {
        assert!(tree.remove(Table::Leases, &key(number)).unwrap());
        if number % 40 == 39 {
            tree.publish();
            assert!(file.checkpoint(&mut tree));
            let report = verify(&*file).unwrap();
            assert_eq!(
                (report.findings, report.rows[Table::Leases as usize]),
                (vec![], u64::from(299 - number))
            );
        }
    }
}

#[test]
fn a_failed_checkpoint_can_be_given_up_and_begun_again() {
    let (file, mut tree) = tree();
    (0..500u32).for_each(|key| tree.put(Table::Leases, &key.to_be_bytes(), &[&[1; 100]]).unwrap());
    assert!(tree.begin_checkpoint().is_none(), "there are unpublished changes");
    tree.publish();
    let checkpoint = tree.begin_checkpoint().unwrap();
    assert!(tree.begin_checkpoint().is_none(), "one is under way");
    let frames = tree.heap_bytes();
    tree.abandon_checkpoint(checkpoint);
    assert_eq!(tree.heap_bytes(), frames);
    tree.check();
    assert!(file.checkpoint(&mut tree));
    assert!(!file.checkpoint(&mut tree), "nothing is new");
    assert_eq!(verify(&*file).unwrap().rows[Table::Leases as usize], 500);
}

/// Readers on other threads, while pages are copied, checkpointed, retired and reused under them. Each version has one value in all its
/// rows, so whatever is torn, stale or freed too early shows.
#[test]
fn readers_on_other_threads_see_whole_versions() {
    let (file, mut tree) = tree();
    let write = |tree: &mut Tree, round: u64| {
        for key in 0..600u32 {
            let len = if key % 97 == 0 { 5000 } else { 40 };
            tree.put(Table::Keys, &key.to_be_bytes(), &[&[1], &round.to_be_bytes().repeat(len / 8)]).unwrap();
        }
        tree.publish()
    };
    let newest = Mutex::new(write(&mut tree, 0));
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (newest, stop, reads) = (&newest, &stop, &reads);
            scope.spawn(move || {
                let mut old: Option<Snapshot> = None;
                while !stop.load(Ordering::Relaxed) {
                    let fresh = newest.lock().unwrap().clone();
                    let number = reads.fetch_add(1, Ordering::Relaxed);
                    read_whole(&fresh);
                    old.iter().for_each(read_whole);
                    if number % 5 == reader {
                        old = Some(fresh);
                    }
                }
            });
        }
        for round in 1..150u64 {
            let snapshot = write(&mut tree, round);
            *newest.lock().unwrap() = snapshot;
            if round % 3 == 0 {
                assert!(file.checkpoint(&mut tree));
            }
        }
        while reads.load(Ordering::Relaxed) < 50 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    tree.check();
}

fn read_whole(snapshot: &Snapshot) {
    let guard = crossbeam::epoch::pin();
    let reader = snapshot.reader(&guard);
    let round = &reader.get(Table::Keys, &0u32.to_be_bytes()).unwrap().unwrap()[1..9];
    let mut cursor = reader.cursor(Table::Keys);
    let mut more = cursor.seek_first().unwrap();
    let mut rows = 0;
    while more {
        assert!(cursor.value().unwrap()[1..].chunks(8).all(|chunk| chunk == round));
        rows += 1;
        more = cursor.next().unwrap();
    }
    assert_eq!(rows, 600);
    assert_eq!(reader.count(Table::Keys, &[], None), Ok(600));
}
