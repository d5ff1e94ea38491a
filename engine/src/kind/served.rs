//! A model that a server computes, as a workflow declares it. Its weights are not here.

use std::path::PathBuf;

/// The interface by which a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedApi {
    /// `/completions`: rendered and tokenised here.
    Completions,
    /// `/chat/completions`: the server renders.
    Chat,
}

impl ServedApi {
    /// Names of the interfaces, as workflows spell them.
    pub const WORDS: [&'static str; 2] = ["completions", "chat"];

    /// Returns its name.
    pub fn word(self) -> &'static str {
        ServedApi::WORDS[self as usize]
    }
}

/// A served model, as a workflow declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSpec {
    /// The address of the server, up to `/v1`.
    pub address: String,
    /// The name of the model there.
    pub name: String,
    /// Text that changes when the weights do.
    pub revision: String,
    /// The folder of its tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// The interface.
    pub api: ServedApi,
    /// The key of the server, in which `${env:NAME}` stands as written.
    pub key: Option<String>,
}
