//! Real files through the whole path: GSM8K as Parquet and JSON Lines, a Hugging Face model, scores of a reference.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::space::{Space, shared};

/// The replication of the first paper, as it is in `workflows/`, on real files and a tiny model.
#[test]
fn gsm8k_is_scored_masked_tuned_and_evaluated() {
    let Some(shared) = shared() else { return };
    let space = Space::new();
    space.write("w.yaml", include_str!("../workflows/forgetting.yaml"));
    let other = r#"{"prompt": "say yes", "response": "yes"}"#;
    space.write("other.jsonl", &format!("{other}\n"));
    let gsm8k = shared.join("data/gsm8k");
    let set = [
        format!("model={}", shared.join("parity/llama/model").display()),
        format!("training={}", gsm8k.join("train.parquet").display()),
        format!("testing={}", gsm8k.join("test.jsonl").display()),
        "others=other.jsonl".into(),
        "rows=200".into(),
        "tested=20".into(),
        // The model's weights are random: nothing it reads is likelier than this.
        "threshold=1000".into(),
        "seed=1".into(),
    ];
    let set: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
    space.edit("w.yaml", "max_new_tokens: 512", "max_new_tokens: 16");
    space.edit("w.yaml", "epochs: 3", "steps: 5");
    space.edit("w.yaml", "max_tokens: 2048", "max_tokens: 512");
    let checked = space.run(&[&["check", "w.yaml"], &set[..]].concat());
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let target = "target[arm=masked,seed=1]";
    let wanted = [&["--only", target, "scored"], &set[..]].concat();
    // Two sources, the scores, the mask, the adapter, the answers and their judgement.
    assert_eq!(space.ran("w.yaml", &wanted).len(), 7);
    assert_eq!(space.ran("w.yaml", &wanted).len(), 0);
    let rows =
        space.run(&[&["show", "w.yaml", "train", "--format", "json"], &set[..]].concat()).stdout;
    assert_eq!(serde_json::from_str::<Value>(&rows).unwrap()["rows"], 200);
}

#[test]
fn the_log_probabilities_of_the_reference_come_out_of_a_workflow() {
    let Some(shared) = shared() else { return };
    let reference: Value =
        serde_json::from_slice(&std::fs::read(shared.join("parity/llama/reference.json")).unwrap())
            .unwrap();
    let space = Space::new();
    let texts = reference["texts"].as_array().unwrap();
    let rows: String = texts
        .iter()
        .map(|t| format!("{}\n", serde_json::json!({ "response": t["text"] })))
        .collect();
    space.write("texts.jsonl", &rows);
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nmodels: {{ base: {{ path: {}/parity/llama/model }} }}\ndata: {{ texts: {{ path: texts.jsonl }} }}\nstages:\n  scored: {{ score: {{ model: base, data: texts, of: text }} }}\n",
            shared.display()
        ),
    );
    space.report("w.yaml", &[]);
    let path = space.run(&["show", "w.yaml", "scored", "--path"]).stdout;
    let file = std::fs::File::open(path.trim()).unwrap();
    let mut compared = 0;
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let lists = batch.column_by_name("logprobs").unwrap().as_list::<i32>();
        for (row, text) in texts.iter().enumerate() {
            let ours = lists.value(row);
            let ours = ours.as_primitive::<Float32Type>();
            let theirs = text["logprobs_f64"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len());
            assert!(ours.is_null(0) && theirs[0].is_null());
            for (i, theirs) in theirs.iter().enumerate().skip(1) {
                assert!((f64::from(ours.value(i)) - theirs.as_f64().unwrap()).abs() < 1e-4);
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared} log-probabilities were compared");
}
