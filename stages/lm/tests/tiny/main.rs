//! Tiny random models: trainings that are interrupted, divergence from the base, early stopping;
//! slots and broken folders.

// Clippy allows these in test functions, not in the helpers that they share.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod broken;
mod divergence;
mod early_stopping;
mod families;
mod resume;
mod slots;

use std::ops::ControlFlow;

use refrain_lm::config::ModelConfig;
use refrain_lm::model::{LanguageModel, LoraSettings};
use refrain_lm::random::Stream;
use refrain_lm::tokenizer_training::{TokenizerSettings, train_tokenizer};
use refrain_lm::train::{
    Length, Order, Schedule, TrainOptions, TrainRow, Trained, Training, train,
};
use serde_json::{Value, json};

const VOCAB: u64 = 40;

/// A configuration of each family.
fn configs() -> Vec<ModelConfig> {
    FAMILIES.map(config).into()
}

const FAMILIES: [&str; 8] =
    ["llama", "mistral", "gemma2", "gemma3_text", "qwen2", "qwen3", "olmo2", "phi3"];

fn config(family: &str) -> ModelConfig {
    ModelConfig::from_json(&config_json(family)).unwrap()
}

fn config_json(family: &str) -> Value {
    let mut json = json!({
        "model_type": family, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 64,
        "sliding_window": 6, "attn_logit_softcapping": 6.0, "final_logit_softcapping": 5.0,
        "hidden_act": if family == "gemma2" { "gelu_pytorch_tanh" } else { "silu" }, "initializer_range": 0.3,
    });
    let own = match family {
        "gemma3_text" => json!({
            "attn_logit_softcapping": null, "head_dim": 8, "sliding_window_pattern": 2,
            "rope_scaling": { "rope_type": "linear", "factor": 4.0 },
        }),
        "qwen3" => json!({ "head_dim": 12 }),
        // Rows are on both sides of the length at which the frequencies change.
        "olmo2" => json!({
            "max_position_embeddings": 12, "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 },
        }),
        "phi3" => json!({
            "partial_rotary_factor": 0.5, "original_max_position_embeddings": 12,
            "rope_scaling": {
                "rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0],
            },
        }),
        _ => json!({}),
    };
    json.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    json
}

fn settings(dora: bool) -> LoraSettings {
    LoraSettings { rank: 3, alpha: 6.0, dropout: 0.1, targets: Vec::new(), dora, rslora: false }
}

/// Rows of random tokens, of which the later ones are targets.
fn rows(count: u64, seed: u64) -> Vec<TrainRow> {
    let row = |row: u64| {
        let stream = Stream::new(seed, &[row]);
        let length = 6 + (stream.uniform(0) * 12.0) as usize;
        let ids =
            (0..length as u64).map(|i| (stream.uniform(1 + i) * VOCAB as f64) as u32).collect();
        TrainRow { ids, active: (0..length).map(|i| i > 2 && i % 4 != 0).collect() }
    };
    (0..count).map(row).collect()
}

fn options() -> TrainOptions {
    TrainOptions {
        length: Length::Steps(9),
        batch_size: 2,
        accumulate: 2,
        order: Order::Shuffled,
        learning_rate: 1e-2,
        schedule: Schedule::Cosine,
        warmup: 2,
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
        kl_weight: None,
        seed: 7,
        recompute: false,
    }
}

fn trained(model: &mut LanguageModel, training: &Training<'_>) -> Trained {
    train(model, training, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The values of all tensors, to be compared bit for bit.
fn bits(model: &LanguageModel) -> Vec<Vec<u32>> {
    model
        .tensors
        .iter()
        .map(|tensor| tensor.to_rows().iter().map(|v| v.to_bits()).collect())
        .collect()
}

/// A tokenizer of 263 tokens, of which the tiny models know the first.
fn write_tokenizer(folder: &std::path::Path) {
    let settings =
        TokenizerSettings { vocab_size: 263, special_tokens: Vec::new(), chat_template: None };
    let files = train_tokenizer(["a b c".to_owned()].into_iter(), &settings).unwrap();
    std::fs::write(folder.join("tokenizer.json"), files.tokenizer).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), files.config).unwrap();
}
