//! Builds a model from a folder, or with random weights from a configuration.

use crate::adapter::Adapter;
use crate::config::{ConfigError, ModelConfig};
use crate::kernels::attention::Attention;
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
    /// Loads a model and merges its adapters into the weights in memory.
    pub fn load(path: &ModelPath) -> Result<LanguageModel, ModelError> {
        let config = ModelConfig::load(&path.folder)?;
        let weights = Weights::open(&path.folder)?;
        let origin = Origin::Files(&weights);
        let mut model = Builder { config: &config, origin, tensors: Vec::new() }.build()?;
        model.check_tied(&weights)?;
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
        let embedding = self.matrix("model.embed_tokens.weight", config.vocab, config.hidden)?;
        let layers = (0..config.layers).map(|i| self.layer(i)).collect::<Result<Vec<_>, _>>()?;
        let final_norm = self.norm("model.norm.weight")?;
        let head = if config.tied {
            embedding
        } else {
            self.matrix("lm_head.weight", config.vocab, config.hidden)?
        };
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

    fn tensor(
        &mut self,
        name: String,
        shape: Vec<usize>,
        constant: Option<f32>,
    ) -> Result<TensorId, ModelError> {
        let size: usize = shape.iter().product();
        let values = match (&self.origin, constant) {
            (Origin::Files(weights), _) => weights.tensor(&name, &shape)?,
            (Origin::Random { .. }, Some(constant)) => vec![constant; size],
            (Origin::Random { seed, deviation }, None) => {
                let stream = Stream::named(*seed, &name, &[]);
                (0..size as u64).map(|i| (stream.normal(i) * deviation) as f32).collect()
            }
        };
        let decays = shape.len() > 1;
        self.tensors.push(Tensor { name, shape, values, trainable: false, decays });
        Ok(self.tensors.len() - 1)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<TensorId, ModelError> {
        self.tensor(name.to_string(), vec![rows, columns], None)
    }

    fn norm(&mut self, name: &str) -> Result<TensorId, ModelError> {
        // The weight that changes nothing.
        let one = 1.0 - self.config.norm_offset;
        self.tensor(name.to_string(), vec![self.config.hidden], Some(one))
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
        Ok(Linear { name, inputs, outputs, weight, bias, lora: None })
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
