//! Every family as a folder: a model that is saved loads with the same bits, and so do adapters on
//! layers whose matrices the family fuses.

use std::collections::BTreeMap;
use std::path::Path;

use refrain_lm::adapter::Adapter;
use refrain_lm::model::{LanguageModel, ModelPath, Whole};
use refrain_lm::save::save_model;
use refrain_lm::score::score;
use refrain_lm::train::Training;
use safetensors::View;

use crate::*;

fn save(folder: &Path, family: &str, stored: &BTreeMap<String, Whole<'_>>) {
    save_model(folder, &config_json(family), stored).unwrap();
}

fn load(folder: &Path, adapters: &[&Path]) -> LanguageModel {
    let adapters = adapters.iter().map(|folder| folder.to_path_buf()).collect();
    LanguageModel::load(&ModelPath { folder: folder.into(), adapters }).unwrap()
}

fn scores(model: &LanguageModel) -> Vec<f32> {
    let rows = rows(5, 2);
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let mut all = Vec::new();
    score(model, &ids, None, &mut |_, logprobs| all.extend_from_slice(logprobs)).unwrap();
    all
}

#[test]
fn a_model_that_is_saved_loads_with_the_same_bits() {
    for family in FAMILIES {
        let mut model = LanguageModel::random(&config(family), 3);
        model.train_all();
        let (data, options) = (rows(11, 1), options());
        let training = Training {
            rows: &data,
            options: &options,
            evaluation: None,
            keep: None,
            snapshots: None,
        };
        trained(&mut model, &training);
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), family, &model.stored());
        let loaded = load(folder.path(), &[]);
        assert_eq!(bits(&model), bits(&loaded), "{family}");
        assert_eq!(scores(&model), scores(&loaded), "{family}");
    }
}

#[test]
fn fused_matrices_are_stored_under_their_own_names() {
    let model = LanguageModel::random(&config("phi3"), 3);
    let names: Vec<String> = model.stored().into_keys().filter(|n| n.contains(".1.")).collect();
    let expected = [
        "input_layernorm",
        "mlp.down_proj",
        "mlp.gate_up_proj",
        "post_attention_layernorm",
        "self_attn.o_proj",
        "self_attn.qkv_proj",
    ];
    assert_eq!(names, expected.map(|name| format!("model.layers.1.{name}.weight")));
    // Rows of the query first, and those of the gate.
    let (stored, layer) = (model.stored(), &model.layers[1]);
    for (module, first, second) in
        [("self_attn.qkv_proj", &layer.q, &layer.k), ("mlp.gate_up_proj", &layer.gate, &layer.up)]
    {
        let fused = &stored[&format!("model.layers.1.{module}.weight")];
        assert_eq!(fused.shape(), [first.of, first.inputs]);
        let rows = [first, second].map(|linear| model.tensors[linear.weight].to_rows()).concat();
        let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(fused.data()[..bytes.len()], bytes);
    }
}

#[test]
fn an_adapter_that_is_saved_gives_the_same_model() {
    for (family, dora) in FAMILIES.into_iter().flat_map(|family| [(family, false), (family, true)])
    {
        let base = LanguageModel::random(&config(family), 3);
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), family, &base.stored());

        let (mut model, settings) = (base.clone(), settings(dora));
        model.add_lora(&settings, 5).unwrap();
        let (data, options) = (rows(11, 1), options());
        let training = Training {
            rows: &data,
            options: &options,
            evaluation: None,
            keep: None,
            snapshots: None,
        };
        trained(&mut model, &training);
        let (config, weights) = model.adapter(&settings, "base").to_files().unwrap();
        let adapter = tempfile::tempdir().unwrap();
        std::fs::write(adapter.path().join("adapter_config.json"), config).unwrap();
        std::fs::write(adapter.path().join("adapter_model.safetensors"), weights).unwrap();

        // Put on again it is the same adapter, and merged the same model.
        let mut again = base.clone();
        again.continue_lora(&Adapter::load(adapter.path()).unwrap(), 0.1).unwrap();
        assert_eq!(bits(&model), bits(&again), "{family}");
        let beside = scores(&model);
        assert_eq!(beside, scores(&load(folder.path(), &[adapter.path()])), "{family}");
        model.merge_adapters();
        for (merged, beside) in scores(&model).iter().zip(beside) {
            assert!((merged - beside).abs() < 2e-5, "{family}: {merged} {beside}");
        }
    }
}

#[test]
fn layers_that_are_one_in_the_folder_share_one_adapter() {
    let mut model = LanguageModel::random(&config("phi3"), 3);
    let targets = vec!["qkv_proj".to_owned()];
    let settings = LoraSettings { targets, ..settings(true) };
    model.add_lora(&settings, 5).unwrap();
    let adapter = model.adapter(&settings, "base");
    assert_eq!(adapter.config.target_modules, ["qkv_proj"]);
    let modules: Vec<&str> = adapter.tensors.keys().map(String::as_str).collect();
    assert_eq!(modules, [0, 1].map(|layer| format!("model.layers.{layer}.self_attn.qkv_proj")));
    // One A, and B with magnitudes for every row: 32 of query, key and value, in two layers.
    let per_layer = 3 * 16 + 32 * 3 + 32;
    assert_eq!(model.trainable_parameters(), 2 * per_layer);
}

#[test]
fn targets_that_the_model_has_not_are_refused() {
    for (family, target, others) in [
        ("phi3", "q_proj", "down_proj, gate_up_proj, o_proj, qkv_proj"),
        ("llama", "qkv_proj", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
    ] {
        let mut model = LanguageModel::random(&config(family), 3);
        let targets = vec!["o_proj".to_owned(), target.to_owned()];
        let error = model.add_lora(&LoraSettings { targets, ..settings(false) }, 5).unwrap_err();
        let expected = format!("no linear layer is called `{target}`; the model's are {others}");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
}

fn read(change: serde_json::Value) -> Result<ModelConfig, String> {
    let mut json = json!({
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2, "vocab_size": 40,
    });
    json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    ModelConfig::from_json(&json).map_err(|error| error.to_string())
}

#[test]
fn what_is_left_out_takes_the_defaults_of_transformers() {
    let gemma = read(json!({ "model_type": "gemma3_text", "num_attention_heads": 4 })).unwrap();
    assert_eq!((gemma.head_dim, gemma.kv_heads, gemma.max_positions), (256, 4, 131_072));
    assert_eq!((gemma.attention_cap, gemma.logit_cap, gemma.tied), (None, None, true));
    let mut windows = vec![Some(4096); 6];
    windows[5] = None;
    assert_eq!(gemma.windows, windows);
    assert_eq!((gemma.rope_of(0).theta, gemma.rope_of(5).theta), (1e4, 1e6));
    let qwen = json!({ "model_type": "qwen3", "num_key_value_heads": 2 });
    let qwen = read(qwen).unwrap();
    assert_eq!((qwen.head_dim, qwen.norm_eps, qwen.attention_bias), (128, 1e-6, false));
    assert_eq!((qwen.windows, qwen.max_positions), (vec![None; 6], 32_768));
    let olmo = read(json!({ "model_type": "olmo2" })).unwrap();
    assert_eq!((olmo.head_dim, olmo.kv_heads, olmo.norm_eps), (8, 2, 1e-5));
    let phi = read(json!({ "model_type": "phi3" })).unwrap();
    assert_eq!((phi.max_positions, phi.norm_eps, phi.windows), (4096, 1e-5, vec![None; 6]));
}

#[test]
fn rotary_parameters_that_do_not_fit_are_refused_by_name() {
    let long = |long: serde_json::Value| json!({ "type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": long });
    for (change, words) in [
        (
            json!({ "model_type": "phi3", "rope_scaling": long(json!([1, 2])) }),
            "`long_factor` of the rotary scaling must be 4 numbers above 0",
        ),
        (
            json!({ "model_type": "phi3", "rope_scaling": long(json!([1, 2, 0, 4])) }),
            "`long_factor` of the rotary scaling must be 4 numbers above 0",
        ),
        (
            json!({ "model_type": "phi3", "rope_scaling": long(json!("2")) }),
            "`rope_scaling.long_factor` is \"2\", expected a list of numbers",
        ),
        (
            json!({ "model_type": "phi3", "partial_rotary_factor": 0.4 }),
            "`partial_rotary_factor` 0.4 rotates 3 of the 8 entries of a head",
        ),
        (
            json!({ "model_type": "phi3", "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            "the rotary scaling `linear` is not one of phi3",
        ),
        (json!({ "rope_scaling": { "type": "dynamic" } }), "the rotary scaling lacks `factor`"),
        (
            json!({ "head_dim": 2, "rope_scaling": { "type": "dynamic", "factor": 2.0 } }),
            "the rotary scaling `dynamic` needs heads of more than 2 entries",
        ),
        (
            json!({ "model_type": "gemma3_text", "num_key_value_heads": 2, "rope_parameters": { "rope_theta": 5.0 } }),
            "`rope_parameters.rope_theta` to 5.0",
        ),
        (
            json!({ "model_type": "gemma3_text", "num_key_value_heads": 2, "attn_logit_softcapping": 5.0 }),
            "`attn_logit_softcapping` to 5.0",
        ),
        (
            json!({ "model_type": "gemma3_text", "num_key_value_heads": 2,
                    "rope_scaling": { "type": "linear", "factor": 2.0 },
                    "rope_parameters": { "full_attention": { "rope_theta": 5.0 } } }),
            "it has both `rope_scaling` and `rope_parameters`",
        ),
    ] {
        let error = read(change).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// `su` and `yarn` are the names of `longrope` in older configurations of Phi-3, which have the
/// first context in the configuration itself.
#[test]
fn older_names_of_longrope_mean_the_same() {
    let named = |name: &str| {
        read(json!({
            "model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 16,
            "rope_scaling": { "type": name, "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3, 4],
                              "original_max_position_embeddings": 99 },
        }))
        .unwrap()
    };
    let config = named("longrope");
    assert_eq!(config, named("su"));
    assert_eq!(config, named("yarn"));
    assert_eq!(config.rope.first_context(), Some(16));
    let (short, long) = (config.rope.frequencies(16), config.rope.frequencies(17));
    assert_eq!((short[0], short[3] / long[3]), (long[0], 4.0));
    assert!((config.rope.amplitude() - 1.5f64.sqrt()).abs() < 1e-12);
    assert!(config.switches_at(17) && !config.switches_at(16) && !config.switches_at(18));
}
