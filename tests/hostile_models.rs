//! Models that lie: weights, tokenizers, configurations, templates and adapters made to break a reader, within bounds.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::space::{Said, Space, small};

/// A space with the small workflow's model in the folder `model`, its adapter in `adapter`, and a workflow that scores.
struct Models {
    space: Space,
}

const SCORE: &str = "refrain: 1
models: { base: { path: model } }
data: { train: { path: train.jsonl } }
stages:
  scored: { score: { model: base, data: train, backend: native } }
";
const RUN: [&str; 3] = ["run", "s.yaml", "--quiet"];
const SHOW: [&str; 3] = ["show", "s.yaml", "base"];

impl Models {
    fn new() -> Models {
        let space = Space::new();
        small(&space);
        space.report("w.yaml", &["--only", "tuned[threshold=1000]"]);
        for (node, to) in [("base", "model"), ("tuned[threshold=1000]", "adapter")] {
            let from = space.run(&["show", "w.yaml", node, "--path"]).stdout;
            fs::create_dir(space.path(to)).unwrap();
            for entry in fs::read_dir(space.path(from.trim())).unwrap() {
                let entry = entry.unwrap();
                fs::write(space.path(to).join(entry.file_name()), fs::read(entry.path()).unwrap())
                    .unwrap();
            }
        }
        space.write("s.yaml", SCORE);
        Models { space }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.space.path("model").join(name)
    }

    /// What a run says of the model with one file changed, which is put back.
    fn with(&self, file: &str, bytes: impl AsRef<[u8]>, arguments: &[&str]) -> String {
        let sound = fs::read(self.file(file)).ok();
        fs::write(self.file(file), bytes).unwrap();
        let said = self.space.survives(arguments);
        match sound {
            Some(sound) => fs::write(self.file(file), sound).unwrap(),
            None => fs::remove_file(self.file(file)).unwrap(),
        }
        assert!(!said.stderr.contains(['\u{1b}', '\u{202e}']), "{:?}", said.stderr);
        self.words(said)
    }

    /// What was said, the figures of the other nodes left out: they depend on the machine.
    fn words(&self, said: Said) -> String {
        self.space.said(Said { stdout: String::new(), ..said })
    }

    /// Of a file that no use of the model can be made with: what a run and a card say.
    fn refused(&self, name: &str, file: &str, bytes: impl AsRef<[u8]>) {
        insta::assert_snapshot!(name, self.with(file, bytes.as_ref(), &RUN));
        let card = self.with(file, bytes.as_ref(), &SHOW);
        assert!(card.starts_with("exit code"), "{card}");
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.file(file)).unwrap()).unwrap()
    }
}

/// A safetensors file with this header, said to be so long, and so many bytes of data.
fn tensors(header: &str, length: Option<u64>, data: usize) -> Vec<u8> {
    let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn weights() {
    let models = Models::new();
    let refused = |name: &str, bytes: &[u8]| models.refused(name, "model.safetensors", bytes);
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(
            "{{\"model.norm.weight\": {{\"dtype\": \"{dtype}\", \"shape\": {shape}, \"data_offsets\": {offsets}}}}}"
        )
    };
    refused("weights_empty", b"");
    refused("weights_header_of_billions", &tensors("{}", Some(1 << 60), 0));
    refused("weights_header_of_all_ones", &[0xff; 64]);
    refused("weights_header_of_zeros", &[0; 64]);
    refused("weights_header_not_json", &tensors("{\"a\": ", None, 0));
    refused("weights_header_deep", &tensors(&format!("{{\"a\": {}", "[".repeat(100_000)), None, 0));
    refused("weights_beyond_the_file", &tensors(&one("F32", "[16]", "[0, 64]"), None, 60));
    refused("weights_backwards", &tensors(&one("F32", "[16]", "[64, 0]"), None, 64));
    refused(
        "weights_offset_of_billions",
        &tensors(&one("F32", "[16]", "[0, 18446744073709551615]"), None, 64),
    );
    refused(
        "weights_shape_overflows",
        &tensors(&one("F32", "[4294967296, 4294967296, 4294967296]", "[0, 0]"), None, 0),
    );
    refused(
        "weights_shape_of_none",
        &tensors(&one("F32", "[0, 18446744073709551615]", "[0, 0]"), None, 0),
    );
    refused("weights_shape_less_than_none", &tensors(&one("F32", "[-1]", "[0, 4]"), None, 4));
    refused("weights_type_unknown", &tensors(&one("F31", "[16]", "[0, 64]"), None, 64));
    let two = "{\"a\": {\"dtype\": \"F32\", \"shape\": [8], \"data_offsets\": [0, 32]}, \"b\": {\"dtype\": \"F32\", \"shape\": [8], \"data_offsets\": [16, 48]}}";
    refused("weights_overlap", &tensors(two, None, 48));
    // A whole file would go before an index.
    fs::rename(models.file("model.safetensors"), models.file("shard.safetensors")).unwrap();
    let index = |name: &str| json!({ "weight_map": { "model.norm.weight": name } }).to_string();
    for (name, file) in [
        ("index_leads_out", "../train.jsonl"),
        ("index_is_absolute", "/etc/passwd"),
        ("index_names_nothing", ""),
        ("index_names_the_folder", "."),
        ("index_has_an_odd_name", "a\nb\u{1b}[31m\u{202e}.safetensors"),
        ("index_names_what_is_absent", "model-1.safetensors"),
    ] {
        models.refused(name, "model.safetensors.index.json", index(file));
    }
    models.refused("index_not_a_mapping", "model.safetensors.index.json", "[1]");
}

#[test]
fn configurations() {
    let models = Models::new();
    for (name, field, value) in [
        ("config_heads_of_none", "num_attention_heads", json!(0)),
        ("config_hidden_of_billions", "hidden_size", json!(1u64 << 40)),
        ("config_layers_of_billions", "num_hidden_layers", json!(1u64 << 40)),
        ("config_vocabulary_of_billions", "vocab_size", json!(1u64 << 40)),
        ("config_of_text", "hidden_size", json!("16")),
        ("config_less_than_none", "intermediate_size", json!(-1)),
        ("config_epsilon_of_text", "rms_norm_eps", json!("NaN")),
        ("config_epsilon_of_nothing", "rms_norm_eps", json!(0)),
        ("config_epsilon_too_small", "rms_norm_eps", json!(-1e-300)),
        ("config_base_of_nothing", "rope_theta", json!(0)),
        ("config_type_drives_a_terminal", "model_type", json!("\u{1b}[31m\u{202e}")),
    ] {
        let mut config = models.json("config.json");
        config[field] = value;
        models.refused(name, "config.json", config.to_string());
    }
    models.refused("config_not_a_number", "config.json", "{\"rms_norm_eps\": NaN}");
    models.refused("config_deep", "config.json", "[".repeat(1_000_000));
    let mut config = models.json("config.json");
    for (field, value) in
        [("hidden_size", 1 << 24), ("vocab_size", 1 << 24), ("intermediate_size", 1 << 24)]
    {
        config[field] = json!(value);
    }
    models.refused("config_of_too_many_parameters", "config.json", config.to_string());
    // Promised positions cost nothing until they are used.
    let mut config = models.json("config.json");
    config["max_position_embeddings"] = json!(1 << 24);
    let said = models.with("config.json", config.to_string(), &RUN);
    assert!(said.starts_with("exit code 0"), "{said}");
    // A model that is made.
    let space = &models.space;
    let made = space
        .read("w.yaml")
        .replace("hidden_size: 16", "hidden_size: 1048576")
        .replace("intermediate_size: 32", "intermediate_size: 4194304");
    space.write("made.yaml", &made.replace("threshold}", "t}").replace("  threshold:", "  t:"));
    let said = space.survives(&["run", "made.yaml", "--quiet", "--only", "base"]);
    insta::assert_snapshot!("config_of_a_model_that_does_not_fit", models.words(said));
}

#[test]
fn tokenizers() {
    let models = Models::new();
    let sound = models.json("tokenizer.json");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut json = sound.clone();
        change(&mut json);
        json.to_string()
    };
    let refused = |name: &str, json: String| models.refused(name, "tokenizer.json", json);
    refused("tokenizer_deep", "[".repeat(1_000_000));
    refused(
        "tokenizer_merges_of_nothing",
        changed(&|j| j["model"]["merges"] = json!([["no", "such"]])),
    );
    refused(
        "tokenizer_ids_out_of_range",
        changed(&|j| {
            let vocabulary = j["model"]["vocab"].as_object_mut().unwrap();
            vocabulary
                .iter_mut()
                .for_each(|(_, id)| *id = json!(id.as_u64().unwrap() + 4_000_000_000));
        }),
    );
    refused(
        "tokenizer_ids_above_the_model",
        changed(&|j| {
            let vocabulary = j["model"]["vocab"].as_object_mut().unwrap();
            vocabulary.iter_mut().for_each(|(_, id)| *id = json!(id.as_u64().unwrap() + 1000));
        }),
    );
    refused("tokenizer_ids_too_large", changed(&|j| j["model"]["vocab"]["a"] = json!(1u64 << 40)));
    refused("tokenizer_ids_less_than_none", changed(&|j| j["model"]["vocab"]["a"] = json!(-1)));
    let split = |pattern: &str| {
        let pattern = pattern.to_owned();
        changed(&move |j| {
            j["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        })
    };
    refused("tokenizer_expression_invalid", split("(a"));
    refused("tokenizer_expression_deep", split(&"(".repeat(100_000)));
    models.space.write(
        "train.jsonl",
        &format!("{{\"id\": \"1\", \"prompt\": \"\", \"response\": \"{}b\"}}\n", "a".repeat(60)),
    );
    refused("tokenizer_expression_catastrophic", split("^(a|a|aa)+$"));
    refused("tokenizer_expression_recurses", split("(?<x>a\\g<x>?b?)+c"));
    refused(
        "tokenizer_processor_of_nothing",
        changed(&|j| {
            j["post_processor"] = json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "none", "type_id": 0 } }], "pair": [], "special_tokens": {} });
        }),
    );
    refused("tokenizer_drops", changed(&|j| j["model"]["dropout"] = json!(0.5)));
    let many = changed(&|j| {
        let added: Vec<Value> = (0..50_000).map(|i| json!({ "id": 1000 + i, "content": format!("<{i}>"), "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })).collect();
        j["added_tokens"] = json!(added);
    });
    refused("tokenizer_of_many_added_tokens", many);
}

#[test]
fn templates() {
    let models = Models::new();
    let space = &models.space;
    space.write("s.yaml", &SCORE.replace("data: train,", "data: train, chat: true,"));
    for (name, template) in [
        (
            "template_endless",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = 1 %}{% endfor %}{% endfor %}"
                .to_owned(),
        ),
        ("template_recurses", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned()),
        ("template_flood", "{% for a in range(99999) %}{{ 'abcdefgh' * 10000 }}{% endfor %}".to_owned()),
        ("template_large_text", "{{ 'abcdefgh' * 100000000000 }}".to_owned()),
        ("template_large_list", "{{ ([1] * 100000000000) | length }}".to_owned()),
        ("template_large_range", "{{ range(100000000000) | list | length }}".to_owned()),
        ("template_large_padding", "{{ 'a\nb' | indent(100000000000) }}".to_owned()),
        ("template_large_format", "{{ '%100000000000s' | format('a') }}".to_owned()),
        ("template_deep", format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        ("template_deep_blocks", "{% if true %}".repeat(100_000)),
        ("template_includes", "{% include '/etc/passwd' %}".to_owned()),
        ("template_drives_a_terminal", "{{ raise_exception('\u{1b}[31m\u{202e}\u{7}') }}".to_owned()),
        ("template_unknown_drives_a_terminal", "{{ messages['\u{1b}[31m\u{202e}'].x.y }}".to_owned()),
    ] {
        insta::assert_snapshot!(name, models.with("chat_template.jinja", template, &RUN));
    }
    fs::write(models.file("chat_template.jinja"), b"\xff\xfe").unwrap();
    insta::assert_snapshot!("template_not_utf8", space.refuses(&RUN));
}

#[test]
fn adapters() {
    let models = Models::new();
    let space = &models.space;
    space.write("s.yaml", &SCORE.replace("base: { path: model }", "base: { path: model }, adapter: { path: adapter }").replace(
        "  scored: { score: { model: base, data: train, backend: native } }",
        "  scored: { score: { model: base, data: train } }\n  masked: { mask: { data: scored, above: 1000 } }\n  tuned: { finetune: { model: base, data: masked, lora: { from: adapter }, steps: 1 } }",
    ));
    let path = |name: &str| space.path("adapter").join(name);
    let config: Value =
        serde_json::from_slice(&fs::read(path("adapter_config.json")).unwrap()).unwrap();
    for (name, field, value) in [
        ("adapter_rank_of_none", "r", json!(0)),
        ("adapter_rank_of_billions", "r", json!(1u64 << 60)),
        ("adapter_rank_of_another", "r", json!(3)),
        ("adapter_scale_of_text", "lora_alpha", json!("NaN")),
        ("adapter_of_magnitudes", "use_dora", json!(true)),
        ("adapter_of_another_type", "peft_type", json!("\u{1b}[31m\u{202e}")),
    ] {
        let mut config = config.clone();
        config[field] = value;
        fs::write(path("adapter_config.json"), config.to_string()).unwrap();
        insta::assert_snapshot!(name, models.words(space.survives(&RUN)));
    }
    fs::write(path("adapter_config.json"), config.to_string()).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    for (snapshot, shape, bytes) in [
        ("adapter_of_another_shape", "[2, 8]", 64),
        ("adapter_of_no_shape", "[]", 4),
        ("adapter_of_none", "[2, 0]", 0),
    ] {
        let header = format!(
            "{{\"{name}\": {{\"dtype\": \"F32\", \"shape\": {shape}, \"data_offsets\": [0, {bytes}]}}}}"
        );
        fs::write(path("adapter_model.safetensors"), tensors(&header, None, bytes)).unwrap();
        insta::assert_snapshot!(snapshot, models.words(space.survives(&RUN)));
    }
    fs::write(path("adapter_model.safetensors"), tensors("{}", Some(1 << 60), 0)).unwrap();
    insta::assert_snapshot!("adapter_header_of_billions", models.words(space.survives(&RUN)));
}
