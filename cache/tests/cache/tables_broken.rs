//! Files that are no sound tables: each gives an error that names the file, or rows, and never a
//! panic.

use std::fs;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::path::Path;

use refrain_cache::{TableError, TableReader, TableWriter, panic_is_contained};

use crate::tables::rows;

fn read(path: &Path) -> Result<usize, TableError> {
    let reader = TableReader::open(path)?;
    reader.batches(None, 1_000)?.try_fold(0, |rows, batch| Ok(rows + batch?.num_rows()))
}

fn sound() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    let batch = rows(0, 60);
    let mut writer = TableWriter::create(&path, batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    fs::read(&path).unwrap()
}

/// Reads damaged bytes; panics are collected with the description of the damage.
fn try_bytes(path: &Path, bytes: &[u8], damage: String, panics: &mut Vec<String>) {
    fs::write(path, bytes).unwrap();
    match catch_unwind(|| read(path)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => assert!(error.to_string().contains("`"), "{error}"),
        Err(_) => panics.push(damage),
    }
}

#[test]
fn what_is_no_table_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.parquet");
    let missing = read(&path).unwrap_err().to_string();
    assert!(
        missing.contains("data.parquet") && missing.contains("could not be opened"),
        "{missing}"
    );
    for content in [
        &b""[..],
        b"id,prompt\n1,a\n",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1\xff\xff\xff\xffPAR1",
        b"PAR1\xff\xff\xff\x7fPAR1",
    ] {
        fs::write(&path, content).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("data.parquet` is no readable Parquet file: "), "{error}");
    }
    assert!(read(folder.path()).is_err());
}

/// A binary's hook; without it every contained panic would be printed.
fn silence_contained_panics() {
    let default = take_hook();
    set_hook(Box::new(move |info| {
        if !panic_is_contained() {
            default(info);
        }
    }));
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes, mut panics) = (folder.path().join("table"), sound(), Vec::new());
    for length in 0..bytes.len() {
        try_bytes(&path, &bytes[..length], format!("cut at {length}"), &mut panics);
    }
    assert!(panics.is_empty(), "{panics:?}");
}

#[test]
fn no_damaged_byte_is_a_panic() {
    silence_contained_panics();
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes, mut panics) = (folder.path().join("table"), sound(), Vec::new());
    for position in 0..bytes.len() {
        for damage in [0x01, 0x02, 0x10, 0x80, 0xff, 0x7f] {
            let mut bytes = bytes.clone();
            bytes[position] ^= damage;
            try_bytes(&path, &bytes, format!("byte {position} ^ {damage:#x}"), &mut panics);
        }
    }
    assert!(panics.is_empty(), "{} of {}: {panics:?}", panics.len(), bytes.len() * 6);
}
