//! `finetune` against the reference runs, and the rows that it takes and refuses.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Int32Builder, ListBuilder, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::Value;

use refrain_engine::kind::{Input, MAIN};
use refrain_lm::adapter::Adapter;

use crate::bench::*;

/// The rows of the reference as a masked table.
fn masked(folder: &Path, active: impl Fn(&Value, usize) -> bool) -> RecordBatch {
    let rows = json(&folder.join("training/rows.json"));
    let (mut tokens, mut masks) =
        (ListBuilder::new(Int32Builder::new()), ListBuilder::new(BooleanBuilder::new()));
    for row in rows.as_array().unwrap() {
        for (place, id) in ids(&row["input_ids"]).into_iter().enumerate() {
            tokens.values().append_value(id as i32);
            masks.values().append_value(active(row, place));
        }
        tokens.append(true);
        masks.append(true);
    }
    RecordBatch::try_from_iter([
        ("token_ids", Arc::new(tokens.finish()) as ArrayRef),
        ("loss_mask", Arc::new(masks.finish())),
    ])
    .unwrap()
}

fn labelled(row: &Value, place: usize) -> bool {
    row["labels"][place].as_i64() != Some(-100)
}

fn answered(row: &Value, place: usize) -> bool {
    place as i64 >= row["n_prompt"].as_i64().unwrap()
}

/// The parameters of a reference run.
fn parameters(run: &Value) -> String {
    let number = |name: &str| run[name].as_f64().unwrap();
    let method = match run["kind"].as_str().unwrap() {
        "full" => "full: true",
        _ => "lora: { from: a }",
    };
    format!(
        "model: m, data: d, {method}, steps: {}, batch_size: 2, accumulate: {}, order: given, learning_rate: {}, \
         warmup: {}, betas: [{}, {}], eps: {}, weight_decay: {}, clip: {}",
        number("steps"),
        number("micro_batches_per_step"),
        number("lr"),
        number("warmup"),
        run["betas"][0],
        run["betas"][1],
        run["eps"],
        number("weight_decay"),
        run["clip"].as_f64().unwrap_or(0.0),
    )
}

#[test]
fn runs_follow_the_reference() {
    let Some(folder) = shared("parity/llama") else { return };
    let expected = json(&folder.join("training/expected.json"));
    let bench = Bench::new();
    let base = model(&folder.join("model"));
    let table = bench.table(&masked(&folder, labelled));
    for (name, run) in expected.as_object().unwrap() {
        let mut inputs: Vec<(&str, &Input)> = vec![("model", &base), ("data", &table)];
        let adapter = run["init"].as_str().map(|init| model(&folder.join("training").join(init)));
        inputs.extend(adapter.iter().map(|adapter| ("lora.from", adapter)));
        let outputs = bench.run("finetune", &parameters(run), &inputs).unwrap();
        let log = bench.read(&outputs.artifacts["log"]);
        let steps = run["log"].as_array().unwrap();
        assert_eq!(log.num_rows(), steps.len());
        for (row, step) in steps.iter().enumerate() {
            let near = |column: &str, field: &str, relative: f64, absolute: f64| {
                let (got, want) =
                    (float64(&log, column)[row].unwrap(), step[field].as_f64().unwrap());
                let bound = relative * want.abs() + absolute;
                assert!(
                    (got - want).abs() <= bound,
                    "{name} step {row}: {column} {got} in place of {want}"
                );
            };
            near("loss", "loss_f64", 0.0, 2e-5);
            near("grad_norm", "grad_norm_f64", 1e-4, 0.0);
            near("learning_rate", "lr", 1e-6, 0.0);
            let active = cast(&log["active_tokens"], &DataType::Float64).unwrap();
            let active =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(&active)
                    .value(row);
            assert_eq!(active, step["active_tokens"].as_f64().unwrap(), "{name} step {row}");
        }
        if let Some(last) = run["final_adapter"].as_str() {
            let got =
                Adapter::load(&bench.cache.object_path(&outputs.artifacts[MAIN].digest)).unwrap();
            near_adapter(name, &got, &Adapter::load(&folder.join("training").join(last)).unwrap());
            assert_eq!(outputs.artifacts[MAIN].base, Some(base.artifact().digest));
        }
    }
}

fn near_adapter(name: &str, got: &Adapter, want: &Adapter) {
    assert_eq!(got.config.target_modules, want.config.target_modules, "{name}");
    let (mut far, mut all) = (0, 0);
    for (module, want) in &want.tensors {
        let got = &got.tensors[module];
        let pairs = got.a.iter().zip(&want.a).chain(got.b.iter().zip(&want.b));
        for (got, want) in pairs {
            assert!((got - want).abs() < 2e-3, "{name} {module}: {got} in place of {want}");
            far += usize::from((got - want).abs() >= 2e-4);
            all += 1;
        }
    }
    assert!(far * 1000 <= all, "{name}: {far} of {all} entries are off");
}

fn training_table(folder: &Path) -> RecordBatch {
    let (questions, answers) = conversations(folder);
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    texts(&[("prompt", &questions), ("response", &answers)])
}

const SHORT: &str = "model: m, data: d, steps: 3, batch_size: 3, learning_rate: 1e-3";

#[test]
fn rendered_rows_train_as_their_tokens_do() {
    let Some(folder) = shared("parity/llama") else { return };
    let base = model(&folder.join("model"));
    let mut bench = Bench::new();
    let rendered = bench.table(&training_table(&folder));
    let tokens = bench.table(&masked(&folder, answered));
    let parameters =
        format!("{SHORT}, lora: {{ rank: 4, dropout: 0.1, targets: [q_proj, v_proj] }}, seed: 3");
    let mut digests = Vec::new();
    for (table, threads) in [(&rendered, 1), (&tokens, 1), (&rendered, 2)] {
        bench.threads = threads;
        let outputs =
            bench.run("finetune", &parameters, &[("model", &base), ("data", table)]).unwrap();
        digests.push(outputs.artifacts[MAIN].digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "the bytes differ");
}

#[test]
fn an_adapter_scores_as_the_merged_model() {
    let Some(folder) = shared("parity/llama") else { return };
    let base = model(&folder.join("model"));
    let bench = Bench::new();
    let table = bench.table(&training_table(&folder));
    let inputs = [("model", &base), ("data", &table)];
    let lora = format!("{SHORT}, lora: {{ rank: 4, dora: true, rslora: true }}");
    let adapter = bench.run("finetune", &lora, &inputs).unwrap();
    let merged = bench.run("finetune", &format!("{lora}, merge: true"), &inputs).unwrap();
    assert_eq!(merged.artifacts[MAIN].base, None);
    let adapter = bench.adapted(&base, &adapter.artifacts[MAIN]);
    let merged = bench.input(merged.artifacts[MAIN].clone());
    let score = |model: &Input| {
        let scored =
            bench.made("score", "model: m, data: d", &[("model", model), ("data", &table)]);
        float_lists(&scored, "logprobs").concat().into_iter().flatten().collect::<Vec<f32>>()
    };
    let (plain, adapted, merged) = (score(&base), score(&adapter), score(&merged));
    // An adapter stands beside the weights, so that the merged weights are rounded otherwise.
    let differences = adapted.iter().zip(&merged).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 3e-5, "beside the weights and merged differ by {worst}");
    assert!(
        plain.iter().zip(&adapted).any(|(a, b)| (a - b).abs() > 1e-3),
        "training changed nothing"
    );

    // An adapter on top of the adapter knows the one below as its base.
    let above = bench.run("finetune", &lora, &[("model", &adapter), ("data", &table)]).unwrap();
    assert_eq!(above.artifacts[MAIN].base, Some(adapter.artifact().digest));
    // And one of this base cannot be trained further on another.
    let other = bench.run(
        "finetune",
        &format!("{SHORT}, lora: {{ from: a }}"),
        &[
            ("model", &bench.adapted(&base, &above.artifacts[MAIN])),
            ("data", &table),
            ("lora.from", &adapter),
        ],
    );
    assert_eq!(
        message(other),
        "the adapter of `lora.from` was trained on another model than `model`"
    );
}

#[test]
fn a_mask_of_another_tokenizer_is_refused() {
    let (Some(folder), Some(other)) = (shared("parity/llama"), shared("parity/qwen2")) else {
        return;
    };
    let bench = Bench::new();
    let (llama, qwen) = (model(&folder.join("model")), model(&other.join("model")));
    let table = bench.table(&training_table(&folder));
    let scored =
        bench.run("score", "model: m, data: d", &[("model", &llama), ("data", &table)]).unwrap();
    let scored = bench.input(scored.artifacts[MAIN].clone());
    let Input::Table { path, .. } = &scored else { panic!() };
    let batch = refrain_cache::TableReader::open(path).unwrap().read_all(None).unwrap();
    let mut masks = ListBuilder::new(BooleanBuilder::new());
    for (row, tokens) in int_lists(&batch, "token_ids").iter().enumerate() {
        let prompt = int32(&batch, "prompt_tokens")[row] as usize;
        (0..tokens.len()).for_each(|place| masks.values().append_value(place >= prompt));
        masks.append(true);
    }
    let batch =
        refrain_cache::columns::with_column(&batch, "loss_mask", Arc::new(masks.finish())).unwrap();
    let table = bench.table(&batch);
    let parameters = format!("{SHORT}, lora: {{ rank: 2 }}");
    bench.run("finetune", &parameters, &[("model", &llama), ("data", &table)]).unwrap();
    let error = message(bench.run("finetune", &parameters, &[("model", &qwen), ("data", &table)]));
    let expected = "row 0: its `token_ids` do not decode to its text: the mask was made with another tokenizer";
    assert_eq!(error, expected);
}

#[test]
fn rows_that_cannot_be_trained_on_are_named() {
    let Some(folder) = shared("parity/llama") else { return };
    let base = model(&folder.join("model"));
    let bench = Bench::new();
    let train = |batch: &RecordBatch, more: &str| {
        let table = bench.table(batch);
        let parameters = format!("{SHORT}, lora: {{ rank: 2 }}{more}");
        bench.run("finetune", &parameters, &[("model", &base), ("data", &table)])
    };
    let long = "one two three ".repeat(400);
    let error =
        message(train(&texts(&[("id", &["x"]), ("prompt", &["a"]), ("response", &[&long])]), ""));
    assert!(error.starts_with("row 0 (`x`) is too long: it has "), "{error}");
    train(&texts(&[("prompt", &["a"]), ("response", &[&long])]), ", max_tokens: 40").unwrap();
    let missing = RecordBatch::try_from_iter_with_nullable([
        ("prompt", Arc::new(StringArray::from(vec!["a"])) as ArrayRef, true),
        ("response", Arc::new(StringArray::from(vec![None::<&str>])), true),
    ]);
    assert_eq!(message(train(&missing.unwrap(), "")), "row 0: `response` is missing");
    assert_eq!(
        message(train(&masked(&folder, |_, _| false), "")),
        "no row has an active token: there is nothing to learn"
    );
    let empty = texts(&[("prompt", &[]), ("response", &[])]);
    assert_eq!(message(train(&empty, "")), "there are no rows to train on");
}
