//! The model that training begins with: a loaded one, one with an adapter, or a new one with its
//! tokenizer.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use refrain_cache::FolderWriter;
use refrain_engine::kind::{Context, Input, StageError};
use refrain_lm::adapter::Adapter;
use refrain_lm::config::ModelConfig;
use refrain_lm::model::{LanguageModel, LoraSettings};
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::tokenizer_training::{TokenizerSettings, train_tokenizer};

use crate::models::{self, Loaded, failed, model_failed};
use crate::remarks;

use super::params::{Architecture, FinetuneParams, Lora, ModelShape, NewModel, TokenizerShape};
use super::rows;

/// The model, tokenizer and files with which training begins.
pub(super) struct Start {
    pub model: LanguageModel,
    pub tokenizer: Tokenizer,
    /// The settings of the adapter, where one is trained.
    pub lora: Option<LoraSettings>,
    /// Where the files that go with the weights come from.
    pub files: Files,
}

/// Where configuration and tokenizer of the result come from.
pub(super) enum Files {
    /// The folder of the model that was given.
    Given(PathBuf),
    /// A folder that holds the new tokenizer already, and the new model's `config.json`.
    New(FolderWriter, Value),
}

/// Loads or makes the model.
pub(super) fn start(context: &Context<'_>, params: &FinetuneParams) -> Result<Start, StageError> {
    if let Some(from) = &params.from {
        return new_model(context, params, from);
    }
    let input = context.input("model")?;
    remarks::note_adapter_files(context, input);
    let Loaded { mut model, tokenizer } = models::load_own(input)?;
    let lora = match &params.lora {
        Some(lora) => Some(put_adapter(context, params, lora, &mut model)?),
        None => {
            model.train_all();
            None
        }
    };
    Ok(Start { model, tokenizer, lora, files: Files::Given(models::base_folder(input)?.clone()) })
}

fn put_adapter(
    context: &Context<'_>,
    params: &FinetuneParams,
    lora: &Lora,
    model: &mut LanguageModel,
) -> Result<LoraSettings, StageError> {
    if let Some(earlier) = context.inputs.get("lora.from") {
        return put_earlier(context, earlier, lora.dropout, model);
    }
    let rank =
        lora.rank.ok_or_else(|| StageError::bug("`lora.rank` is missing after the check"))?;
    let settings = LoraSettings {
        rank,
        alpha: lora.alpha.unwrap_or(2.0 * rank as f64),
        dropout: lora.dropout,
        targets: lora.targets.iter().flatten().map(|target| target.word().to_owned()).collect(),
        dora: lora.dora.unwrap_or(false),
        rslora: lora.rslora.unwrap_or(false),
    };
    model.add_lora(&settings, params.seed).map_err(model_failed)?;
    Ok(settings)
}

/// Puts the adapter of `lora.from` on the model.
fn put_earlier(
    context: &Context<'_>,
    earlier: &Input,
    dropout: f64,
    model: &mut LanguageModel,
) -> Result<LoraSettings, StageError> {
    check_base(context, earlier)?;
    remarks::note_own_files(
        context.progress,
        earlier.path(),
        models::base_folder(&context.inputs["model"])?,
    );
    let adapter = Adapter::load(earlier.path()).map_err(failed)?;
    model.continue_lora(&adapter, dropout).map_err(model_failed)?;
    let settings = LoraSettings {
        rank: adapter.config.r,
        alpha: adapter.config.lora_alpha,
        dropout,
        targets: adapter.config.target_modules.clone(),
        dora: adapter.config.use_dora,
        rslora: adapter.config.use_rslora,
    };
    let put = model.adapter(&settings, "").tensors;
    match adapter.tensors.keys().find(|name| !put.contains_key(*name)) {
        Some(name) => Err(StageError::failed(format!(
            "the adapter of `lora.from` has `{name}`, which `model` has not"
        ))),
        None => Ok(settings),
    }
}

/// Refuses an adapter that was trained on another model than `model`.
pub(super) fn check_base(context: &Context<'_>, earlier: &Input) -> Result<(), StageError> {
    let base = earlier.artifact().base;
    if base.is_some_and(|base| base != context.inputs["model"].artifact().digest) {
        return Err(StageError::with_hint(
            "the adapter of `lora.from` was trained on another model than `model`",
            "give the model that it was trained on",
        ));
    }
    Ok(())
}

/// A model with random weights, and a tokenizer trained on the data's texts.
pub(super) fn new_model(
    context: &Context<'_>,
    params: &FinetuneParams,
    from: &NewModel,
) -> Result<Start, StageError> {
    let TokenizerShape { vocab_size, special_tokens, chat_template } = &from.tokenizer;
    let settings = TokenizerSettings {
        vocab_size: *vocab_size,
        special_tokens: special_tokens.clone(),
        chat_template: chat_template.clone(),
    };
    let texts = rows::texts(context, params)?;
    let files = train_tokenizer(texts.into_iter(), &settings).map_err(failed)?;
    let folder = context.cache.new_folder()?;
    let write = |name: &str, bytes: &[u8]| {
        folder.write(name, bytes).map_err(|error| not_written(&folder, name, &error))
    };
    write("tokenizer.json", &files.tokenizer)?;
    write("tokenizer_config.json", &files.config)?;
    let tokenizer = Tokenizer::load(folder.path()).map_err(failed)?;
    let json = config_json(&from.config, tokenizer.vocab_size());
    let generation = json!({ "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2 });
    write("generation_config.json", format!("{generation:#}\n").as_bytes())?;
    let config = ModelConfig::from_json(&json).map_err(failed)?;
    // Asked for before it is filled: what the system refuses here is an error, later it would be
    // the end.
    let bytes =
        usize::try_from(config.parameters() * size_of::<f32>() as u128).unwrap_or(usize::MAX);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        let message =
            format!("a model of {} parameters does not fit into memory", config.parameters());
        StageError::with_hint(message, "make the sizes of `from.config` smaller")
    })?;
    let mut model = LanguageModel::random(&config, params.seed);
    model.train_all();
    Ok(Start { model, tokenizer, lora: None, files: Files::New(folder, json) })
}

/// Returns the whole `config.json` of a new model. Every field that other programs read is written,
/// because their defaults differ. The special tokens are those with which trained tokenizers begin.
pub(super) fn config_json(shape: &ModelShape, vocab_size: usize) -> Value {
    let class = match shape.model_type {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Mistral => "MistralForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": shape.model_type.word(),
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads.unwrap_or(shape.num_attention_heads),
        "max_position_embeddings": shape.max_position_embeddings,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "initializer_range": shape.initializer_range,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "torch_dtype": "float32",
    });
    if let Some(head_dim) = shape.head_dim {
        config["head_dim"] = head_dim.into();
    }
    match shape.model_type {
        Architecture::Mistral => config["sliding_window"] = shape.sliding_window.into(),
        Architecture::Qwen2 => config["use_sliding_window"] = false.into(),
        Architecture::Llama => {
            config["attention_bias"] = false.into();
            config["mlp_bias"] = false.into();
        }
    }
    config
}

/// The disk refused a file of the result.
pub(super) fn not_written(folder: &FolderWriter, name: &str, error: &io::Error) -> StageError {
    let path = folder.path().join(name);
    StageError::Environment {
        message: format!("cannot write `{}`: {error}", path.display()),
        hint: None,
    }
}
