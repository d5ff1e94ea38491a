//! The row memo: what was put is found, by other processes too, and no damage makes it anything
//! else.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use refrain_cache::{Cache, Digest, Key};
use tempfile::TempDir;

fn function() -> Key {
    Key::new(Digest::of_bytes(b"function"))
}

fn row(number: u32) -> Digest {
    Digest::of_bytes(&number.to_le_bytes())
}

/// The value of a row: other bytes for each, of other lengths.
fn value(number: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(number + 3) as u8).collect()
}

fn file(root: &Path) -> std::path::PathBuf {
    root.join("rows").join(format!("{}.rows", function()))
}

#[test]
fn rows_are_found_by_this_process_and_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let (one, other) = (Cache::open(&root).unwrap(), Cache::open(&root).unwrap());
    let rows = one.rows(&function()).unwrap();
    assert_eq!(rows.get(&row(1)).unwrap(), None);
    rows.put(&[(row(1), value(1, 10)), (row(2), value(2, 3_000_000))]).unwrap();
    other.rows(&function()).unwrap().put(&[(row(3), Vec::new())]).unwrap();
    for cache in [&one, &other, &Cache::open(&root).unwrap()] {
        let rows = cache.rows(&function()).unwrap();
        assert_eq!(rows.get(&row(1)).unwrap(), Some(value(1, 10)));
        assert_eq!(rows.get(&row(2)).unwrap(), Some(value(2, 3_000_000)));
        assert_eq!(rows.get(&row(3)).unwrap(), Some(Vec::new()));
        assert_eq!(rows.get(&row(4)).unwrap(), None);
        let elsewhere = cache.rows(&Key::new(Digest::of_bytes(b"another"))).unwrap();
        assert_eq!(elsewhere.get(&row(1)).unwrap(), None);
    }
}

#[test]
fn the_later_of_two_values_counts() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
    let rows = cache.rows(&function()).unwrap();
    rows.put(&[(row(1), value(1, 5)), (row(1), value(9, 8))]).unwrap();
    assert_eq!(cache.rows(&function()).unwrap().get(&row(1)).unwrap(), Some(value(9, 8)));
}

#[test]
fn an_entry_that_is_cut_off_hides_none_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let put = |number: u32, length: usize| {
        let cache = Cache::open(&root).unwrap();
        cache.rows(&function()).unwrap().put(&[(row(number), value(number, length))]).unwrap();
    };
    put(1, 100);
    put(2, 5_000);
    let whole = fs::read(file(&root)).unwrap();
    for cut in (149..whole.len()).step_by(97) {
        fs::write(file(&root), &whole[..cut]).unwrap();
        put(3, 40);
        let rows = Cache::open(&root).unwrap().rows(&function()).unwrap();
        assert_eq!(rows.count(), 2, "cut at {cut}");
        assert_eq!(rows.get(&row(1)).unwrap(), Some(value(1, 100)));
        assert_eq!(rows.get(&row(3)).unwrap(), Some(value(3, 40)));
    }
}

proptest! {
    #[test]
    fn damage_loses_rows_and_changes_none(
        lengths in prop::collection::vec(0_usize..300, 1..40),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..6),
    ) {
        // One folder for all cases: to make one takes longer than all else here.
        static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
        static CASE: AtomicU64 = AtomicU64::new(0);
        let root = FOLDER.path().join(".refrain");
        let function = Key::new(Digest::of_bytes(&CASE.fetch_add(1, Ordering::Relaxed).to_le_bytes()));
        let file = root.join("rows").join(format!("{function}.rows"));
        let rows = Cache::open(&root).unwrap().rows(&function).unwrap();
        let mut put = HashMap::new();
        for (number, length) in (0_u32..).zip(&lengths) {
            rows.put(&[(row(number), value(number, *length))]).unwrap();
            put.insert(number, value(number, *length));
        }
        let mut bytes = fs::read(&file).unwrap();
        for (place, mask) in &flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        fs::write(&file, &bytes).unwrap();
        let rows = Cache::open(&root).unwrap().rows(&function).unwrap();
        let mut lost = 0;
        for (number, value) in &put {
            match rows.get(&row(*number)).unwrap() {
                Some(found) => prop_assert_eq!(&found, value),
                None => lost += 1,
            }
        }
        prop_assert!(lost <= flips.len(), "{} flips lost {} rows", flips.len(), lost);
    }
}
