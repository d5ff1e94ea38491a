//! An edit runs again exactly what it reaches.

use crate::space::{Space, set, small};

/// A space in which the small workflow has run.
fn after_a_run() -> Space {
    let space = Space::new();
    small(&space);
    let ran = space.ran("w.yaml", &[]);
    assert_eq!(ran.len(), 12, "{ran:?}");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    space
}

#[test]
fn what_means_nothing_runs_nothing() {
    let space = after_a_run();
    space.edit("w.yaml", "stages:\n", "# a comment\nstages:\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "a comment");
    space.edit("w.yaml", "{ model: base, data: train }", "{ data: train, model: base }");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "the order of keys");
    space.edit("w.yaml", "learning_rate: 1e-2", "learning_rate: 0.010");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "another way to write a number");
    space.edit(
        "w.yaml",
        "  masked:\n",
        "  masked:\n    description: words\n    resources: { batch: 3, threads: 1 }\n",
    );
    assert_eq!(space.ran("w.yaml", &["--jobs", "1"]), set(&[]), "resources and jobs");
    let text = space.read("w.yaml").replace("scored", "weighed");
    space.write("w.yaml", &text);
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "a stage's name");
}

#[test]
fn a_threshold_reaches_its_own_arm() {
    let space = after_a_run();
    space.edit("w.yaml", "[40, 1000]", "[20, 1000]");
    let expected = [
        "masked[threshold=20]",
        "tuned[threshold=20]",
        "target/answers[threshold=20]",
        "target[threshold=20]",
    ];
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.is_subset(&set(&expected)), "{ran:?}");
    assert!(ran.contains("masked[threshold=20]") && ran.contains("tuned[threshold=20]"), "{ran:?}");
}

#[test]
fn a_seed_reaches_its_stage_and_what_reads_it() {
    let space = after_a_run();
    space.edit("w.yaml", "seed: 5", "seed: 6");
    assert_eq!(space.ran("w.yaml", &[]), set(&["answers"]));
    space.edit("w.yaml", "batch_size: 4, seed: 3", "batch_size: 4, seed: 4");
    let ran = space.ran("w.yaml", &[]);
    assert!(
        ran.contains("tuned[threshold=40]") && ran.contains("tuned[threshold=1000]"),
        "{ran:?}"
    );
    assert!(
        !ran.contains("base") && !ran.contains("scored") && !ran.contains("answers"),
        "{ran:?}"
    );
}

#[test]
fn a_source_row_reaches_everything_that_reads_it() {
    let space = after_a_run();
    space.edit("train.jsonl", "it is 8.", "it is 9.");
    let ran = space.ran("w.yaml", &[]);
    for node in ["train", "base", "scored", "answers", "masked[threshold=40]"] {
        assert!(ran.contains(node), "{node}: {ran:?}");
    }
}

#[test]
fn the_same_rows_in_another_format_stop_at_the_source() {
    let space = after_a_run();
    parquet_of(&space);
    space.edit("w.yaml", "train.jsonl", "train.parquet");
    assert_eq!(space.ran("w.yaml", &[]), set(&["train"]));
}

/// The rows of the small workflow as Parquet, written by another writer than Refrain's.
fn parquet_of(space: &Space) {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    let column = |make: &dyn Fn(u32) -> String| {
        Arc::new(StringArray::from_iter_values((0..24).map(make))) as ArrayRef
    };
    let batch = RecordBatch::try_from_iter([
        ("response", column(&|i| format!("it is {}.", i + 1))),
        ("prompt", column(&|i| format!("{i} plus 1?"))),
        ("id", column(&|i| format!("r{i}"))),
    ])
    .unwrap();
    let file = std::fs::File::create(space.path("train.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_byte_of_a_model_reaches_what_uses_it() {
    let space = after_a_run();
    let said = space.run(&["show", "w.yaml", "base", "--path"]);
    let folder = std::path::PathBuf::from(said.stdout.trim());
    let model = space.path("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let to = model.join(entry.file_name());
        std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap();
    }
    let text = space.read("w.yaml");
    let (head, tail) = (text.find("  base:\n").unwrap(), text.find("  scored:\n").unwrap());
    let text = format!("{}{}", &text[..head], &text[tail..])
        .replace("stages:", "models: { base: { path: model } }\nstages:");
    space.write("m.yaml", &text);
    // The same bytes as a source, which has another name: nothing below runs.
    assert_eq!(space.ran("m.yaml", &[]), set(&[]));
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let ran = space.ran("m.yaml", &[]);
    assert!(ran.contains("scored") && ran.contains("answers"), "{ran:?}");
}

#[test]
fn a_deleted_or_damaged_artifact_is_made_again() {
    let space = after_a_run();
    let before = space.digests("w.yaml", &[]);
    let path = space.run(&["show", "w.yaml", "scored", "--path"]).stdout.trim().to_string();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(space.ran("w.yaml", &[]), set(&["scored"]));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(space.ran("w.yaml", &[]), set(&["scored"]));
    assert_eq!(space.digests("w.yaml", &[]), before);
}

#[test]
fn a_failed_node_stops_what_depends_on_it_and_nothing_else() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\", \"reference\": \"b\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  bad:\n    run: { command: [sh, -c, 'echo because >&2; exit 3'], outputs: { t: table } }\n  after:\n    diversify: { data: bad, measure: [distinct_1] }\n  good:\n    evaluate: { data: rows, task: exact_match }\n",
    );
    let said = space.run(&["run", "w.yaml", "--keep-going", "--format", "json"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("because"), "the command's own words are shown: {}", said.stderr);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(crate::space::names(&report, "failed"), set(&["bad"]));
    assert_eq!(crate::space::names(&report, "skipped"), set(&["after"]));
    assert!(crate::space::names(&report, "ran").contains("good"));
}

#[test]
fn verify_holds_after_a_run_and_names_what_changed() {
    let space = after_a_run();
    assert_eq!(space.run(&["verify", "w.yaml", "--complete"]).code, 0);
    let scored = space.run(&["show", "w.yaml", "scored", "--path"]).stdout;
    std::fs::remove_file(scored.trim()).unwrap();
    let said = space.run(&["verify", "w.yaml"]);
    assert_eq!(said.code, 0, "what is absent is counted: {}", said.stdout);
    assert!(said.stdout.contains(", 1 not in the cache;"), "{}", said.stdout);
    let said = space.run(&["verify", "w.yaml", "--complete"]);
    assert_eq!(said.code, 3, "{}", said.stdout);
    assert!(
        said.stdout.contains("`scored`: the cache does not hold the output `main`"),
        "{}",
        said.stdout
    );
    assert_eq!(space.ran("w.yaml", &[]), set(&["scored"]));
    space.edit("w.yaml", "[40, 1000]", "[20, 1000]");
    let said = space.run(&["verify", "w.yaml"]);
    assert_eq!(said.code, 3);
    assert!(
        said.stdout.contains("masked[threshold=20]")
            && said.stdout.contains("masked[threshold=40]")
    );
    space.edit("w.yaml", "[20, 1000]", "[40, 1000]");
    space.edit("train.jsonl", "it is 8.", "it is 9.");
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 3);
    std::fs::remove_file(space.path("train.jsonl")).unwrap();
    assert_eq!(
        space.run(&["run", "w.yaml", "--locked"]).code,
        2,
        "a source that is gone is the workflow's fault"
    );
}

#[test]
fn explain_names_the_parameter() {
    let space = after_a_run();
    space.edit("w.yaml", "samples: 2", "samples: 3");
    let said = space.run(&["explain", "w.yaml", "answers"]);
    assert_eq!(said.code, 0);
    assert!(said.stdout.contains("`parameters.samples` changed from 2 to 3"), "{}", said.stdout);
}

/// What was computed row by row is used by row: an edit costs the edited rows alone, and what is forced uses nothing.
#[test]
fn an_edited_row_costs_a_row_and_a_forced_stage_costs_all() {
    let write = |space: &Space| {
        small(space);
        space.write("rows.jsonl", &space.read("train.jsonl"));
        space.edit("w.yaml", "train.jsonl }\n", "train.jsonl }\n  rows: { path: rows.jsonl }\n");
        space.edit(
            "w.yaml",
            "score: { model: base, data: train }",
            "score: { model: base, data: rows }",
        );
        space.edit(
            "w.yaml",
            "generate: { model: base, data: train,",
            "generate: { model: base, data: rows,",
        );
    };
    let noted = |said: &str| -> Vec<String> {
        let notes = said.lines().filter_map(|line| line.split_once(": ").map(|(_, note)| note));
        notes.filter(|note| note.ends_with("by earlier runs")).map(str::to_owned).collect()
    };
    let run = |space: &Space, more: &[&str]| {
        let said = space.run(&[&["run", "w.yaml", "--jobs", "1"], more].concat());
        assert_eq!(said.code, 0, "{}", said.stderr);
        noted(&said.stderr)
    };
    let space = Space::new();
    write(&space);
    assert_eq!(run(&space, &[]), [""; 0]);
    assert_eq!(run(&space, &["--force", "scored", "--force", "answers"]), [""; 0]);

    let edit = |space: &Space| space.edit("rows.jsonl", "it is 8.", "it is 9.");
    edit(&space);
    // The response is scored; what is generated depends on the prompt alone.
    let expected = [
        "`scored`: 23 of 24 rows were scored by earlier runs",
        "`answers`: 48 of 48 responses were made by earlier runs",
    ];
    assert_eq!(run(&space, &[]), expected);
    space.edit("rows.jsonl", "\"7 plus 1?\"", "\"7 plus 2?\"");
    let expected = [
        "`scored`: 23 of 24 rows were scored by earlier runs",
        "`answers`: 46 of 48 responses were made by earlier runs",
    ];
    assert_eq!(run(&space, &[]), expected);

    let cold = Space::new();
    write(&cold);
    edit(&cold);
    cold.edit("rows.jsonl", "\"7 plus 1?\"", "\"7 plus 2?\"");
    assert_eq!(cold.digests("w.yaml", &[]), space.digests("w.yaml", &[]));
}

/// The second run does not even plan. Whatever the plan rested on is looked at all the same.
#[test]
fn a_kept_plan_notices_every_change() {
    let space = Space::new();
    let rows = "{\"prompt\": \"a\", \"response\": \"b c\"}\n";
    space.write("rows.jsonl", rows);
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  d: { diversify: { data: rows, measure: [distinct_1] } }\n",
    );
    // A source that is younger than two seconds is hashed again, and no plan that rests on it is kept.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let ran = |summary: &str| {
        let run = space.run(&["run", "w.yaml"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains(summary), "`{summary}` is not in {}", run.stderr);
        run.stdout
    };
    let plans = || std::fs::read_dir(space.path(".refrain/plans")).map_or(0, Iterator::count);
    let table = ran("2 nodes run, 0 cached");
    assert_eq!(plans(), 1);
    assert_eq!(ran("0 nodes run, 2 cached"), table);

    let object = space.run(&["show", "w.yaml", "d", "--path"]).stdout;
    let object = std::path::Path::new(object.trim());
    std::fs::remove_file(object).unwrap();
    ran("1 node run, 1 cached");
    let bytes = std::fs::read(object).unwrap();
    std::fs::remove_file(object).unwrap();
    std::fs::write(object, &bytes[..bytes.len() - 1]).unwrap();
    ran("1 node run, 1 cached");
    assert_eq!(std::fs::read(object).unwrap(), bytes);

    std::fs::remove_file(space.path("w.lock")).unwrap();
    ran("0 nodes run, 2 cached");
    assert!(space.path("w.lock").exists());
    space.write("rows.jsonl", &rows.replace("b c", "b d"));
    ran("2 nodes run, 0 cached");
    space.edit("w.yaml", "distinct_1", "distinct_2");
    ran("1 node run, 1 cached");
    std::fs::remove_dir_all(space.path(".refrain/plans")).unwrap();
    ran("0 nodes run, 2 cached");
}

/// What is kept of a source belongs to the content that was computed from, not to one that was hashed before.
#[test]
fn a_source_that_becomes_what_it_was_is_taken_for_what_it_is() {
    let space = Space::new();
    let rows = "{\"prompt\": \"a\", \"response\": \"b c\"}\n";
    space.write("rows.jsonl", rows);
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  d: { diversify: { data: rows, measure: [distinct_1] } }\n",
    );
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let date = || {
        let file = std::fs::File::options().write(true).open(space.path("rows.jsonl")).unwrap();
        file.set_modified(old).unwrap();
    };
    let lock = || std::fs::read_to_string(space.path("w.lock")).unwrap();
    date();
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    let first = lock();
    space.write("rows.jsonl", &rows.replace("b c", "b b"));
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    assert_ne!(lock(), first);
    space.write("rows.jsonl", rows);
    date();
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    assert_eq!(lock(), first);
}

#[test]
fn after_a_run_explain_says_why_each_node_ran() {
    let space = Space::new();
    let row = |i: usize| {
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": \"p\", \"response\": \"b\", \"reference\": \"b\"}}\n"
        )
    };
    space.write("t.jsonl", &(0..256).map(row).collect::<String>());
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { t: { path: t.jsonl } }\nstages:\n  judged: { evaluate: { data: t, task: exact_match } }\n",
    );
    space.report("w.yaml", &[]);
    let words = |node: &str| space.run(&["explain", "w.yaml", node]).stdout;
    assert!(
        words("judged").contains("it ran last because: no earlier result"),
        "{}",
        words("judged")
    );
    space.edit("t.jsonl", "\"r7\", \"prompt\": \"p\"", "\"r7\", \"prompt\": \"q\"");
    space.report("w.yaml", &[]);
    let source = words("t");
    assert!(source.contains("it ran last because: `t.jsonl` changed: 1 of 256 rows"), "{source}");
    assert!(words("judged").contains("(from `t`)"), "{}", words("judged"));
    let all = space.run(&["explain", "w.yaml"]).stdout;
    assert!(all.starts_with("nothing differs from the last run\n`t` ran last: `t.jsonl`"), "{all}");
}
