//! What the static checks of the kinds say, before anything runs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::bench::check;

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>(),
    ))
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn answered() -> SchemaRef {
    schema(&[("prompt", DataType::Utf8), ("response", DataType::Utf8)])
}

/// The problems of a kind with these parameters beside model and data.
fn problems(kind: &str, parameters: &str, data: SchemaRef) -> Vec<String> {
    check(kind, &format!("data: d, {parameters}"), &[("data", data)]).0
}

#[test]
fn of_generate() {
    let of =
        |parameters: &str| problems("generate", &format!("model: m, {parameters}"), answered());
    assert_eq!(of("samples: 1"), [""; 0]);
    assert_eq!(
        of("samples: 4"),
        ["samples: all 4 samples would be equal, because `temperature` is 0"]
    );
    assert_eq!(of("samples: 4, temperature: 0.5"), [""; 0]);
    assert_eq!(of("stop: [a, \"\"]"), ["stop[1]: an empty text would end every response at once"]);
    assert_eq!(of("prompt: \"{{ question }}\""), ["data: the table has no column `question`"]);
    let broken = of("prompt: \"{{ question\"");
    assert!(
        broken[0].starts_with("prompt: the template cannot be read: syntax error"),
        "{broken:?}"
    );
    let none = problems("generate", "model: m", schema(&[("question", DataType::Utf8)]));
    assert_eq!(none, ["data: the table has neither a column `prompt` nor `messages`"]);
    let number = problems("generate", "model: m", schema(&[("prompt", DataType::Int64)]));
    assert_eq!(number, ["data: column `prompt` is int64, expected text"]);
    let (shots, _) = check(
        "generate",
        "model: m, data: d, shots: { data: s, count: 2 }",
        &[("data", answered()), ("shots.data", schema(&[("prompt", DataType::Utf8)]))],
    );
    assert_eq!(shots, ["shots.data: the table has no column `response`"]);
    let unknown = check("generate", "model: m, data: d", &[]);
    assert_eq!(unknown, (Vec::new(), None));
}

#[test]
fn of_score() {
    let of = |parameters: &str| problems("score", &format!("model: m, {parameters}"), answered());
    assert_eq!(of("of: response, system: s"), [""; 0]);
    assert_eq!(
        of("of: text, system: s, chat: true"),
        [
            "system: `system` does nothing beside `of: text`, which scores the response alone",
            "chat: `chat: true` does nothing beside `of: text`, which scores the response alone",
        ]
    );
    let none = problems("score", "model: m, of: text", schema(&[("prompt", DataType::Utf8)]));
    assert_eq!(none, ["data: the table has no column `response`"]);
}

#[test]
fn of_finetune() {
    let of = |parameters: &str| problems("finetune", parameters, answered());
    assert_eq!(of("model: m, lora: { rank: 8 }"), [""; 0]);
    assert_eq!(of("model: m, full: true"), [""; 0]);
    assert_eq!(of("full: true"), [": it does not say which model is trained"]);
    assert_eq!(of("model: m"), [": it does not say what is trained"]);
    assert_eq!(
        of("model: m, full: true, lora: { rank: 8 }"),
        ["lora: `lora` and `full: true` exclude each other"]
    );
    assert_eq!(of("model: m, lora: {}"), ["lora: `lora` needs `rank`"]);
    assert_eq!(
        of("model: m, lora: { from: a, rank: 8, alpha: 4 }"),
        [
            "lora.rank: the adapter of `lora.from` brings its own `rank`",
            "lora.alpha: the adapter of `lora.from` brings its own `alpha`"
        ]
    );
    assert_eq!(
        of("model: m, lora: { rank: 8 }, epochs: 1, steps: 2"),
        ["steps: `epochs` and `steps` exclude each other"]
    );
    assert_eq!(
        of("model: m, lora: { rank: 8 }, betas: [0.9]"),
        ["betas: `betas` are two numbers, one for each moment; there are 1"]
    );
    assert_eq!(
        of("model: m, full: true, merge: true"),
        ["merge: `merge` does nothing without `lora`: the result is a whole model anyway"]
    );
}

#[test]
fn of_what_is_watched() {
    let of = |parameters: &str| {
        problems("finetune", &format!("model: m, lora: {{ rank: 8 }}, {parameters}"), answered())
    };
    assert_eq!(
        of("kl: { weight: 0.1 }, checkpoint_every: 0, gradient_checkpointing: true"),
        [""; 0]
    );
    assert_eq!(
        of("evaluate_every: 5, early_stopping: { patience: 2 }"),
        [
            "evaluate_every: `evaluate_every` needs `evaluate_on`",
            "early_stopping: `early_stopping` needs `evaluate_on`",
        ]
    );
    let masked =
        schema(&[("token_ids", list(DataType::Int32)), ("loss_mask", list(DataType::Boolean))]);
    let with = |data: SchemaRef, watched: SchemaRef, more: &str| {
        let parameters = format!("model: m, data: d, evaluate_on: e, full: true{more}");
        check("finetune", &parameters, &[("data", data), ("evaluate_on", watched)]).0
    };
    assert_eq!(with(answered(), masked.clone(), ", evaluate_every: 3, system: s"), [""; 0]);
    let question = schema(&[("prompt", DataType::Utf8)]);
    assert_eq!(
        with(masked.clone(), question, ""),
        ["evaluate_on: the table has no column `response`"]
    );
    assert_eq!(
        with(masked.clone(), masked, ", system: s"),
        ["system: `system` does nothing here: the rows of a masked table are tokens already"]
    );
}

#[test]
fn of_new_models() {
    let of = |config: &str, tokenizer: &str, more: &str| {
        let sizes =
            "hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4";
        let from = format!(
            "from: {{ config: {{ {sizes}, {config} }}, tokenizer: {{ {tokenizer} }} }}{more}"
        );
        problems("finetune", &from, answered())
    };
    assert_eq!(of("", "vocab_size: 300", ""), [""; 0]);
    assert_eq!(
        of("num_key_value_heads: 3", "vocab_size: 300", ""),
        ["from.config: the model's configuration is wrong: 4 heads cannot share 3 key-value heads"]
    );
    assert_eq!(
        of("", "vocab_size: 100, special_tokens: [<a>]", ""),
        [
            "from.tokenizer.vocab_size: 100 tokens are too few: bytes and special tokens alone are 263"
        ]
    );
    assert_eq!(
        of("sliding_window: 8", "vocab_size: 300", ""),
        ["from.config.sliding_window: only `mistral` has a sliding window"]
    );
    assert_eq!(
        of("", "vocab_size: 300", ", lora: { rank: 2 }"),
        ["lora: an adapter of random weights is of no use"]
    );
    assert_eq!(
        of("", "vocab_size: 300", ", kl: { weight: 1 }"),
        ["kl: `kl` needs `model`: with `from` there is no base to stay near"]
    );
    assert_eq!(
        of("", "vocab_size: 300", ", model: m"),
        ["from: `from` makes a new model, so there is nothing to do for `model`"]
    );
}

#[test]
fn of_masked_tables() {
    let masked =
        schema(&[("token_ids", list(DataType::Int32)), ("loss_mask", list(DataType::Boolean))]);
    let of = |parameters: &str| {
        problems("finetune", &format!("model: m, lora: {{ rank: 8 }}{parameters}"), masked.clone())
    };
    assert_eq!(of(""), [""; 0]);
    assert_eq!(
        of(", chat: false, system: s"),
        [
            "system: `system` does nothing here: the rows of a masked table are tokens already",
            "chat: `chat` does nothing here: the rows of a masked table are tokens already",
        ]
    );
    let without = schema(&[("loss_mask", list(DataType::Boolean)), ("response", DataType::Utf8)]);
    assert_eq!(
        problems("finetune", "model: m, full: true", without),
        ["data: the table has no column `token_ids`"]
    );
}
