//! Pages: the records of some sixty keys in one file, under a name that a lock's keys give.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use refrain_cache::{Digest, Key, Record};

use crate::named::Named;

/// One key of so many is the last of its page.
const KEYS: u8 = 64;
/// Keys of a page at most.
const MOST: usize = 512;
/// First line of the text that is hashed for a page's name.
const VERSION: &str = "refrain page 1\n";
/// Bytes of a page at most, for each of its records.
const RECORD: u64 = 1 << 20;

/// The results whose records are in one page.
pub(crate) struct Page<'a> {
    /// Its name.
    pub name: Digest,
    /// The results, sorted by key, one of each.
    pub results: Vec<&'a Named>,
}

impl Page<'_> {
    /// The largest size in bytes that is accepted.
    pub fn limit(&self) -> u64 {
        RECORD * self.results.len() as u64
    }
}

/// Parts results into pages. Where a page ends depends on its last key alone, so that a changed
/// result changes its own page and no other.
pub(crate) fn pages(named: &[Named]) -> Vec<Page<'_>> {
    let by_key: BTreeMap<Key, &Named> = named.iter().map(|one| (one.key, one)).collect();
    let mut pages = Vec::new();
    let mut results = Vec::new();
    for one in by_key.into_values() {
        let [.., last] = one.key.digest().as_bytes();
        let is_last = last.is_multiple_of(KEYS) || results.len() + 1 == MOST;
        results.push(one);
        if is_last {
            pages.push(page(std::mem::take(&mut results)));
        }
    }
    if !results.is_empty() {
        pages.push(page(results));
    }
    pages
}

fn page(results: Vec<&Named>) -> Page<'_> {
    let mut text = String::from(VERSION);
    for one in &results {
        write!(text, "{}", one.key).expect("writing into a string cannot fail");
        for (name, artifact) in &one.result.artifacts {
            write!(text, " {name}={}", artifact.digest).expect("writing into a string cannot fail");
        }
        text.push('\n');
    }
    Page { name: Digest::of_bytes(text.as_bytes()), results }
}

/// Formats the records of a page.
pub(crate) fn write(records: &[Record]) -> Vec<u8> {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record).expect("a record is JSON");
        text.push(b'\n');
    }
    text
}

/// Reads the records of a page; a line that is none is passed over.
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = Record> + '_ {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
