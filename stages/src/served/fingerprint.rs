//! The fingerprint of a served model: what it makes of fixed probes, pinned at its first use.
//!
//! A server can be given other weights under the same name. So each use begins with the probes, and
//! a difference stops the stage.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use refrain_cache::Digest;

/// Version of the probes.
const VERSION: u32 = 1;

/// Largest difference of a log-probability, in nats, that batches and kernels of a server make.
pub(super) const TOLERANCE: f64 = 0.05;

/// The probes. Of each, the likeliest next token is asked for: its log-probability hardly moves
/// where another token is nearly as likely, which a longer text would not survive.
pub(super) const PROBES: [&str; 6] = [
    "The capital of France is",
    "1, 2, 3, 4,",
    "def add(a, b):\n    return",
    "Q: How many legs does a spider have?\nA:",
    "Das Wasser im Topf",
    "{\"name\": \"Ada\", \"born\":",
];

/// Tokens of the text that stands for a probe where a server gives no log-probabilities.
pub(super) const TEXT_TOKENS: usize = 8;

/// The answers of a model to the probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    probes: u32,
    #[serde(flatten)]
    made: Made,
}

/// The results of the probes, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Made {
    /// The log-probability of the likeliest next token.
    Logprobs(Vec<f64>),
    /// The text of a greedy continuation.
    Texts(Vec<String>),
}

impl Fingerprint {
    /// Makes the fingerprint of log-probabilities.
    pub fn of_logprobs(logprobs: impl IntoIterator<Item = f32>) -> Fingerprint {
        // Six digits are more than the tolerance tells apart, and keep the lock short.
        let rounded = |value: f32| (f64::from(value) * 1e6).round() / 1e6;
        let made = Made::Logprobs(logprobs.into_iter().map(rounded).collect());
        Fingerprint { probes: VERSION, made }
    }

    /// Makes the fingerprint of greedy texts.
    pub fn of_texts(texts: Vec<String>) -> Fingerprint {
        Fingerprint { probes: VERSION, made: Made::Texts(texts) }
    }

    /// Reads a pinned fingerprint; `None` where it is one of other probes.
    pub fn from_pin(pin: &Value) -> Option<Fingerprint> {
        let read: Fingerprint = serde_json::from_value(pin.get("fingerprint")?.clone()).ok()?;
        (read.probes == VERSION).then_some(read)
    }

    /// Returns it as it is pinned.
    pub fn to_pin(&self) -> Value {
        serde_json::json!({ "fingerprint": self })
    }

    /// Returns the digest that enters the keys of rows.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(self.to_pin().to_string().as_bytes())
    }

    /// Describes how what a model makes now differs from this; `None` where it does not.
    pub fn difference(&self, now: &Fingerprint) -> Option<String> {
        match (&self.made, &now.made) {
            (Made::Logprobs(before), Made::Logprobs(after)) => {
                let each = before.iter().zip(after).map(|(a, b)| (a - b).abs());
                let largest = each.fold(0.0, f64::max);
                let same = before.len() == after.len() && largest <= TOLERANCE;
                (!same).then(|| {
                    format!("its log-probabilities of fixed texts differ by {largest:.3} nats")
                })
            }
            (Made::Texts(before), Made::Texts(after)) => {
                let at = before.iter().zip(after).position(|(a, b)| a != b)?;
                Some(format!(
                    "it continues `{}` by `{}`, and did so by `{}`",
                    PROBES[at.min(PROBES.len() - 1)].escape_debug(),
                    after[at].escape_debug(),
                    before[at].escape_debug(),
                ))
            }
            (Made::Logprobs(_), Made::Texts(_)) => Some("it gives no log-probabilities now".into()),
            (Made::Texts(_), Made::Logprobs(_)) => {
                Some("it gives log-probabilities, which it did not".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_model_and_other_weights_are_not() {
        let pinned = Fingerprint::of_logprobs([-0.1, -2.0]);
        let read = Fingerprint::from_pin(&pinned.to_pin()).unwrap();
        assert_eq!((&read, read.digest()), (&pinned, pinned.digest()));
        assert_eq!(pinned.difference(&Fingerprint::of_logprobs([-0.14, -1.96])), None);
        let other = pinned.difference(&Fingerprint::of_logprobs([-0.1, -2.06])).unwrap();
        assert_eq!(other, "its log-probabilities of fixed texts differ by 0.060 nats");
        assert!(pinned.difference(&Fingerprint::of_logprobs([-0.1])).is_some());
        assert!(pinned.difference(&Fingerprint::of_texts(vec!["a".into()])).is_some());

        let texts = Fingerprint::of_texts(vec!["a".into(), "b".into()]);
        assert_eq!(texts.difference(&texts.clone()), None);
        let other = texts.difference(&Fingerprint::of_texts(vec!["a".into(), "c".into()])).unwrap();
        assert_eq!(other, "it continues `1, 2, 3, 4,` by `c`, and did so by `b`");
    }
}
