//! Counts the requests of a stage, and their tokens as the server counts them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use refrain_cache::Usage;

/// The requests so far.
#[derive(Debug)]
pub(super) struct UsageCount(Mutex<Usage>);

impl Default for UsageCount {
    fn default() -> UsageCount {
        UsageCount(Mutex::new(Usage { requests: 0, tokens_in: Some(0), tokens_out: Some(0) }))
    }
}

impl UsageCount {
    /// Adds an answer.
    pub fn add(&self, answer: &Value) {
        // SGLang's own interface calls it otherwise.
        let counts = answer.get("usage").or_else(|| answer.get("meta_info"));
        let sum = |before: Option<u64>, name: &str| {
            Some(before?.saturating_add(counts?.get(name)?.as_u64()?))
        };
        let mut usage = self.usage();
        usage.requests += 1;
        usage.tokens_in = sum(usage.tokens_in, "prompt_tokens");
        usage.tokens_out = sum(usage.tokens_out, "completion_tokens");
    }

    /// Returns the sum; `None` where nothing was asked.
    pub fn total(&self) -> Option<Usage> {
        Some(*self.usage()).filter(|usage| usage.requests > 0)
    }

    /// Numbers alone; a thread that panicked left them sound.
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_one_answer_does_not_count_has_no_sum() {
        let usage = UsageCount::default();
        assert_eq!(usage.total(), None);
        usage.add(&json!({ "usage": { "prompt_tokens": 3, "completion_tokens": 2 } }));
        usage.add(&json!({ "meta_info": { "prompt_tokens": 4, "completion_tokens": 1 } }));
        let of = |requests, tokens_in, tokens_out| Some(Usage { requests, tokens_in, tokens_out });
        assert_eq!(usage.total(), of(2, Some(7), Some(3)));
        usage.add(&json!({ "usage": { "completion_tokens": 5 } }));
        usage.add(&json!({ "usage": { "prompt_tokens": 3, "completion_tokens": 2 } }));
        assert_eq!(usage.total(), of(4, None, Some(10)));
    }
}
