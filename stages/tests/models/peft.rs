//! Adapters and merged models that we write are read by PEFT and transformers, and PEFT's adapters by us.
//!
//! Runs `tests/peft_round_trip.py` with the Python that `PYTHON` names, else `python3`; skipped where that lacks PEFT.

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::RecordBatch;
use serde_json::{Map, Value, json};

use refrain_engine::kind::{Input, MAIN};

use crate::bench::*;

/// What each adapter is like, in our words.
const METHODS: [(&str, &str); 3] =
    [("lora", ""), ("rslora", ", rslora: true"), ("dora", ", dora: true")];

const TEXTS: [&str; 3] = [
    "The cat sat on the mat.",
    "How many arms do 7 starfish with 5 arms each have?",
    "x = 12 * 3 = 36",
];

/// A Python that has PEFT.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let works = Command::new(&python).args(["-c", "import peft, transformers, torch"]).output();
    if works.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: `{python}` has no torch, transformers and peft");
    None
}

/// A new model of ours, and the reference's where they are.
fn bases(bench: &Bench, data: &Input) -> Vec<Input> {
    let new = "data: d, from: { config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, \
        num_attention_heads: 4, num_key_value_heads: 2, initializer_range: 0.3 }, tokenizer: { vocab_size: 300 } }, steps: 2";
    let made = bench.run("finetune", new, &[("data", data)]).unwrap();
    let given = FOLDERS.iter().filter_map(|name| shared(&format!("parity/{name}/model")));
    let given = given.map(|folder| model(&folder.canonicalize().unwrap()));
    [bench.input(made.artifacts[MAIN].clone())].into_iter().chain(given).collect()
}

/// Our scores of the texts.
fn scored(bench: &Bench, model: &Input, table: &Input) -> RecordBatch {
    bench.made("score", "model: m, data: d, of: text", &[("model", model), ("data", table)])
}

#[test]
fn adapters_and_models_go_there_and_back() {
    let Some(python) = python() else { return };
    let bench = Bench::new();
    let table = bench.table(&texts(&[("prompt", &["a", "b", "c"]), ("response", &TEXTS)]));
    let folder = tempfile::tempdir().unwrap();
    let bases = bases(&bench, &table);
    let (mut jobs, mut ours) = (Vec::new(), Vec::new());
    for (number, base) in bases.iter().enumerate() {
        let (job, scores) = ours_of(&bench, base, &table, &folder.path().join(number.to_string()));
        jobs.push(job);
        ours.push(scores);
    }
    let (job, result) = (folder.path().join("job.json"), folder.path().join("result.json"));
    std::fs::write(&job, Value::Array(jobs.clone()).to_string()).unwrap();
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peft_round_trip.py"));
    let output = Command::new(python).arg(script).args([&job, &result]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = json(&result);
    for (number, base) in bases.iter().enumerate() {
        let (job, theirs) = (&jobs[number], &results[number]);
        assert_eq!(theirs["ids"], job["ids"], "another tokenizer");
        near(&ours[number]["merged"], &theirs["merged"], base, "merged");
        for (name, _) in METHODS {
            near(&ours[number][name], &theirs["ours"][name], base, name);
            let adapter = PathBuf::from(job["theirs"][name]["folder"].as_str().unwrap());
            let Input::Model { folder, artifact, .. } = base.clone() else { panic!() };
            // A digest of its own: models in memory are known by it.
            let artifact = refrain_cache::Artifact {
                digest: refrain_cache::Digest::of_bytes(name.as_bytes()),
                ..artifact
            };
            let adapted = Input::Model {
                folder,
                adapters: vec![adapter],
                artifact,
                bases: Vec::new(),
                served: None,
            };
            let what = format!("{name} by PEFT");
            near(
                &logprobs(&scored(&bench, &adapted, &table)),
                &theirs["theirs"][name],
                base,
                &what,
            );
            let moved = furthest(&theirs["theirs"][name], &ours[number]["base"]);
            assert!(moved > 0.05, "PEFT trained nothing");
        }
    }
}

/// What Python is to do with a base, and our scores of what we made of it.
fn ours_of(
    bench: &Bench,
    base: &Input,
    table: &Input,
    folder: &Path,
) -> (Value, Map<String, Value>) {
    let learn = "model: m, data: d, steps: 8, batch_size: 2, learning_rate: 1e-2";
    let inputs = [("model", base), ("data", table)];
    let before = scored(bench, base, table);
    let mut scores = Map::from_iter([("base".to_owned(), logprobs(&before))]);
    let (mut adapters, mut theirs) = (Map::new(), Map::new());
    for (name, more) in METHODS {
        let made =
            bench.run("finetune", &format!("{learn}, lora: {{ rank: 4{more} }}"), &inputs).unwrap();
        let artifact = &made.artifacts[MAIN];
        adapters.insert(name.into(), bench.cache.object_path(&artifact.digest).to_str().into());
        scores.insert(name.into(), logprobs(&scored(bench, &bench.adapted(base, artifact), table)));
        assert!(furthest(&scores[name], &scores["base"]) > 0.05, "{name} changes nothing");
        let settings = json!({ "r": 4, "lora_alpha": 6, "use_rslora": name == "rslora", "use_dora": name == "dora" });
        theirs.insert(name.into(), json!({ "settings": settings, "folder": folder.join(name) }));
    }
    let merged = bench
        .run("finetune", &format!("{learn}, lora: {{ rank: 4 }}, merge: true"), &inputs)
        .unwrap();
    let merged = bench.input(merged.artifacts[MAIN].clone());
    scores.insert("merged".into(), logprobs(&scored(bench, &merged, table)));
    let job = json!({
        "base": models_folder(base),
        "texts": TEXTS,
        "ids": int_lists(&before, "token_ids"),
        "ours": adapters,
        "merged": merged.path(),
        "theirs": theirs,
    });
    (job, scores)
}

fn models_folder(model: &Input) -> &Path {
    let Input::Model { folder, .. } = model else { panic!("no model") };
    folder
}

/// The log-probabilities of each row's tokens after the first.
fn logprobs(scored: &RecordBatch) -> Value {
    let rows = float_lists(scored, "logprobs");
    rows.iter().map(|row| row[1..].iter().map(|l| json!(l.unwrap())).collect::<Value>()).collect()
}

fn furthest(ours: &Value, theirs: &Value) -> f64 {
    let rows = ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap());
    let mut furthest = 0.0f64;
    for (ours, theirs) in rows {
        let (ours, theirs) = (ours.as_array().unwrap(), theirs.as_array().unwrap());
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            furthest = furthest.max((ours.as_f64().unwrap() - theirs.as_f64().unwrap()).abs());
        }
    }
    furthest
}

fn near(ours: &Value, theirs: &Value, base: &Input, what: &str) {
    let furthest = furthest(ours, theirs);
    println!("{} {what}: {furthest:.1e}", models_folder(base).display());
    assert!(
        furthest < 1e-4,
        "{} {what}: scores differ by {furthest}",
        models_folder(base).display()
    );
}
