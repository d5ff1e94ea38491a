//! Tests of the lock: its lines, its versions, and two writers at once.

use refrain_cache::{Artifact, ArtifactKind, Digest, Manifest, Metric};

use super::*;

/// More lines than one thread takes at once.
const NODES: usize = 3 * LINES + 7;

fn entry(node: &str, value: f64) -> LockEntry {
    let digest = Digest::of_bytes(node.as_bytes());
    let artifact = Artifact { kind: ArtifactKind::File, digest, bytes: 9, rows: None, base: None };
    LockEntry {
        node: node.into(),
        kind: "run".into(),
        key: Manifest::new(node).key(),
        file: None,
        columns: None,
        facts: Map::new(),
        outputs: [("y".to_string(), artifact.clone()), (MAIN.to_string(), artifact)].into(),
        metrics: vec![Metric { metric: "m".into(), value, n: 1, low: None, high: None }],
        profile: String::new(),
        pinned: None,
        other: Map::new(),
    }
}

fn lock(nodes: usize) -> Lock {
    let entry = |i: usize| {
        let value = if i.is_multiple_of(2) { f64::NAN } else { 0.5 };
        let entry = entry(&format!("n[i={i:04}]"), value);
        (entry.node.clone(), entry)
    };
    Lock {
        entries: (0..nodes).map(entry).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Lock::default()
    }
}

#[test]
fn a_large_lock_comes_back_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.lock");
    let lock = lock(NODES);
    assert!(lock.write(&path).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), NODES + 1);
    assert!(text.lines().skip(1).is_sorted() && text.ends_with("}\n"), "{}", &text[..300]);
    let read = Lock::read(&path).unwrap();
    assert_eq!(read.version, lock.version);
    let same = |(a, b): (&LockEntry, &LockEntry)| a.says(&b.kind, &b.to_done());
    assert_eq!(read.entries.len(), NODES);
    assert!(
        read.entries.values().zip(lock.entries.values()).all(same),
        "undefined metrics among them"
    );
    assert!(!read.write(&path).unwrap(), "the same bytes are not written again");
}

#[test]
fn of_many_wrong_lines_the_first_is_named_and_of_two_of_a_node_the_later_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.lock");
    lock(NODES).write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let later = text.lines().nth(5).unwrap().replace("\"run\"", "\"mask\"");
    std::fs::write(&path, format!("{text}{later}\n")).unwrap();
    let read = Lock::read(&path).unwrap();
    assert_eq!((read.entries.len(), read.entries["n[i=0004]"].kind.as_str()), (NODES, "mask"));
    let mut lines: Vec<&str> = text.lines().collect();
    (lines[300], lines[700]) = ("<<<<<<< ours", "{}");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let error = Lock::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("w.lock:301` is not a line of a lock: it is the mark of a merge conflict"),
        "{error}"
    );
}

#[test]
fn what_a_later_version_wrote_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.lock");
    let mut lock = lock(2);
    lock.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("\"version\"", "\"hub\":{\"b\":1,\"a\":2},\"version\"", 1);
    let text = text.replacen("\"kind\"", "\"seen\":[1,2],\"kind\"", 1);
    std::fs::write(&path, format!("{text}{{\"later\":\"b\"}}\n{{\"later\":\"a\"}}\n")).unwrap();

    lock = Lock::read(&path).unwrap();
    lock.entries.remove("n[i=0001]");
    lock.write(&path).unwrap();
    let kept = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = kept.lines().collect();
    assert!(lines[0].ends_with("\"hub\":{\"b\":1,\"a\":2}}"), "{kept}");
    assert!(lines[1].ends_with("\"seen\":[1,2]}"), "{kept}");
    assert_eq!(lines[2..], ["{\"later\":\"a\"}", "{\"later\":\"b\"}"]);
}

#[test]
fn the_first_format_is_read_and_a_newer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.lock");
    lock(3).write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let first = text.replacen("{\"refrain_lock\":2,", "{\"refrain_lock\":1,", 1);
    std::fs::write(&path, &first).unwrap();
    let read = Lock::read(&path).unwrap();
    assert_eq!(read.entries.len(), 3);
    assert!(read.write(&path).unwrap(), "it is written again in the second");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let newer = text.replacen("{\"refrain_lock\":2,", "{\"refrain_lock\":3,", 1);
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(Lock::read(&path), Err(LockError::Version { found: 3, .. })));
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, real) = (folder.path().join("w.lock"), folder.path().join("kept/real.lock"));
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    std::os::unix::fs::symlink("kept/real.lock", &path).unwrap();
    for nodes in [1, 2] {
        assert!(lock(nodes).write(&path).unwrap());
        assert!(path.is_symlink(), "with {nodes} nodes");
        assert_eq!(Lock::read(&real).unwrap().entries.len(), nodes);
    }
}
