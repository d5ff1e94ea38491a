//! Builds a model from a folder, or with random weights from a configuration.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::config::{ConfigError, ModelConfig};
use crate::family::NormExtent;
use crate::kernels::attention::Attention;
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
    /// Loads a model and merges its adapters into the weights in memory.
    pub fn load(path: &ModelPath) -> Result<LanguageModel, ModelError> {
        let config = ModelConfig::load(&path.folder)?;
        let weights = Weights::open(&path.folder)?;
        let origin = Origin::Files(&weights);
        let mut model = Builder { config: &config, origin, tensors: Vec::new() }.build()?;
        model.check_tied(&weights)?;
        model.check_all_read(&weights)?;
        for folder in &path.adapters {
            let adapter = Adapter::load(folder)?;
            model.merge(&adapter)?;
        }
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
        if weights.tensor(name, &embedding.shape)? == embedding.values {
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
        let embedding = self.matrix("model.embed_tokens.weight", config.vocab, config.hidden)?;
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
        let head = if config.tied {
            embedding
        } else {
            self.matrix("lm_head.weight", config.vocab, config.hidden)?
        };
        Ok(LanguageModel {
            config: config.clone(),
            tensors: self.tensors,
            embedding,
            head,
            final_norm,
            layers,
        })
    }

    fn tensor(
        &mut self,
        name: String,
        shape: Vec<usize>,
        constant: Option<f32>,
    ) -> Result<TensorId, ModelError> {
        let values = self.values(&name, &shape, constant)?;
        Ok(self.push(name, shape, values))
    }

    fn push(&mut self, name: String, shape: Vec<usize>, values: Vec<f32>) -> TensorId {
        let decays = shape.len() > 1;
        self.tensors.push(Tensor { name, shape, values, trainable: false, decays });
        self.tensors.len() - 1
    }

    fn values(
        &self,
        name: &str,
        shape: &[usize],
        constant: Option<f32>,
    ) -> Result<Vec<f32>, ModelError> {
        let size: usize = shape.iter().product();
        Ok(match (&self.origin, constant) {
            (Origin::Files(weights), _) => weights.tensor(name, shape)?,
            (Origin::Random { .. }, Some(constant)) => vec![constant; size],
            (Origin::Random { seed, deviation }, None) => {
                let stream = Stream::named(*seed, name, &[]);
                (0..size as u64).map(|i| (stream.normal(i) * deviation) as f32).collect()
            }
        })
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<TensorId, ModelError> {
        self.tensor(name.to_string(), vec![rows, columns], None)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<TensorId, ModelError> {
        // The weight that changes nothing.
        let one = 1.0 - self.config.norm_offset;
        self.tensor(name.to_string(), vec![width], Some(one))
    }

    fn linear(
        &mut self,
        name: String,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.tensor(format!("{name}.weight"), vec![outputs, inputs], None)?;
        let bias = bias
            .then(|| self.tensor(format!("{name}.bias"), vec![outputs], Some(0.0)))
            .transpose()?;
        Ok(Linear { name, first: 0, of: outputs, inputs, outputs, weight, bias, lora: None })
    }

    /// Linear layers whose matrices are stored as one, their rows one after another.
    fn fused<const N: usize>(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
    ) -> Result<[Linear; N], ModelError> {
        let of = outputs.iter().sum();
        let all = self.values(&format!("{name}.weight"), &[of, inputs], None)?;
        let mut first = 0;
        Ok(outputs.map(|outputs| {
            let values = all[first * inputs..(first + outputs) * inputs].to_vec();
            let mut linear = Linear {
                name: name.to_owned(),
                first,
                of,
                inputs,
                outputs,
                weight: 0,
                bias: None,
                lora: None,
            };
            let part = linear.tensor_name("weight");
            linear.weight = self.push(part, vec![outputs, inputs], values);
            first += outputs;
            linear
        }))
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
