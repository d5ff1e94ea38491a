//! A bundle: the same bytes from the same lock and cache, checked without anything else.

use std::io::Write;

use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::space::{Said, Space};

const WORKFLOW: &str = "refrain: 1
name: folds
description: Does case matter?
license: MIT
authors: [Ada]
date: 2026-11-26
data: { rows: { path: data/rows.jsonl } }
stages:
  judged: { evaluate: { data: rows, task: exact_match, ignore_case: \"${fold}\" } }
sweep: { fold: [false, true] }
compare:
  folds: { stage: judged, metric: accuracy, between: { fold: [true, false] } }
expect:
  - { compare: folds, at_least: 0.5 }
  - { stage: judged, at: { fold: true }, metric: accuracy, value: 1.0, within: 0.1, source: a paper }
";

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space.write(
        "data/rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"Yes\", \"reference\": \"yes\"}\n{\"id\": \"b\", \"prompt\": \"p\", \"response\": \"no\", \"reference\": \"no\"}\n",
    );
    space.report("w.yaml", &[]);
    space
}

fn bundled(space: &Space, more: &[&str]) -> Vec<u8> {
    let mut arguments = vec!["bundle", "w.yaml", "-o", "w.zip"];
    arguments.extend(more);
    space.accepts(&arguments);
    std::fs::read(space.path("w.zip")).unwrap()
}

/// Verifies an archive in a folder with nothing else.
fn verified(bytes: &[u8]) -> Said {
    let elsewhere = Space::new();
    std::fs::write(elsewhere.path("w.zip"), bytes).unwrap();
    elsewhere.survives(&["verify", "w.zip", "--format", "json"])
}

#[test]
fn two_folders_give_the_same_bytes_which_hold_anywhere() {
    let (one, other) = (space(), Space::new());
    other.write("w.yaml", &one.read("w.yaml"));
    other.write("data/rows.jsonl", &one.read("data/rows.jsonl"));
    other.write("w.lock", &one.read("w.lock"));
    let cache = one.path(".refrain").display().to_string();
    let bytes = bundled(&one, &[]);
    assert_eq!(bytes, bundled(&other, &["--cache", &cache]));
    assert_eq!(bytes, bundled(&one, &[]));

    let said = verified(&bytes);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(said.code, 0, "{found}");
    assert_eq!((&found["expects"], &found["comparisons"]["computed"]), (&2.into(), &1.into()));
    assert_eq!(found["artifacts"]["hashed"], 4, "two tables and their metrics: {found}");

    // With the sources it is larger, and says of whom it is.
    let larger = bundled(&one, &["--with-sources"]);
    assert!(larger.len() > bytes.len());
    assert_eq!(verified(&larger).code, 0);
}

#[test]
fn one_flipped_byte_is_named() {
    let bytes = bundled(&space(), &[]);
    let sound = verified(&bytes);
    assert_eq!(sound.code, 0);
    let (mut harmless, step) = (0, bytes.len() / 150);
    for place in (0..bytes.len()).step_by(step) {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let said = verified(&changed);
        // Times, modes and checks of the archive itself are not content.
        harmless += usize::from(said.code == 0 && said.stdout == sound.stdout);
        assert!(said.code != 0 || said.stdout == sound.stdout, "{place}: {}", said.stdout);
    }
    assert!(harmless < 40, "{harmless} flips of 150 change nothing");
}

/// An archive with the files of a bundle, of which `change` makes others.
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(0o644);
        archive.start_file(name.as_str(), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    (0..archive.len())
        .map(|number| {
            let mut entry = archive.by_index(number).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (entry.name().to_owned(), bytes)
        })
        .collect()
}

#[test]
fn a_changed_file_is_named_with_both_digests() {
    let mut files = files(&bundled(&space(), &[]));
    assert_eq!(verified(&archive(&files)).code, 0, "packed again it holds");
    let lock = files.iter_mut().find(|(name, _)| name == "w.lock").unwrap();
    let text = String::from_utf8(lock.1.clone()).unwrap();
    lock.1 = text.replace("\"value\":0.5", "\"value\":0.9").into_bytes();
    assert_ne!(text.as_bytes(), lock.1);
    let said = verified(&archive(&files));
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let of = |what: &str| {
        let mismatches = found["mismatches"].as_array().unwrap().iter();
        mismatches.filter(|mismatch| mismatch["what"] == what).count()
    };
    assert_eq!(
        (said.code, of("bundle")),
        (3, 2),
        "the file, and its table that is refused: {found}"
    );
    assert!(said.stdout.contains("w.lock"));
}

#[test]
fn archives_that_were_made_to_do_harm_are_refused() {
    let sound = files(&bundled(&space(), &[]));
    let elsewhere = Space::new();
    let outside = elsewhere.path("outside");
    let with = |name: &str, bytes: Vec<u8>| {
        let mut files = sound.clone();
        files.push((name.into(), bytes));
        archive(&files)
    };
    let cases = [
        ("a path upwards", with("../outside", b"x".to_vec())),
        ("a path from the root", with(outside.to_str().unwrap(), b"x".to_vec())),
        ("a path of Windows", with("..\\outside", b"x".to_vec())),
        ("a link", link(&sound)),
        ("a bomb", with("bomb", vec![0; 600 << 20])),
        ("a file too much", with("more.txt", b"x".to_vec())),
        ("no metadata", archive(&sound[..1])),
        ("no archive", b"PK\x03\x04 and nothing".to_vec()),
        ("an empty archive with a beginning", b"PK\x03\x04".to_vec()),
    ];
    for (what, bytes) in cases {
        let said = verified(&bytes);
        assert_eq!(said.code, 3, "{what}: {}{}", said.stdout, said.stderr);
    }

    // Two entries of one name: the archive joined by hand, as no library writes it.
    let twice = twice(&archive(&sound), "w.lock", "w.yaml");
    let said = verified(&twice);
    assert!(said.code == 3 && said.stderr.contains("twice"), "{}{}", said.stdout, said.stderr);
    assert!(!outside.exists());
}

/// The same files and a link.
fn link(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    for (name, bytes) in files {
        archive.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Gives one entry the name of another of the same length.
fn twice(bytes: &[u8], name: &str, other: &str) -> Vec<u8> {
    assert_eq!(name.len(), other.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| *window == name.as_bytes())
        .map(|(place, _)| place)
        .collect();
    for place in places {
        bytes[place..place + name.len()].copy_from_slice(other.as_bytes());
    }
    bytes
}

#[test]
fn what_cannot_be_stated_or_does_not_hold_is_not_bundled() {
    for (missing, line) in [("license", "license: MIT\n"), ("date", "date: 2026-11-26\n")] {
        let space = space();
        space.edit("w.yaml", line, "");
        let said = space.refuses(&["bundle", "w.yaml", "-o", "w.zip"]);
        assert!(
            said.contains(&format!("no `{missing}`")) && said.contains("exit code 2"),
            "{said}"
        );
    }
    let space = space();
    space.edit("w.yaml", "value: 1.0", "value: 0.2");
    let said = space.refuses(&["bundle", "w.yaml", "-o", "w.zip"]);
    assert!(said.contains("exit code 3") && said.contains("does not hold"), "{said}");
    assert!(!space.path("w.zip").exists());

    for (date, words) in
        [("26.11.2026", "no date"), ("2026-13", "no date"), ("[2026]", "must be text")]
    {
        let space = Space::new();
        space.write("w.yaml", &WORKFLOW.replace("2026-11-26", date));
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.contains(words), "{date}: {said}");
    }
}
