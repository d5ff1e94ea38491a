//! Trainers outside: the one that the binary carries against the reference and our own module, and
//! scripts that keep the contract or do not.
//!
//! `REFRAIN_TEST_PYTHON` names a Python with torch, transformers, PEFT and accelerate.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use serde_json::Value;

use crate::space::{Said, Space, shared, small};
use crate::training::{json_of, near_adapter, near_log, near_scores, path, rows, table};

const SCRIPT: &str = include_str!("peft/trainer.py");
/// The environment variable that names a Python with torch.
const PYTHON: &str = "REFRAIN_TEST_PYTHON";

/// A Python with torch, or nothing with a printed reason.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map(PathBuf::from);
    if python.is_none() {
        eprintln!(
            "skipped: {PYTHON} names no Python with torch, transformers, peft and accelerate"
        );
    }
    python
}

/// Writes a configuration that names a Python.
fn configure(space: &Space, python: &str) {
    space.write("config/config.toml", &format!("[python]\npath = \"{python}\"\n"));
    let mode = |name: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(space.path(name), permissions).unwrap();
    };
    mode("config", 0o755);
    mode("config/config.toml", 0o644);
}

/// The arguments of a run with that configuration.
const CONFIG: [&str; 2] = ["--config", "config/config.toml"];

fn run(space: &Space, more: &[&str]) -> Said {
    space.run(&[&["run", "w.yaml", "--quiet"], more, &CONFIG].concat())
}

fn succeeds(space: &Space, more: &[&str]) {
    let said = run(space, more);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
}

/// A stage for each training run of a folder, with these further parameters.
fn runs(expected: &Value, suffix: &str, more: &str) -> String {
    let mut text = String::new();
    for (name, run) in expected.as_object().unwrap() {
        let method = run["init"]
            .as_str()
            .map_or("full: true".into(), |init| format!("lora: {{ from: {init} }}"));
        writeln!(
            text,
            "  {name}{suffix}: {{ finetune: {{ model: base, data: rows, {method}, steps: {}, batch_size: 2, \
             accumulate: {}, order: given, learning_rate: {}, warmup: {}, betas: {}, eps: {}, weight_decay: {}, \
             clip: {}{more} }} }}\n  \
             {name}{suffix}_scored: {{ score: {{ model: {name}{suffix}, data: texts, of: text }} }}",
            run["steps"],
            run["micro_batches_per_step"],
            run["lr"],
            run["warmup"],
            run["betas"],
            run["eps"],
            run["weight_decay"],
            run["clip"].as_f64().unwrap_or(0.0),
        )
        .unwrap();
    }
    text
}

/// Compares every training run of a model's folder with the reference and with our own module.
fn compare_runs(model: &str, python: &Path, shared: &Path) {
    let folder = shared.join("parity").join(model);
    let expected = json_of(&folder.join("training/expected.json"));
    let reference = json_of(&folder.join("reference.json"));
    let space = Space::new();
    configure(&space, &python.display().to_string());
    space.write("rows.jsonl", &rows(&folder));
    let texts = reference["texts"].as_array().unwrap().iter();
    let texts: String =
        texts.map(|row| format!("{}\n", serde_json::json!({ "response": row["text"] }))).collect();
    space.write("texts.jsonl", &texts);
    let at = folder.display();
    let text = format!(
        "refrain: 1\nmodels:\n  base: {{ path: {at}/model }}\n  lora_init: {{ path: {at}/training/lora_init }}\n  \
         dora_init: {{ path: {at}/training/dora_init }}\ndata:\n  rows: {{ path: rows.jsonl }}\n  \
         texts: {{ path: texts.jsonl }}\nstages:\n{}{}",
        runs(&expected, "", ", backend: peft"),
        runs(&expected, "_native", ""),
    );
    space.write("w.yaml", &text);
    succeeds(&space, &["--jobs", "1"]);
    for (name, run) in expected.as_object().unwrap() {
        let what = format!("{model} {name}");
        let log = table(&path(&space, &format!("{name}.log")));
        let (loss, norm) = near_log(&what, &log, &run["log"]);
        let mut line = format!("{what}: loss {loss:.1e}, gradient norm {norm:.1e}");
        let native = table(&path(&space, &format!("{name}_native.log")));
        let [ours, theirs] =
            [&native, &log].map(|log| log["loss"].as_primitive::<Float64Type>().clone());
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a.unwrap() - b.unwrap()).abs());
        let apart = apart.fold(0.0, f64::max);
        assert!(apart <= 2e-5, "{what}: {apart} from our own");
        write!(line, ", from our own {apart:.1e}").unwrap();
        if let Some(last) = run["final_adapter"].as_str() {
            let last = folder.join("training").join(last);
            let (worst, far) = near_adapter(&what, &path(&space, name), &last);
            write!(line, ", weights {worst:.1e} ({far} beyond 2e-4)").unwrap();
        }
        let scored = table(&path(&space, &format!("{name}_scored")));
        if reference["adapter_eval"][name].is_object() {
            let adapter = &reference["adapter_eval"][name];
            let worst = near_scores(&what, &scored, adapter, "logprobs_f64", 1e-4);
            write!(line, ", scores {worst:.1e}").unwrap();
        }
        if run["final_logprobs"].is_object() {
            let worst = near_scores(&what, &scored, &run["final_logprobs"], "logprobs_f64", 1e-3);
            write!(line, ", final scores {worst:.1e}").unwrap();
        }
        println!("{line}");
    }
}

/// The models whose reference runs are trained: one, or with REFRAIN_TEST_EVERY_MODEL all, which
/// takes a quarter of an hour.
fn models(shared: &Path) -> Vec<String> {
    if std::env::var_os("REFRAIN_TEST_EVERY_MODEL").is_none() {
        println!(
            "the runs of `llama` alone; REFRAIN_TEST_EVERY_MODEL=1 trains those of every model"
        );
        return vec!["llama".into()];
    }
    let mut models: Vec<String> = std::fs::read_dir(shared.join("parity"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("training/expected.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    models.sort();
    models
}

#[test]
fn the_reference_runs_come_out_of_the_trainer() {
    let (Some(python), Some(shared)) = (python(), shared()) else { return };
    for model in models(&shared) {
        compare_runs(&model, &python, &shared);
    }
}

/// A base, and stages that train it.
fn workflow(space: &Space, stages: &str) {
    small(space);
    let base = "  base: { finetune: { data: train, steps: 20, batch_size: 4, learning_rate: 1e-2, seed: 1, from: { \
                config: { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, \
                max_position_embeddings: 128 }, tokenizer: { vocab_size: 280 } } } }\n";
    space.write(
        "w.yaml",
        &format!("refrain: 1\ndata: {{ train: {{ path: train.jsonl }} }}\nstages:\n{base}{stages}"),
    );
}

/// Everything that the trainer shares with our own module, in few trainings.
const ALIKE: [(&str, &str); 4] = [
    ("plain", "lora: { rank: 4 }, epochs: 2, keep: each_epoch, evaluate_on: train, packing: true"),
    (
        "scaled",
        "lora: { rank: 2, alpha: 3, dora: true, rslora: true, targets: [q_proj, down_proj] }, steps: 6",
    ),
    ("merged", "lora: { rank: 4 }, steps: 5, merge: true, accumulate: 2, order: length"),
    (
        "early",
        "full: true, steps: 30, evaluate_on: train, evaluate_every: 2, learning_rate: 3e-2, \
      schedule: constant, early_stopping: { patience: 2, min_delta: 0.3 }",
    ),
];

#[test]
fn a_trainer_outside_does_what_our_own_does() {
    let Some(python) = python() else { return };
    let mut reports = Vec::new();
    for backend in ["native", "peft"] {
        let space = Space::new();
        configure(&space, &python.display().to_string());
        let mut stages = String::new();
        for (name, settings) in ALIKE {
            let settings = match backend {
                "native" => settings.replace(", packing: true", ""),
                _ => settings.to_owned(),
            };
            writeln!(
                stages,
                "  {name}: {{ finetune: {{ model: base, data: train, batch_size: 4, seed: 3, backend: {backend}, \
                 {settings} }} }}\n  {name}_scored: {{ score: {{ model: {name}, data: train }} }}"
            )
            .unwrap();
        }
        stages.push_str("  kept: { score: { model: plain.epoch_1, data: train } }\n");
        workflow(&space, &stages);
        let report = space.report("w.yaml", &CONFIG);
        reports.push((space, report));
    }
    let metrics = |report: &Value, node: &str| -> Vec<(String, f64)> {
        let nodes = report["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|found| found["node"] == node).unwrap();
        let metrics = node["metrics"].as_array().unwrap().iter();
        metrics
            .map(|m| (m["metric"].as_str().unwrap().to_owned(), m["value"].as_f64().unwrap()))
            .collect()
    };
    let names = ALIKE.iter().flat_map(|(name, _)| [name.to_string(), format!("{name}_scored")]);
    for node in names.chain(["kept".to_owned()]) {
        let (ours, theirs) = (metrics(&reports[0].1, &node), metrics(&reports[1].1, &node));
        assert_eq!(ours.len(), theirs.len(), "{node}: {ours:?}, {theirs:?}");
        for ((name, ours), (other, theirs)) in ours.iter().zip(&theirs) {
            assert_eq!(name, other, "{node}");
            assert!(
                (ours - theirs).abs() <= 2e-4 * ours.abs().max(1.0),
                "{node} {name}: {ours}, {theirs}"
            );
        }
    }
    for (name, _) in ALIKE {
        let [ours, theirs] =
            [0, 1].map(|i: usize| table(&path(&reports[i].0, &format!("{name}.log"))));
        assert_eq!(ours.schema(), theirs.schema(), "{name}");
        assert_eq!(ours.num_rows(), theirs.num_rows(), "{name}");
        let losses =
            |log: &arrow::array::RecordBatch| log["loss"].as_primitive::<Float64Type>().clone();
        for (a, b) in losses(&ours).iter().zip(&losses(&theirs)) {
            assert!((a.unwrap() - b.unwrap()).abs() <= 2e-5, "{name}: {a:?}, {b:?}");
        }
    }
    // The record names what can move the last bits.
    let lock = reports[1].0.read("w.lock");
    let profile = lock.lines().find(|line| line.contains("\"plain\"")).unwrap();
    for part in ["peft (accelerate ", "python ", "torch ", "transformers ", " on 1 × ", " threads"]
    {
        assert!(profile.contains(part), "{profile}");
    }
    // What is computed again differs in the last bits at most.
    let space = &reports[1].0;
    let said = space.run(&[&["verify", "w.yaml", "--recompute", "1"], &CONFIG[..]].concat());
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
}

/// Starts a run, and waits until the training has kept its state after some steps.
fn started(space: &Space, least: u64) -> Child {
    let mut command = space.command(&[&["run", "w.yaml"], &CONFIG[..]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while kept_steps(space).is_none_or(|steps| steps < least) {
        assert!(begin.elapsed() < Duration::from_secs(600), "no state was kept");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the training ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// The steps of the state that is kept in the space's cache.
fn kept_steps(space: &Space) -> Option<u64> {
    for entry in std::fs::read_dir(space.path(".refrain/unfinished")).ok()? {
        let Ok(bytes) = std::fs::read(entry.ok()?.path().join("trainer")) else { continue };
        // Behind the JSON is its checksum.
        let json = &bytes[..bytes.len().checked_sub(32)?];
        let index: Value = serde_json::from_slice(json).ok()?;
        return Some(index["log"].as_array()?.len() as u64);
    }
    None
}

#[test]
fn a_killed_trainer_goes_on_and_ends_with_the_same_bytes() {
    let Some(python) = python() else { return };
    let stages = "  tuned:\n    finetune: { model: base, data: train, lora: { rank: 2 }, steps: 400, batch_size: 4, \
                  backend: peft, checkpoint_every: 0 }\n    resources: { threads: 1 }\n";
    let whole = Space::new();
    configure(&whole, &python.display().to_string());
    workflow(&whole, stages);
    let expected = whole.digests("w.yaml", &CONFIG)["tuned"].clone();

    let space = Space::new();
    configure(&space, &python.display().to_string());
    workflow(&space, stages);
    let mut child = started(&space, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    // Asked to stop, it keeps its state first.
    let kept = kept_steps(&space).unwrap();
    let child = started(&space, kept + 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(130));
    let said = space.run(&[&["run", "w.yaml"], &CONFIG[..]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("goes on after step "), "{}", said.stderr);
    assert_eq!(space.digests("w.yaml", &CONFIG)["tuned"], expected);
    let left = std::fs::read_dir(space.path(".refrain/unfinished")).unwrap().count();
    assert_eq!(left, 0, "the state of a finished training is kept");
}

#[test]
fn cards_that_are_not_there_are_told() {
    let Some(python) = python() else { return };
    let space = Space::new();
    configure(&space, &python.display().to_string());
    workflow(
        &space,
        "  tuned:\n    finetune: { model: base, data: train, lora: { rank: 2 }, backend: peft }\n    \
         resources: { gpus: 1 }\n",
    );
    let said = run(&space, &[]);
    if said.code == 0 {
        return eprintln!("skipped: this machine has a graphics card");
    }
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("`resources: { gpus: 1 }` needs CUDA"), "{}", said.stderr);
    assert!(said.stderr.contains("leave `gpus` out to train on the CPU"), "{}", said.stderr);
}

/// A space with a training by the script of this test, in that mode.
fn scripted(mode: &str) -> Space {
    let space = Space::new();
    configure(&space, "/usr/bin/python3");
    workflow(
        &space,
        "  tuned: { finetune: { model: base, data: train, lora: { rank: 2 }, steps: 40, backend: peft, \
         trainer: script } }\n",
    );
    space.edit(
        "w.yaml",
        "train: { path: train.jsonl }",
        "train: { path: train.jsonl }, script: { path: my.py, type: file }",
    );
    space.write("my.py", &SCRIPT.replace("MODE = \"\"", &format!("MODE = \"{mode}\"")));
    space
}

#[test]
fn a_script_of_ones_own_trains() {
    let space = scripted("");
    let report = space.report("w.yaml", &CONFIG);
    let nodes = report["nodes"].as_array().unwrap();
    let tuned = nodes.iter().find(|node| node["node"] == "tuned").unwrap();
    let metrics = tuned["metrics"].as_array().unwrap();
    let trained = metrics.iter().find(|metric| metric["metric"] == "trainable_parameters");
    assert_eq!(trained.unwrap()["value"], 7.0);
    let config = json_of(&path(&space, "tuned").join("adapter_config.json"));
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_u64()), (Some(2), Some(4)));
    assert_eq!(table(&path(&space, "tuned.log")).num_rows(), 40);

    // The first record counts; a second computation is compared within a tolerance.
    let arguments = [&["verify", "w.yaml", "--recompute", "all"], &CONFIG[..]].concat();
    let said = space.run(&arguments);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);

    // Its content is in the key, its path is not; the trainer of the binary is not in it.
    std::fs::rename(space.path("my.py"), space.path("other.py")).unwrap();
    space.edit("w.yaml", "my.py", "other.py");
    assert!(space.ran("w.yaml", &CONFIG).is_empty());
    let said = space.run(&["explain", "w.yaml", "tuned", "--format", "json"]);
    let manifest = &serde_json::from_str::<Value>(&said.stdout).unwrap()["manifest"];
    let versions = manifest["versions"].as_object().unwrap();
    let names: Vec<&str> = versions.keys().map(String::as_str).collect();
    assert_eq!(names, ["finetune", "render", "table"]);
    space.edit("other.py", "MODE = \"\"", "MODE = \"wild\"");
    assert_eq!(space.ran("w.yaml", &CONFIG).into_iter().collect::<Vec<_>>(), ["tuned"]);
    let said = space.run(&arguments);
    assert_eq!(said.code, 3, "{}{}", said.stdout, said.stderr);
}

#[test]
fn a_script_that_is_killed_is_given_its_state() {
    let space = scripted("slow");
    let mut child = started(&space, 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = kept_steps(&space).unwrap();
    let said = space.run(&[&["run", "w.yaml"], &CONFIG[..]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains(&format!("goes on after step {kept} of 40")), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("resumes after {kept}")), "{}", said.stderr);
    assert_eq!(table(&path(&space, "tuned.log")).num_rows(), 40);
}

#[test]
fn what_a_script_does_wrong_is_told() {
    for (mode, expected) in [
        ("dies", "the trainer ended with exit status 7; the end of what it printed:\na last word"),
        ("refuses", "no such luck\n  = help: try again"),
        ("babbles", "the trainer reports `hello`, which is not an event"),
        ("skips", "the trainer reports step 1 after 0 steps"),
        (
            "empty",
            "the trainer's adapter in `out` is absent: it holds no `adapter_model.safetensors`",
        ),
        ("silent", "the trainer ended without reporting the end of the training"),
    ] {
        let space = scripted(mode);
        let said = run(&space, &[]);
        assert_eq!(said.code, 1, "{mode}: {}", said.stderr);
        assert!(said.stderr.contains(expected), "{mode}: {}", said.stderr);
    }
}

#[test]
fn a_python_without_torch_is_told_what_to_install() {
    let space = Space::new();
    let stage =
        "  tuned: { finetune: { model: base, data: train, lora: { rank: 2 }, backend: peft } }\n";
    workflow(&space, stage);
    configure(&space, "no/such/python");
    let said = run(&space, &[]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("could not be started"), "{}", said.stderr);
    assert!(said.stderr.contains("`[python] path` in the configuration"), "{}", said.stderr);

    // A Python of which nothing but the standard library is known.
    space.write("bare", "#!/bin/sh\nexec /usr/bin/python3 -I -S \"$@\"\n");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(space.path("bare"), executable).unwrap();
    configure(&space, &space.path("bare").display().to_string());
    let said = run(&space, &[]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(
        said.stderr.contains("has no `torch`, `transformers`, `peft`, `accelerate`"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("-m pip install torch transformers peft accelerate"),
        "{}",
        said.stderr
    );
}

#[test]
fn what_a_trainer_does_not_do_is_refused_by_name() {
    for (settings, expected) in [
        (
            "backend: peft, kl: { weight: 0.1 }",
            "`peft` does not add the divergence of `kl` to the loss",
        ),
        ("backend: peft, lora: { rank: 2, dropout: 0.1 }", "its dropout would not be ours"),
        ("backend: peft, full: true, quantization: nf4", "a base in 4 bits is frozen"),
        ("backend: peft, merge: true, quantization: nf4", "cannot be merged into a base in 4 bits"),
        ("dtype: bf16", "our own module trains in 32 bits"),
        ("quantization: nf4", "our own module does not quantize"),
        ("attention: flash", "our own module has one implementation of attention"),
        ("packing: true", "our own module never pads"),
        ("trainer: train", "`train` is a table"),
        ("backend: cuda", "`cuda`"),
    ] {
        let space = Space::new();
        let method = if settings.contains("full") || settings.contains("lora") {
            ""
        } else {
            ", lora: { rank: 2 }"
        };
        workflow(
            &space,
            &format!(
                "  tuned: {{ finetune: {{ model: base, data: train{method}, {settings} }} }}\n"
            ),
        );
        let said = space.run(&["check", "w.yaml"]);
        assert_eq!(said.code, 2, "{settings}: {}", said.stdout);
        assert!(said.stderr.contains(expected), "{settings}: {}", said.stderr);
    }
    // A script of one's own may do more.
    let space = scripted("");
    space.edit(
        "w.yaml",
        "lora: { rank: 2 }",
        "lora: { rank: 2, dropout: 0.1 }, kl: { weight: 0.1 }",
    );
    let said = space.run(&["check", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}
