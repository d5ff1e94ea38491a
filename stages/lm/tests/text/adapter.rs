//! Adapters that PEFT wrote, read and written again; and adapters that are broken.

use std::path::Path;

use refrain_lm::adapter::own_tokenizer;
use refrain_lm::adapter::{Adapter, AdapterConfig, LoraTensors};
use serde_json::{Value, json};

use crate::{parity_folders, read_json};

fn write(adapter: &Adapter, folder: &Path) {
    let (config, tensors) = adapter.to_files().unwrap();
    std::fs::write(folder.join("adapter_config.json"), config).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), tensors).unwrap();
}

fn small(use_dora: bool) -> Adapter {
    let layer = LoraTensors {
        inputs: 3,
        outputs: 2,
        a: vec![0.5, -1.0, 2.0],
        b: vec![0.25, 4.0],
        magnitude: use_dora.then(|| vec![1.0, 1.5]),
    };
    Adapter {
        config: AdapterConfig {
            r: 1,
            lora_alpha: 2.5,
            lora_dropout: 0.0,
            target_modules: vec!["q_proj".to_owned()],
            use_dora,
            use_rslora: false,
            base_model_name_or_path: None,
        },
        tensors: [("model.layers.0.self_attn.q_proj".to_owned(), layer)].into(),
    }
}

#[test]
fn adapters_of_peft_make_the_round_trip() {
    let mut count = 0;
    for folder in parity_folders() {
        for run in [
            "lora_init",
            "dora_init",
            "lora_wd0",
            "lora_wd01",
            "dora_wd0",
            "dora_wd01",
            "lora_accum2",
        ] {
            let source = folder.join("training").join(run);
            if !source.is_dir() {
                continue;
            }
            count += 1;
            let adapter = Adapter::load(&source).unwrap();
            let settings = read_json(&source.join("adapter_config.json"));
            assert_eq!(
                (adapter.config.r, adapter.config.lora_alpha, adapter.scale()),
                (8, 16.0, 2.0)
            );
            assert_eq!(adapter.config.use_dora, run.starts_with("dora"));
            assert_eq!(adapter.tensors.len() % 7, 0);
            let copy = tempfile::tempdir().unwrap();
            write(&adapter, copy.path());
            assert_eq!(Adapter::load(copy.path()).unwrap(), adapter);
            // The tensors are equal byte for byte to what PEFT wrote, under the same names.
            let ours = std::fs::read(copy.path().join("adapter_model.safetensors")).unwrap();
            let theirs = std::fs::read(source.join("adapter_model.safetensors")).unwrap();
            let (ours, theirs) = (
                safetensors::SafeTensors::deserialize(&ours).unwrap(),
                safetensors::SafeTensors::deserialize(&theirs).unwrap(),
            );
            assert_eq!(ours.len(), theirs.len());
            for (name, view) in theirs.iter() {
                let own = ours.tensor(name).unwrap();
                assert_eq!(
                    (own.shape(), own.dtype(), own.data()),
                    (view.shape(), view.dtype(), view.data()),
                    "{name}"
                );
            }
            // What we write of the configuration says what PEFT's does.
            let written = read_json(&copy.path().join("adapter_config.json"));
            for (setting, value) in written.as_object().unwrap() {
                assert_eq!(value, &settings[setting], "{setting}");
            }
        }
    }
    eprintln!("{count} adapters");
}

#[test]
fn rank_stabilised_scale_divides_by_the_root() {
    let mut config = small(false).config;
    (config.r, config.lora_alpha, config.use_rslora) = (16, 8.0, true);
    assert_eq!(config.scale(), 2.0);
    config.use_rslora = false;
    assert_eq!(config.scale(), 0.5);
}

/// The message after the configuration was changed by `edit`.
fn fail_config(edit: impl Fn(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(&small(false), folder.path());
    let path = folder.path().join("adapter_config.json");
    let mut config = read_json(&path);
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    Adapter::load(folder.path()).unwrap_err().to_string()
}

#[test]
fn settings_that_mean_something_else_are_refused() {
    for (setting, value) in [
        ("peft_type", json!("LOHA")),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("a_setting_of_a_later_version", json!({"on": true})),
    ] {
        let message = fail_config(|config| config[setting] = value.clone());
        assert!(
            message.contains(&format!("sets `{setting}` to {value}, which is not supported")),
            "{message}"
        );
    }
    assert!(fail_config(|config| config["r"] = json!(0)).contains("`r` must be at least 1"));
    assert!(fail_config(|config| config["r"] = json!(-1)).contains("is not valid"));
    assert!(fail_config(|config| config["lora_dropout"] = json!(1.0)).contains("lora_dropout"));
    assert!(
        fail_config(|config| {
            config.as_object_mut().unwrap().remove("lora_alpha");
        })
        .contains("lora_alpha")
    );
    let message = fail_config(|config| config["r"] = json!(2));
    assert!(
        message.contains("q_proj.lora_A.weight")
            && message.contains("has shape [1, 3], not [2, inputs]"),
        "{message}"
    );
    let message = fail_config(|config| config["use_dora"] = json!(true));
    assert!(
        message.contains("q_proj.lora_magnitude_vector") && message.contains("is absent"),
        "{message}"
    );
}

#[test]
fn a_pattern_of_targets_is_replaced_by_what_the_tensors_name() {
    let folder = tempfile::tempdir().unwrap();
    write(&small(false), folder.path());
    let path = folder.path().join("adapter_config.json");
    let mut config = read_json(&path);
    config["target_modules"] = json!("all-linear");
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(Adapter::load(folder.path()).unwrap().config.target_modules, ["q_proj"]);
}

#[test]
fn broken_tensors_are_named() {
    let fail = |adapter: &Adapter| {
        let folder = tempfile::tempdir().unwrap();
        write(adapter, folder.path());
        Adapter::load(folder.path()).unwrap_err().to_string()
    };
    let mut adapter = small(false);
    let layer = adapter.tensors.values_mut().next().unwrap();
    layer.b[1] = f32::NAN;
    assert!(
        fail(&adapter).contains("q_proj.lora_B.weight` in")
            && fail(&adapter).contains("holds NaN at index 1")
    );
    let mut adapter = small(true);
    adapter.config.use_dora = false;
    assert!(fail(&adapter).contains("although `use_dora` is false"));
    let mut adapter = small(false);
    adapter.tensors.clear();
    assert!(fail(&adapter).contains("holds no tensors"));

    let folder = tempfile::tempdir().unwrap();
    assert!(Adapter::load(folder.path()).unwrap_err().to_string().contains("adapter_config.json"));
    write(&small(false), folder.path());
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 8, 40, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(
            Adapter::load(folder.path())
                .unwrap_err()
                .to_string()
                .contains("adapter_model.safetensors")
        );
    }
    let name = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&bytes[8..]).replace(from, to);
        assert_eq!(from.len(), to.len());
        let header = text.find('\u{FFFD}').unwrap_or(text.len());
        let at = text[..header].find(to).unwrap() + 8;
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, changed).unwrap();
        Adapter::load(folder.path()).unwrap_err().to_string()
    };
    assert!(name("lora_A.weight", "lora_X.weight").contains("is not part of a LoRA"));
    assert!(name("q_proj.lora_A", "k_proj.lora_A").contains("lora_B.weight` in"));
}

#[test]
fn an_adapters_own_tokenizer_is_noticed() {
    let (adapter, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |folder: &tempfile::TempDir, name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    for folder in [&adapter, &base] {
        write(folder, "tokenizer.json", "{}");
    }
    assert!(own_tokenizer(adapter.path(), base.path()).is_empty());
    write(&adapter, "chat_template.jinja", "{{ messages }}");
    write(&adapter, "tokenizer.json", "{ }");
    assert_eq!(
        own_tokenizer(adapter.path(), base.path()),
        ["chat_template.jinja", "tokenizer.json"]
    );
}
