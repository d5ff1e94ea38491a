//! The memory that a training needs, and whether its activations are computed again to save some.

use serde_json::Value;

use refrain_engine::kind::{Context, Input, MemoryContext, MemoryNeed, StageError};
use refrain_lm::config::ModelConfig;
use refrain_lm::memory::TrainingShape;

use crate::memory;

use super::params::{FinetuneParams, Recompute};

/// Bytes of activations above which they are computed again in the backward pass; no result depends
/// on it.
const MOST_ACTIVATIONS: u64 = 2 << 30;

/// The memory of `finetune` for rows of the table's mean length: the longest ones are known once
/// all are rendered.
///
/// A trainer outside is not estimated: it may hold its weights on a card.
pub(super) fn need(context: &MemoryContext<'_>) -> MemoryNeed {
    if super::check::is_peft(context.params) {
        return MemoryNeed::default();
    }
    let params = Value::Object(context.params.clone());
    let Ok(params) = serde_json::from_value::<FinetuneParams>(params) else {
        return MemoryNeed::default();
    };
    let adapter = context.inputs.get("lora.from");
    memory::of_model(context.inputs.get("model"), |config| {
        let longest = params.max_tokens.unwrap_or(config.max_positions) as u64;
        let tokens = mean_tokens(context.inputs.get("data")).clamp(1, longest);
        training(config, &params, adapter, params.batch_size as u64 * tokens).1
    })
}

/// Refuses a training whose longest micro-batch, of so many tokens, needs more memory than there
/// is; says whether its activations are computed again.
pub(super) fn check(
    context: &Context<'_>,
    params: &FinetuneParams,
    config: &ModelConfig,
    tokens: u64,
) -> Result<bool, StageError> {
    let (recompute, own) = training(config, params, context.inputs.get("lora.from"), tokens);
    let weights = memory::of_model(context.inputs.get("model"), |_| 0);
    memory::fits(context, &MemoryNeed { own, ..weights })?;
    Ok(recompute)
}

/// Whether the activations of a micro-batch are computed again, and the bytes of the training
/// beside the weights that it begins with.
fn training(
    config: &ModelConfig,
    params: &FinetuneParams,
    adapter: Option<&Input>,
    tokens: u64,
) -> (bool, u64) {
    let (trained, dora) = match &params.lora {
        None => (config.parameters() as u64, false),
        Some(lora) => {
            let targets: Vec<&str> =
                lora.targets.iter().flatten().map(|target| target.word()).collect();
            let new = lora.rank.map(|rank| config.adapter_values(rank, &targets));
            // An earlier adapter is stored as it is trained, in 32 bits.
            let earlier = || adapter.map_or(0, |adapter| adapter.artifact().bytes / 4);
            (new.unwrap_or_else(earlier), lora.dora.unwrap_or(false))
        }
    };
    let bytes =
        |recompute| config.training_bytes(TrainingShape { tokens, trained, dora, recompute });
    let recompute = match params.gradient_checkpointing {
        Recompute::Given(given) => given,
        Recompute::Word(_) => bytes(false) > bytes(true).max(MOST_ACTIVATIONS + 16 * trained),
    };
    (recompute, bytes(recompute))
}

/// Tokens of a row of a table: compressed, one is about one byte.
fn mean_tokens(table: Option<&Input>) -> u64 {
    let Some(Input::Table { artifact, .. }) = table else { return 0 };
    artifact.bytes / artifact.rows.unwrap_or(1).max(1)
}
