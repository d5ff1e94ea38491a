//! Loads a model for mistralrs from files alone: nothing is looked up, so nothing can be asked of a
//! hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mistralrs::core::{
    AdapterPaths, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, Loader, LocalModelPaths,
    ModelDType, ModelPaths, NormalLoaderBuilder, NormalSpecificConfig, Pipeline,
};
use refrain_lm::config::{ConfigError, end_tokens};
use refrain_lm::fields::read_json;
use refrain_lm::tokenizer::{GgufTokenizerError, Tokenizer, TokenizerError};
use refrain_lm::weights::{Weights, WeightsError};
use tokio::sync::Mutex;

use crate::compared;
use crate::device::DEVICE;
use crate::engine::{Engine, EngineError};
use crate::files::{Files, FilesError};
use crate::gguf::Header;
use crate::panics;
use crate::spelling;

/// Steps in which mistralrs's caches of keys and values grow.
const GROWTH: usize = 512;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer in a GGUF file.
    #[error(transparent)]
    GgufTokenizer(#[from] GgufTokenizerError),
    /// mistralrs would compute something else than the model asks for.
    #[error("mistralrs does not compute `{}` as transformers does: {message}", path.display())]
    Unhonoured {
        /// The path.
        path: PathBuf,
        /// The feature that it passes over.
        message: String,
    },
    /// mistralrs refuses the model.
    #[error("mistralrs cannot load `{}`: {message}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Its message.
        message: String,
    },
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A model that mistralrs computes, with our tokenizer.
pub struct Model {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub(crate) eos: Vec<u32>,
    /// Most tokens of a row.
    pub(crate) context: usize,
}

impl Model {
    /// Loads a folder of safetensors with `config.json` and `tokenizer.json`, a folder with one
    /// GGUF file or its parts, or a GGUF file.
    ///
    /// A folder's `tokenizer.json` stands in for the tokenizer of its GGUF file.
    ///
    /// # Errors
    /// A file that is absent or broken, and an architecture that mistralrs lacks.
    pub fn load(path: &Path) -> Result<Model, LoadError> {
        let files = Files::find(path)?;
        let header = check(path, &files)?;
        let built = header.as_ref().map(|header| built_tokenizer(&files, header)).transpose()?;
        let built = built.flatten();
        let refused = |message: String| LoadError::Refused { path: path.to_owned(), message };
        let pipeline = panics::contained(|| pipeline(&files, built.as_deref())).map_err(refused)?;
        let pipeline = pipeline.map_err(|error| refused(first_line(&error)))?;
        let longest = pipeline.blocking_lock().get_metadata().max_seq_len;
        let (tokenizer, eos) = match &files {
            Files::Folder { folder, .. } => (Tokenizer::load(folder)?, end_tokens(folder)?),
            Files::Gguf { parts, tokenizer } => {
                let header = header.unwrap_or_default();
                let json = built.unwrap_or_default();
                let tokenizer = match tokenizer {
                    Some(folder) => Tokenizer::load(folder)?,
                    None => Tokenizer::from_parts(&parts[0], json.as_bytes(), &header.config)?,
                };
                (tokenizer, header.eos)
            }
        };
        // The caches cannot grow into a last step that is not whole.
        let context = if longest > GROWTH { longest / GROWTH * GROWTH } else { longest };
        Ok(Model { engine: Engine::start(&pipeline)?, tokenizer, eos, context })
    }
}

/// Refuses what mistralrs would compute in another way than the model asks for; the header of a
/// GGUF file.
fn check(path: &Path, files: &Files) -> Result<Option<Header>, LoadError> {
    let unhonoured = |message| Err(LoadError::Unhonoured { path: path.to_owned(), message });
    match files {
        Files::Folder { folder, .. } => {
            let json = read_json(&folder.join("config.json"))?;
            let json = spelling::older(&json).unwrap_or(json);
            match compared::check_config(&json) {
                Ok(()) => {}
                Err(ConfigError::Unsupported(message)) => return unhonoured(message),
                Err(error) => return Err(error.into()),
            }
            // It reads all files one after another, and the last one wins.
            match Weights::open(folder)?.duplicate() {
                Some(name) => unhonoured(format!("the tensor `{name}` is in several files")),
                None => Ok(None),
            }
        }
        Files::Gguf { parts, .. } => {
            let refused = |message| LoadError::Refused { path: path.to_owned(), message };
            let header = panics::contained(|| Header::read(&parts[0])).map_err(refused)?;
            let header = header.map_err(|error| refused(first_line(&error.into())))?;
            match header.unhonoured {
                Some(message) => unhonoured(message),
                None => Ok(Some(header)),
            }
        }
    }
}

/// Builds the `tokenizer.json` that the header of a GGUF file alone describes. The tokenizer that
/// mistralrs makes of it splits every text by one pattern, whatever the header names.
fn built_tokenizer(files: &Files, header: &Header) -> Result<Option<String>, LoadError> {
    match files {
        Files::Gguf { parts, tokenizer: None } => {
            let json = header.vocabulary.tokenizer_json(&parts[0].display().to_string())?;
            Ok(Some(json.to_string()))
        }
        _ => Ok(None),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a copy for mistralrs alone, in the system's folder and in no cache"
)]
fn pipeline(
    files: &Files,
    built: Option<&str>,
) -> anyhow::Result<Arc<Mutex<dyn Pipeline + Send + Sync>>> {
    let rewritten = tempfile::tempdir()?;
    let (loader, paths) = match files {
        Files::Folder { folder, weights } => {
            let config = NormalSpecificConfig::default();
            let name = Some(folder.display().to_string());
            let loader =
                NormalLoaderBuilder::new(config, None, None, name, false, None).build(None)?;
            let mut config = folder.join("config.json");
            if let Some(json) = spelling::older(&serde_json::from_slice(&std::fs::read(&config)?)?)
            {
                config = rewritten.path().join("config.json");
                std::fs::write(&config, json.to_string())?;
            }
            (loader, paths(weights.clone(), config, folder.join("tokenizer.json")))
        }
        Files::Gguf { parts, tokenizer } => {
            let name = parts[0].display().to_string();
            let config = GGUFSpecificConfig::default();
            let loader: Box<dyn Loader> =
                GGUFLoaderBuilder::new(None, None, name, Vec::new(), config, false, None).build();
            let tokenizer = match (tokenizer, built) {
                (Some(folder), _) => folder.join("tokenizer.json"),
                (None, Some(json)) => {
                    let path = rewritten.path().join("tokenizer.json");
                    std::fs::write(&path, json)?;
                    path
                }
                (None, None) => PathBuf::new(),
            };
            (loader, paths(parts.clone(), PathBuf::new(), tokenizer))
        }
    };
    // One device and f32 throughout: what the reference values of our own module are computed in.
    let map = DeviceMapSetting::dummy();
    loader.load_model_from_path(&paths, &ModelDType::F32, &DEVICE, true, map, None, None)
}

/// Lists a model's paths for mistralrs; templates and end tokens are our own business.
fn paths(filenames: Vec<PathBuf>, config: PathBuf, tokenizer: PathBuf) -> Box<dyn ModelPaths> {
    Box::new(LocalModelPaths {
        tokenizer_filename: tokenizer,
        config_filename: config,
        template_filename: None,
        filenames,
        adapter_paths: AdapterPaths::None,
        gen_conf: None,
        preprocessor_config: None,
        processor_config: None,
        chat_template_json_filename: None,
    })
}

/// An error with its causes, up to the end of the line: candle appends a backtrace.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
