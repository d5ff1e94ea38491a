//! Loads the models that stages read, and keeps the last few, so that stages of one model do not
//! load it anew.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Span, debug_span};

use refrain_cache::Digest;
use refrain_engine::kind::{Input, StageError};
use refrain_lm::adapter::Adapter;
use refrain_lm::config::ConfigError;
use refrain_lm::model::{LanguageModel, ModelError};
use refrain_lm::tokenizer::{Tokenizer, TokenizerError};
use refrain_lm::weights::WeightsError;

/// Models that stay in memory after their stages end: the base of a sweep and the one being judged.
const KEPT: usize = 2;

/// A model with its tokenizer.
pub(crate) struct Loaded {
    pub model: LanguageModel,
    pub tokenizer: Tokenizer,
}

/// The origin of a loaded model. The paths are part of it, because an adapter's digest does not
/// tell its base.
#[derive(PartialEq, Clone)]
struct Origin {
    digest: Digest,
    folder: PathBuf,
    adapters: Vec<PathBuf>,
}

/// The last models used, the newest last.
static LOADED: Mutex<Vec<(Origin, Arc<Loaded>)>> = Mutex::new(Vec::new());

/// The model of an input, from memory where it was among the last ones used.
pub(crate) fn load(input: &Input) -> Result<Arc<Loaded>, StageError> {
    let origin = origin(input)?;
    // Held while a model is read, so that two stages that begin together read it once.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = loaded.iter().position(|(known, _)| *known == origin);
    let model = match found {
        Some(place) => loaded.remove(place).1,
        None => Arc::new(read(&origin)?),
    };
    loaded.push((origin, model.clone()));
    let surplus = loaded.len().saturating_sub(KEPT);
    loaded.drain(..surplus);
    Ok(model)
}

/// The model of an input for the caller alone, who may put an adapter on it; its weights are shared.
pub(crate) fn load_own(input: &Input) -> Result<Loaded, StageError> {
    read(&origin(input)?)
}

/// A base as it was when it was read: the path of its folder, and number, device, size and times of
/// each file in it.
type Seen = (PathBuf, Vec<[i64; 7]>);

/// The bases of the last models used, the newest last. Their weights are shared by all stages and
/// trials, whatever adapters stand beside them.
static BASES: Mutex<Vec<(Seen, LanguageModel)>> = Mutex::new(Vec::new());

/// The model of a folder without adapters, from memory where it was among the last ones used. A
/// clone of a model shares its weights.
fn base(folder: &Path) -> Result<LanguageModel, StageError> {
    // Held while a model is read, so that two trials that begin together read it once.
    let mut bases = BASES.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen(folder).map_err(|error| {
        StageError::failed(format!("cannot read `{}`: {error}", folder.display()))
    })?;
    let known = bases.iter().position(|(known, _)| *known == seen);
    let model = match known {
        Some(place) => bases.remove(place).1,
        None => {
            let _load = debug_span!("load", path = %folder.display()).entered();
            LanguageModel::load_base(folder).map_err(model_failed)?
        }
    };
    bases.push((seen, model.clone()));
    let surplus = bases.len().saturating_sub(KEPT);
    bases.drain(..surplus);
    Ok(model)
}

fn seen(folder: &Path) -> std::io::Result<Seen> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path().metadata()?;
        let [device, number, size] = [file.dev(), file.ino(), file.size()].map(|n| n as i64);
        let (modified, changed) =
            ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        files.push([device, number, size, modified.0, modified.1, changed.0, changed.1]);
    }
    files.sort_unstable();
    Ok((folder.to_owned(), files))
}

/// The folder of a model's base, where its tokenizer is.
pub(crate) fn base_folder(input: &Input) -> Result<&PathBuf, StageError> {
    match input {
        Input::Model { folder, .. } => Ok(folder),
        _ => Err(StageError::bug("an input that should be a model is none")),
    }
}

fn origin(input: &Input) -> Result<Origin, StageError> {
    match input {
        Input::Model { folder, adapters, artifact, .. } => Ok(Origin {
            digest: artifact.digest,
            folder: folder.clone(),
            adapters: adapters.clone(),
        }),
        _ => Err(StageError::bug("an input that should be a model is none")),
    }
}

fn read(origin: &Origin) -> Result<Loaded, StageError> {
    let Origin { folder, adapters, .. } = origin.clone();
    if folder.join("adapter_config.json").is_file() && !folder.join("config.json").is_file() {
        return Err(StageError::with_hint(
            format!("`{}` is an adapter without the model that it belongs to", folder.display()),
            "name its base beside it, `models: { tuned: { path: FOLDER, base: NAME } }`, or train it \
             further: `finetune` takes it as `lora.from`",
        ));
    }
    check_layout(&folder)?;
    let tokenizer = tokenizer(&folder)?;
    let mut model = base(&folder)?;
    for folder in &adapters {
        let adapter = Adapter::load(folder).map_err(ModelError::from).map_err(model_failed)?;
        model.put_frozen(&adapter).map_err(model_failed)?;
    }
    Ok(Loaded { model, tokenizer })
}

/// The tokenizer of a model's folder.
pub(crate) fn tokenizer(folder: &Path) -> Result<Tokenizer, StageError> {
    Tokenizer::load(folder).map_err(tokenizer_failed)
}

/// Rejects folders without `config.json`: the native module needs it.
pub(crate) fn check_layout(folder: &Path) -> Result<(), StageError> {
    if folder.join("config.json").is_file() {
        return Ok(());
    }
    Err(StageError::with_hint(
        format!("`{}` is GGUF, which our own module does not read", folder.display()),
        "`generate` and `score` read it with `backend: mistralrs`; training and embeddings need a folder with \
         safetensors",
    ))
}

/// The model's error as a stage's; an architecture that is not native is a lack of this build, not
/// of the data.
pub(crate) fn model_failed(error: ModelError) -> StageError {
    match error {
        ModelError::Config(ConfigError::Foreign { .. }) => {
            StageError::Environment { message: error.to_string(), hint: None }
        }
        ModelError::Weights(
            WeightsError::Shape { .. } | WeightsError::Missing { .. } | WeightsError::Unread { .. },
        ) => StageError::with_hint(
            error.to_string(),
            "`config.json` and the weights must be of one model",
        ),
        ModelError::Weights(WeightsError::Corrupt { .. }) => StageError::with_hint(
            error.to_string(),
            "the file is cut off or damaged: fetch it again",
        ),
        ModelError::Weights(WeightsError::None(_)) => {
            StageError::with_hint(error.to_string(), A_MODEL)
        }
        _ => failed(error),
    }
}

/// The tokenizer's error as a stage's.
fn tokenizer_failed(error: TokenizerError) -> StageError {
    let hint = match &error {
        TokenizerError::Read { .. } => A_MODEL,
        TokenizerError::Invalid { .. } => {
            "it is the file that the `tokenizers` library writes: fetch it again"
        }
        _ => return failed(error),
    };
    StageError::with_hint(error.to_string(), hint)
}

/// The hint for a folder that is not a whole model.
const A_MODEL: &str =
    "a model is a folder with `config.json`, `*.safetensors` and `tokenizer.json`";

/// An error of the model code, whose text already says where, why and what to do.
pub(crate) fn failed(error: impl std::error::Error) -> StageError {
    StageError::failed(error.to_string())
}

/// Runs `work` on a pool of that many threads, so that a stage keeps to its share of the machine.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, StageError> + Send,
) -> Result<T, StageError> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build().map_err(|error| {
            StageError::Environment {
                message: format!("cannot start {threads} threads: {error}"),
                hint: None,
            }
        })?;
    // What is emitted there belongs to the node too.
    let node = Span::current();
    pool.install(|| node.in_scope(work))
}

/// What can move the last bits of what a model computes: our kernels sum in one order on every
/// processor, so that is their version and the architecture alone.
pub(crate) fn profile() -> String {
    format!("native 2 {}", std::env::consts::ARCH)
}
