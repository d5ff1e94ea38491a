//! What an interrupted node leaves: whole files or none, and nothing after the node is done.

use std::fs;
use std::io;
use std::io::Read;

use refrain_cache::{Cache, Digest, Key, Unfinished};

fn key(text: &str) -> Key {
    Key::new(Digest::of_bytes(text.as_bytes()))
}

fn content(unfinished: &Unfinished<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    unfinished.read("state").unwrap()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn a_file_is_found_by_the_next_process_and_only_under_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(".refrain");
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 7) as u8).collect();
    {
        let cache = Cache::open(&root).unwrap();
        let unfinished = cache.unfinished(&key("a"));
        assert_eq!(content(&unfinished), None);
        unfinished.write("state", |out| out.write_all(b"old")).unwrap();
        unfinished.write("state", |out| out.write_all(&large)).unwrap();
    }
    let cache = Cache::open(&root).unwrap();
    assert_eq!(content(&cache.unfinished(&key("a"))), Some(large));
    assert_eq!(content(&cache.unfinished(&key("b"))), None);
    cache.unfinished(&key("a")).remove().unwrap();
    cache.unfinished(&key("a")).remove().unwrap();
    assert_eq!(content(&cache.unfinished(&key("a"))), None);
    assert_eq!(fs::read_dir(root.join("unfinished")).unwrap().count(), 0);
}

#[test]
fn a_write_that_fails_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
    let unfinished = cache.unfinished(&key("a"));
    unfinished.write("state", |out| out.write_all(b"old")).unwrap();
    let full = unfinished.write("state", |out| {
        out.write_all(b"half of the new")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    });
    assert!(full.unwrap_err().to_string().contains("could not be written"));
    assert_eq!(content(&unfinished), Some(b"old".to_vec()));
}

/// Another process, which had taken the key over, recorded it while this one wrote down how far it
/// is.
#[test]
fn what_is_written_for_a_key_that_is_done_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
    let unfinished = cache.unfinished(&key("a"));
    unfinished.write("state", |out| out.write_all(b"old")).unwrap();
    let done = |out: &mut dyn io::Write| {
        cache.unfinished(&key("a")).remove().unwrap();
        out.write_all(b"new")
    };
    unfinished.write("state", done).unwrap();
    assert_eq!(content(&unfinished), None);
}

#[test]
fn every_torn_or_changed_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
    let unfinished = cache.unfinished(&key("a"));
    unfinished.write("state", |out| out.write_all(b"a few bytes")).unwrap();
    let path = cache.root().join("unfinished").join(key("a").to_string()).join("state");
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), 11 + 32);
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(unfinished.read("state").is_err(), "cut to {length} bytes");
    }
    for byte in 0..whole.len() {
        let mut changed = whole.clone();
        changed[byte] ^= 1;
        fs::write(&path, &changed).unwrap();
        let error = unfinished.read("state").unwrap_err().to_string();
        assert!(error.ends_with("its checksum does not hold"), "byte {byte}: {error}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(content(&unfinished), Some(b"a few bytes".to_vec()));
}
