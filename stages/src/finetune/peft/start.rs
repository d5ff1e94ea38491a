//! The beginnings of a training outside: the folder of the model, its tokenizer, and the adapter
//! that is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use refrain_cache::write::{create_dir_all, write_plain};
use refrain_cache::{Digest, read_plain};
use refrain_engine::kind::{Context, Input, StageError};
use refrain_lm::adapter::{Adapter, AdapterConfig, LoraTensors};
use refrain_lm::save::save_model;
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::weights::Weights;

use crate::models::{self, failed};
use crate::remarks;

use super::super::finish::not_saved;
use super::super::params::{FinetuneParams, Lora, Target};
use super::super::start::{Files, Start, check_base, new_model};

/// Bytes of a `config.json` that are read, at most.
const CONFIG: u64 = 16 << 20;
/// Parts of the names of matrices that are not linear layers of a block.
const NOT_LINEAR: [&str; 3] = ["embed", "norm", "rotary"];

/// The beginning of a training.
pub(super) struct PeftStart {
    pub tokenizer: Tokenizer,
    /// The limit of tokens of a row, and the size of the vocabulary.
    pub sizes: (usize, usize),
    /// The folder of the base.
    pub model: PathBuf,
    /// Adapters of the base that stay as they are, the one nearest to it first.
    pub adapters: Vec<PathBuf>,
    /// The adapter that is trained.
    pub adapter: Option<Adapter>,
    /// The digest of the model that it belongs to.
    pub base: Option<Digest>,
    /// The files that go with the weights of a whole model.
    pub files: Files,
}

/// Prepares the model, and writes the adapter that is trained into the trainer's folder.
pub(super) fn start(
    context: &Context<'_>,
    params: &FinetuneParams,
    folder: &Path,
) -> Result<PeftStart, StageError> {
    if let Some(from) = &params.from {
        return written(new_model(context, params, from)?, folder);
    }
    let input = context.input("model")?;
    remarks::note_adapter_files(context, input);
    let Input::Model { folder: base, adapters, artifact, .. } = input else {
        return Err(StageError::bug("the input `model` is not a model"));
    };
    models::check_layout(base)?;
    let tokenizer = models::tokenizer(base)?;
    let adapter = match &params.lora {
        Some(lora) => Some(adapter(context, params, lora, base)?),
        None => None,
    };
    if let Some(adapter) = &adapter {
        let config = AdapterConfig { lora_dropout: 0.0, ..adapter.config.clone() };
        let tensors = adapter.tensors.clone();
        let (config, weights) = Adapter { config, tensors }.to_files().map_err(failed)?;
        let place = folder.join("adapter");
        let write = create_dir_all(&place)
            .and_then(|()| write_plain(&place.join("adapter_config.json"), &config))
            .and_then(|()| write_plain(&place.join("adapter_model.safetensors"), &weights));
        write.map_err(|error| StageError::Environment {
            message: format!("cannot write `{}`: {error}", place.display()),
            hint: None,
        })?;
    }
    Ok(PeftStart {
        sizes: sizes(base, &tokenizer)?,
        tokenizer,
        model: base.clone(),
        adapters: adapters.clone(),
        adapter,
        base: Some(artifact.digest),
        files: Files::Given(base.clone()),
    })
}

/// Writes a new model into the trainer's folder.
fn written(start: Start, folder: &Path) -> Result<PeftStart, StageError> {
    let Start { model, tokenizer, files, .. } = start;
    let Files::New(_, config) = &files else {
        return Err(StageError::bug("a new model has no configuration"));
    };
    let place = folder.join("model");
    create_dir_all(&place).map_err(|error| StageError::Environment {
        message: format!("cannot create `{}`: {error}", place.display()),
        hint: None,
    })?;
    save_model(&place, config, &model.stored()).map_err(not_saved)?;
    Ok(PeftStart {
        sizes: (model.config.max_positions, model.config.vocab),
        tokenizer,
        model: place,
        adapters: Vec::new(),
        adapter: None,
        base: None,
        files,
    })
}

/// The limits that a model's configuration sets, whatever its family.
fn sizes(folder: &Path, tokenizer: &Tokenizer) -> Result<(usize, usize), StageError> {
    let path = folder.join("config.json");
    let unusable = |error: &dyn std::fmt::Display| {
        StageError::failed(format!("cannot read `{}`: {error}", path.display()))
    };
    let bytes = read_plain(&path, CONFIG).map_err(|error| unusable(&error))?;
    let config: Value = serde_json::from_slice(&bytes).map_err(|error| unusable(&error))?;
    let size = |name: &str| config[name].as_u64().map(|size| size as usize);
    Ok((
        size("max_position_embeddings").unwrap_or(usize::MAX),
        size("vocab_size").unwrap_or(tokenizer.vocab_size()),
    ))
}

/// The adapter with which training begins.
fn adapter(
    context: &Context<'_>,
    params: &FinetuneParams,
    lora: &Lora,
    base: &Path,
) -> Result<Adapter, StageError> {
    if let Some(earlier) = context.inputs.get("lora.from") {
        check_base(context, earlier)?;
        remarks::note_own_files(context.progress, earlier.path(), base);
        return Adapter::load(earlier.path()).map_err(failed);
    }
    let rank =
        lora.rank.ok_or_else(|| StageError::bug("`lora.rank` is missing after the check"))?;
    let weights = Weights::open(base).map_err(failed)?;
    let targets: Vec<&str> = lora.targets.iter().flatten().map(|target| target.word()).collect();
    let mut tensors = BTreeMap::new();
    for name in weights.names() {
        let (Some(module), Some([outputs, inputs])) =
            (name.strip_suffix(".weight"), weights.shape(name))
        else {
            continue;
        };
        if is_target(module, &targets) {
            let drawn = LoraTensors::drawn(module, [*outputs, *inputs], rank, params.seed);
            tensors.insert(module.to_owned(), drawn);
        }
    }
    if tensors.is_empty() {
        let message = match targets.as_slice() {
            [] => "the model has no linear layer in its blocks".to_owned(),
            targets => format!("no linear layer is called {}", targets.join(" or ")),
        };
        return Err(StageError::failed(message));
    }
    let mut target_modules: Vec<String> =
        tensors.keys().map(|module| short_name(module).to_owned()).collect();
    target_modules.sort();
    target_modules.dedup();
    let config = AdapterConfig {
        r: rank,
        lora_alpha: lora.alpha.unwrap_or(2.0 * rank as f64),
        lora_dropout: lora.dropout,
        target_modules,
        use_dora: lora.dora.unwrap_or(false),
        use_rslora: lora.rslora.unwrap_or(false),
        base_model_name_or_path: None,
    };
    Ok(Adapter { config, tensors })
}

fn short_name(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// Whether a matrix is a linear layer that is adapted: one of those that are named, else one of a
/// block, whatever the architecture calls it.
fn is_target(module: &str, targets: &[&str]) -> bool {
    let name = short_name(module);
    let in_block = module.split('.').any(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let known = |target: Target| target.word() == name;
    match targets {
        _ if !in_block => false,
        [] if Target::APART.into_iter().chain(Target::FUSED).any(known) => true,
        [] => !NOT_LINEAR.iter().any(|part| name.contains(part)),
        targets => targets.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linear_layers_of_blocks_are_adapted() {
        for (module, targets, expected) in [
            ("model.layers.0.self_attn.q_proj", &[][..], true),
            ("model.layers.11.mlp.down_proj", &[], true),
            ("model.layers.0.self_attn.q_proj", &["q_proj", "v_proj"], true),
            ("model.layers.0.mlp.up_proj", &["q_proj", "v_proj"], false),
            ("transformer.h.3.self_attention.query_key_value", &[], true),
            ("lm_head", &[], false),
            ("model.embed_tokens", &[], false),
            ("transformer.h.3.pos_embed", &[], false),
        ] {
            assert_eq!(is_target(module, targets), expected, "{module} {targets:?}");
        }
    }
}
