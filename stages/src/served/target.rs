//! Where the model of an input is served, and what names it there.

use std::path::PathBuf;
use std::sync::Arc;

use refrain_cache::Digest;
use refrain_engine::kind::machine::ServerAccess;
use refrain_engine::kind::{Context, Input, ServedApi, StageError, pin_name};

use crate::run::fill;

use super::process::{self, Process};

/// A model at a server.
pub(super) struct Target {
    /// The address, up to `/v1`.
    pub address: String,
    /// The name of the model there; the only one where absent.
    pub name: Option<String>,
    pub api: ServedApi,
    /// The key, resolved.
    pub key: Option<String>,
    /// The folder of the tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// The name that its fingerprint is pinned under.
    pub identity: String,
    /// Whether the workflow gives it a revision; the weights of a folder are known by their bytes.
    pub has_revision: bool,
    /// Folders of adapters that the server must put on the model.
    pub adapters: Vec<PathBuf>,
    /// The server, where it was started for the model.
    pub process: Option<Arc<Process>>,
}

impl Target {
    /// Finds the server of the model at an input: the one that the workflow names, or for a folder
    /// the one that the machine's configuration has.
    pub fn of(context: &Context<'_>, input: &Input) -> Result<Target, StageError> {
        let Input::Model { folder, adapters, artifact, bases, served } = input else {
            return Err(StageError::bug("an input that should be a model is none"));
        };
        let digests: Vec<&Digest> = [&artifact.digest].into_iter().chain(bases).collect();
        let identity = pin_name(digests);
        if let Some(spec) = served {
            let key = spec.key.as_deref().map(|key| resolved(context, key)).transpose()?;
            return Ok(Target {
                address: spec.address.clone(),
                name: Some(spec.name.clone()),
                api: spec.api,
                key,
                // The artifact has its own copy of the files that count.
                tokenizer: spec.tokenizer.as_ref().map(|_| folder.clone()),
                identity,
                has_revision: true,
                adapters: Vec::new(),
                process: None,
            });
        }

        if !folder.join("tokenizer.json").is_file() {
            return Err(StageError::with_hint(
                format!(
                    "`{}` holds no `tokenizer.json`, so prompts for a server cannot be tokenised",
                    folder.display()
                ),
                "put the model's `tokenizer.json` beside its weights",
            ));
        }
        let Some(server) = context.machine.server_of(folder) else {
            return Err(StageError::Environment {
                message: format!(
                    "`backend: server` needs a server of `{}`, and the configuration names none",
                    folder.display()
                ),
                hint: Some(
                    "put `[[servers]]` with an `address` into the configuration \
                     (docs/machine.md), or leave `backend` out"
                        .into(),
                ),
            });
        };
        let key = server
            .key_variable
            .as_deref()
            .map(|name| (context.environment)(name).ok_or_else(|| unset(name)));
        let key = key.transpose()?;
        let (address, name, process) = match &server.access {
            ServerAccess::Running { address, name } => (address.clone(), name.clone(), None),
            ServerAccess::Start { command, timeout } => {
                let process = process::started(context, command, *timeout, folder, key.as_deref())?;
                (process.address().to_owned(), None, Some(process))
            }
        };
        Ok(Target {
            address: address.trim_end_matches('/').to_owned(),
            name,
            api: ServedApi::Completions,
            key,
            tokenizer: Some(folder.clone()),
            identity,
            has_revision: false,
            adapters: adapters.clone(),
            process,
        })
    }
}

/// Puts the values of `${env:NAME}` into a key.
fn resolved(context: &Context<'_>, key: &str) -> Result<String, StageError> {
    let value = |name: &str| (context.environment)(name.strip_prefix("env:")?);
    fill(key, value).map_err(|missing| unset(missing.trim_start_matches("env:")))
}

fn unset(name: &str) -> StageError {
    StageError::Environment {
        message: format!("the server's key is in `{name}`, which is not set"),
        hint: Some("set the variable before starting refrain".into()),
    }
}
