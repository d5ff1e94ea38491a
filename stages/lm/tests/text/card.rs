//! Model cards against what the reference folders were made with.

use refrain_lm::card::{Card, CardError};
use refrain_lm::config::ModelConfig;

use crate::{parity_folders, read_json};

/// The number of parameters of a Llama-like model, from the papers' description of its layers.
fn parameters(c: &ModelConfig, gemma: bool) -> u64 {
    let (wide, narrow) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let biases = if c.attention_bias { wide + 2 * narrow } else { 0 };
    let output_bias = if c.output_bias { c.hidden } else { 0 };
    let attention = c.hidden * (2 * wide + 2 * narrow) + biases + output_bias;
    let norms = if gemma { 4 } else { 2 } * c.hidden;
    let layer = attention + 3 * c.hidden * c.intermediate + norms;
    let embeddings = if c.tied { 1 } else { 2 } * c.vocab * c.hidden;
    (embeddings + c.layers * layer + c.hidden) as u64
}

#[test]
fn the_reference_models_have_the_parameters_that_their_shape_says() {
    for folder in parity_folders() {
        let model = folder.join("model");
        let (card, json) = (Card::read(&model).unwrap(), read_json(&model.join("config.json")));
        let config = card.config.as_ref().unwrap();
        assert_eq!(card.family.as_deref(), json["model_type"].as_str());
        assert_eq!(config.max_positions as u64, json["max_position_embeddings"].as_u64().unwrap());
        assert_eq!(
            card.weights.parameters,
            parameters(config, json["model_type"] == "gemma2"),
            "{folder:?}"
        );
        assert!(card.weights.dtypes.iter().all(|t| ["f32", "bf16", "f16"].contains(&t.as_str())));
        let tokenizer = card.tokenizer.unwrap();
        assert_eq!(
            tokenizer.kind,
            read_json(&model.join("tokenizer.json"))["model"]["type"].as_str().unwrap()
        );
        assert!(tokenizer.size > 0 && card.adapter.is_none());
    }
}

#[test]
fn an_adapter_alone_has_its_settings_and_two_thin_matrices_a_layer() {
    let folders =
        parity_folders().into_iter().map(|f| f.join("training/lora_init")).filter(|f| f.is_dir());
    for folder in folders {
        let card = Card::read(&folder).unwrap();
        let adapter = card.adapter.unwrap();
        assert_eq!((adapter.r, adapter.lora_alpha), (8, 16.0));
        assert!(card.family.is_none() && card.tokenizer.is_none());
        let bytes = std::fs::metadata(folder.join("adapter_model.safetensors")).unwrap().len();
        let values = card.weights.parameters * 4;
        assert!(values < bytes && bytes < values + 20_000, "{values} of {bytes} bytes are f32");
    }
}

#[test]
fn a_family_that_is_not_native_still_has_a_card() {
    let Some(model) = parity_folders().first().map(|f| f.join("model")) else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut json = read_json(&path);
    json["model_type"] = "mamba".into();
    std::fs::write(&path, json.to_string()).unwrap();
    let card = Card::read(folder.path()).unwrap();
    assert_eq!(card.family.as_deref(), Some("mamba"));
    assert!(card.config.is_none() && card.tokenizer.is_none() && card.weights.parameters > 0);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Card::read(folder.path()), Err(CardError::Config(_))));
}
