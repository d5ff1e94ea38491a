//! Which code computes a model's logits: our own module, or a backend that the binary brings.
//!
//! The kinds know backends by the trait [`Backend`] alone. The binary registers the one it was
//! built with; a build without it says so when a node needs it.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Map, Value};
use tracing::debug_span;

use refrain_cache::{Digest, Usage};
use refrain_engine::kind::{
    Check, Context, Input, ModelFacts, Problem, ServedApi, StageError, choices,
};
use refrain_engine::source::model_folder::ModelFolder;
use refrain_lm::config::{ConfigError, ModelConfig};
use refrain_lm::generate::{
    Decoding, GenerateError, Generated, Limits, OnProgress, Request, generate,
};
use refrain_lm::sampling::Sampler;
use refrain_lm::score::{OnScored, score_and_rank};
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::weights::weight_files;

use crate::canonical::{self, FindModel};
use crate::models::{self, Loaded, failed, model_failed};
use crate::served::{PROFILE, Purpose, Served};

/// A backend beside our own module.
pub trait Backend: Sync {
    /// Its name, its version, and what else can move the last bits of what it computes.
    fn profile(&self) -> String;

    /// Loads a model: a folder, or a GGUF file.
    fn load(&self, path: &Path) -> Result<Box<dyn BackendModel>, StageError>;
}

/// A model that a backend computes. What it gives for a row depends on that row alone.
pub trait BackendModel: Send + Sync {
    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;

    /// Limit of the tokens of a row.
    fn context(&self) -> usize;

    /// Continues every prompt once for each of its samples.
    fn generate(
        &self,
        requests: &[Request],
        sampler: &Sampler,
        limits: &Limits,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Vec<Generated>>, StageError>;

    /// The natural-log probabilities of a row's tokens after the first, given all before; at least
    /// two tokens.
    fn score(&self, ids: &[u32]) -> Result<Vec<f32>, StageError>;
}

static MISTRALRS: OnceLock<&'static dyn Backend> = OnceLock::new();

/// Makes mistralrs known; the first call counts.
pub fn register_mistralrs(backend: &'static dyn Backend) {
    MISTRALRS.get_or_init(|| backend);
}

choices! {
    /// The backend that computes a model.
    pub(crate) enum BackendChoice {
        /// The model's files decide.
        Auto = "auto",
        /// Our own module.
        Native = "native",
        /// mistralrs.
        Mistralrs = "mistralrs",
        /// A server.
        Server = "server",
    }
}

/// The help of the parameter `backend`.
pub(crate) const ABOUT_BACKEND: &str = "The backend; `auto` chooses by the model's folder alone: safetensors of Llama, Mistral, \
     Gemma 2 and 3, Qwen 2 and 3, OLMo 2 and Phi-3 are native, everything else is mistralrs's; \
     `server` asks the one that the machine's configuration has for the folder";

impl BackendChoice {
    /// Returns the backend of the model at a path. It is a function of the model's files, so that a
    /// key is the same in every build.
    fn resolve(self, path: &Path) -> BackendChoice {
        match self {
            BackendChoice::Auto if is_native(path) => BackendChoice::Native,
            BackendChoice::Auto => BackendChoice::Mistralrs,
            given => given,
        }
    }
}

/// Whether our own module computes such a model. A broken one of our families, and an adapter
/// alone, are its own to refuse.
pub(crate) fn is_native(path: &Path) -> bool {
    match ModelConfig::load(path) {
        Err(ConfigError::Foreign { .. } | ConfigError::Unsupported(_)) => false,
        Err(ConfigError::Io { .. }) => path.join("adapter_config.json").is_file(),
        // A folder of one of our families that holds GGUF and nothing else is not broken.
        Ok(_) | Err(_) => {
            let gguf = ModelFolder::open(path).map(|model| model.gguf().next().is_some());
            weight_files(path).is_ok() || gguf.is_ok_and(|gguf| !gguf)
        }
    }
}

/// The feature for which our own module does not compute a folder's model, to end a sentence.
fn why_not_native(path: &Path) -> String {
    match ModelConfig::load(path) {
        Err(error @ (ConfigError::Foreign { .. } | ConfigError::Unsupported(_))) => {
            format!(": {error}")
        }
        _ => String::new(),
    }
}

/// Reads all that defaults depend on from the files of a model.
pub fn model_facts(folder: &Path) -> ModelFacts {
    let native = ("native".to_owned(), is_native(folder).into());
    let template = Tokenizer::folder_has_chat_template(folder);
    let template = template.map(|has| ("chat_template".to_owned(), has.into()));
    [native].into_iter().chain(template).collect()
}

/// Writes `auto` in a stage's parameters where what is given is what `auto` would choose, so that
/// both make one key: the model's digest is in it, and with that what `auto` chooses. A model that
/// another stage makes is taken for native, as what is trained here is.
pub(crate) fn canonicalize(params: &mut Map<String, Value>, model: FindModel<'_>) {
    let native = || canonical::model_fact(model, "native").unwrap_or(true);
    let served = model("model").is_some_and(|facts| facts.contains_key("served"));
    let usual = match params.get("backend").and_then(Value::as_str) {
        Some("server") => served,
        _ if served => false,
        Some("native") => native(),
        Some("mistralrs") => !native(),
        _ => false,
    };
    if usual {
        params.insert("backend".into(), "auto".into());
    }
}

/// Checks that what is asked of a served model is what its server can do.
pub(crate) fn check_served(check: &Check<'_>, purpose: Purpose, problems: &mut Vec<Problem>) {
    let Some(api) = (check.served)("model") else { return };
    let text = |name: &str| check.params.get(name).and_then(Value::as_str);
    if let Some(backend @ ("native" | "mistralrs")) = text("backend") {
        problems.push(
            Problem::at("backend", format!("`{backend}` needs weights, and a server holds them"))
                .hint("leave `backend` out"),
        );
    }
    if api == ServedApi::Completions {
        return;
    }
    if purpose == Purpose::Score {
        let message = "`api: chat` cannot score: the server renders, so tokens are not known here";
        problems.push(
            Problem::at("model", message)
                .hint("give the model `api: completions` and its `tokenizer`"),
        );
    }
    if check.params.get("chat") == Some(&Value::Bool(false)) {
        let message = "`chat: false` beside `api: chat`, by which the server renders a chat";
        problems.push(
            Problem::at("chat", message).hint("leave `chat` out, or take `api: completions`"),
        );
    }
}

/// The word with which the profile of a training outside begins.
pub(crate) const PEFT_PROFILE: &str = "peft";

/// Whether results under a profile are the same to the bit each time.
pub(crate) fn is_exact(profile: &str) -> bool {
    !profile.split(' ').next().is_some_and(|word| [PROFILE, PEFT_PROFILE].contains(&word))
}

/// A model, loaded by what computes it.
pub(crate) enum LoadedModel {
    /// Our own module.
    Native(Arc<Loaded>),
    /// mistralrs, and its profile.
    Mistralrs(Arc<dyn BackendModel>, String),
    /// A server, which scores.
    Served(Box<Served>),
}

/// The last model that mistralrs computed. Only one is kept: it may be large.
static LOADED: Mutex<Option<(Digest, Arc<dyn BackendModel>)>> = Mutex::new(None);

/// Loads the model of an input, or finds the server that scores with it.
pub(crate) fn load(
    context: &Context<'_>,
    input: &Input,
    choice: BackendChoice,
) -> Result<LoadedModel, StageError> {
    if Served::is_meant(input, choice == BackendChoice::Server) {
        let served = Served::connect(context, input, Purpose::Score)?;
        return Ok(LoadedModel::Served(Box::new(served)));
    }
    let Input::Model { folder, adapters, artifact, .. } = input else {
        return Err(StageError::bug("an input that should be a model is none"));
    };
    if choice.resolve(folder) != BackendChoice::Mistralrs {
        return Ok(LoadedModel::Native(models::load(input)?));
    }
    let Some(backend) = MISTRALRS.get() else {
        return Err(StageError::Environment {
            message: format!(
                "`{}` needs mistralrs, which this build lacks{}",
                folder.display(),
                why_not_native(folder)
            ),
            hint: Some(
                "`cargo build --release --features mistralrs` builds one that has it; Llama, Mistral, \
                 Gemma 2 and 3, Qwen 2 and 3, OLMo 2 and Phi-3 in safetensors need none"
                    .into(),
            ),
        });
    };
    if !adapters.is_empty() {
        return Err(StageError::with_hint(
            "mistralrs cannot apply the adapter to its base",
            "merge it when it is trained (`merge: true`), or take `backend: native`",
        ));
    }
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let model = match loaded.take() {
        Some((digest, model)) if digest == artifact.digest => model,
        _ => {
            debug_span!("load", path = %folder.display()).in_scope(|| backend.load(folder))?.into()
        }
    };
    *loaded = Some((artifact.digest, model.clone()));
    Ok(LoadedModel::Mistralrs(model, backend.profile()))
}

impl LoadedModel {
    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        match self {
            LoadedModel::Native(loaded) => &loaded.tokenizer,
            LoadedModel::Mistralrs(model, _) => model.tokenizer(),
            LoadedModel::Served(served) => {
                served.tokenizer().expect("a server that scores was probed with a tokenizer")
            }
        }
    }

    /// Limit of the tokens of a row, and size of the vocabulary.
    pub fn sizes(&self) -> (usize, usize) {
        match self {
            LoadedModel::Native(loaded) => {
                (loaded.model.config.max_positions, loaded.model.config.vocab)
            }
            LoadedModel::Mistralrs(model, _) => (model.context(), model.tokenizer().vocab_size()),
            LoadedModel::Served(served) => (served.context(), self.tokenizer().vocab_size()),
        }
    }

    /// Returns its profile: whatever can move the last bits.
    pub fn profile(&self) -> String {
        match self {
            LoadedModel::Native(_) => models::profile(),
            LoadedModel::Mistralrs(_, profile) => profile.clone(),
            LoadedModel::Served(served) => served.profile().to_owned(),
        }
    }

    /// Returns the requests that were made to a server.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            LoadedModel::Native(_) | LoadedModel::Mistralrs(..) => None,
            LoadedModel::Served(served) => served.usage(),
        }
    }

    /// Returns the part of the keys of rows that stands for what computes them: the profile, or the
    /// fingerprint of a server, which may be restarted in another version.
    pub fn memo_profile(&self) -> String {
        match self {
            LoadedModel::Native(_) | LoadedModel::Mistralrs(..) => self.profile(),
            LoadedModel::Served(served) => served.memo_profile(),
        }
    }

    /// Continues every prompt once for each of its samples.
    pub fn generate(
        &self,
        requests: &[Request],
        sampler: &Sampler,
        limits: &Limits,
        decoding: Decoding,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Vec<Generated>>, StageError> {
        match self {
            LoadedModel::Native(loaded) => {
                let Loaded { model, tokenizer } = loaded.as_ref();
                generate(model, tokenizer, requests, sampler, limits, decoding, progress).map_err(
                    |error| match error {
                        GenerateError::Interrupted => StageError::Cancelled,
                        GenerateError::Model(error) => model_failed(error),
                        other => failed(other),
                    },
                )
            }
            LoadedModel::Mistralrs(model, _) => model.generate(requests, sampler, limits, progress),
            LoadedModel::Served(_) => Err(StageError::bug("a server is asked row by row")),
        }
    }

    /// Calls `on_row` for each row of at least two tokens with the log-probabilities of its tokens
    /// after the first, and whether each is the likeliest; with none of the latter where the backend
    /// does not tell.
    pub fn score(
        &self,
        rows: &[&[u32]],
        batch: Option<usize>,
        on_row: OnScored<'_>,
    ) -> Result<(), StageError> {
        match self {
            LoadedModel::Native(loaded) => {
                score_and_rank(&loaded.model, rows, batch, on_row).map_err(model_failed)
            }
            LoadedModel::Mistralrs(model, _) => {
                for (row, ids) in rows.iter().enumerate() {
                    on_row(row, &model.score(ids)?, &[]);
                }
                Ok(())
            }
            LoadedModel::Served(_) => Err(StageError::bug("a server is asked row by row")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str, files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 32,
                            "num_hidden_layers": 1, "intermediate_size": 16}"#;

    #[test]
    fn auto_is_a_function_of_the_folder() {
        let weights = ["model.safetensors"];
        let stretched =
            LLAMA.replace("8,", "8, \"rope_scaling\": {\"type\": \"mystery\", \"factor\": 2.0},");
        let broken = LLAMA.replace("\"hidden_size\": 8", "\"hidden_size\": -8");
        for (config, files, expected) in [
            (LLAMA, &weights[..], BackendChoice::Native),
            // Broken: ours to refuse.
            (LLAMA, &["model.safetensors.index.json"], BackendChoice::Native),
            (LLAMA, &["model.gguf"], BackendChoice::Mistralrs),
            (&LLAMA.replace("llama", "falcon"), &weights, BackendChoice::Mistralrs),
            (&stretched, &weights, BackendChoice::Mistralrs),
            (&broken, &weights, BackendChoice::Native),
        ] {
            let folder = folder(config, files);
            assert_eq!(BackendChoice::Auto.resolve(folder.path()), expected, "{config} {files:?}");
            assert_eq!(BackendChoice::Native.resolve(folder.path()), BackendChoice::Native);
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(
            BackendChoice::Auto.resolve(&empty.path().join("model.gguf")),
            BackendChoice::Mistralrs
        );
    }

    #[test]
    fn what_auto_would_choose_makes_the_same_key() {
        let native = folder(LLAMA, &["model.safetensors"]);
        let foreign = folder(LLAMA, &["model.gguf"]);
        let settled = |word: &str, model: Option<&Path>| {
            let mut params = Map::from_iter([("backend".to_owned(), Value::from(word))]);
            canonicalize(&mut params, &|path| model.filter(|_| path == "model").map(model_facts));
            params["backend"].as_str().unwrap().to_owned()
        };
        let (native, foreign) = (Some(native.path()), Some(foreign.path()));
        for (word, model, expected) in [
            ("auto", native, "auto"),
            ("native", native, "auto"),
            ("mistralrs", native, "mistralrs"),
            ("native", foreign, "native"),
            ("mistralrs", foreign, "auto"),
            ("native", None, "auto"),
            ("mistralrs", None, "mistralrs"),
        ] {
            assert_eq!(settled(word, model), expected, "{word}");
        }
    }
}
