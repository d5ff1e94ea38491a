//! The memory that stages with a model need: told to the scheduler before they start, and refused
//! with figures where the machine does not have it.

use std::path::Path;

use serde_json::Value;

use refrain_engine::kind::{Context, Input, MemoryContext, MemoryNeed, StageError};
use refrain_lm::config::ModelConfig;
use refrain_lm::generate::KeyPrecision;

/// Tokens that are scored together, and the longest row's.
const SCORED: u64 = 2048;
/// Rows that are generated together where the workflow does not say.
const GENERATED: u64 = 32;
/// Positions of a prompt.
const PROMPT: u64 = 256;

/// The memory of `score`.
pub(crate) fn score(context: &MemoryContext<'_>) -> MemoryNeed {
    if is_served(context) {
        return MemoryNeed::default();
    }
    of_model(context.inputs.get("model"), |config| config.scoring_bytes(SCORED))
}

/// The memory of `generate`.
pub(crate) fn generate(context: &MemoryContext<'_>) -> MemoryNeed {
    if is_served(context) {
        return MemoryNeed::default();
    }
    let longest = context.params.get("max_new_tokens").and_then(Value::as_u64).unwrap_or(0);
    let rows = context.batch.map_or(GENERATED, |batch| batch as u64);
    let keys = match context.params.get("kv").and_then(Value::as_str) {
        Some("bf16") => KeyPrecision::Bf16,
        _ => KeyPrecision::F32,
    };
    of_model(context.inputs.get("model"), |config| {
        config.generation_bytes(rows, (longest + PROMPT).min(config.max_positions as u64), keys)
    })
}

/// Whether a server computes the model, whose memory is its own.
fn is_served(context: &MemoryContext<'_>) -> bool {
    context.params.get("backend").is_some_and(|backend| backend == "server")
        || matches!(context.inputs.get("model"), Some(Input::Model { served: Some(_), .. }))
}

/// The need of a stage with a model: its weights, which stages share, and what `own` says. Nothing
/// where its configuration cannot be read: the stage will say so.
pub(crate) fn of_model(input: Option<&Input>, own: impl Fn(&ModelConfig) -> u64) -> MemoryNeed {
    let Some(Input::Model { folder, .. }) = input else { return MemoryNeed::default() };
    let shared = [(folder.clone(), weight_bytes(folder))].into();
    MemoryNeed { own: ModelConfig::load(folder).map_or(0, |config| own(&config)), shared }
}

/// Bytes of a folder's weights, which are held as they are stored.
fn weight_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|file| {
        file.path().extension().is_some_and(|ending| ending == "safetensors" || ending == "gguf")
    });
    weights.filter_map(|file| Some(file.path().metadata().ok()?.len())).sum()
}

/// Refuses a stage that needs more memory than there is, before it begins.
pub(crate) fn check(
    context: &Context<'_>,
    need: fn(&MemoryContext<'_>) -> MemoryNeed,
) -> Result<(), StageError> {
    let need = need(&MemoryContext {
        params: context.params,
        inputs: context.inputs,
        batch: context.resources.batch,
    });
    fits(context, &need)
}

/// Refuses a stage whose need is more than there is, unless the workflow says what it needs.
pub(crate) fn fits(context: &Context<'_>, need: &MemoryNeed) -> Result<(), StageError> {
    let limit = context.resources.memory_limit;
    if need.total() <= limit || context.resources.memory.is_some() {
        return Ok(());
    }
    let weights: u64 = need.shared.values().sum();
    Err(StageError::Environment {
        message: format!(
            "it needs about {} of memory ({} of weights, {} of its own), and there are {}",
            size(need.total()),
            size(weights),
            size(need.own),
            size(limit),
        ),
        hint: Some(
            "a smaller `batch_size`, `max_tokens` or `resources: { batch: … }` needs less, an adapter \
             less than `full`; `--memory SIZE` says that there is more, `resources: { memory: SIZE }` \
             what the stage really needs"
                .to_owned(),
        ),
    })
}

/// A size for people, in the units in which sizes are written.
fn size(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
