//! Errors of fetching, with their remedies.

use std::io;
use std::path::{Path, PathBuf};

use refrain_engine::language::explain::{ErrorClass, Explain};

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address of the hub is none.
    #[error("HF_ENDPOINT is not the address of a hub: {reason}")]
    Endpoint {
        /// The reason.
        reason: String,
    },
    /// The folder for fetched files is not known.
    #[error("no folder is known for fetched files")]
    NoFolder,
    /// The network may not be used.
    #[error("`{what}` is not in the cache, and HF_HUB_OFFLINE forbids to fetch it")]
    Offline {
        /// The repository, or the address of a file.
        what: String,
    },
    /// The owner of a repository must grant access.
    #[error("`{what}` is gated: its owner has not granted you access")]
    Gated {
        /// The repository.
        what: String,
        /// The page on which access is asked for.
        page: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The server denies access.
    #[error("access to `{what}` is denied ({status})")]
    Denied {
        /// The repository, or the address of a file.
        what: String,
        /// The status of the answer.
        status: u16,
        /// Whether it is of the hub, which says the same of what is not there.
        is_hub: bool,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// It is not there.
    #[error("{message}")]
    Absent {
        /// The missing thing in words.
        message: String,
        /// The names on offer.
        hint: Option<String>,
    },
    /// The server cannot be reached, or breaks off.
    #[error("`{url}` cannot be fetched: {reason}")]
    Unreachable {
        /// The address, without its query.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The answer makes no sense.
    #[error("`{url}` cannot be fetched: {reason}")]
    Answer {
        /// The address, without its query.
        url: String,
        /// The reason.
        reason: String,
    },
    /// A file is larger than the limit.
    #[error("`{what}` has {bytes} bytes or more; the limit is {limit}")]
    TooLarge {
        /// The file.
        what: String,
        /// The bytes that are known of it.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk has less space than a source takes.
    #[error("`{what}` takes {bytes} bytes, and `{}` has {free} free", folder.display())]
    NoSpace {
        /// The repository, or the address of a file.
        what: String,
        /// The bytes that are to be fetched.
        bytes: u64,
        /// The free bytes.
        free: u64,
        /// The folder.
        folder: PathBuf,
    },
    /// The bytes are not those of the digest.
    #[error("`{what}` arrived with the digest {found}; expected {expected}")]
    WrongBytes {
        /// The file.
        what: String,
        /// The digest that was promised.
        expected: String,
        /// The digest of the bytes.
        found: String,
        /// Whether the workflow, not the hub, promised the digest.
        is_declared: bool,
    },
    /// A commit means other bytes than before.
    #[error(
        "`{what}` is another file than before under the commit {commit}: {found}, not {before}"
    )]
    Changed {
        /// The file.
        what: String,
        /// The commit.
        commit: String,
        /// The digest that the lock or the listing has.
        before: String,
        /// The digest now.
        found: String,
    },
    /// The listing of a repository has names that no repository has.
    #[error("the list of files of `{what}` is refused: {reason}")]
    Listing {
        /// The repository.
        what: String,
        /// The reason.
        reason: String,
    },
    /// The only weights of a model are pickled.
    #[error("the weights of `{what}` are pickled (`{file}`), and reading them would run code")]
    Pickle {
        /// The repository.
        what: String,
        /// The file.
        file: String,
    },
    /// The system refused.
    #[error("cannot write `{}`: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A stop was asked for.
    #[error("interrupted; what was fetched is kept, and the next fetch goes on from there")]
    Interrupted,
}

impl FetchError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> FetchError + '_ {
        |error| FetchError::Io { path: path.into(), error }
    }
}

impl Explain for FetchError {
    fn class(&self) -> ErrorClass {
        match self {
            FetchError::Absent { .. } | FetchError::Pickle { .. } => ErrorClass::Input,
            FetchError::WrongBytes { is_declared: true, .. } => ErrorClass::Input,
            FetchError::Changed { .. } => ErrorClass::Difference,
            FetchError::Interrupted => ErrorClass::Interrupted,
            _ => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        let token = |has_token: &bool| match has_token {
            true => "the token that was sent (HF_TOKEN, or that of `hf auth login`) has no access",
            false => "set HF_TOKEN, or log in with `hf auth login`",
        };
        Some(match self {
            FetchError::Endpoint { .. } => "unset HF_ENDPOINT for `https://huggingface.co`".into(),
            FetchError::NoFolder => "set HOME or HF_HOME".into(),
            FetchError::Offline { .. } => {
                "`refrain fetch WORKFLOW` fetches it where there is a network; unset HF_HUB_OFFLINE"
                    .into()
            }
            FetchError::Gated { page, has_token, .. } => {
                format!("ask for access at {page}; {}", token(has_token))
            }
            FetchError::Denied { is_hub: true, has_token, .. } => {
                format!("it is private, or its name is wrong; {}", token(has_token))
            }
            FetchError::Denied { is_hub: false, .. } => {
                "fetch the file by hand and give its `path`".into()
            }
            FetchError::Absent { hint, .. } => return hint.clone(),
            FetchError::Unreachable { .. } => {
                "run again: what was fetched is kept; HF_HUB_OFFLINE=1 takes what is in the cache"
                    .into()
            }
            FetchError::Answer { .. } => {
                "is it the right address? HF_ENDPOINT names the hub".into()
            }
            FetchError::TooLarge { .. } => {
                "`[fetch] max_size` in the configuration raises the limit (docs/machine.md)".into()
            }
            FetchError::NoSpace { .. } => "HF_HOME names another folder".into(),
            FetchError::WrongBytes { is_declared: true, .. } => {
                "the file at that address is another one than the workflow means: check `digest`"
                    .into()
            }
            FetchError::WrongBytes { is_declared: false, .. } => {
                "run again; if it stays so, the server or something before it changes files".into()
            }
            FetchError::Changed { .. } => {
                "somebody rewrote the history, or it is another hub; to accept it: \
                 `refrain run WORKFLOW --update NAME`"
                    .into()
            }
            FetchError::Listing { .. } => {
                "nothing of it was fetched; do not trust this server".into()
            }
            FetchError::Pickle { .. } => {
                "look for a revision with safetensors, or convert the weights and give their `path`"
                    .into()
            }
            FetchError::Io { .. } => "HF_HOME names another folder for fetched files".into(),
            FetchError::Interrupted => return None,
        })
    }
}
