//! Checking a whole cache: damage anywhere is found and set aside, and nothing else is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use refrain_cache::{Artifact, ArtifactKind, Cache, Damage, Digest, Manifest};

use crate::records::record;

fn file(cache: &Cache, bytes: &[u8]) -> Artifact {
    let scratch = cache.scratch_dir().unwrap();
    fs::write(scratch.path().join("out"), bytes).unwrap();
    cache.store_file(&scratch.path().join("out")).unwrap()
}

fn model(cache: &Cache, weights: &[u8]) -> Artifact {
    let folder = cache.new_folder().unwrap();
    folder.write("config.json", b"{}").unwrap();
    folder.write("sub/model.safetensors", weights).unwrap();
    cache.store_folder(folder, ArtifactKind::Model, None).unwrap()
}

/// Changes one byte of a stored file and nothing that a stat shows.
fn flip(path: &Path, at: usize) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}

fn verify(cache: &Cache) -> Vec<Digest> {
    let records = cache.records().unwrap();
    let listing = cache.listing(&records).unwrap();
    let done = AtomicU64::new(0);
    let damages = cache.verify_objects(&listing, &done).unwrap();
    assert_eq!(done.into_inner(), listing.objects.iter().map(|object| object.bytes).sum::<u64>());
    let mut digests: Vec<Digest> = damages
        .into_iter()
        .map(|damage| match damage {
            Damage::Object { digest, aside, .. } => {
                assert!(aside.exists() && !cache.object_path(&digest).exists());
                digest
            }
            Damage::Log { path, .. } => panic!("{}", path.display()),
        })
        .collect();
    digests.sort();
    digests
}

#[test]
fn every_damaged_object_is_set_aside_and_every_sound_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (small, big, other) =
        (file(&cache, b"small"), file(&cache, &large), file(&cache, b"other"));
    let (sound, broken) = (model(&cache, &large), model(&cache, b"weights"));
    let known = cache.file_digests().unwrap();
    cache.sync(&known).unwrap();
    assert_eq!(verify(&cache), []);
    flip(&cache.object_path(&small.digest), 4);
    flip(&cache.object_path(&big.digest), 2_999_999);
    flip(&cache.object_path(&broken.digest).join("sub/model.safetensors"), 0);
    let mut damaged = vec![small.digest, big.digest, broken.digest];
    damaged.sort();
    assert_eq!(verify(&cache), damaged);
    assert!(cache.contains(&other) && cache.contains(&sound));
    assert_eq!(verify(&cache), []);
}

#[test]
fn a_folder_with_a_file_more_or_less_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let (more, less) = (model(&cache, b"more"), model(&cache, b"less"));
    fs::write(cache.object_path(&more.digest).join("new"), b"").unwrap();
    fs::remove_file(cache.object_path(&less.digest).join("config.json")).unwrap();
    let mut damaged = vec![more.digest, less.digest];
    damaged.sort();
    assert_eq!(verify(&cache), damaged);
}

#[test]
fn a_log_with_damaged_lines_is_written_anew_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let (a, b) = (record("a", b"a"), record("b", b"b"));
    let records = cache.records().unwrap();
    records.put(&a).unwrap();
    records.put(&b).unwrap();
    let log = folder.path().join("records/records.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[100] ^= 1;
    bytes.extend(b"cut off");
    fs::write(&log, &bytes).unwrap();
    let other = Cache::open(folder.path()).unwrap();
    other.begin_write().unwrap();
    let damages = cache.verify_logs().unwrap();
    assert!(matches!(&damages[..], [Damage::Log { places: 2, aside: None, .. }]), "{damages:?}");
    assert_eq!(fs::read(&log).unwrap(), bytes, "another process may be about to add a line");
    drop(other);
    let damages = cache.verify_logs().unwrap();
    let [Damage::Log { path, places: 2, aside: Some(aside) }] = &damages[..] else {
        panic!("{damages:?}")
    };
    assert_eq!((path, fs::read(aside).unwrap()), (&log, bytes));
    assert!(cache.verify_logs().unwrap().is_empty());
    assert_eq!(cache.records().unwrap().keys(), [b.key]);
}

/// A tombstone names the offset of the record that it removes, and lines move when a log is
/// rewritten.
#[test]
fn a_replaced_record_does_not_come_back_when_the_log_is_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let (other, old, new) = (record("b", b"b"), record("a", b"old"), record("a", b"new"));
    let records = cache.records().unwrap();
    records.put(&other).unwrap();
    records.put(&old).unwrap();
    records.forget(&old.key).unwrap();
    records.put(&new).unwrap();
    let log = folder.path().join("records/records.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[100] ^= 1;
    fs::write(&log, &bytes).unwrap();
    assert_eq!(cache.verify_logs().unwrap().len(), 1);
    let records = cache.records().unwrap();
    assert_eq!(records.get(&new.key).unwrap(), Some(new));
    assert_eq!(records.get(&other.key).unwrap(), None);
}

#[test]
fn a_row_memo_with_damaged_rows_is_written_anew_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let function = Manifest::new("function").key();
    let row = |i: u8| (Digest::of_bytes(&[i]), vec![i; 40]);
    let write = || {
        let cache = Cache::open(folder.path()).unwrap();
        cache.rows(&function).unwrap().put(&[row(0), row(1), row(2), row(3)]).unwrap();
    };
    write();
    let memo = folder.path().join(format!("rows/{function}.rows"));
    let whole = fs::read(&memo).unwrap();
    let entry = whole.len() / 4;
    // Each damage: the bytes, how many places are counted, and the rows that are left.
    let flipped = |at: &[usize]| {
        let mut bytes = whole.clone();
        at.iter().for_each(|at| bytes[*at] ^= 1);
        bytes
    };
    let damages = [
        (flipped(&[entry + 60]), 1, vec![0, 2, 3]),
        (flipped(&[0]), 1, vec![1, 2, 3]),
        (flipped(&[entry + 60, 3 * entry + 60]), 2, vec![0, 2]),
        (flipped(&[entry + 60, 2 * entry + 60]), 1, vec![0, 3]),
        (whole[..3 * entry + 10].to_vec(), 1, vec![0, 1, 2]),
        (whole[..3 * entry + 60].to_vec(), 1, vec![0, 1, 2]),
        ([&whole[..], b"R"].concat(), 1, vec![0, 1, 2, 3]),
    ];
    for (bytes, wanted, left) in damages {
        fs::write(&memo, &bytes).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let found = cache.verify_logs().unwrap();
        let [Damage::Log { path, places, aside: Some(aside) }] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((path, *places, fs::read(aside).unwrap()), (&memo, wanted, bytes));
        assert!(cache.verify_logs().unwrap().is_empty());
        let rows = cache.rows(&function).unwrap();
        assert_eq!(rows.count(), left.len());
        for i in left {
            assert_eq!(rows.get(&row(i).0).unwrap(), Some(row(i).1));
        }
    }
    assert_eq!(fs::read(&memo).unwrap(), whole, "only the end was damaged");
}
