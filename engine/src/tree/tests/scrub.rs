//! The scrub finds what no read has touched, in slices, while the tree changes.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::super::{Damage, Fault, PAGE_SIZE, PageId, Scrub, Table, Tree, check_metas, verify};
use super::support::{CONFIG, TestFile};

const ROWS: u32 = 3000;

fn key(number: u32) -> Vec<u8> {
    // every hundredth is longer than a page holds
    let length = if number.is_multiple_of(100) { 3000 } else { 20 };
    let mut key = number.to_be_bytes().to_vec();
    key.resize(length, b'k');
    key
}

/// A tree of several levels with long keys and long values in two tables, in its file.
fn sample() -> (Arc<TestFile>, Tree) {
    let file = TestFile::new();
    let mut tree = Tree::create(CONFIG, file.clone());
    for number in 0..ROWS {
        let value = vec![1; if number % 50 == 7 { 10_000 } else { 100 }];
        tree.put(Table::Leases, &key(number), &[&value]).unwrap();
        tree.put(Table::Members, &key(number), &[&value[..50]]).unwrap();
    }
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    (file, tree)
}

/// One whole pass in slices of `pages`, with `between` after each.
fn pass(
    tree: &mut Tree,
    pages: u64,
    mut between: impl FnMut(&mut Tree, usize),
) -> Result<(u64, usize), Damage> {
    let (mut scrub, mut verified, mut slices) = (Scrub::default(), 0, 0);
    loop {
        let slice = scrub.step(&tree.published(), pages)?;
        verified += slice.pages;
        slices += 1;
        if slice.finished {
            return Ok((verified, slices));
        }
        assert!(slice.pages >= pages, "a slice of {} of {pages} pages, and more to do", slice.pages);
        between(tree, slices);
    }
}

#[test]
fn a_pass_touches_every_page_once_and_slices_only_repeat_branches() {
    let (file, mut tree) = sample();
    let own = check_metas(&*file, None).unwrap();
    let reached = verify(&*file).unwrap().pages;
    assert_eq!(pass(&mut tree, u64::MAX, |_, _| {}).unwrap(), (reached - own, 1));
    for pages in [1, 7, 64] {
        let (verified, slices) = pass(&mut tree, pages, |_, _| {}).unwrap();
        assert!(slices > 1);
        let again = verified - (reached - own);
        // The path to where a slice begins: its leaf, and branches with a separator that is a run.
        assert!(again <= 8 * slices as u64, "{pages}: {again} pages twice in {slices} slices");
    }
}

#[test]
fn a_flip_in_any_page_is_found_and_named() {
    let (file, tree) = sample();
    drop(tree);
    let image = file.bytes();
    for page in 0..(image.len() / PAGE_SIZE) as u32 {
        let mut flipped = image.clone();
        flipped[page as usize * PAGE_SIZE + 1234] ^= 4;
        let file = TestFile::with(&flipped);
        if page < 2 {
            // Which meta is the newest, and whether the other is empty, decides what a start makes of it.
            continue;
        }
        let Ok(mut tree) = Tree::open(CONFIG, file.clone()) else {
            assert!(check_metas(&*file, None).is_err(), "page {page}: the bitmap");
            continue;
        };
        let found = pass(&mut tree, 64, |_, _| {}).expect_err("a flip");
        assert_eq!(found.fault, Fault::Checksum, "page {page}");
        // of a run the first page is named
        assert!((page.saturating_sub(2)..=page).contains(&found.page.0), "page {page}: {found:?}");
    }
}

#[test]
fn a_page_that_was_whole_when_first_read_is_looked_at_again() {
    let (file, mut tree) = sample();
    pass(&mut tree, 64, |_, _| {}).unwrap();
    let root = 10 * PAGE_SIZE as u64 + 77;
    let mut byte = [0];
    file.file.read_exact_at(&mut byte, root).unwrap();
    file.file.write_all_at(&[byte[0] ^ 1], root).unwrap();
    assert_eq!(pass(&mut tree, 64, |_, _| {}).expect_err("a flip").page, PageId(10));
}

#[test]
fn the_tree_may_change_and_be_written_between_slices() {
    let (file, mut tree) = sample();
    let change = |tree: &mut Tree, slice: usize| {
        for number in (slice as u32 % 7..ROWS).step_by(97) {
            match (number as usize + slice) % 3 {
                0 => {
                    tree.remove(Table::Leases, &key(number)).unwrap();
                }
                _ => tree.put(Table::Leases, &key(number), &[&vec![slice as u8; 5000]]).unwrap(),
            }
        }
        tree.publish();
        if slice.is_multiple_of(3) {
            assert!(file.checkpoint(tree));
        }
    };
    let (verified, slices) = pass(&mut tree, 32, change).unwrap();
    assert!(verified > 500 && slices > 15, "{verified} pages in {slices} slices");
}

#[test]
fn a_damaged_meta_is_found_unless_it_was_so_at_the_start() {
    let (file, mut tree) = sample();
    tree.put(Table::Leases, b"more", &[b"x"]).unwrap();
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    assert_eq!(check_metas(&*file, None), Ok(3));
    for page in [0, 1] {
        let mut image = file.bytes();
        image[page * PAGE_SIZE + 100] ^= 1;
        let damaged = TestFile::with(&image);
        let found = check_metas(&*damaged, None).expect_err("a damaged meta");
        assert_eq!(found.page, PageId(page as u32));
        assert_eq!(check_metas(&*damaged, Some(found)), Ok(3));
    }
    assert_eq!(check_metas(&*TestFile::with(&[]), None), Ok(0), "no checkpoint yet");
}
