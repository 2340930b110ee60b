//! What a disk can do to the file, region by region: each is noticed, named, and never served.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::super::{
    Config, Damage, Fault, Finding, Identity, OpenError, PAGE_SIZE, PageId, Reader, Table, Tree, verify,
};
use super::support::{CONFIG, TestFile, writes};

const LONG: usize = 10_000;

/// A tree with all kinds of pages, checkpointed twice so that both metas are there, and its rows.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn sample() -> (Arc<TestFile>, Rows) {
    let file = TestFile::new();
    let mut tree = Tree::create(CONFIG, file.clone());
    let mut rows = Vec::new();
    for number in 0..400u32 {
        let key = [b"key".as_slice(), &number.to_be_bytes()].concat();
        rows.push((key, vec![number as u8; 60]));
    }
    rows.push((b"long value".to_vec(), vec![0x5a; LONG]));
    rows.push((vec![b'x'; 3000], b"long key".to_vec()));
    rows.sort();
    for (at, (key, value)) in rows.iter().enumerate() {
        tree.put(Table::Leases, key, &[value]).unwrap();
        if at == 200 {
            tree.publish();
            assert!(file.checkpoint(&mut tree));
        }
    }
    tree.publish();
    assert!(file.checkpoint(&mut tree));
    (file, rows)
}

/// Every row there is, or the first damage.
fn read(reader: Reader<'_>) -> Result<Rows, Damage> {
    let (mut cursor, mut rows) = (reader.cursor(Table::Leases), Vec::new());
    let mut more = cursor.seek_first()?;
    while more {
        rows.push((cursor.key().to_vec(), cursor.value()?.to_vec()));
        more = cursor.next()?;
    }
    Ok(rows)
}

/// What becomes of an image: its rows, or where the damage was found.
fn outcome(image: &[u8]) -> Result<Rows, PageId> {
    let file = TestFile::with(image);
    let tree = match Tree::open(CONFIG, file) {
        Ok(tree) => tree,
        Err(OpenError::Damage(damage)) => return Err(damage.page),
        Err(error) => panic!("{error}"),
    };
    if let Some(damage) = tree.bad_meta() {
        assert_eq!(damage.offset, damage.page.offset());
        return Err(damage.page);
    }
    read(tree.reader()).map_err(|damage| {
        assert_eq!(damage.offset, damage.page.offset());
        damage.page
    })
}

fn kind_of(image: &[u8], page: usize) -> &'static str {
    match image[page * PAGE_SIZE + 16] {
        1 => "branch",
        2 => "leaf",
        3 => "run",
        4 => "bitmap",
        5 => "meta",
        _ => "inside a run",
    }
}

/// Pages that the newest meta reaches, each with the page a damage of it is reported for (a run's first).
fn reached(image: &[u8]) -> Vec<(usize, usize)> {
    let file = TestFile::with(image);
    assert_eq!(verify(&*file).unwrap().findings, []);
    let mut pages = Vec::new();
    let damaged = |page: usize| {
        let mut image = image.to_vec();
        image[page * PAGE_SIZE + 2000] ^= 1;
        verify(&*TestFile::with(&image)).unwrap().findings.iter().find_map(|finding| match finding {
            Finding::Damage(damage) | Finding::OtherMeta(damage) => Some(damage.page.0 as usize),
            _ => None,
        })
    };
    for page in 0..image.len() / PAGE_SIZE {
        pages.extend(damaged(page).map(|reported| (page, reported)));
    }
    pages
}

#[test]
fn a_flipped_bit_in_any_region_is_named_and_never_served() {
    let (file, rows) = sample();
    let image = file.bytes();
    assert_eq!(outcome(&image).unwrap(), rows);
    let mut kinds = BTreeSet::new();
    for (page, reported) in reached(&image) {
        kinds.insert(kind_of(&image, page));
        // All of the header, then bits across the page, one per page a different one.
        let bits = (0..32 * 8).chain((32 * 8 + page..PAGE_SIZE * 8).step_by(1777));
        for bit in bits {
            let mut flipped = image.clone();
            flipped[page * PAGE_SIZE + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(outcome(&flipped), Err(PageId(reported as u32)), "page {page}, bit {bit}");
        }
    }
    let all = ["branch", "leaf", "run", "bitmap", "meta", "inside a run"];
    assert_eq!(kinds, all.into_iter().collect(), "every kind of page was hit");
}

#[test]
fn damage_below_a_row_leaves_the_others_readable() {
    let (file, rows) = sample();
    let mut image = file.bytes();
    let run = reached(&image).into_iter().find(|(page, _)| kind_of(&image, *page) == "inside a run").unwrap();
    image[run.0 * PAGE_SIZE] ^= 1;
    let tree = Tree::open(CONFIG, TestFile::with(&image)).unwrap();
    let damage =
        Damage { offset: (run.1 * PAGE_SIZE) as u64, page: PageId(run.1 as u32), fault: Fault::Checksum };
    for (key, value) in rows {
        let found = tree.get(Table::Leases, &key);
        if value.len() == LONG {
            assert_eq!(found, Err(damage))
        } else {
            assert_eq!(found, Ok(Some(&value[..])))
        }
    }
}

#[test]
fn a_misdirected_write_is_noticed() {
    let (file, _) = sample();
    let image = file.bytes();
    let pages = reached(&image);
    let nodes: Vec<usize> = pages
        .iter()
        .map(|(page, _)| *page)
        .filter(|page| ["leaf", "branch"].contains(&kind_of(&image, *page)))
        .collect();
    for (from, to) in nodes.iter().zip(nodes.iter().skip(1)) {
        let mut wrong = image.clone();
        wrong.copy_within(from * PAGE_SIZE..(from + 1) * PAGE_SIZE, to * PAGE_SIZE);
        let tree = Tree::open(CONFIG, TestFile::with(&wrong)).unwrap();
        let damage =
            Damage { offset: (to * PAGE_SIZE) as u64, page: PageId(*to as u32), fault: Fault::WrongPage };
        assert_eq!(read(tree.reader()), Err(damage));
    }
}

/// The disk acknowledges a write and keeps what it had: each page of a third checkpoint in turn, among them reused ids, whose old
/// contents are whole pages of the right place.
#[test]
fn a_lost_write_is_noticed() {
    let file = TestFile::new();
    let mut tree = Tree::create(CONFIG, file.clone());
    let mut old_pages = 0;
    for round in 0..6u8 {
        for number in 0..300u32 {
            tree.put(Table::Leases, &number.to_be_bytes(), &[&[round; 100]]).unwrap();
        }
        tree.put(Table::Leases, b"long", &[&[round; LONG]]).unwrap();
        tree.publish();
        let before = file.bytes();
        let mut checkpoint = tree.begin_checkpoint().unwrap();
        let all = writes(&mut checkpoint);
        let (meta_page, meta) = checkpoint.meta();
        let mut image = before.clone();
        image.resize(checkpoint.file_pages() as usize * PAGE_SIZE, 0);
        for (page, bytes) in
            all.iter().map(|(page, bytes)| (*page, &bytes[..])).chain([(meta_page, &meta[..])])
        {
            image[page.offset() as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        assert!(outcome(&image).is_ok());
        for (first, bytes) in &all {
            for at in 0..bytes.len() / PAGE_SIZE {
                let start = first.offset() as usize + at * PAGE_SIZE;
                let mut lost = image.clone();
                let kept = before.get(start..start + PAGE_SIZE).unwrap_or(&[0; PAGE_SIZE]);
                old_pages += usize::from(kept[16] == 2);
                if lost[start..start + PAGE_SIZE] != *kept {
                    lost[start..start + PAGE_SIZE].copy_from_slice(kept);
                    assert!(outcome(&lost).is_err(), "round {round}, page {}", start / PAGE_SIZE);
                }
            }
        }
        file.file.write_all_at(&image, 0).unwrap();
        tree.end_checkpoint(checkpoint);
    }
    assert!(old_pages > 20, "ids were reused: {old_pages}");
}

#[test]
fn what_is_not_a_tree_of_ours_is_refused_with_the_reason() {
    let (file, _) = sample();
    let image = file.bytes();
    let other = Identity { cluster: 1, member: 3 };
    let cut = image.len() - PAGE_SIZE;
    let torn_first = || {
        let file = TestFile::new();
        let mut tree = Tree::create(CONFIG, file.clone());
        assert!(file.checkpoint(&mut tree));
        let mut image = file.bytes();
        image[PAGE_SIZE + 64..2 * PAGE_SIZE].fill(0);
        image
    };
    let damage =
        |page: usize, fault| Damage { offset: (page * PAGE_SIZE) as u64, page: PageId(page as u32), fault };
    let cases = [
        ("an empty file", Vec::new(), CONFIG, OpenError::Empty { torn: None }),
        ("zeros", vec![0; 5 * PAGE_SIZE], CONFIG, OpenError::Empty { torn: None }),
        (
            "a torn first meta",
            torn_first(),
            CONFIG,
            OpenError::Empty { torn: Some(damage(1, Fault::Checksum)) },
        ),
        (
            "another's",
            image.clone(),
            Config { identity: other, ..CONFIG },
            OpenError::Foreign { found: CONFIG.identity },
        ),
        (
            "cut short",
            image[..cut].to_vec(),
            CONFIG,
            OpenError::Damage(damage(cut / PAGE_SIZE, Fault::BeyondFile)),
        ),
    ];
    for (name, bytes, config, want) in cases {
        assert_eq!(Tree::open(config, TestFile::with(&bytes)).err(), Some(want), "{name}");
    }
}

/// A damaged newest meta: what opens is the version before, whole, and said to be so.
#[test]
fn a_damaged_newest_meta_leaves_the_version_before_and_a_notice() {
    let file = TestFile::new();
    let mut tree = Tree::create(CONFIG, file.clone());
    for round in 1..20u8 {
        (0..200u32).for_each(|key| tree.put(Table::Leases, &key.to_be_bytes(), &[&[round; 50]]).unwrap());
        tree.publish();
        assert!(file.checkpoint(&mut tree));
        let mut image = file.bytes();
        let newest = usize::from(round) % 2;
        image[newest * PAGE_SIZE + 77] ^= 4;
        if round == 1 {
            continue;
        }
        let tree = Tree::open(CONFIG, TestFile::with(&image)).unwrap();
        assert_eq!(tree.bad_meta().map(|damage| damage.page), Some(PageId(newest as u32)));
        let rows = read(tree.reader()).unwrap();
        assert!(rows.len() == 200 && rows.iter().all(|(_, value)| *value == [round - 1; 50]));
        let found = verify(&*TestFile::with(&image)).unwrap().findings;
        assert!(matches!(found[..], [Finding::OtherMeta(_)]), "{found:?}");
    }
}

/// The version of the older meta is kept whole, also by a process that has only just opened the file.
#[test]
fn after_a_restart_the_older_meta_is_still_worth_going_back_to() {
    let (file, _) = sample();
    let first =
        read(Tree::open(CONFIG, TestFile::with(&without_newest_meta(&file.bytes()))).unwrap().reader())
            .unwrap();
    let mut tree = Tree::open(Config { nonce: 1, ..CONFIG }, file.clone()).unwrap();
    for batch in 0..20u8 {
        (0..300u32).for_each(|key| tree.put(Table::Leases, &key.to_be_bytes(), &[&[batch; 200]]).unwrap());
        tree.publish();
    }
    let mut checkpoint = tree.begin_checkpoint().unwrap();
    for (page, bytes) in writes(&mut checkpoint) {
        file.file.write_all_at(&bytes, page.offset()).unwrap();
    }
    let image = without_newest_meta(&file.bytes());
    let found = read(Tree::open(CONFIG, TestFile::with(&image)).unwrap().reader());
    assert!(first.len() > 100 && found == Ok(first));
}

/// The image with the meta of the second of two checkpoints damaged (page 0; the first's is page 1).
fn without_newest_meta(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[70] ^= 1;
    image
}

/// What checksums can't catch: pages that were sealed with nonsense in them. Whatever it is, nothing panics.
#[test]
fn sealed_nonsense_is_refused_or_read_but_never_panics() {
    let (file, _) = sample();
    let image = file.bytes();
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let pages = image.len() / PAGE_SIZE;
    let mut refused = 0;
    for _ in 0..4000 {
        let mut nonsense = image.clone();
        let page = random(pages);
        for _ in 0..1 + random(6) {
            let near = if random(2) == 0 { 64 } else { PAGE_SIZE };
            nonsense[page * PAGE_SIZE + 16 + random(near - 16)] = random(256) as u8;
        }
        super::super::header::seal(&mut nonsense[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]);
        let file = TestFile::with(&nonsense);
        let _ = verify(&*file);
        let Ok(mut tree) = Tree::open(CONFIG, file) else {
            refused += 1;
            continue;
        };
        refused += usize::from(read(tree.reader()).is_err());
        let _ = tree.count(Table::Leases, b"key", Some(b"keyz"));
        let _ = tree.get(Table::Leases, b"key\0\0\0\x07");
        let _ = tree.cursor(Table::Leases).seek_for_prev(b"keyx");
        let _ = tree.put(Table::Leases, b"key\0\0\0\x07", &[b"other"]);
    }
    assert!(refused > 500, "{refused} were noticed");
}
