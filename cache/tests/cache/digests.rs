//! Digests of bytes, files, folders, and the memory of them.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use proptest::collection::btree_set;
use proptest::prelude::*;

use refrain_cache::{
    AppendLog, Digest, FileDigests, FileIdentity, ParseDigestError, digest_file, digest_listing,
    listing_text, parse_listing,
};

/// From BLAKE3's published test vectors.
const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

#[test]
fn a_digest_is_written_and_read_as_hexadecimal() {
    let digest: Digest = EMPTY.parse().unwrap();
    assert_eq!(digest, Digest::of_bytes(b""));
    assert_eq!(digest.to_string(), EMPTY);
    assert_eq!(digest.short(), "af1349b9");
    assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{EMPTY}\""));
    assert_eq!(serde_json::from_str::<Digest>(&format!("\"{EMPTY}\"")).unwrap(), digest);
}

#[test]
fn a_text_that_is_no_digest_is_refused_with_the_reason() {
    assert_eq!("af13".parse::<Digest>(), Err(ParseDigestError::Length(4)));
    assert_eq!(EMPTY.to_uppercase().parse::<Digest>(), Err(ParseDigestError::Character('A')));
    assert_eq!("é".repeat(32).parse::<Digest>(), Err(ParseDigestError::Character('é')));
    assert!(serde_json::from_str::<Digest>("\"af13\"").is_err());
}

#[test]
fn a_file_has_the_digest_of_its_bytes_at_every_block_border() {
    let folder = tempfile::tempdir().unwrap();
    let piece = 256 << 10;
    let pieces = [piece - 1, piece, piece + 1, 2 * piece, 2 * piece + 77, 3 * piece, 5 * piece - 1];
    for size in [0, 1, 1024, 1025, 17 * piece + 1024, 32 * piece].into_iter().chain(pieces) {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let path = folder.path().join("file");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(
            digest_file(&path).unwrap(),
            (Digest::of_bytes(&bytes), size as u64),
            "{size} bytes"
        );
    }
}

#[test]
fn a_folder_has_the_digest_of_the_lines_that_b3sum_prints() {
    let (a, b) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
    let lines = format!("{b}  Z.json\n{a}  a/b.json\n{b}  a0\n");
    let files = [("a0".to_owned(), b), ("a/b.json".to_owned(), a), ("Z.json".to_owned(), b)];
    assert_eq!(digest_listing(&files), Digest::of_bytes(lines.as_bytes()));
    let escaped = format!("\\{a}  x\\\\y\\nz\n");
    assert_eq!(digest_listing(&[("x\\y\nz".to_owned(), a)]), Digest::of_bytes(escaped.as_bytes()));
    assert_eq!(digest_listing(&[]), Digest::of_bytes(b""));
}

/// Waits until a digest of the files written so far can be remembered.
fn settle() {
    thread::sleep(Duration::from_millis(2_100));
}

/// Swaps the content for another of the same size and puts the time back, as `cp -p` does.
fn forge(path: &Path, bytes: &[u8]) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

/// Remembers a wrong digest of a file, which only a second look at the file would contradict.
fn misremember(log: &Path, right: &Digest) {
    let (lines, _) = AppendLog::read(log).unwrap();
    let line = lines.iter().rfind(|line| line.contains(&right.to_string())).unwrap();
    AppendLog::open(log).unwrap().append(&line.replace(&right.to_string(), EMPTY)).unwrap();
}

#[test]
fn a_settled_file_is_hashed_once_across_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (log, path) = (folder.path().join("files.log"), folder.path().join("line\nfeed"));
    fs::write(&path, b"one").unwrap();
    settle();
    let digests = FileDigests::open(&log).unwrap();
    assert_eq!(digests.get(&path).unwrap(), (Digest::of_bytes(b"one"), 3));
    assert!(digests.remembered(&path).is_some());
    digests.save().unwrap();
    misremember(&log, &Digest::of_bytes(b"one"));
    let reopened = FileDigests::open(&log).unwrap();
    assert_eq!(reopened.get(&path).unwrap().0.to_string(), EMPTY, "it is not read again");
    fs::write(&path, b"two").unwrap();
    assert_eq!(reopened.get(&path).unwrap().0, Digest::of_bytes(b"two"));
}

#[test]
fn a_file_replaced_by_one_of_equal_size_and_time_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (log, path) = (folder.path().join("files.log"), folder.path().join("file"));
    fs::write(&path, b"one").unwrap();
    settle();
    let digests = FileDigests::open(&log).unwrap();
    digests.get(&path).unwrap();
    let before = digests.remembered(&path).unwrap();
    digests.save().unwrap();
    forge(&path, b"two");
    assert_ne!(FileIdentity::of(&fs::metadata(&path).unwrap()), before);
    for known in [digests, FileDigests::open(&log).unwrap()] {
        assert_eq!(known.get(&path).unwrap().0, Digest::of_bytes(b"two"));
    }
}

/// However old its content claims to be: what was written now may be written again now.
#[test]
fn a_young_file_is_never_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let ages = [0, 100].map(|age| SystemTime::now() - Duration::from_secs(age));
    for modified in ages.into_iter().chain([SystemTime::now() + Duration::from_secs(1_000)]) {
        fs::write(&path, b"one").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let digests = FileDigests::open(&folder.path().join("log")).unwrap();
        assert_eq!(digests.get(&path).unwrap().0, Digest::of_bytes(b"one"));
        assert_eq!(digests.remembered(&path), None);
    }
}

/// Lines that were written before the change time was part of a file's identity.
#[test]
fn a_line_of_an_earlier_version_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (log, path) = (folder.path().join("files.log"), folder.path().join("file"));
    fs::write(&path, b"one").unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let line = serde_json::json!({
        "device": metadata.dev(),
        "inode": metadata.ino(),
        "size": metadata.size(),
        "seconds": metadata.mtime(),
        "nanoseconds": metadata.mtime_nsec(),
        "digest": EMPTY,
        "path": path,
    });
    AppendLog::open(&log).unwrap().append(&line.to_string()).unwrap();
    let digests = FileDigests::open(&log).unwrap();
    assert_eq!(digests.remembered(&path), None);
    assert_eq!(digests.get(&path).unwrap().0, Digest::of_bytes(b"one"));
}

#[test]
fn a_torn_or_corrupt_line_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let (log, a, b) = (folder.path().join("log"), folder.path().join("a"), folder.path().join("b"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    settle();
    let digests = FileDigests::open(&log).unwrap();
    digests.get(&a).unwrap();
    digests.get(&b).unwrap();
    digests.save().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let right = Digest::of_bytes(b"a").to_string();
    assert!(text.contains(&right));
    fs::write(&log, &text.replace(&right, EMPTY).as_bytes()[..text.len() - 3]).unwrap();
    let reopened = FileDigests::open(&log).unwrap();
    assert_eq!(reopened.get(&a).unwrap().0, Digest::of_bytes(b"a"));
    assert_eq!(reopened.get(&b).unwrap().0, Digest::of_bytes(b"b"));
    reopened.save().unwrap();
    let saved = FileDigests::open(&log).unwrap();
    assert_eq!(saved.remembered(&b), reopened.remembered(&b), "saved behind the torn tail");
    assert!(saved.remembered(&b).is_some());
}

proptest! {
    /// A listing is read back, and any other text is none.
    #[test]
    fn a_listing_is_read_back(names in btree_set("[a-z/\\\\\n\r é]{1,8}", 0..6)) {
        let files: Vec<(String, Digest)> =
            names.iter().map(|name| (name.clone(), Digest::of_bytes(name.as_bytes()))).collect();
        let text = listing_text(&files);
        prop_assert_eq!(parse_listing(&text), Some(files.clone()));
        prop_assert_eq!(Digest::of_bytes(text.as_bytes()), digest_listing(&files));
        if !text.is_empty() {
            prop_assert_eq!(parse_listing(text.trim_end_matches('\n')), None);
            prop_assert_eq!(parse_listing(&text.replace("  ", "\t")), None);
            prop_assert_eq!(parse_listing(&format!("{text}{text}x")), None);
        }
    }
}
