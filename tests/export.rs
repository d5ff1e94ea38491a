//! Stores of trackers: their bytes, and what the trackers themselves read from them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::artifacts::{figures, floats};
use crate::space::{Space, small};

const TRACKERS: [&str; 4] = ["mlflow", "trackio", "tensorboard", "csv"];

/// A small workflow that was run, one of whose labels leads out of a folder.
fn ran() -> Space {
    let space = Space::new();
    small(&space);
    space.edit("w.yaml", "name: small\n", "name: small\ndescription: Does it export?\n");
    space.edit("w.yaml", "\"${threshold}\"", "\"${arm.above}\"");
    space.edit(
        "w.yaml",
        "threshold: [40, 1000]",
        "arm: [{ name: \"../x\", above: 40 }, { name: plain, above: 1000 }]",
    );
    space.edit("w.yaml", "  target:\n", "  target:\n    description: how many are right\n");
    space.report("w.yaml", &[]);
    space
}

/// Exports a workflow; the files by their paths.
fn export(space: &Space, to: &str, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let said = space.run(&["export", "w.yaml", "--to", to, folder]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let mut files = BTreeMap::new();
    collect(&space.path(folder), &space.path(folder), &mut files);
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// The rows of a table by their columns.
fn rows(text: &[u8]) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text);
    reader.deserialize().map(Result::unwrap).collect()
}

#[test]
fn two_exports_of_the_same_runs_have_equal_bytes() {
    let space = ran();
    for to in TRACKERS {
        let first = export(&space, to, &format!("{to}-1"));
        // A run that computes nothing changes nothing.
        space.report("w.yaml", &[]);
        assert!(first == export(&space, to, &format!("{to}-2")), "{to}");
        assert!(first.values().all(|bytes| !bytes.is_empty()), "{to}");
    }
}

#[test]
fn tables_have_the_figures_of_the_workflow() {
    let space = ran();
    let files = export(&space, "csv", "tables");
    let runs = rows(&files["runs.csv"]);
    let of = |name: &str| runs.iter().find(|row| row["run"] == name).unwrap();
    assert_eq!(of("tuned[arm=plain]")["params.sweep.arm"], "plain");
    assert_eq!(of("tuned[arm=plain]")["params.lora.rank"], "2");
    assert_eq!(of("base")["params.steps"], "20");
    let accuracy = figures(&space, "target[arm=plain].metrics")("accuracy");
    assert_eq!(of("target[arm=plain]")["metrics.accuracy"].parse::<f64>().unwrap(), accuracy);
    let lock = space.read("w.lock");
    for run in &runs {
        assert!(lock.contains(&format!("\"{}\"", run["tags.refrain.key"])), "{run:?}");
        let [begin, end] = ["start_time", "end_time"].map(|name| run[name].parse::<i64>().unwrap());
        assert!(0 < begin && begin <= end, "{run:?}");
    }
    // Sources have no figures, and no run.
    assert!(!runs.iter().any(|row| row["run"] == "train"));

    let metrics = rows(&files["metrics.csv"]);
    let accuracy = metrics.iter().find(|row| row["metric"] == "accuracy").unwrap();
    assert!(accuracy["n"] == "24" && !accuracy["low"].is_empty(), "{accuracy:?}");

    let history = rows(&files["history.csv"]);
    let losses = |run: &str| -> Vec<f64> {
        let of = history.iter().filter(|row| row["run"] == run && row["metric"] == "loss");
        of.map(|row| row["value"].parse().unwrap()).collect()
    };
    assert_eq!(losses("base"), floats(&space, "base.log", "loss"));
    assert_eq!(losses("base").len(), 20);
}

#[test]
fn without_cache_and_logs_nothing_is_made_up() {
    let space = ran();
    let whole = export(&space, "csv", "whole");
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let said = space.run(&["export", "w.yaml", "--to", "csv", "locked", "--format", "json"]);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&report["without_curves"], &report["missing"]), (&json!(3), &json!(0)));
    let files = export(&space, "csv", "again");
    assert_eq!(files["metrics.csv"], whole["metrics.csv"]);
    assert_eq!(rows(&files["history.csv"]).len(), 0);
    assert!(rows(&files["runs.csv"]).iter().all(|row| row["start_time"].is_empty()));
    assert!(!space.path(".refrain").exists(), "an export made a cache");
    for to in TRACKERS {
        export(&space, to, &format!("{to}-locked"));
    }

    // Nothing at all.
    std::fs::remove_file(space.path("w.lock")).unwrap();
    let said = space.run(&["export", "w.yaml", "--to", "mlflow", "nothing"]);
    assert!(said.code == 0 && said.stdout.starts_with("0 runs in 1 file"), "{}", said.stdout);
    assert!(said.stderr.contains("nodes without a result left out"), "{}", said.stderr);
}

#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let space = ran();
    space.write("there/file", "x");
    let said = space.fails(&["export", "w.yaml", "--to", "csv", "there"]);
    assert!(said.contains("exit code 2") && said.contains("`there` is not empty"), "{said}");
    assert!(space.fails(&["export", "w.yaml", "--to", "csv", "w.yaml"]).contains("exit code 4"));
    assert!(space.fails(&["export", "w.yaml", "--to", "wandb", "x"]).contains("mlflow"));
    assert_eq!(space.read("there/file"), "x");
    // A damaged table has no curves, and none are made up.
    let log = space.run(&["show", "w.yaml", "base.log", "--path"]).stdout;
    std::fs::remove_file(log.trim()).unwrap();
    std::fs::write(log.trim(), "no table").unwrap();
    let said = space.run(&["export", "w.yaml", "--to", "csv", "damaged"]);
    assert!(said.stderr.contains("1 training without curves"), "{}", said.stderr);
    let history = rows(space.read("damaged/history.csv").as_bytes());
    assert!(!history.is_empty() && !history.iter().any(|row| row["run"] == "base"));
}

#[test]
fn mlflows_database_has_the_tables_of_its_revision() {
    let space = ran();
    let files = export(&space, "mlflow", "store");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["mlflow.db"]);
    let database = Connection::open(space.path("store/mlflow.db")).unwrap();
    let text = |query: &str| database.query_row(query, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("SELECT version_num FROM alembic_version"), "89d4b8295536");
    assert_eq!(text("SELECT name FROM experiments WHERE experiment_id = 1"), "small");
    assert_eq!(text("SELECT value FROM experiment_tags"), "Does it export?");
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    let of = "run_uuid = (SELECT run_uuid FROM runs WHERE name = 'base')";
    let losses =
        format!("SELECT value FROM metrics WHERE key = 'train/loss' AND {of} ORDER BY step");
    let mut losses = database.prepare(&losses).unwrap();
    let losses: Vec<f64> =
        losses.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(losses, floats(&space, "base.log", "loss"));
    let last = format!("SELECT value FROM latest_metrics WHERE key = 'train/loss' AND {of}");
    let last: f64 = database.query_row(&last, [], |row| row.get(0)).unwrap();
    assert_eq!(Some(&last), losses.last());
}

/// CRC-32C, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn event_files_are_records_with_masked_checksums() {
    let space = ran();
    let files = export(&space, "tensorboard", "logs");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert!(names.contains(&"tuned[arm=plain]/events.out.tfevents.0.refrain"), "{names:?}");
    // The label `../x` stays inside, as parts of a name with no way out.
    assert_eq!(names.iter().filter(|name| name.contains("tuned[arm=")).count(), 2, "{names:?}");
    for (name, bytes) in &files {
        let mut rest = &bytes[..];
        let mut records = 0;
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let (head, data) = (&rest[..8], &rest[12..12 + length]);
            for (part, at) in [(head, 8), (data, 12 + length)] {
                let masked = u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
                let unmasked = masked.wrapping_sub(0xa282_ead8);
                assert_eq!(unmasked.rotate_left(15), crc(part), "{name}");
            }
            rest = &rest[16 + length..];
            records += 1;
        }
        // The version, hyperparameters, digests, at least one figure, the end.
        assert!(records >= 5, "{name}: {records}");
    }
}

/// The Python with the trackers and pyarrow; `None`, with a remark, where none is named.
fn python() -> Option<OsString> {
    let python = std::env::var_os("REFRAIN_TEST_TRACKERS");
    if python.is_none() {
        eprintln!("skipped: REFRAIN_TEST_TRACKERS names no Python with the trackers");
    }
    python
}

/// The runs that a tracker reads from a folder; `None` where no Python is named.
fn read(space: &Space, tracker: &str, folder: &str) -> Option<Value> {
    let python = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/read.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([tracker, folder])
        .current_dir(space.path(""))
        .env("HOME", space.path(""));
    let output = command.output().unwrap();
    let (stdout, stderr) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tracker}: {stderr}");
    Some(
        serde_json::from_slice(&stdout)
            .unwrap_or_else(|error| panic!("{tracker}: {error}: {stderr}")),
    )
}

/// The loss of each step of `base`, as a tracker read it.
fn losses(runs: &Value) -> Vec<f64> {
    let mut points: Vec<(i64, f64)> =
        serde_json::from_value(runs["base"]["metrics"]["train/loss"].clone()).unwrap();
    points.sort_by_key(|(step, _)| *step);
    points.into_iter().map(|(_, loss)| loss).collect()
}

/// Checks what every tracker must read, its numbers as near as `tolerance`.
fn agrees(space: &Space, runs: &Value, tolerance: f64) {
    let expected = floats(space, "base.log", "loss");
    let found = losses(runs);
    assert_eq!(found.len(), expected.len());
    let near = |a: f64, b: f64| (a - b).abs() <= tolerance * b.abs();
    assert!(found.iter().zip(&expected).all(|(a, b)| near(*a, *b)), "{found:?}");

    let masked = "masked[arm=plain]";
    let read = runs[masked]["metrics"]["mean_row_masked_share"][0][1].as_f64().unwrap();
    let share = figures(space, &format!("{masked}.metrics"))("mean_row_masked_share");
    assert!(near(read, share), "{read}, not {share}");
    assert_eq!(runs[masked]["params"]["sweep.arm"], "plain");
    // A run for each node that has figures: the stages but the tables that none was measured of.
    let lock = space.read("w.lock");
    let entries = lock.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let measured =
        entries.filter(|entry| entry["metrics"].as_array().is_some_and(|m| !m.is_empty()));
    assert_eq!(runs.as_object().unwrap().len(), measured.count());
}

#[test]
fn mlflow_reads_its_store() {
    let space = ran();
    export(&space, "mlflow", "store");
    let Some(runs) = read(&space, "mlflow", "store") else { return };
    agrees(&space, &runs, 0.0);
    let base = &runs["base"];
    assert_eq!((&base["experiment"], &base["status"]), (&json!("small"), &json!("FINISHED")));
    assert_eq!(base["description"], "Does it export?");
    assert_eq!(base["params"]["steps"], "20");
    assert_eq!(base["last"]["train/loss"].as_f64(), losses(&runs).last().copied());
    assert!(base["times"][0].as_i64().unwrap() > 0);
    let key = base["tags"]["refrain.key"].as_str().unwrap();
    assert!(space.read("w.lock").contains(key));
    let target = &runs["target[arm=../x]"];
    assert_eq!(target["tags"]["mlflow.note.content"], "how many are right");
    assert!(target["tags"]["refrain.input.data"].as_str().unwrap().contains("answers"), "{target}");
}

#[test]
fn trackio_reads_its_store() {
    let space = ran();
    export(&space, "trackio", "store");
    let Some(runs) = read(&space, "trackio", "store") else { return };
    agrees(&space, &runs, 0.0);
    let base = &runs["base"];
    assert_eq!((&base["experiment"], &base["params"]["steps"]), (&json!("small"), &json!(20)));
    assert!(space.read("w.lock").contains(base["params"]["refrain.key"].as_str().unwrap()));
}

#[test]
fn tensorboard_reads_its_store() {
    let space = ran();
    export(&space, "tensorboard", "logs");
    let Some(runs) = read(&space, "tensorboard", "logs") else { return };
    agrees(&space, &runs, 1e-7);
    let base = &runs["base"];
    assert_eq!(base["params"]["steps"], 20.0);
    assert_eq!(base["params"]["merge"], false);
    assert!(base["times"][0].as_f64().unwrap() > 1e9);
    let key = base["text"].as_str().unwrap().split("refrain.key | `").nth(1).unwrap();
    assert!(space.read("w.lock").contains(&key[..64]));
}

#[test]
fn trackers_read_what_has_neither_times_nor_curves() {
    let space = ran();
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    for tracker in ["mlflow", "trackio", "tensorboard"] {
        export(&space, tracker, tracker);
        let Some(runs) = read(&space, tracker, tracker) else { return };
        let run = &runs["masked[arm=plain]"];
        assert!(run["metrics"]["mean_row_masked_share"][0][1].is_f64(), "{tracker}: {run}");
        assert!(runs["base"]["metrics"]["train/loss"].is_null(), "{tracker}");
        assert!(
            run["times"].is_null() || run["times"][0].as_f64() == Some(0.0),
            "{tracker}: {run}"
        );
    }
}

#[test]
fn the_python_module_gives_arrow() {
    let Some(python) = python() else { return };
    let space = ran();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let binary = Path::new(env!("CARGO_BIN_EXE_refrain")).parent().unwrap();
    let script = "import json, refrain_workflow as r\n\
        results = r.results('w.yaml')\n\
        log = r.table('w.yaml', 'base.log')\n\
        try: r.table('w.yaml', 'bass')\n\
        except r.RefrainError as error: said = [str(error), error.exit_code]\n\
        print(json.dumps([results.to_pydict(), log['loss'].to_pylist(), said]))";
    let mut command = Command::new(python);
    command.args(["-c", script]).current_dir(space.path(""));
    command.env("PYTHONPATH", folder).env("PATH", binary).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read[0]["arm"], json!(["../x", "plain"]));
    let share = figures(&space, "masked[arm=plain].metrics")("mean_row_masked_share");
    assert_eq!(read[0]["masked.mean_row_masked_share"][1].as_f64(), Some(share));
    assert_eq!(read[0]["status"], json!(["ok", "ok"]));
    let losses: Vec<f64> = serde_json::from_value(read[1].clone()).unwrap();
    assert_eq!(losses, floats(&space, "base.log", "loss"));
    let said = "there is no stage or node `bass` (did you mean `base`?)";
    assert_eq!(read[2], json!([said, 2]));
}
