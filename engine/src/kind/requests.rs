//! The requests of a node to the server of its model, told before it runs.

use serde_json::{Map, Value};

/// The facts from which a kind tells a node's requests.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    /// The parameters, typed and with defaults; references removed.
    pub params: &'a Map<String, Value>,
    /// Whether the workflow names a server for its model.
    pub is_served: bool,
    /// Returns the number of rows of an input by its path, where it is known.
    pub rows: &'a dyn Fn(&str) -> Option<u64>,
}

/// The requests of a node to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// It asks no server.
    None,
    /// It asks one, how often is not known yet.
    Unknown,
    /// So many at most.
    AtMost {
        /// Requests.
        requests: u64,
        /// Tokens that they generate together.
        tokens_out: u64,
    },
}
