//! Looking up in groups finds what looking up one by one finds.

use crossbeam::epoch;

use super::super::lookups::GROUP_ROWS;
use super::super::{Table, Tree};
use super::support::{CONFIG, TestFile};

fn key(main: u64, sub: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// Revisions of one, two or a hundred changes, with holes as compaction leaves them, and values of every size.
fn filled(revisions: u64) -> (Tree, Vec<[u8; 16]>) {
    let mut tree = Tree::create(CONFIG, TestFile::new());
    let mut keys = Vec::new();
    for main in 1..=revisions {
        let changes = [1, 1, 2, 100, 1][main as usize % 5];
        for sub in (0..changes).filter(|sub| (main * 31 + sub) % 11 != 0) {
            let len = if main % 97 == 0 { 5000 } else { (main * 7 + sub * 13) % 300 };
            let value = vec![(main ^ sub) as u8; len as usize];
            tree.put(Table::History, &key(main, sub), &[&value]).unwrap();
            keys.push(key(main, sub));
        }
    }
    (tree, keys)
}

#[test]
fn groups_find_what_single_reads_find() {
    for revisions in [0, 1, 3, 40, 2000] {
        let (mut tree, keys) = filled(revisions);
        let snapshot = tree.publish();
        let guard = epoch::pin();
        let reader = snapshot.reader(&guard);
        // in order, backwards, and far apart
        for stride in [1, keys.len().saturating_sub(1).max(1), 7919] {
            let order: Vec<[u8; 16]> = (0..keys.len()).map(|i| keys[i * stride % keys.len()]).collect();
            let mut lookups = reader.lookups(Table::History);
            for size in [1, 3, GROUP_ROWS] {
                for group in order.chunks(size) {
                    let want: Vec<&[u8]> =
                        group.iter().map(|key| reader.get(Table::History, key).unwrap().unwrap()).collect();
                    assert_eq!(lookups.group(group).unwrap().unwrap()[..], want[..], "{revisions} {stride}");
                }
            }
        }
    }
}

#[test]
fn a_group_with_a_missing_row_is_none() {
    let (tree, keys) = filled(300);
    let reader = tree.reader();
    let mut lookups = reader.lookups(Table::History);
    for missing in [key(0, 0), key(11, 0), key(150, 3000), key(301, 0), [0xff; 16]] {
        assert_eq!(reader.get(Table::History, &missing), Ok(None), "{missing:?}");
        assert_eq!(lookups.group(&[keys[5], missing, keys[9]]), Ok(None), "{missing:?}");
    }
    assert_eq!(lookups.group(&[]).unwrap().unwrap().len(), 0);
    let empty = Tree::create(CONFIG, TestFile::new());
    assert_eq!(empty.reader().lookups(Table::History).group(&keys[..1]), Ok(None));
}
