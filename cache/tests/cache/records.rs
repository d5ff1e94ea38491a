//! Records: the first of a key wins, in one process and among several.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use refrain_cache::{
    Artifact, ArtifactKind, Artifacts, Digest, Manifest, Metric, NodeResult, Record, Records,
    Stored, Usage,
};
use serde_json::json;

pub fn record(name: &str, content: &[u8]) -> Record {
    let manifest = Manifest::new("score").section("parameters", json!({"name": name}));
    let artifact = Artifact {
        kind: ArtifactKind::Table,
        digest: Digest::of_bytes(content),
        bytes: content.len() as u64,
        rows: Some(3),
        base: None,
    };
    let metric = |metric: &str, value| Metric {
        metric: metric.to_owned(),
        value,
        n: 3,
        low: Some(0.25),
        high: None,
    };
    Record {
        key: manifest.key(),
        kind: "score".to_owned(),
        result: NodeResult {
            artifacts: Artifacts::from([("out".to_owned(), artifact)]),
            metrics: vec![metric("perplexity", 0.1 + 0.2), metric("worst", f64::INFINITY)],
            profile: "cpu avx2".to_owned(),
            usage: Some(Usage { requests: 3, tokens_in: Some(9), tokens_out: None }),
        },
        seconds: 1.5,
        manifest,
        version: "0.1.0".to_owned(),
    }
}

fn open(folder: &Path) -> Records {
    Records::open(&folder.join("records.log")).unwrap()
}

#[test]
fn a_record_comes_back_in_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (record("a", b"a"), record("b", b"b"));
    let records = open(folder.path());
    assert_eq!(records.get(&a.key).unwrap(), None);
    assert_eq!(records.put(&a).unwrap(), Stored::First);
    assert_eq!(records.put(&b).unwrap(), Stored::First);
    assert_eq!(records.get(&a.key).unwrap().as_ref(), Some(&a));
    let reopened = open(folder.path());
    assert_eq!(reopened.get(&b.key).unwrap(), Some(b.clone()));
    let mut keys = vec![a.key, b.key];
    keys.sort();
    assert_eq!(reopened.keys(), keys);
}

#[test]
fn a_figure_that_is_no_number_survives() {
    let folder = tempfile::tempdir().unwrap();
    let mut undefined = record("a", b"a");
    undefined.result.metrics[0].value = f64::NAN;
    undefined.result.metrics[1].value = f64::NEG_INFINITY;
    let records = open(folder.path());
    assert_eq!(records.put(&undefined).unwrap(), Stored::First);
    let back = records.get(&undefined.key).unwrap().unwrap();
    assert!(back.result.metrics[0].value.is_nan());
    assert_eq!(back.result.metrics[1], undefined.result.metrics[1]);
    assert!(serde_json::to_string(&undefined).unwrap().contains(r#""value":null"#));
}

/// The format of the log: no field moves, whatever the types in memory look like.
#[test]
fn a_record_is_written_as_one_flat_object() {
    let record = record("a", b"one");
    let (key, digest) = (record.key, Digest::of_bytes(b"one"));
    let rest = r#""n":3,"low":0.25,"high":null}"#;
    let expected = [
        format!(r#"{{"key":"{key}","kind":"score","#),
        format!(
            r#""outputs":{{"out":{{"kind":"table","digest":"{digest}","bytes":3,"rows":3}}}},"#
        ),
        format!(r#""metrics":[{{"metric":"perplexity","value":0.30000000000000004,{rest},"#),
        format!(r#"{{"metric":"worst","value":"inf",{rest}],"profile":"cpu avx2","#),
        r#""usage":{"requests":3,"tokens_in":9,"tokens_out":null},"seconds":1.5,"#.to_owned(),
        r#""manifest":{"kind":"score","parameters":{"name":"a"}},"version":"0.1.0"}"#.to_owned(),
    ];
    assert_eq!(serde_json::to_string(&record).unwrap(), expected.concat());

    // A record of a node that asks no server is as it was before there was any usage.
    let mut asks_nobody = record;
    asks_nobody.result.usage = None;
    let line = serde_json::to_string(&asks_nobody).unwrap();
    assert!(line.contains(r#""profile":"cpu avx2","seconds":1.5,"#), "{line}");
}

#[test]
fn the_first_record_of_a_key_wins() {
    let folder = tempfile::tempdir().unwrap();
    let first = record("a", b"one");
    let (mut same, other) = (record("a", b"one"), record("a", b"two"));
    same.seconds = 9.0;
    let (here, there) = (open(folder.path()), open(folder.path()));
    assert_eq!(here.put(&first).unwrap(), Stored::First);
    assert_eq!(there.put(&same).unwrap(), Stored::Adopted { differs: false });
    assert_eq!(there.put(&other).unwrap(), Stored::Adopted { differs: true });
    assert_eq!(there.get(&first.key).unwrap().as_ref(), Some(&first));
    // A line that reaches the log all the same, in a race, changes nothing.
    let line = format!("{} {}", other.key, serde_json::to_string(&other).unwrap());
    refrain_cache::AppendLog::open(&folder.path().join("records.log"))
        .unwrap()
        .append(&line)
        .unwrap();
    here.refresh().unwrap();
    assert_eq!(here.get(&first.key).unwrap().as_ref(), Some(&first));
    assert_eq!(open(folder.path()).get(&first.key).unwrap(), Some(first));
}

#[test]
fn what_another_process_appends_is_seen_after_a_refresh() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (open(folder.path()), open(folder.path()));
    let a = record("a", b"a");
    there.put(&a).unwrap();
    assert_eq!(here.get(&a.key).unwrap(), None);
    here.refresh().unwrap();
    assert_eq!(here.get(&a.key).unwrap(), Some(a));
}

#[test]
fn a_forgotten_record_makes_room_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (record("a", b"one"), record("a", b"two"));
    let records = open(folder.path());
    records.forget(&one.key).unwrap();
    records.put(&one).unwrap();
    records.forget(&one.key).unwrap();
    assert_eq!(records.get(&one.key).unwrap(), None);
    assert_eq!(open(folder.path()).get(&one.key).unwrap(), None);
    assert_eq!(records.put(&two).unwrap(), Stored::First);
    assert_eq!(open(folder.path()).get(&one.key).unwrap(), Some(two));
}

#[test]
fn a_late_tombstone_spares_the_record_that_was_made_since() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (record("a", b"one"), record("a", b"two"));
    let records = open(folder.path());
    records.put(&one).unwrap();
    records.forget(&one.key).unwrap();
    records.put(&two).unwrap();
    let late = format!("{} -0", one.key);
    refrain_cache::AppendLog::open(&folder.path().join("records.log"))
        .unwrap()
        .append(&late)
        .unwrap();
    assert_eq!(open(folder.path()).get(&one.key).unwrap(), Some(two));
}

#[test]
fn torn_corrupt_and_undecodable_lines_cost_their_own_record_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.log");
    let (a, b) = (record("a", b"a"), record("b", b"b"));
    let log = refrain_cache::AppendLog::open(&path).unwrap();
    log.append("no key").unwrap();
    log.append(&format!("{} {{\"from\": \"elsewhere\"}}", a.key)).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"0123456789abcdef torn")
        .unwrap();
    let records = open(folder.path());
    assert_eq!(records.get(&a.key).unwrap(), None, "what cannot be decoded counts as absent");
    assert_eq!(records.put(&b).unwrap(), Stored::First);
    assert_eq!(records.put(&a).unwrap(), Stored::First, "and does not stand in the way");
    assert_eq!(records.torn(), 1);
    let reopened = open(folder.path());
    assert_eq!(reopened.get(&a.key).unwrap(), Some(a));
    assert_eq!(reopened.get(&b.key).unwrap(), Some(b));
}

#[test]
fn writers_at_once_agree_on_one_record() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let name = round.to_string();
        let stored: Vec<Stored> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4_u8)
                .map(|writer| {
                    let (folder, name) = (folder.path(), &name);
                    scope.spawn(move || open(folder).put(&record(name, &[writer])).unwrap())
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(stored.iter().filter(|&&s| s == Stored::First).count(), 1, "{stored:?}");
        let winner = stored.iter().position(|&s| s == Stored::First).unwrap();
        let kept = open(folder.path()).get(&record(&name, b"").key).unwrap().unwrap();
        assert_eq!(kept, record(&name, &[winner as u8]));
    }
}
