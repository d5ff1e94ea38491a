//! Results as a lock names them.

use refrain_cache::{Key, NodeResult, Record, same_metrics};

/// The result of a node, as a lock names it.
#[derive(Debug, Clone)]
pub struct Named {
    /// The node, for messages.
    pub node: String,
    /// Its key.
    pub key: Key,
    /// Its artifacts, metrics and profile.
    pub result: NodeResult,
}

impl Named {
    /// Returns what speaks against a record from elsewhere being that of this result.
    pub(crate) fn refuse(&self, record: &Record) -> Option<String> {
        let (named, found) = (&self.result, &record.result);
        if let Some(reason) = refuse_key(&self.key, record) {
            return Some(reason);
        }
        let what = if named.artifacts != found.artifacts {
            "outputs"
        } else if !same_metrics(&named.metrics, &found.metrics) {
            "metrics"
        } else if named.profile != found.profile {
            "a profile"
        } else {
            return None;
        };
        Some(format!("the record has {what} other than the lock says"))
    }
}

/// Returns what speaks against a record being one of a key: a manifest that has another.
pub(crate) fn refuse_key(key: &Key, record: &Record) -> Option<String> {
    let same = record.key == *key && record.manifest.key() == *key;
    (!same).then(|| "the record's manifest does not have its key".into())
}
