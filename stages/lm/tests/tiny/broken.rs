//! Broken model folders and models that compute nonsense: an error that names the place, never a
//! panic or half a result.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use refrain_lm::generate::{Limits, Progress, Request, generate};
use refrain_lm::model::{LanguageModel, ModelPath};
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::save::{F32Tensor, SaveError, save_model};
use refrain_lm::score::score;
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::train::{Schedule, TrainError, TrainOptions, Training, train};

use crate::*;

fn llama_json() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 64,
        "initializer_range": 0.3,
    })
}

/// Writes a model after a change to its tensors.
fn write(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
    let model = LanguageModel::random(&ModelConfig::from_json(&llama_json()).unwrap(), 3);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = model
        .tensors
        .into_iter()
        .map(|tensor| (tensor.name.clone(), (tensor.shape.clone(), tensor.to_rows())))
        .collect();
    change(&mut tensors);
    let tensors = tensors
        .iter()
        .map(|(name, (shape, values))| (name.clone(), F32Tensor { shape, values }))
        .collect();
    save_model(folder, &llama_json(), &tensors).unwrap();
}

fn load(folder: &Path) -> Result<LanguageModel, String> {
    let path = ModelPath { folder: folder.into(), adapters: Vec::new() };
    LanguageModel::load(&path).map_err(|error| error.to_string())
}

/// The error of a folder whose tensors were changed; it names the file or the folder.
fn error(change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), change);
    let error = load(folder.path()).unwrap_err();
    let place = folder.path().to_str().unwrap();
    assert!(error.contains(place), "{error}");
    error.replace(place, "FOLDER")
}

#[test]
fn tensors_that_are_wrong_are_named_with_their_file() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    load(folder.path()).unwrap();
    assert_eq!(
        error(|tensors| drop(tensors.remove(NAME))),
        format!("the weights in `FOLDER` lack the tensor `{NAME}`")
    );
    assert_eq!(
        error(|tensors| tensors.get_mut(NAME).unwrap().0.reverse()),
        format!(
            "the tensor `{NAME}` in `FOLDER/model.safetensors` has shape [16, 24], expected [24, 16]"
        )
    );
    // Of several the first; rotary buffers, which older versions saved, say nothing.
    let strange = "model.layers.0.self_attn.q_norm.weight";
    assert_eq!(
        error(|tensors| {
            for name in [strange, "model.layers.2.mlp.up_proj.weight"] {
                tensors.insert(name.to_owned(), (vec![1], vec![0.5]));
            }
        }),
        format!(
            "the tensor `{strange}` in `FOLDER/model.safetensors` is not part of the model that \
             `config.json` describes"
        )
    );
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq";
    write(folder.path(), |tensors| {
        tensors.insert(buffer.to_owned(), (vec![4], vec![0.5; 4]));
    });
    load(folder.path()).unwrap();
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        assert_eq!(
            error(|tensors| tensors.get_mut(NAME).unwrap().1[77] = value),
            format!("the tensor `{NAME}` in `FOLDER/model.safetensors` holds {word} at index 77")
        );
    }
}

#[test]
fn every_truncation_is_an_error_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let lengths =
        (0..header + 8).chain((header..whole.len()).step_by(997)).chain([whole.len() - 1]);
    for length in lengths {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = load(folder.path()).unwrap_err();
        let expected = format!("`{}` is not a whole safetensors file: ", path.display());
        assert!(error.starts_with(&expected), "{length} bytes: {error}");
    }
}

#[test]
fn no_damaged_byte_of_a_header_is_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for place in 0..header {
        for change in [1, 2, 16, 128] {
            let mut bytes = whole.clone();
            bytes[place] ^= change;
            std::fs::write(&path, bytes).unwrap();
            // Some changes, as of a space or of the metadata, mean nothing.
            if let Err(error) = load(folder.path()) {
                assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
            }
        }
    }
}

/// transformers leaves the index of older shards behind when it saves a whole file over them.
#[test]
fn a_whole_file_goes_before_an_index() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(index, r#"{"weight_map": {"a": "absent.safetensors"}}"#).unwrap();
    load(folder.path()).map(drop).unwrap();
}

#[test]
fn of_a_tensor_in_two_shards_the_index_says_which_counts() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    let whole = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    let right = load(folder.path()).unwrap();
    let name = "model.embed_tokens.weight";
    let shape = right.tensors[right.embedding].shape.clone();
    let zeros = vec![0u8; 4 * shape.iter().product::<usize>()];
    let stale =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &zeros).unwrap();
    std::fs::write(folder.path().join("a.safetensors"), bytes).unwrap();
    let stale = safetensors::serialize([(name, stale)], None).unwrap();
    std::fs::write(folder.path().join("b.safetensors"), stale).unwrap();
    std::fs::remove_file(&whole).unwrap();
    let index = |map: &str| {
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(index, format!("{{\"weight_map\": {{{map}}}}}")).unwrap();
        load(folder.path()).map(|model| model.tensors[model.embedding].to_rows())
    };
    let others = r#""x": "a.safetensors", "y": "b.safetensors""#;
    let embedding = &right.tensors[right.embedding].to_rows();
    assert_eq!(&index(&format!("{others}, \"{name}\": \"a.safetensors\"")).unwrap(), embedding);
    let last = index(&format!("{others}, \"{name}\": \"b.safetensors\"")).unwrap();
    assert!(last.iter().all(|value| *value == 0.0));
    let error = index(others).unwrap_err();
    assert!(error.contains("a.safetensors") && error.contains("b.safetensors"), "{error}");
    assert!(error.contains(name), "{error}");
}

#[test]
fn a_head_of_its_own_beside_a_tied_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["tie_word_embeddings"] = true.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.contains("`lm_head.weight` differs"), "{error}");
}

#[test]
fn an_index_leads_to_files_beside_it_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| {});
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let said = |text: &str| {
        std::fs::write(&index, text).unwrap();
        load(folder.path()).unwrap_err()
    };
    let error = said(r#"{"weight_map": {"a": "absent.safetensors"}}"#);
    assert!(error.starts_with("cannot read `") && error.contains("absent.safetensors"), "{error}");
    assert!(
        said(r#"{"weight_map": {"a": "../x"}}"#).contains("is not the name of a file beside it")
    );
    assert!(said("{").contains("is not an index of safetensors files"));
    assert!(said("{}").contains("it has no `weight_map`"));
}

#[test]
fn rows_that_do_not_fit_are_told() {
    let model = LanguageModel::random(&config("llama"), 3);
    let score =
        |ids: &[u32]| score(&model, &[&[1, 2], ids], None, &mut |_, _| {}).unwrap_err().to_string();
    assert_eq!(score(&[1; 65]), "row 1 has 65 tokens; the model takes at most 64");
    assert_eq!(score(&[1, 40]), "row 1 holds the token 40, but the model's vocabulary has 40");
}

/// Finite weights whose products are not.
fn overflowing() -> LanguageModel {
    let mut model = LanguageModel::random(&config("llama"), 3);
    let head = model.head;
    let values = model.tensors[head].values_mut();
    values.iter_mut().for_each(|value| *value = f32::MAX * value.signum());
    model
}

#[test]
fn what_is_no_number_is_no_result() {
    let model = overflowing();
    let words = "the model gives probabilities that are not finite: its weights or its configuration are wrong";
    let error =
        score(&model, &[&[1, 2, 3]], None, &mut |_, _| panic!("a score was given")).unwrap_err();
    assert_eq!(error.to_string(), words);
    let folder = tempfile::tempdir().unwrap();
    write_tokenizer(folder.path());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, top_p: Some(0.9), ..Default::default() };
        let sampler = Sampler::new(params, 1).unwrap();
        let requests = [Request { prompt: vec![1, 2, 3], samples: vec![sampler.stream(&[0])] }];
        let limits = Limits { max_new_tokens: 5, ..Limits::default() };
        let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let made = generate(&model, &tokenizer, &requests, &sampler, &limits, None, go);
        assert_eq!(made.unwrap_err().to_string(), words);
    }
}

#[test]
fn a_loss_that_is_no_number_ends_training() {
    let (data, mut model) = (rows(11, 1), overflowing());
    model.train_all();
    let mut options = options();
    let run = |model: &mut LanguageModel, options: &TrainOptions| {
        let training =
            Training { rows: &data, options, evaluation: None, keep: None, snapshots: None };
        train(model, &training, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    assert!(matches!(run(&mut model, &options), TrainError::NotFinite(0)));
    // And one that grows until it is none.
    options =
        TrainOptions { learning_rate: 1e30, schedule: Schedule::Constant, warmup: 0, ..options };
    let mut model = LanguageModel::random(&config("llama"), 3);
    model.train_all();
    let error = run(&mut model, &options);
    assert!(matches!(error, TrainError::NotFinite(step) if step > 0), "{error}");
    // The last step, after which no loss is computed any more.
    options = TrainOptions { length: Length::Steps(1), learning_rate: 1e39, ..options };
    let mut model = LanguageModel::random(&config("llama"), 3);
    model.train_all();
    assert!(matches!(run(&mut model, &options), TrainError::NotFinite(1)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_fails_the_write_and_names_the_file() {
    let model = LanguageModel::random(&config("llama"), 3);
    for name in ["config.json", "model.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(name)).unwrap();
        let error = save_model(folder.path(), &llama_json(), &model.stored()).unwrap_err();
        assert!(
            matches!(&error, SaveError::Write { path, source }
            if path.ends_with(name) && source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
    }
}
