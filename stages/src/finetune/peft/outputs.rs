//! The results that a trainer leaves, checked before they are stored.

use std::path::Path;

use refrain_cache::write::{copy_file, write_plain};
use refrain_cache::{Artifact, ArtifactKind};
use refrain_engine::kind::StageError;
use refrain_engine::source::model_folder::ModelFolder;
use refrain_lm::adapter::{Adapter, AdapterConfig};
use refrain_lm::weights::Weights;

use crate::adapters;

use super::super::start::not_written;
use super::PeftTraining;
use super::events::{CONTRACT, wrong};

/// The output head, which is absent from the files of a model whose head is its embedding.
const HEAD: &str = "lm_head.weight";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The folders of a trainer's results.
pub(super) struct Outputs<'a> {
    pub training: &'a PeftTraining<'a>,
    /// The folder in which it runs.
    pub folder: &'a Path,
}

impl Outputs<'_> {
    /// Stores the result in a folder, relative to the trainer's.
    pub fn store(&self, name: &str) -> Result<Artifact, StageError> {
        let folder = self.folder.join(name);
        match self.training.is_adapter() {
            true => self.store_adapter(name, &folder),
            false => self.store_model(name, &folder),
        }
    }

    /// Stores an adapter with the settings that it was begun with.
    fn store_adapter(&self, name: &str, folder: &Path) -> Result<Artifact, StageError> {
        let start = self.training.start;
        let (Some(begun), Some(base)) = (&start.adapter, start.base) else {
            return Err(StageError::bug("an adapter without its beginning"));
        };
        let unusable = |why: String| wrong(format!("the trainer's adapter in `{name}` {why}"));
        if !folder.join("adapter_model.safetensors").is_file() {
            return Err(unusable("is absent: it holds no `adapter_model.safetensors`".into()));
        }
        let config = AdapterConfig {
            base_model_name_or_path: Some(base.to_string()),
            lora_dropout: self.training.params.lora.as_ref().map_or(0.0, |lora| lora.dropout),
            ..begun.config.clone()
        };
        let begun_config = Adapter { config: config.clone(), tensors: begun.tensors.clone() };
        let (json, _) = begun_config.to_files().map_err(crate::models::failed)?;
        let path = folder.join(ADAPTER_CONFIG);
        write_plain(&path, &json).map_err(|error| StageError::Environment {
            message: format!("cannot write `{}`: {error}", path.display()),
            hint: None,
        })?;
        let made = Adapter::load(folder).map_err(|error| unusable(format!("is wrong: {error}")))?;
        for (module, tensors) in &begun.tensors {
            let Some(made) = made.tensors.get(module) else {
                return Err(unusable(format!("lacks `{module}`")));
            };
            if (made.inputs, made.outputs) != (tensors.inputs, tensors.outputs) {
                return Err(unusable(format!("has another shape at `{module}`")));
            }
        }
        if let Some(module) = made.tensors.keys().find(|name| !begun.tensors.contains_key(*name)) {
            return Err(unusable(format!("has `{module}`, which it was not given")));
        }
        adapters::store(self.training.context, &Adapter { config, tensors: made.tensors }, base)
    }

    /// Stores the weights of a whole model with the files of the one that it was begun with.
    fn store_model(&self, name: &str, folder: &Path) -> Result<Artifact, StageError> {
        let PeftTraining { context, start, .. } = self.training;
        let unusable = |why: String| wrong(format!("the trainer's model in `{name}` {why}"));
        let made = Weights::open(folder).map_err(|error| unusable(format!("is wrong: {error}")))?;
        let begun = Weights::open(&start.model).map_err(crate::models::failed)?;
        for tensor in begun.names().filter(|tensor| *tensor != HEAD) {
            match made.shape(tensor) {
                None => return Err(unusable(format!("lacks `{tensor}`"))),
                shape if shape != begun.shape(tensor) => {
                    return Err(unusable(format!("has another shape at `{tensor}`")));
                }
                Some(_) => {}
            }
        }
        let files = ModelFolder::open(folder).map_err(|error| unusable(error.to_string()))?;
        let (stored, config) =
            start.files.copied(context)?.into_folder(context, self.training.dtype())?;
        let weights = files.files().filter(|f| f.name.ends_with(".safetensors") || f.name == INDEX);
        for file in weights {
            if !file.path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                return Err(StageError::with_hint(
                    format!("`{}` in the trainer's model is not a regular file", file.name),
                    CONTRACT,
                ));
            }
            copy_file(&file.path, &stored.path().join(&file.name))
                .map_err(|error| not_written(&stored, &file.name, &error))?;
        }
        let json = format!("{config:#}\n");
        stored
            .write("config.json", json.as_bytes())
            .map_err(|error| not_written(&stored, "config.json", &error))?;
        Ok(context.cache.store_folder(stored, ArtifactKind::Model, None)?)
    }
}
