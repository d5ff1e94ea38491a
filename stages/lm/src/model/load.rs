//! Builds a model from a folder, or with random weights from a configuration.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::adapter::Adapter;
use crate::config::{ConfigError, ModelConfig};
use crate::family::NormExtent;
use crate::kernels::attention::Attention;
use crate::kernels::panels::Stored;
use crate::random::Stream;
use crate::rope::{Rope, Rotary};
use crate::weights::{Weights, WeightsError};

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
        model.check_all_read(&weights)?;
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
        if weights.panels(name, shape, 0..shape[0])? == *embedding.values {
            return Ok(());
        }
        let message = format!(
            "`tie_word_embeddings` is true, but `{name}` differs from `{}`; set it to false, or \
             remove the tensor",
            embedding.name
        );
        Err(ConfigError::Value(message).into())
    }

    /// Refuses weights of which the model that `config.json` describes would be only a part.
    fn check_all_read(&self, weights: &Weights) -> Result<(), WeightsError> {
        let stored = self.stored_names();
        let tied = |name: &str| self.config.tied && name == "lm_head.weight";
        let unread = |name: &&str| !stored.contains(*name) && !tied(name) && !is_buffer(name);
        match weights.names().find(unread) {
            None => Ok(()),
            Some(name) => Err(weights.unread(name)),
        }
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

/// Whether a tensor is a buffer that older versions of transformers saved and compute themselves.
fn is_buffer(name: &str) -> bool {
    const ENDINGS: [&str; 3] =
        [".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
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
            true => self.matrix(name, shape)?,
            false => self.rows(name.into(), shape.into(), None)?,
        };
        let rotary = |rope: &Rope| Arc::new(Rotary::new(rope, config.head_dim));
        let (rope, sliding) = (rotary(&config.rope), config.sliding_rope.as_ref().map(rotary));
        let rope_of = |layer: usize| match &sliding {
            Some(sliding) if config.windows[layer].is_some() => sliding.clone(),
            _ => rope.clone(),
        };
        let layers = (0..config.layers)
            .map(|layer| self.layer(layer, rope_of(layer)))
            .collect::<Result<Vec<_>, _>>()?;
        let final_norm = self.norm("model.norm.weight", config.hidden)?;
        let head = if config.tied { embedding } else { self.matrix("lm_head.weight", shape)? };
        Ok(LanguageModel {
            config: config.clone(),
            tensors: self.tensors,
            embedding,
            head,
            final_norm,
            layers,
        })
    }

    /// A vector, or a matrix that is read row by row; `constant` in place of random values.
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
                Stored::F32(random(*seed, *deviation, &name, 0..shape.iter().product()))
            }
        };
        Ok(self.push(Tensor::rows(name, shape, values)))
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<TensorId, ModelError> {
        let values = self.panels(name, shape, 0..shape[0])?;
        Ok(self.push(Tensor::of_panels(name.into(), shape, values)))
    }

    /// Rows of a matrix, in panels.
    fn panels(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: Range<usize>,
    ) -> Result<Stored, ModelError> {
        match &self.origin {
            Origin::Files(weights) => Ok(weights.panels(name, shape, rows)?),
            Origin::Random { seed, deviation } => {
                let values = rows.start * shape[1]..rows.end * shape[1];
                let values = random(*seed, *deviation, name, values);
                Ok(Stored::F32(values).into_panels(rows.len(), shape[1]))
            }
        }
    }

    fn push(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<TensorId, ModelError> {
        // The weight that changes nothing.
        let one = 1.0 - self.config.norm_offset;
        self.rows(name.to_string(), vec![width], Some(one))
    }

    fn linear(
        &mut self,
        name: String,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), [outputs, inputs])?;
        let bias = bias
            .then(|| self.rows(format!("{name}.bias"), vec![outputs], Some(0.0)))
            .transpose()?;
        Ok(Linear {
            name,
            first: 0,
            of: outputs,
            inputs,
            outputs,
            weight,
            bias,
            adapters: Vec::new(),
        })
    }

    /// Linear layers whose matrices are stored as one, their rows one after another.
    fn fused<const N: usize>(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
    ) -> Result<[Linear; N], ModelError> {
        let of = outputs.iter().sum();
        let mut first = 0;
        let mut parts = Vec::with_capacity(N);
        for outputs in outputs {
            let mut linear = Linear {
                name: name.to_owned(),
                first,
                of,
                inputs,
                outputs,
                weight: 0,
                bias: None,
                adapters: Vec::new(),
            };
            let rows = first..first + outputs;
            let values = self.panels(&format!("{name}.weight"), [of, inputs], rows)?;
            let part = Tensor::of_panels(linear.tensor_name("weight"), [outputs, inputs], values);
            linear.weight = self.push(part);
            parts.push(linear);
            first += outputs;
        }
        Ok(parts.try_into().expect("one part for each number of outputs"))
    }

    fn attention_inputs(&mut self, at: &str) -> Result<[Linear; 3], ModelError> {
        let config = self.config;
        let (hidden, bias) = (config.hidden, config.attention_bias);
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        if config.fused {
            return self.fused(&format!("{at}.qkv_proj"), hidden, [wide, narrow, narrow]);
        }
        Ok([
            self.linear(format!("{at}.q_proj"), hidden, wide, bias)?,
            self.linear(format!("{at}.k_proj"), hidden, narrow, bias)?,
            self.linear(format!("{at}.v_proj"), hidden, narrow, bias)?,
        ])
    }

    fn mlp_inputs(&mut self, at: &str) -> Result<[Linear; 2], ModelError> {
        let config = self.config;
        let (hidden, wide, bias) = (config.hidden, config.intermediate, config.mlp_bias);
        if config.fused {
            return self.fused(&format!("{at}.gate_up_proj"), hidden, [wide, wide]);
        }
        Ok([
            self.linear(format!("{at}.gate_proj"), hidden, wide, bias)?,
            self.linear(format!("{at}.up_proj"), hidden, wide, bias)?,
        ])
    }

    /// The norms of queries and keys.
    fn query_key_norms(&mut self, at: &str) -> Result<[Option<TensorId>; 2], ModelError> {
        let config = self.config;
        let Some(extent) = config.query_key_norm else { return Ok([None; 2]) };
        let width = |heads: usize| match extent {
            NormExtent::Head => config.head_dim,
            NormExtent::Token => heads * config.head_dim,
        };
        let q = self.norm(&format!("{at}.q_norm.weight"), width(config.heads))?;
        let k = self.norm(&format!("{at}.k_norm.weight"), width(config.kv_heads))?;
        Ok([Some(q), Some(k)])
    }

    fn layer(&mut self, index: usize, rope: Arc<Rotary>) -> Result<Layer, ModelError> {
        let config = self.config;
        let at = format!("model.layers.{index}");
        let (attention, mlp) = (format!("{at}.self_attn"), format!("{at}.mlp"));
        let mut norm = |name: Option<&str>| {
            name.map(|name| self.norm(&format!("{at}.{name}.weight"), config.hidden)).transpose()
        };
        let attention_post_norm = norm(config.norms.after_attention)?;
        let mlp_post_norm = norm(config.norms.after_mlp)?;
        let attention_norm = norm(config.norms.before_attention)?;
        let mlp_norm = norm(config.norms.before_mlp)?;
        let [q_norm, k_norm] = self.query_key_norms(&attention)?;
        let [q, k, v] = self.attention_inputs(&attention)?;
        let (hidden, wide) = (config.hidden, config.heads * config.head_dim);
        let o = self.linear(format!("{attention}.o_proj"), wide, hidden, config.output_bias)?;
        let [gate, up] = self.mlp_inputs(&mlp)?;
        let (down, bias) = (format!("{mlp}.down_proj"), config.mlp_bias);
        let down = self.linear(down, config.intermediate, hidden, bias)?;

        Ok(Layer {
            attention_norm,
            attention_post_norm,
            mlp_norm,
            mlp_post_norm,
            q_norm,
            k_norm,
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            attention: Attention {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                scale: config.attention_scale as f32,
                cap: config.attention_cap,
                window: config.windows[index],
                causal: true,
            },
            rope,
        })
    }
}

/// Values that are normal with that deviation; each depends on the seed, its tensor's name and its
/// place alone.
fn random(seed: u64, deviation: f64, name: &str, places: Range<usize>) -> Vec<f32> {
    let stream = Stream::named(seed, name, &[]);
    let value = |place: usize| (stream.normal(place as u64) * deviation) as f32;
    places.into_par_iter().map(value).collect()
}
