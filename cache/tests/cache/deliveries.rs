//! Deliveries: what a job elsewhere made becomes a record, once, whatever else lies beside it, and
//! nothing that the job does touches a file of others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use refrain_cache::{Artifact, Cache, Digest, Key, Manifest, NodeResult, Record, Sharing, Stored};

fn table(cache: &Cache, values: &[i32]) -> Artifact {
    let column = Arc::new(Int32Array::from(values.to_vec())) as _;
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    let mut table = cache.new_table(batch.schema()).unwrap();
    table.write(&batch).unwrap();
    cache.store_table(table).unwrap()
}

fn record(cache: &Cache, name: &str, values: &[i32]) -> Record {
    let manifest = Manifest::new(name);
    Record {
        key: manifest.key(),
        kind: "test".into(),
        result: NodeResult::main(table(cache, values)),
        seconds: 0.5,
        manifest,
        version: "1".into(),
    }
}

fn apart(root: &Path) -> Cache {
    Cache::open_apart(root, Sharing::default()).unwrap()
}

/// The content of all files of a cache that several processes append to.
fn shared_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in ["records", "rows"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // A segment has three parts.
            if name.split('.').count() == 2 {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_a_job_delivers_is_recorded_once_and_not_hashed_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let here = Cache::open(&root).unwrap();
    let (records, digests) = (here.records().unwrap(), here.file_digests().unwrap());
    let before = shared_files(&root);

    let job = apart(&root);
    let made = [record(&job, "a", &[1]), record(&job, "b", &[2])];
    job.deliver(&made).unwrap();
    assert_eq!(shared_files(&root), before, "a job appends to no file of others");

    let arrived = here.collect(&records, &digests).unwrap();
    assert_eq!(arrived, [(made[0].key, Stored::First), (made[1].key, Stored::First)]);
    assert_eq!(here.collect(&records, &digests).unwrap(), [], "once");
    for made in &made {
        assert_eq!(records.get(&made.key).unwrap().as_ref(), Some(made));
        let artifact = &made.result.artifacts["main"];
        assert!(!here.must_hash(artifact, &digests), "its digest is known");
    }

    // A delivery stays until the records are on disk; meanwhile a third process may collect it.
    let third = Cache::open(&root).unwrap();
    let again = third.collect(&third.records().unwrap(), &digests).unwrap();
    assert!(again.iter().all(|(_, stored)| *stored == Stored::Adopted { differs: false }));
    let synced = here.unsynced_deliveries();
    here.sync(&digests).unwrap();
    here.remove_deliveries(synced);
    assert_eq!(fs::read_dir(here.deliveries_dir()).unwrap().count(), 0);
}

#[test]
fn nothing_but_whole_records_under_their_own_keys_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let job = apart(&root);
    let sound = record(&job, "sound", &[1]);
    let swapped = Record { key: Key::new(Digest::of_bytes(b"x")), ..record(&job, "other", &[2]) };
    job.deliver(&[swapped, sound.clone()]).unwrap();
    let written = fs::read_dir(job.deliveries_dir()).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&written).unwrap();

    // A file that was cut off, one whose bytes changed, one that is none, and an unfinished one.
    let beside = |name: &str| job.deliveries_dir().join(name);
    let mut changed = bytes.clone();
    changed.iter_mut().for_each(|byte| *byte = if *byte == b'1' { b'2' } else { *byte });
    fs::write(beside("cut.delivery"), &bytes[..bytes.len() - 2]).unwrap();
    fs::write(beside("changed.delivery"), changed).unwrap();
    fs::write(beside("none.delivery"), [0xff, 0, b'\n', b'{']).unwrap();
    fs::write(beside(".refrain-temporary"), &bytes).unwrap();

    let here = Cache::open(&root).unwrap();
    let (records, digests) = (here.records().unwrap(), here.file_digests().unwrap());
    here.collect(&records, &digests).unwrap();
    assert_eq!(records.keys(), [sound.key]);
    assert_eq!(records.get(&sound.key).unwrap(), Some(sound));
}

/// A file that a delivery names is not believed to be what it was when it is another one by now, and
/// none outside of the cache's artifacts is.
#[test]
fn a_file_that_changed_since_is_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let job = apart(&root);
    let made = record(&job, "a", &[1, 2, 3]);
    job.deliver(std::slice::from_ref(&made)).unwrap();
    let artifact = made.result.artifacts["main"].clone();
    let path = job.object_path(&artifact.digest);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![b'x'; bytes.len()]).unwrap();

    let here = Cache::open(&root).unwrap();
    let (records, digests) = (here.records().unwrap(), here.file_digests().unwrap());
    here.collect(&records, &digests).unwrap();
    assert!(here.must_hash(&artifact, &digests));
    assert!(here.verify_remembered(&artifact, &digests).is_err());
}

#[test]
fn rows_of_a_job_are_found_at_once_and_move_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let function = Key::new(Digest::of_bytes(b"function"));
    let row = |number: u8| Digest::of_bytes(&[number]);
    let here = Cache::open(&root).unwrap();
    here.rows(&function).unwrap().put(&[(row(1), vec![1])]).unwrap();
    let before = shared_files(&root);

    let job = apart(&root);
    let rows = job.rows(&function).unwrap();
    assert_eq!(rows.get(&row(1)).unwrap(), Some(vec![1]), "a job has the rows of others");
    rows.put(&[(row(2), vec![2; 1000])]).unwrap();
    assert_eq!(job.rows(&function).unwrap().get(&row(2)).unwrap(), Some(vec![2; 1000]));
    assert_eq!(shared_files(&root), before);

    // While the job lives its rows are read where they are.
    let other = Cache::open(&root).unwrap();
    other.merge_rows().unwrap();
    assert_eq!(other.rows(&function).unwrap().get(&row(2)).unwrap(), Some(vec![2; 1000]));
    assert_eq!(fs::read_dir(root.join("rows")).unwrap().count(), 2);

    drop((rows, job));
    other.merge_rows().unwrap();
    assert_eq!(fs::read_dir(root.join("rows")).unwrap().count(), 1);
    let after = Cache::open(&root).unwrap().rows(&function).unwrap();
    assert_eq!(after.get(&row(1)).unwrap(), Some(vec![1]));
    assert_eq!(after.get(&row(2)).unwrap(), Some(vec![2; 1000]));
}
