//! Results that are kept in the cache: used when nothing that decides them has changed, and never
//! otherwise.

use std::path::PathBuf;

use refrain_cache::{Cache, Digest, Manifest, RowMemo};

use super::{json, line, mismatches, space, table};
use crate::space::Space;

/// The kept results in the cache of a space.
fn kept(space: &Space) -> std::sync::Arc<RowMemo> {
    let cache = Cache::open(&space.path(".refrain")).unwrap();
    cache.rows(&Manifest::new("compare").section("version", 1.into()).key()).unwrap()
}

/// The place of a result with one interval and a test against 0.
fn place(inputs: &str) -> Digest {
    let confidence = format!("{:016x}", 0.95_f64.to_bits());
    Digest::of_bytes(format!("{inputs}\nconfidences {confidence}\nabove {:016x}\n", 0).as_bytes())
}

/// The line of the lock that a run without lock and cache writes.
fn afresh(space: &Space) -> serde_json::Value {
    let other = Space::new();
    for entry in std::fs::read_dir(space.path("")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_file() && name != "w.lock" {
            other.write(name, &space.read(name));
        }
    }
    other.run(&["run", "w.yaml"]);
    line(&other, "better")
}

#[test]
fn an_edit_that_changes_no_figure_computes_nothing_again() {
    let space = space();
    space.report("w.yaml", &[]);
    let before = line(&space, "better");
    assert_eq!(kept(&space).count(), 1);
    let document = json(&space, &["results", "w.yaml"], 0);

    space.edit("w.yaml", "stages:\n", "# a comment\nstages:\n");
    let size = || {
        let files = std::fs::read_dir(space.path(".refrain/rows")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let bytes = size();
    space.accepts(&["run", "w.yaml"]);
    assert_eq!((size(), line(&space, "better")), (bytes, before.clone()), "nothing was kept anew");

    // A forged result shows that it is taken from there; the tables prove it wrong.
    let place = place(before["inputs"].as_str().unwrap());
    let bytes = kept(&space).get(&place).unwrap().unwrap();
    let estimate = before["result"]["estimate"].to_string();
    let forged = String::from_utf8(bytes).unwrap().replacen(
        &format!("\"estimate\":{estimate}"),
        "\"estimate\":0.75",
        1,
    );
    kept(&space).put(&[(place, forged.into_bytes())]).unwrap();
    space.edit("w.yaml", "# a comment\n", "# another\n");
    space.accepts(&["run", "w.yaml"]);
    assert_eq!(line(&space, "better")["result"]["estimate"], 0.75);
    let found = json(&space, &["verify", "w.yaml"], 3);
    assert!(!mismatches(&found).is_empty(), "{found}");

    // Of damaged bytes nothing is believed.
    kept(&space).put(&[(place, b"{}".to_vec())]).unwrap();
    space.edit("w.yaml", "# another\n", "");
    space.accepts(&["run", "w.yaml"]);
    assert_eq!(line(&space, "better"), before);
    assert_eq!(json(&space, &["results", "w.yaml"], 0), document);
}

#[test]
fn another_figure_or_definition_has_another_result() {
    let space = space();
    space.report("w.yaml", &[]);
    let before = line(&space, "better");

    // Two rows of one table.
    table(&space, "new-2.jsonl", |_| true, |id| id > 1);
    space.run(&["run", "w.yaml"]);
    let after = line(&space, "better");
    assert_ne!(after["result"], before["result"]);
    assert_eq!(after, afresh(&space));

    // Each is run in the cache that has the results of those before it.
    let metric = "stage: judged, metric: accuracy";
    let edits = [
        ("[new, old] }, over", "[old, new] }, over"),
        ("over: seed }", "over: seed, margin: 0.05 }"),
        ("above: 0, confidence", "above: 0.1, confidence"),
        ("confidence: 0.95", "confidence: 0.99"),
        (metric, "of: \"100 * judged.accuracy\""),
        ("100 * judged", "99 * judged"),
        ("seed: [1, 2, 3, 4, 5] }\ncompare", "seed: [1, 2, 3, 5, 4] }\ncompare"),
        ("arm: [new, old], ", "arm: [old, new], "),
    ];
    for (from, to) in edits {
        space.edit("w.yaml", from, to);
        space.run(&["run", "w.yaml"]);
        assert_eq!(line(&space, "better"), afresh(&space), "{to}");
    }

    // Back again: what was computed first is found again.
    for (from, to) in edits.iter().rev() {
        space.edit("w.yaml", to, from);
    }
    let count = kept(&space).count();
    space.run(&["run", "w.yaml"]);
    assert_eq!(line(&space, "better"), after);
    assert_eq!(kept(&space).count(), count);
}

#[test]
fn a_line_that_was_written_by_hand_is_not_believed() {
    let space = space();
    space.report("w.yaml", &[]);
    let (lock, document) = (space.read("w.lock"), json(&space, &["results", "w.yaml"], 0));
    let estimate = line(&space, "better")["result"]["estimate"].to_string();
    space.edit("w.lock", &format!("\"estimate\":{estimate}"), "\"estimate\":0.9");
    assert_eq!(json(&space, &["results", "w.yaml"], 0)["comparisons"], document["comparisons"]);
    json(&space, &["verify", "w.yaml"], 3);
    space.accepts(&["run", "w.yaml"]);
    assert_eq!(space.read("w.lock"), lock);

    // Only the inputs' digest of another line.
    let inputs = line(&space, "better")["inputs"].as_str().unwrap().to_string();
    space.edit("w.lock", &inputs, &"0".repeat(64));
    space.accepts(&["run", "w.yaml"]);
    assert_eq!(space.read("w.lock"), lock);
}
