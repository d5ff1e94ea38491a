//! Builds a model from a folder, or with random weights from a configuration.

use std::path::Path;

use rayon::prelude::*;

use crate::adapter::Adapter;
use crate::config::{ConfigError, ModelConfig};
use crate::kernels::attention::Attention;
use crate::kernels::panels::Stored;
use crate::kernels::pointwise::RopeTable;
use crate::random::Stream;
use crate::weights::Weights;

use super::{LanguageModel, Layer, Linear, ModelError, ModelPath, Tensor, TensorId};

/// Source of the tensors' values.
enum Origin<'a> {
    Files(&'a Weights),
    Random { seed: u64, deviation: f64 },
}

impl LanguageModel {
    /// Loads a model and puts its adapters beside the weights.
    pub fn load(path: &ModelPath) -> Result<LanguageModel, ModelError> {
        let mut model = LanguageModel::load_base(&path.folder)?;
        for folder in &path.adapters {
            model.put_frozen(&Adapter::load(folder)?)?;
        }
        Ok(model)
    }

    /// Loads a model without adapters.
    pub fn load_base(folder: &Path) -> Result<LanguageModel, ModelError> {
        let config = ModelConfig::load(folder)?;
        let weights = Weights::open(folder)?;
        let origin = Origin::Files(&weights);
        let model = Builder { config: &config, origin, tensors: Vec::new() }.build()?;
        model.check_tied(&weights)?;
        Ok(model)
    }

    /// Refuses a head of its own beside a configuration that ties it to the embedding: versions of
    /// transformers disagree which one counts.
    fn check_tied(&self, weights: &Weights) -> Result<(), ModelError> {
        let name = "lm_head.weight";
        if !self.config.tied || !weights.contains(name) {
            return Ok(());
        }
        let embedding = &self.tensors[self.embedding];
        let shape = [embedding.shape[0], embedding.shape[1]];
        if weights.panels(name, shape)? == *embedding.values {
            return Ok(());
        }
        let message = format!(
            "`tie_word_embeddings` is true, but `{name}` differs from `{}`; set it to false, or \
             remove the tensor",
            embedding.name
        );
        Err(ConfigError::Value(message).into())
    }

    /// A model with random weights: matrices normal with the configuration's deviation, norms one,
    /// biases zero.
    ///
    /// A value depends on the seed, its tensor's name and its place alone.
    pub fn random(config: &ModelConfig, seed: u64) -> LanguageModel {
        let origin = Origin::Random { seed, deviation: config.initializer_range };
        let builder = Builder { config, origin, tensors: Vec::new() };
        builder.build().expect("random weights lack no tensor")
    }
}

struct Builder<'a> {
    config: &'a ModelConfig,
    origin: Origin<'a>,
    tensors: Vec<Tensor>,
}

impl Builder<'_> {
    fn build(mut self) -> Result<LanguageModel, ModelError> {
        let config = self.config;
        // A tied head keeps one copy, in panels; an embedding alone is read row by row.
        let (name, shape) = ("model.embed_tokens.weight", [config.vocab, config.hidden]);
        let embedding = match config.tied {
            true => self.matrix(name.into(), shape)?,
            false => self.rows(name.into(), shape.into(), None)?,
        };
        let layers = (0..config.layers).map(|i| self.layer(i)).collect::<Result<Vec<_>, _>>()?;
        let final_norm = self.norm("model.norm.weight")?;
        let head =
            if config.tied { embedding } else { self.matrix("lm_head.weight".into(), shape)? };
        let frequencies = config.rope.frequencies(config.head_dim);
        let rope = RopeTable::new(&frequencies, config.rope.amplitude(), config.max_positions);
        Ok(LanguageModel {
            config: config.clone(),
            tensors: self.tensors,
            embedding,
            head,
            final_norm,
            layers,
            rope,
        })
    }

    /// A vector or a matrix that is read row by row; `constant` in place of random values.
    fn rows(
        &mut self,
        name: String,
        shape: Vec<usize>,
        constant: Option<f32>,
    ) -> Result<TensorId, ModelError> {
        let values = match (&self.origin, constant) {
            (Origin::Files(weights), _) if shape.len() > 1 => weights.rows(&name, &shape)?,
            (Origin::Files(weights), _) => Stored::F32(weights.tensor(&name, &shape)?),
            (Origin::Random { .. }, Some(constant)) => {
                Stored::F32(vec![constant; shape.iter().product()])
            }
            (Origin::Random { seed, deviation }, None) => {
                random(*seed, *deviation, &name, shape.iter().product())
            }
        };
        self.tensors.push(Tensor::rows(name, shape, values));
        Ok(self.tensors.len() - 1)
    }

    fn matrix(&mut self, name: String, shape: [usize; 2]) -> Result<TensorId, ModelError> {
        let tensor = match &self.origin {
            Origin::Files(weights) => {
                let values = weights.panels(&name, shape)?;
                Tensor::of_panels(name, shape, values)
            }
            Origin::Random { seed, deviation } => {
                let values = random(*seed, *deviation, &name, shape[0] * shape[1]);
                Tensor::matrix(name, shape, values)
            }
        };
        self.tensors.push(tensor);
        Ok(self.tensors.len() - 1)
    }

    fn norm(&mut self, name: &str) -> Result<TensorId, ModelError> {
        // The weight that changes nothing.
        let one = 1.0 - self.config.norm_offset;
        self.rows(name.to_string(), vec![self.config.hidden], Some(one))
    }

    fn linear(
        &mut self,
        name: String,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.matrix(format!("{name}.weight"), [outputs, inputs])?;
        let bias = bias
            .then(|| self.rows(format!("{name}.bias"), vec![outputs], Some(0.0)))
            .transpose()?;
        Ok(Linear { name, inputs, outputs, weight, bias, adapters: Vec::new() })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let config = self.config;
        let at = format!("model.layers.{index}");
        let norms = config.norms;
        let (hidden, wide, narrow) =
            (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let norm = |builder: &mut Self, name: &str| builder.norm(&format!("{at}.{name}.weight"));
        let attention_post_norm = norms.after_attention.map(|name| norm(self, name)).transpose()?;
        let mlp_post_norm = norms.after_mlp.map(|name| norm(self, name)).transpose()?;

        Ok(Layer {
            attention_norm: norm(self, norms.before_attention)?,
            attention_post_norm,
            mlp_norm: norm(self, norms.before_mlp)?,
            mlp_post_norm,
            q: self.linear(
                format!("{at}.self_attn.q_proj"),
                hidden,
                wide,
                config.attention_bias,
            )?,
            k: self.linear(
                format!("{at}.self_attn.k_proj"),
                hidden,
                narrow,
                config.attention_bias,
            )?,
            v: self.linear(
                format!("{at}.self_attn.v_proj"),
                hidden,
                narrow,
                config.attention_bias,
            )?,
            o: self.linear(format!("{at}.self_attn.o_proj"), wide, hidden, config.output_bias)?,
            gate: self.linear(
                format!("{at}.mlp.gate_proj"),
                hidden,
                config.intermediate,
                config.mlp_bias,
            )?,
            up: self.linear(
                format!("{at}.mlp.up_proj"),
                hidden,
                config.intermediate,
                config.mlp_bias,
            )?,
            down: self.linear(
                format!("{at}.mlp.down_proj"),
                config.intermediate,
                hidden,
                config.mlp_bias,
            )?,
            attention: Attention {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                scale: config.attention_scale as f32,
                cap: config.attention_cap,
                window: config.windows[index],
                causal: true,
            },
        })
    }
}

/// Values that are normal with that deviation; each depends on the seed, its tensor's name and its
/// place alone.
fn random(seed: u64, deviation: f64, name: &str, size: usize) -> Stored {
    let stream = Stream::named(seed, name, &[]);
    let value = |i: usize| (stream.normal(i as u64) * deviation) as f32;
    Stored::F32((0..size).into_par_iter().map(value).collect())
}
