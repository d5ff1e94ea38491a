//! Estimates of the memory that a model's work takes beside its weights, in bytes.
//!
//! They follow from shapes alone, so they are known before anything is loaded. What a pass holds at
//! once was counted in `forward` and `backward`, and compared with the peak of the process
//! (`benches/memory.py`).

use crate::backward::loss_block;
use crate::config::ModelConfig;
use crate::kernels::attention::KeyPrecision;

const F32: u64 = size_of::<f32>() as u64;

/// A training, as far as its memory goes.
#[derive(Debug, Clone, Copy)]
pub struct TrainingShape {
    /// Tokens of a micro-batch.
    pub tokens: u64,
    /// Values that are trained.
    pub trained: u64,
    /// Whether the adapters have magnitudes (DoRA), whose gradient needs each layer's output.
    pub dora: bool,
    /// Whether activations are computed again instead of kept.
    pub recompute: bool,
}

impl ModelConfig {
    /// Counts the values of an adapter of one rank on the linear layers of these short names
    /// (`q_proj`); of none means all.
    pub fn adapter_values(&self, rank: usize, targets: &[&str]) -> u64 {
        let (hidden, inter) = (self.hidden, self.intermediate);
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let layers = [
            ("q_proj", hidden, queries),
            ("k_proj", hidden, keys),
            ("v_proj", hidden, keys),
            ("o_proj", queries, hidden),
            ("gate_proj", hidden, inter),
            ("up_proj", hidden, inter),
            ("down_proj", inter, hidden),
        ];
        let wanted =
            layers.iter().filter(|(name, ..)| targets.is_empty() || targets.contains(name));
        let of_layer: usize = wanted.map(|(_, inputs, outputs)| rank * (inputs + outputs)).sum();
        (self.layers * of_layer) as u64
    }

    /// Bytes of a training: trained values with gradients and both moments, activations, logits.
    pub fn training_bytes(&self, shape: TrainingShape) -> u64 {
        let kept = match shape.recompute {
            true => (self.layers * self.hidden + self.kept_values(shape.dora)) as u64,
            false => (self.layers * self.kept_values(shape.dora)) as u64,
        };
        let activations = shape.tokens * (kept + self.working_values());
        4 * F32 * shape.trained + with_spare(F32 * (activations + self.logits(shape.tokens)))
    }

    /// Bytes of a forward pass over so many tokens.
    pub fn scoring_bytes(&self, tokens: u64) -> u64 {
        with_spare(F32 * (tokens * self.working_values() + self.logits(tokens)))
    }

    /// Bytes of the generation of so many rows at once, each of at most `positions` positions.
    pub fn generation_bytes(&self, rows: u64, positions: u64, keys: KeyPrecision) -> u64 {
        let values = (2 * self.layers * self.kv_heads * self.head_dim) as u64;
        let size = match keys {
            KeyPrecision::F32 => F32,
            KeyPrecision::Bf16 => F32 / 2,
        };
        let logits = F32 * rows * self.vocab as u64;
        size * rows * positions * values + logits + self.scoring_bytes(positions)
    }

    /// Values that the backward pass of one layer needs of each token.
    fn kept_values(&self, dora: bool) -> usize {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let kept = 4 * self.hidden + 2 * queries + 2 * keys + 3 * self.intermediate;
        let outputs = 2 * self.hidden + queries + 2 * keys + 2 * self.intermediate;
        if dora { kept + outputs } else { kept }
    }

    /// Values of each token that a pass holds while it works on one layer: inputs, gradients and
    /// their packed copies.
    fn working_values(&self) -> u64 {
        let queries = self.heads * self.head_dim;
        (4 * self.hidden + 2 * queries + 4 * self.intermediate) as u64
    }

    /// Logits of a block of positions, and their packed copy.
    fn logits(&self, tokens: u64) -> u64 {
        2 * tokens.min(loss_block(self.vocab) as u64) * self.vocab as u64
    }
}

/// Buffers that wait for a matrix of another size, a quarter of those in use.
fn with_spare(bytes: u64) -> u64 {
    bytes + bytes / 4
}
