//! Facts about models that are found out at their first use and pinned in the lock, such as the
//! fingerprint of a served one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use refrain_cache::Digest;

/// Pinned facts by the name of their model, as [`pin_name`] makes it.
pub type Pinned = BTreeMap<String, Value>;

/// The pinned facts of a run: those of the lock, and those that its stages find out.
#[derive(Debug, Default)]
pub struct Pins(Mutex<Pinned>);

impl Pins {
    /// Begins with known facts.
    pub fn new(known: Pinned) -> Pins {
        Pins(Mutex::new(known))
    }

    /// Returns the fact of a model.
    pub fn get(&self, model: &str) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(model).cloned()
    }

    /// Pins the fact of a model, and returns the one that counts: the first.
    pub fn pin(&self, model: String, fact: Value) -> Value {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(model).or_insert(fact).clone()
    }

    /// Returns all facts.
    pub fn all(&self) -> Pinned {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Names a model by its digests: its own and, for an adapter, those of what it is applied to.
pub fn pin_name<'d>(digests: impl IntoIterator<Item = &'d Digest>) -> String {
    digests.into_iter().map(Digest::to_string).collect::<Vec<_>>().join("+")
}
