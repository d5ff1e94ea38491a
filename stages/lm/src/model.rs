//! A language model in memory: its configuration, its tensors by name, and the adapters on its
//! linear layers.

mod adapt;
mod load;
mod stored;

use std::path::PathBuf;
use std::sync::Arc;

use crate::adapter::AdapterError;
use crate::config::{ConfigError, ModelConfig};
use crate::kernels::attention::Attention;
use crate::rope::Rotary;
use crate::weights::WeightsError;

pub use adapt::LoraSettings;
pub use stored::Stored;

/// A model folder, and adapters to apply to it in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPath {
    /// The folder with configuration, weights and tokenizer.
    pub folder: PathBuf,
    /// Folders of PEFT adapters, the one nearest the base first.
    pub adapters: Vec<PathBuf>,
}

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// An adapter does not fit the model.
    #[error("the adapter does not fit the model: {0}")]
    Misfit(String),
    /// A row is longer than the context.
    #[error("row {row} has {tokens} tokens; the model takes at most {limit}")]
    TooLong {
        /// The row, from 0.
        row: usize,
        /// Its length.
        tokens: usize,
        /// The model's context.
        limit: usize,
    },
    /// A probability is not a number.
    #[error(
        "the model gives probabilities that are not finite: its weights or its configuration are wrong"
    )]
    NotFinite,
    /// A token is not of the vocabulary.
    #[error("row {row} holds the token {token}, but the model's vocabulary has {vocab}")]
    Token {
        /// The row, from 0.
        row: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
}

/// The number of a tensor.
pub type TensorId = usize;

/// A tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name in a Hugging Face folder, or in a PEFT adapter.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
    /// Whether training changes it.
    pub trainable: bool,
    /// Whether weight decay applies to it.
    pub decays: bool,
}

/// A linear layer, perhaps with an adapter: `y = x wᵀ (+ b) + scale * (x aᵀ) bᵀ`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Name of the module, for example `model.layers.0.self_attn.q_proj`. Several layers share it
    /// where the family's weights hold their matrices as one.
    pub name: String,
    /// Number of its first row among those of the module.
    pub first: usize,
    /// Rows of the module: its own outputs, unless other layers share it.
    pub of: usize,
    /// Size of the input.
    pub inputs: usize,
    /// Size of the output.
    pub outputs: usize,
    /// w `[outputs, inputs]`.
    pub weight: TensorId,
    /// b `[outputs]`.
    pub bias: Option<TensorId>,
    /// The adapter.
    pub lora: Option<Lora>,
}

/// A low-rank adapter (Hu et al. 2021), with magnitudes also DoRA (Liu et al. 2024).
#[derive(Debug, Clone)]
pub struct Lora {
    /// Rank.
    pub rank: usize,
    /// a `[rank, inputs]`.
    pub a: TensorId,
    /// b `[outputs, rank]`.
    pub b: TensorId,
    /// Magnitudes `[outputs]` of DoRA.
    pub magnitude: Option<TensorId>,
    /// Factor of the product: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    pub scale: f32,
    /// Share of inputs that are dropped while training.
    pub dropout: f64,
}

/// A transformer layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Norm before attention, where the architecture has one.
    pub attention_norm: Option<TensorId>,
    /// Norm after attention, where the architecture has one.
    pub attention_post_norm: Option<TensorId>,
    /// Norm before the feed-forward layer, where the architecture has one.
    pub mlp_norm: Option<TensorId>,
    /// Norm after the feed-forward layer, where the architecture has one.
    pub mlp_post_norm: Option<TensorId>,
    /// Norm of the queries, of each head or of all together, before they are rotated.
    pub q_norm: Option<TensorId>,
    /// Norm of the keys.
    pub k_norm: Option<TensorId>,
    /// Projections of attention.
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Output.
    pub o: Linear,
    /// Gate of the feed-forward layer.
    pub gate: Linear,
    /// Its other input.
    pub up: Linear,
    /// Its output.
    pub down: Linear,
    /// Shape and constants of attention.
    pub attention: Attention,
    /// Rotary positions.
    pub rope: Arc<Rotary>,
}

impl Layer {
    /// The linear layers in the order of their names.
    pub fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [
            &mut self.down,
            &mut self.gate,
            &mut self.up,
            &mut self.k,
            &mut self.o,
            &mut self.q,
            &mut self.v,
        ]
    }

    /// The linear layers.
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.down, &self.gate, &self.up, &self.k, &self.o, &self.q, &self.v]
    }
}

/// A model.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    /// Its shape and constants.
    pub config: ModelConfig,
    /// All tensors by number.
    pub tensors: Vec<Tensor>,
    /// Embedding `[vocab, hidden]`.
    pub embedding: TensorId,
    /// Output head `[vocab, hidden]`; the embedding where they are tied.
    pub head: TensorId,
    /// Norm before the head.
    pub final_norm: TensorId,
    /// The layers.
    pub layers: Vec<Layer>,
}

impl LanguageModel {
    /// The values of a tensor.
    pub fn values(&self, id: TensorId) -> &[f32] {
        &self.tensors[id].values
    }

    /// The tensors that training changes, in the order of their names.
    pub fn trainable(&self) -> Vec<TensorId> {
        let mut ids: Vec<TensorId> =
            (0..self.tensors.len()).filter(|id| self.tensors[*id].trainable).collect();
        ids.sort_by(|a, b| self.tensors[*a].name.cmp(&self.tensors[*b].name));
        ids
    }

    /// Counts the values that training changes.
    pub fn trainable_parameters(&self) -> u64 {
        self.trainable().iter().map(|id| self.tensors[*id].values.len() as u64).sum()
    }
}
