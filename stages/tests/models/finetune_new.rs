//! `finetune: { from: … }`: a new tokenizer and a new model, trained on a few rows.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};

use refrain_cache::TableReader;
use refrain_engine::kind::MAIN;

use crate::bench::*;

const NEW: &str = "data: d, from: { config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, \
    num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: true }, tokenizer: { vocab_size: 400 } }, \
    epochs: 3, batch_size: 10, learning_rate: 5e-3, warmup: 0.1, seed: 4";

fn rows() -> Option<RecordBatch> {
    let table = TableReader::open(&shared("data/gsm8k/train.parquet")?).unwrap();
    let batch = table.batches(None, 200).unwrap().next().unwrap().unwrap();
    let column = |name: &str| -> ArrayRef { batch[name].clone() };
    Some(
        RecordBatch::try_from_iter([
            ("prompt", column("question")),
            ("response", column("answer")),
        ])
        .unwrap(),
    )
}

#[test]
fn a_new_model_learns_and_can_be_used() {
    let Some(rows) = rows() else { return };
    let mut bench = Bench::new();
    let table = bench.table(&rows);
    let outputs = bench.run("finetune", NEW, &[("data", &table)]).unwrap();
    let log = bench.read(&outputs.artifacts["log"]);
    let losses: Vec<f64> = float64(&log, "loss").into_iter().flatten().collect();
    assert_eq!(losses.len(), 60);
    // Three passes of a tiny model: far below the uniform log 400 = 5.99 with which it begins.
    assert!(losses[0] > 5.5 && losses[59] < 5.0, "{} to {}", losses[0], losses[59]);
    let epochs = log["epoch"].as_any().downcast_ref::<Int64Array>().unwrap();
    assert_eq!((epochs.value(19), epochs.value(20), epochs.value(59)), (0, 1, 2));
    let figure =
        |name: &str| outputs.metrics.iter().find(|metric| metric.metric == name).unwrap().value;
    assert_eq!(
        (figure("rows"), figure("steps"), figure("rows_without_active_tokens")),
        (200.0, 60.0, 0.0)
    );
    assert_eq!(figure("final_loss"), losses[59]);

    let model = bench.input(outputs.artifacts[MAIN].clone());
    let few = bench.table(&rows.slice(0, 4));
    let scored = bench.made("score", "model: m, data: d", &[("model", &model), ("data", &few)]);
    assert!(float64(&scored, "perplexity").iter().all(|value| value.unwrap() < 200.0));
    assert!(strings(&scored, "text")[0].starts_with("<|bos|><|user|>"));
    let made = bench.made(
        "generate",
        "model: m, data: d, max_new_tokens: 8",
        &[("model", &model), ("data", &few)],
    );
    assert_eq!(made.num_rows(), 4);
    assert!(!made["response"].as_string::<i32>().value(0).is_empty());

    bench.threads = 2;
    let again = bench.run("finetune", NEW, &[("data", &table)]).unwrap();
    assert_eq!(again.artifacts, outputs.artifacts, "the bytes depend on the threads");
    let other =
        bench.run("finetune", &NEW.replace("seed: 4", "seed: 5"), &[("data", &table)]).unwrap();
    assert_ne!(
        other.artifacts[MAIN].digest, outputs.artifacts[MAIN].digest,
        "the seed does nothing"
    );
}

#[test]
fn families_and_templates() {
    let bench = Bench::new();
    let table =
        bench.table(&texts(&[("prompt", &["a b c", "d e f"]), ("response", &["g h", "i j"])]));
    for family in ["llama", "mistral", "qwen2"] {
        let parameters = NEW
            .replace("config: {", &format!("config: {{ model_type: {family}, "))
            .replace("vocab_size: 400", "vocab_size: 300, special_tokens: [<q>], chat_template: \"<q>{{ messages[0].content }}<|eos|>{% for m in messages[1:] %}{{ m.content }}<|eos|>{% endfor %}\"")
            .replace("epochs: 3", "steps: 2");
        let outputs = bench.run("finetune", &parameters, &[("data", &table)]).unwrap();
        let model = bench.input(outputs.artifacts[MAIN].clone());
        let scored =
            bench.made("score", "model: m, data: d", &[("model", &model), ("data", &table)]);
        assert_eq!(strings(&scored, "text")[0], "<q>a b c<|eos|>g h<|eos|>", "{family}");
    }
}
