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
use crate::kernels::panels::{Panels, Stored};
use crate::rope::Rotary;
use crate::weights::WeightsError;

pub use adapt::LoraSettings;
pub use stored::Whole;

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
    /// Its values; models of one base share them.
    pub values: Arc<Stored>,
    /// Whether the values lie in panels ([`Tensor::panels`]), and not row-major.
    pub in_panels: bool,
    /// Whether training changes it.
    pub trainable: bool,
    /// Whether weight decay applies to it.
    pub decays: bool,
}

impl Tensor {
    /// A matrix `[outputs, inputs]` from its rows.
    pub fn matrix(name: String, shape: [usize; 2], rows: Stored) -> Tensor {
        Tensor::of_panels(name, shape, rows.into_panels(shape[0], shape[1]))
    }

    /// A matrix `[outputs, inputs]` that lies in panels already.
    pub fn of_panels(name: String, shape: [usize; 2], panels: Stored) -> Tensor {
        let values = Arc::new(panels);
        Tensor {
            name,
            shape: shape.into(),
            values,
            in_panels: true,
            trainable: false,
            decays: true,
        }
    }

    /// A vector, or a matrix that is read row by row.
    pub fn rows(name: String, shape: Vec<usize>, values: Stored) -> Tensor {
        let (values, decays) = (Arc::new(values), shape.len() > 1);
        Tensor { name, shape, values, in_panels: false, trainable: false, decays }
    }

    /// Its values as they lie, to be changed: widened to 32 bits, and no longer shared.
    pub fn values_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.values).widened()
    }

    /// Its values as they lie where they are 32-bit floats, as those of vectors and of all that is
    /// trained are; else none.
    pub fn values(&self) -> &[f32] {
        self.values.f32().unwrap_or_default()
    }

    /// Its values in 32 bits, row-major.
    pub fn to_rows(&self) -> Vec<f32> {
        if self.in_panels {
            return self.panels().to_rows();
        }
        let mut rows = vec![0.0; self.values.len()];
        self.values.widen(0..rows.len(), &mut rows);
        rows
    }

    /// The matrix as kernels read it.
    pub fn panels(&self) -> Panels<'_> {
        debug_assert!(self.in_panels, "`{}` lies in rows", self.name);
        Panels { outputs: self.shape[0], inputs: self.shape[1], values: &self.values }
    }
}

/// A linear layer, perhaps with adapters: `y = x wᵀ (+ b)`, and for each adapter in turn `y + scale *
/// (x aᵀ) bᵀ`, with DoRA times its factors; the bias comes last.
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
    /// The adapters, the one nearest the base first. Only the last one may be trained.
    pub adapters: Vec<Lora>,
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
    /// DoRA's part of it.
    pub dora: Option<Dora>,
    /// Factor of the product: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    pub scale: f32,
    /// Share of inputs that are dropped while training.
    pub dropout: f64,
}

/// The magnitudes of DoRA.
#[derive(Debug, Clone)]
pub struct Dora {
    /// Magnitudes `[outputs]`.
    pub magnitude: TensorId,
    /// The norm of each row of the adapted weight, `[outputs]`; it follows every change of the
    /// adapter ([`LanguageModel::refresh`]).
    pub norms: Vec<f32>,
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
    /// The values of a tensor as they lie where they are 32-bit floats: a vector's, or those of what
    /// is trained.
    pub fn values(&self, id: TensorId) -> &[f32] {
        self.tensors[id].values()
    }

    /// A matrix.
    pub fn panels(&self, id: TensorId) -> Panels<'_> {
        self.tensors[id].panels()
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
        let size = |id: &TensorId| self.tensors[*id].shape.iter().product::<usize>() as u64;
        self.trainable().iter().map(size).sum()
    }
}
