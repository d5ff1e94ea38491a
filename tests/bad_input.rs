//! What a run says of data, models, commands, caches and locks that are wrong: exit code and words, as snapshots.

use crate::space::{Space, small};

fn snapshot(name: &str, space: &Space, arguments: &[&str]) {
    insta::assert_snapshot!(name, space.fails(arguments));
}

/// A space with the model folder `model` (a context of 128 tokens, 280 of them in its vocabulary) and rows for it.
fn with_model() -> Space {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "base"]);
    copy_artifact(&space, "base", "model");
    space
}

/// Copies the model that a node made to a folder of the space.
fn copy_artifact(space: &Space, node: &str, to: &str) {
    let from = space.run(&["show", "w.yaml", node, "--path"]).stdout;
    std::fs::create_dir(space.path(to)).unwrap();
    for entry in std::fs::read_dir(space.path(from.trim())).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::write(space.path(to).join(entry.file_name()), bytes).unwrap();
    }
}

/// Scores the rows with the model.
const SCORE: &str = "refrain: 1
models: { base: { path: model } }
data: { train: { path: train.jsonl } }
stages:
  scored: { score: { model: base, data: train } }
";

#[test]
fn models() {
    let space = with_model();
    let file = |name: &str| space.path("model").join(name);
    space.write("s.yaml", SCORE);
    let run = ["run", "s.yaml", "--quiet"];
    let whole = std::fs::read(file("model.safetensors")).unwrap();
    std::fs::write(file("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    snapshot("weights_cut_off", &space, &run);
    std::fs::remove_file(file("model.safetensors")).unwrap();
    snapshot("weights_absent", &space, &run);
    std::fs::write(file("pytorch_model.bin"), "pickled").unwrap();
    snapshot("weights_pickled", &space, &run);
    std::fs::remove_file(file("pytorch_model.bin")).unwrap();
    std::fs::write(file("model.safetensors"), &whole).unwrap();

    let config = std::fs::read_to_string(file("config.json")).unwrap();
    let foreign = config.replace("\"model_type\": \"llama\"", "\"model_type\": \"rwkv\"");
    std::fs::write(file("config.json"), foreign).unwrap();
    // Without the choice a build that has mistralrs would hand it on.
    space.write("native.yaml", &SCORE.replace("data: train }", "data: train, backend: native }"));
    snapshot("family_not_native", &space, &["run", "native.yaml", "--quiet"]);
    std::fs::write(
        file("config.json"),
        config.replace("\"hidden_size\": 16", "\"hidden_size\": 32"),
    )
    .unwrap();
    snapshot("config_of_another_model", &space, &run);
    std::fs::remove_file(file("config.json")).unwrap();
    snapshot("config_absent", &space, &["check", "s.yaml"]);
    std::fs::write(file("config.json"), &config).unwrap();

    let tokenizer = std::fs::read_to_string(file("tokenizer.json")).unwrap();
    std::fs::write(
        file("tokenizer.json"),
        tokenizer.replace("\"type\": \"BPE\"", "\"type\": \"XYZ\""),
    )
    .unwrap();
    snapshot("tokenizer_unreadable", &space, &run);
    std::fs::remove_file(file("tokenizer.json")).unwrap();
    snapshot("tokenizer_absent", &space, &run);
}

#[test]
fn tokenizers_that_do_not_fit() {
    let space = with_model();
    space.write("s.yaml", SCORE);
    // Another model with more tokens, of other texts.
    let other: String = (0..24)
        .map(|i| {
            format!(
                "{{\"id\": \"r{i}\", \"prompt\": \"{i} plus 1?\", \"response\": \"summing up: {i}{i}\"}}\n"
            )
        })
        .collect();
    space.write("other.jsonl", &other);
    space.write(
        "w.yaml",
        &space.read("w.yaml").replace("train.jsonl", "other.jsonl").replace("280", "320"),
    );
    space.report("w.yaml", &["--only", "base"]);
    copy_artifact(&space, "base", "other");
    space.write(
        "m.yaml",
        "refrain: 1
models: { base: { path: model }, other: { path: other } }
data: { train: { path: other.jsonl } }
stages:
  scored: { score: { model: other, data: train } }
  masked: { mask: { data: scored, above: 1000 } }
  tuned: { finetune: { model: base, data: masked, full: true, steps: 1 } }
",
    );
    snapshot("mask_of_another_tokenizer", &space, &["run", "m.yaml", "--quiet"]);
    std::fs::copy(space.path("other/tokenizer.json"), space.path("model/tokenizer.json")).unwrap();
    space.write("train.jsonl", &other);
    snapshot("tokenizer_of_another_model", &space, &["run", "s.yaml", "--quiet"]);
}

#[test]
fn rows_that_are_too_long() {
    let space = with_model();
    let long = format!(
        "{{\"id\": \"long\", \"prompt\": \"p\", \"response\": \"{}\"}}\n",
        "word ".repeat(200)
    );
    space.write(
        "train.jsonl",
        &format!("{{\"id\": \"fine\", \"prompt\": \"p\", \"response\": \"r\"}}\n{long}"),
    );
    space.write("s.yaml", SCORE);
    snapshot("row_longer_than_the_context", &space, &["run", "s.yaml", "--quiet"]);
}

#[test]
fn commands() {
    let run = |command: &str, environment: &str| {
        let space = Space::new();
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\nstages:\n  s:\n    run: {{ command: {command}, outputs: {{ t: table }}{environment} }}\n"
            ),
        );
        space
    };
    let quiet = ["run", "w.yaml", "--quiet"];
    let space = run("[sh, -c, 'echo reading; echo the third line is wrong >&2; exit 3']", "");
    snapshot("command_fails", &space, &quiet);
    snapshot("command_writes_nothing", &run("[sh, -c, 'true']", ""), &quiet);
    snapshot("command_writes_no_table", &run("[sh, -c, 'echo a,b > ${out.t}']", ""), &quiet);
    snapshot("command_unknown", &run("[no-such-program]", ""), &quiet);
    snapshot(
        "command_needs_a_secret",
        &run("[env]", ", environment: { KEY: '${env:ABSENT}' }"),
        &quiet,
    );
    snapshot("command_without_input", &run("[cat, '${in.x}']", ""), &quiet);
}

#[test]
fn caches_and_locks() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages: { s: { diversify: { data: rows, dedupe: exact } } }\n",
    );
    let run = ["run", "w.yaml", "--quiet"];
    snapshot("cache_not_writable", &space, &["run", "w.yaml", "--cache", "rows.jsonl/cache"]);
    std::fs::create_dir(space.path("home")).unwrap();
    space.write("home/letter.txt", "dear");
    snapshot("cache_is_another_folder", &space, &["run", "w.yaml", "--cache", "home"]);
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    space.write("w.lock", "<<<<<<< ours\n");
    snapshot("lock_garbage", &space, &run);
    space.write("w.lock", &lock.replacen("{\"refrain_lock\":2", "{\"refrain_lock\":7", 1));
    snapshot("lock_newer", &space, &["verify", "w.yaml"]);
    std::fs::remove_file(space.path("w.lock")).unwrap();
    snapshot("lock_absent", &space, &["verify", "w.yaml"]);
    space.write(".refrain/format", "99\n");
    snapshot("cache_newer", &space, &run);
}
