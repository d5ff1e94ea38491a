//! Stores adapters in PEFT's format.

use refrain_cache::{Artifact, ArtifactKind, Digest};
use refrain_engine::kind::{Context, StageError};
use refrain_lm::adapter::Adapter;

use crate::models::failed;

/// Stores an adapter of the model with that digest.
pub(crate) fn store(
    context: &Context<'_>,
    adapter: &Adapter,
    base: Digest,
) -> Result<Artifact, StageError> {
    let (config, weights) = adapter.to_files().map_err(failed)?;
    let folder = context.cache.new_folder()?;
    for (name, bytes) in [("adapter_config.json", config), ("adapter_model.safetensors", weights)] {
        folder.write(name, &bytes).map_err(|error| StageError::Environment {
            message: format!("cannot write `{}`: {error}", folder.path().join(name).display()),
            hint: None,
        })?;
    }
    Ok(context.cache.store_folder(folder, ArtifactKind::Model, Some(base))?)
}
