//! A model's shape and constants, read from `config.json` in the spelling of transformers 4 or 5.

use std::path::Path;

use serde_json::Value;

use crate::family::{self, Defaults, NormExtent, NormNames};
use crate::fields::{Fields, MAX_SIZE, read_json};
use crate::kernels::pointwise::Activation;
use crate::rope::{Reader, Rope};

pub use crate::fields::ConfigError;

/// Largest number of parameters: ten times that of the largest of these families, more than a
/// machine could hold.
const MAX_PARAMETERS: u128 = 1 << 40;

/// Largest number of layers.
const MAX_LAYERS: usize = 4096;

/// A model's shape and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name of the architecture, as `config.json` spells it.
    pub family: &'static str,
    /// Size of the hidden state.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head; even.
    pub head_dim: usize,
    /// Size of the feed-forward layer.
    pub intermediate: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Longest row, in tokens; without limit where the rotary scaling follows the length.
    pub max_positions: usize,
    /// Activation of the gate.
    pub(crate) activation: Activation,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Added to the stored weights of the norms.
    pub norm_offset: f32,
    /// Names of a layer's norms.
    pub(crate) norms: NormNames,
    /// Extent of the norms of queries and keys, where there are such.
    pub(crate) query_key_norm: Option<NormExtent>,
    /// Rotary positions.
    pub rope: Rope,
    /// Rotary positions of layers with a window, where they have their own.
    pub sliding_rope: Option<Rope>,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Factor of the embedding.
    pub embedding_scale: f32,
    /// Whether query, key and value have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// Whether the weights hold query, key and value as one matrix, and gate and up as another.
    pub fused: bool,
    /// Keys that a query of each layer sees, itself included; `None` = all before it.
    pub windows: Vec<Option<usize>>,
    /// Soft cap of attention scores.
    pub attention_cap: Option<f32>,
    /// Soft cap of logits.
    pub logit_cap: Option<f32>,
    /// Factor of the attention scores.
    pub attention_scale: f64,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Standard deviation of randomly initialised matrices.
    pub initializer_range: f64,
}

impl ModelConfig {
    /// Reads `config.json` and, for the end tokens, `generation_config.json` of a model folder.
    pub fn load(folder: &Path) -> Result<ModelConfig, ConfigError> {
        let mut config = ModelConfig::from_json(&read_json(&folder.join("config.json"))?)?;
        config.eos = end_tokens(folder)?;
        Ok(config)
    }

    /// Reads a parsed `config.json`. What is left out takes the default that transformers has for
    /// the architecture.
    ///
    /// # Errors
    /// [`ConfigError::Foreign`] for another architecture, [`ConfigError::Unsupported`] for a field
    /// that would change the logits and is not honoured.
    pub fn from_json(json: &Value) -> Result<ModelConfig, ConfigError> {
        let fields = Fields::new(json)?;
        let family = family::find(fields.text("model_type")?.unwrap_or("llama"))?;
        family.unread().iter().for_each(|name| fields.ignore(name));
        let defaults = family.defaults();
        let Heads { hidden, heads, kv_heads, head_dim } = Heads::read(&fields, &defaults)?;
        let layers = fields.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(ConfigError::Value(format!("{layers} layers; the limit is {MAX_LAYERS}")));
        }
        let max_positions = fields.size_or("max_position_embeddings", defaults.max_positions)?;
        let biases = family.biases(&fields)?;
        let scores = family.scores(&fields, head_dim)?;
        let reader = Reader { dim: head_dim, max_positions, original: None };
        let ropes = family.ropes(&fields, reader)?;
        let follows = |rope: &Rope| rope.first_context().is_some();
        let unlimited = follows(&ropes.full) || ropes.sliding.as_ref().is_some_and(follows);

        let config = ModelConfig {
            family: family.name(),
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            intermediate: fields.size("intermediate_size")?,
            vocab: fields.size("vocab_size")?,
            max_positions: if unlimited { MAX_SIZE as usize } else { max_positions },
            activation: activation(&fields, &defaults)?,
            norm_eps: fields.positive("rms_norm_eps", defaults.norm_eps)?,
            norm_offset: family.norm_offset(),
            norms: family.norms(),
            query_key_norm: family.query_key_norm(),
            rope: ropes.full,
            sliding_rope: ropes.sliding,
            tied: fields.flag("tie_word_embeddings", defaults.tied)?,
            embedding_scale: family.embedding_scale(hidden),
            attention_bias: biases.attention,
            output_bias: biases.output,
            mlp_bias: biases.mlp,
            fused: family.fused(),
            windows: family.windows(&fields, layers)?,
            attention_cap: scores.attention_cap,
            logit_cap: scores.logit_cap,
            attention_scale: scores.attention_scale,
            eos: tokens(fields.get("eos_token_id")),
            initializer_range: fields.positive("initializer_range", 0.02)?,
        };
        fields.finish()?;

        let parameters = config.parameters();
        if parameters > MAX_PARAMETERS {
            let message =
                format!("its sizes make {parameters} parameters, more than any model has");
            return Err(ConfigError::Value(message));
        }
        Ok(config)
    }

    /// Rotary positions of a layer.
    pub fn rope_of(&self, layer: usize) -> &Rope {
        match (&self.sliding_rope, self.windows[layer]) {
            (Some(rope), Some(_)) => rope,
            _ => &self.rope,
        }
    }

    /// Whether a row that grows to `length` tokens under generation is computed anew: its earlier
    /// tokens were rotated by other frequencies.
    pub fn switches_at(&self, length: usize) -> bool {
        self.rope.switches_at(length)
            || self.sliding_rope.as_ref().is_some_and(|rope| rope.switches_at(length))
    }

    /// Counts the values in the matrices of the model.
    pub fn parameters(&self) -> u128 {
        let size = |n: usize| n as u128;
        let heads = size(self.head_dim) * (2 * size(self.heads) + 2 * size(self.kv_heads));
        let layer = size(self.hidden) * (heads + 3 * size(self.intermediate));
        let ends = if self.tied { 1 } else { 2 };
        size(self.layers) * layer + ends * size(self.vocab) * size(self.hidden)
    }
}

/// Sizes of the hidden state and of its heads.
struct Heads {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Heads {
    fn read(fields: &Fields<'_>, defaults: &Defaults) -> Result<Heads, ConfigError> {
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let kv_heads = match fields.written("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => fields.size_or("num_key_value_heads", defaults.kv_heads.unwrap_or(heads))?,
        };
        if heads % kv_heads != 0 {
            let message = format!("{heads} heads cannot share {kv_heads} key-value heads");
            return Err(ConfigError::Value(message));
        }
        let head_dim = match (fields.get("head_dim"), defaults.head_dim) {
            (Some(_), _) => fields.size("head_dim")?,
            (None, Some(head_dim)) => head_dim,
            (None, None) if hidden % heads == 0 => hidden / heads,
            (None, None) => {
                let message = format!("`hidden_size` {hidden} is not a multiple of {heads} heads");
                return Err(ConfigError::Value(message));
            }
        };
        if head_dim % 2 != 0 {
            return Err(ConfigError::Value(format!("the head size {head_dim} is odd")));
        }
        Ok(Heads { hidden, heads, kv_heads, head_dim })
    }
}

/// The activation, by the names that transformers has for it.
fn activation(fields: &Fields<'_>, defaults: &Defaults) -> Result<Activation, ConfigError> {
    let field = defaults.activation_field;
    match fields.text(field)?.unwrap_or(defaults.activation) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        other => {
            let message = format!("`{field}` is `{}`, which is not native", other.escape_debug());
            Err(ConfigError::Unsupported(message))
        }
    }
}

/// Reads the tokens that end a text: those of `generation_config.json`, else those of
/// `config.json`.
pub fn end_tokens(folder: &Path) -> Result<Vec<u32>, ConfigError> {
    let generation = folder.join("generation_config.json");
    if generation.exists() {
        let eos = tokens(read_json(&generation)?.get("eos_token_id"));
        if !eos.is_empty() {
            return Ok(eos);
        }
    }
    Ok(tokens(read_json(&folder.join("config.json"))?.get("eos_token_id")))
}

/// One token or a list of them.
fn tokens(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|t| u32::try_from(t).ok());
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn base() -> Value {
        json!({ "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
                "intermediate_size": 16, "vocab_size": 32 })
    }

    fn with(change: Value) -> Result<ModelConfig, ConfigError> {
        let mut json = base();
        let map: &mut Map<String, Value> = json.as_object_mut().unwrap();
        map.extend(change.as_object().unwrap().clone());
        ModelConfig::from_json(&json)
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        assert!(ModelConfig::from_json(&base()).is_ok());
        for (change, expected) in [
            (
                json!({ "model_type": "falcon" }),
                "`falcon` is not native; the native families are llama, ",
            ),
            (json!({ "num_attention_heads": 3 }), "not a multiple of 3"),
            (json!({ "hidden_size": -4 }), "`hidden_size` is -4"),
            (json!({ "vocab_size": 1u64 << 40 }), "`vocab_size`"),
            (json!({ "vocab_size": null }), "`vocab_size` is missing"),
            (json!({ "num_key_value_heads": 7 }), "cannot share"),
            (json!({ "rms_norm_eps": "1e-5" }), "`rms_norm_eps` is \"1e-5\", expected a number"),
        ] {
            let error = with(change).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// A field that the forward pass does not honour would change the logits in silence.
    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (change, name) in [
            (json!({ "attention_multiplier": 0.5 }), "`attention_multiplier` to 0.5"),
            (json!({ "quantization_config": { "bits": 4 } }), "`quantization_config`"),
            (json!({ "hidden_act": "relu" }), "`relu`"),
            (json!({ "rope_scaling": { "type": "mystery", "factor": 2.0 } }), "`mystery`"),
            (
                json!({ "rope_scaling": { "type": "linear", "factor": 2.0, "mrope_section": [2] } }),
                "`rope_scaling.mrope_section`",
            ),
            (
                json!({ "rope_parameters": { "rope_type": "default", "partial_rotary_factor": 0.5 } }),
                "`partial_rotary_factor`",
            ),
            (
                json!({ "model_type": "mistral", "num_key_value_heads": 2, "layer_types": ["full_attention"] }),
                "`layer_types`",
            ),
            (
                json!({ "model_type": "gemma2", "head_dim": 4, "layer_types": ["chunked_attention"],
                     "num_key_value_heads": 2 }),
                "chunked_attention",
            ),
            (
                json!({ "model_type": "gemma2", "use_bidirectional_attention": true,
                     "num_key_value_heads": 2 }),
                "`use_bidirectional_attention`",
            ),
        ] {
            match with(change).unwrap_err() {
                ConfigError::Unsupported(message) => assert!(message.contains(name), "{message}"),
                other => panic!("{name}: {other}"),
            }
        }
        // These say nothing, switch off what is not there, or are not read by transformers either.
        let plain = json!({ "use_cache": true, "torch_dtype": "bfloat16", "temperature": 0.7, "attention_dropout": 0.0,
                            "sliding_window": 16, "rope_scaling": {}, "use_mrope": false });
        assert!(with(plain).is_ok());
    }

    #[test]
    fn what_is_left_out_takes_the_defaults_of_transformers() {
        let gemma = json!({ "model_type": "gemma2", "num_attention_heads": 4 });
        let config = with(gemma.clone()).unwrap();
        assert_eq!((config.attention_cap, config.logit_cap), (Some(50.0), Some(30.0)));
        assert_eq!((config.head_dim, config.kv_heads, config.max_positions), (256, 4, 8192));
        assert_eq!((config.attention_scale, config.tied), (1.0 / 16.0, true));
        assert_eq!((config.windows, config.activation), (vec![Some(4096)], Activation::GeluTanh));

        let mut none = gemma;
        for (name, value) in [
            ("attn_logit_softcapping", Value::Null),
            ("final_logit_softcapping", Value::Null),
            ("sliding_window", Value::Null),
            ("hidden_activation", json!("gelu")),
            // Not read for this family.
            ("hidden_act", json!("gelu_pytorch_tanh")),
        ] {
            none[name] = value;
        }
        let config = with(none).unwrap();
        assert_eq!((config.attention_cap, config.logit_cap), (None, None));
        assert_eq!((config.windows, config.activation), (vec![None], Activation::Gelu));

        let mistral =
            with(json!({ "model_type": "mistral", "num_attention_heads": 8, "head_dim": 4 }))
                .unwrap();
        assert_eq!((mistral.windows, mistral.kv_heads), (vec![Some(4096)], 8));
        let qwen = json!({ "model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": true,
                           "num_hidden_layers": 30 });
        let windows = with(qwen).unwrap().windows;
        assert_eq!((windows[27], windows[28]), (None, Some(4096)));
    }

    #[test]
    fn the_older_spelling_of_rotary_scaling_wins() {
        let both = json!({ "rope_theta": 5.0, "rope_scaling": { "type": "linear", "factor": 2.0 },
                           "rope_parameters": { "rope_type": "default", "rope_theta": 7.0 } });
        let rope = with(both).unwrap().rope;
        assert_eq!(rope.theta, 5.0);
        assert_eq!(rope.frequencies(1), [0.5, libm::pow(5.0, -0.5) / 2.0]);
    }
}
