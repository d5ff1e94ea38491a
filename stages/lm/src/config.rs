//! What a model is made of: `config.json` of the Llama, Mistral, Gemma 2 and Qwen 2 families, in both spellings.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use refrain_cache::read_plain;

/// Largest size of any dimension; beyond it a configuration is nonsense or an attack.
const MAX_SIZE: u64 = 1 << 24;

/// Most parameters of a model: ten times the largest of these families, and nothing that a machine could hold.
const MAX_PARAMETERS: u128 = 1 << 40;

/// Largest configuration or index in bytes.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// A family of models that the native module computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Gemma 2: four norms a layer, soft caps, GeGLU.
    Gemma2,
    /// Qwen 2: Llama with biases on query, key and value.
    Qwen2,
}

impl Family {
    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Gemma2 => "gemma2",
            Family::Qwen2 => "qwen2",
        }
    }
}

/// How positions enter: frequencies of the rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Unchanged.
    Default,
    /// Llama 3's: long wavelengths are stretched, short ones kept, those between blended.
    Llama3 {
        /// The stretch.
        factor: f64,
        /// Lower bound of the blend.
        low: f64,
        /// Upper bound of the blend.
        high: f64,
        /// Context that the model was first trained on, in tokens.
        original: f64,
    },
}

/// A model's shape and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
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
    /// Most positions, in tokens.
    pub max_positions: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Whether query, key and value have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
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

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is not JSON.
    #[error("`{}` is not JSON: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// The architecture is another one.
    #[error(
        "model type `{0}` is not native; the native families are llama, mistral, gemma2 and qwen2"
    )]
    Foreign(String),
    /// The architecture is one of ours, but in a form that is not.
    #[error("the model's configuration is wrong: {0}")]
    Unsupported(String),
    /// A value is missing or out of range.
    #[error("the model's configuration is wrong: {0}")]
    Value(String),
}

impl ModelConfig {
    /// Reads `config.json` and, for the end tokens, `generation_config.json` of a model folder.
    pub fn load(folder: &Path) -> Result<ModelConfig, ConfigError> {
        let mut config = ModelConfig::from_json(&read(&folder.join("config.json"))?)?;
        config.eos = end_tokens(folder)?;
        Ok(config)
    }

    /// The configuration that a parsed `config.json` describes.
    pub fn from_json(json: &Value) -> Result<ModelConfig, ConfigError> {
        let fields = Fields::new(json)?;
        let family = match fields.text("model_type").unwrap_or("llama") {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            "gemma2" => Family::Gemma2,
            "qwen2" => Family::Qwen2,
            other => return Err(ConfigError::Foreign(other.to_string())),
        };
        fields.check_activation(family)?;
        fields.check_numbers()?;
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let kv_heads = fields.size_or("num_key_value_heads", heads)?;
        if heads % kv_heads != 0 {
            let message = format!("{heads} heads cannot share {kv_heads} key-value heads");
            return Err(ConfigError::Value(message));
        }
        let head_dim = match fields.get("head_dim") {
            Some(_) => fields.size("head_dim")?,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let message = format!("`hidden_size` {hidden} is not a multiple of {heads} heads");
                return Err(ConfigError::Value(message));
            }
        };
        if head_dim % 2 != 0 {
            return Err(ConfigError::Value(format!("the head size {head_dim} is odd")));
        }
        let layers = fields.size("num_hidden_layers")?;
        if layers > 4096 {
            return Err(ConfigError::Value(format!("{layers} layers are too many")));
        }
        let (rope_theta, rope_scaling) = fields.rope()?;
        let gemma = family == Family::Gemma2;
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(value)
            } else {
                Err(ConfigError::Value(format!("`{name}` must be a positive number")))
            }
        };
        let scalar = positive(
            "query_pre_attn_scalar",
            fields.number("query_pre_attn_scalar").unwrap_or(head_dim as f64),
        )?;
        let cap = |name: &str| fields.number(name).filter(|_| gemma).map(|v| v as f32);
        let config = ModelConfig {
            family,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            intermediate: fields.size("intermediate_size")?,
            vocab: fields.size("vocab_size")?,
            max_positions: fields.size_or("max_position_embeddings", 2048)?,
            norm_eps: positive("rms_norm_eps", fields.number("rms_norm_eps").unwrap_or(1e-6))?,
            rope_theta: positive("rope_theta", rope_theta)?,
            rope_scaling,
            tied: fields.flag("tie_word_embeddings").unwrap_or(gemma),
            attention_bias: fields.flag("attention_bias").unwrap_or(false)
                || family == Family::Qwen2,
            output_bias: fields.flag("attention_bias").unwrap_or(false) && family != Family::Qwen2,
            mlp_bias: fields.flag("mlp_bias").unwrap_or(false),
            windows: fields.windows(family, layers)?,
            attention_cap: cap("attn_logit_softcapping"),
            logit_cap: cap("final_logit_softcapping"),
            attention_scale: 1.0
                / if gemma { libm::sqrt(scalar) } else { libm::sqrt(head_dim as f64) },
            eos: tokens(fields.get("eos_token_id")),
            initializer_range: positive(
                "initializer_range",
                fields.number("initializer_range").unwrap_or(0.02),
            )?,
        };
        if config.parameters() > MAX_PARAMETERS {
            let message = format!(
                "its sizes make {} parameters, more than any model has",
                config.parameters()
            );
            return Err(ConfigError::Value(message));
        }
        Ok(config)
    }

    /// The number of values in the matrices of the model.
    pub fn parameters(&self) -> u128 {
        let size = |n: usize| n as u128;
        let heads = size(self.head_dim) * (2 * size(self.heads) + 2 * size(self.kv_heads));
        let layer = size(self.hidden) * (heads + 3 * size(self.intermediate));
        let ends = if self.tied { 1 } else { 2 };
        size(self.layers) * layer + ends * size(self.vocab) * size(self.hidden)
    }

    /// Rotary frequencies, `[head_dim / 2]`, in radians a position.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        let base =
            (0..half).map(|i| libm::pow(self.rope_theta, -((2 * i) as f64) / self.head_dim as f64));
        match self.rope_scaling {
            RopeScaling::Default => base.collect(),
            RopeScaling::Llama3 { factor, low, high, original } => base
                .map(|frequency| {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect(),
        }
    }
}

/// The tokens that end a text, by a model folder's `generation_config.json`, else by its `config.json`.
pub fn end_tokens(folder: &Path) -> Result<Vec<u32>, ConfigError> {
    let generation = folder.join("generation_config.json");
    if generation.exists() {
        let eos = tokens(read(&generation)?.get("eos_token_id"));
        if !eos.is_empty() {
            return Ok(eos);
        }
    }
    Ok(tokens(read(&folder.join("config.json"))?.get("eos_token_id")))
}

/// A file of JSON.
pub(crate) fn read(path: &Path) -> Result<Value, ConfigError> {
    let bytes = read_plain(path, MAX_BYTES)
        .map_err(|error| ConfigError::Io { path: path.into(), error })?;
    serde_json::from_slice(&bytes).map_err(|error| ConfigError::Json { path: path.into(), error })
}

/// A size that a configuration must give.
pub(crate) fn size(json: &Value, name: &str) -> Result<usize, ConfigError> {
    Fields::new(json)?.size(name)
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

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn new(json: &'a Value) -> Result<Fields<'a>, ConfigError> {
        json.as_object().map(Fields).ok_or_else(|| ConfigError::Value("it is not an object".into()))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    fn size(&self, name: &str) -> Result<usize, ConfigError> {
        let value =
            self.get(name).ok_or_else(|| ConfigError::Value(format!("`{name}` is missing")))?;
        match value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)) {
            Some(n) => Ok(n as usize),
            None => Err(ConfigError::Value(format!(
                "`{name}` is {value}, expected a whole number from 1 to {MAX_SIZE}"
            ))),
        }
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, ConfigError> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    /// What is given for a number must be one: a default in its place would be another model.
    fn check_numbers(&self) -> Result<(), ConfigError> {
        const NAMES: [&str; 6] = [
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "initializer_range",
            "query_pre_attn_scalar",
            "rms_norm_eps",
            "rope_theta",
        ];
        match NAMES
            .iter()
            .find_map(|name| Some((name, self.get(name)?)).filter(|(_, v)| !v.is_number()))
        {
            Some((name, value)) => {
                Err(ConfigError::Value(format!("`{name}` is {value}, expected a number")))
            }
            None => Ok(()),
        }
    }

    fn check_activation(&self, family: Family) -> Result<(), ConfigError> {
        let given = self.text("hidden_activation").or(self.text("hidden_act"));
        let fine = match (family, given) {
            (_, None) => true,
            (Family::Gemma2, Some(name)) => name.starts_with("gelu"),
            (_, Some(name)) => name == "silu",
        };
        let name = given.unwrap_or_default();
        if fine {
            Ok(())
        } else {
            Err(ConfigError::Unsupported(format!("the activation `{name}` is not native")))
        }
    }

    /// Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4).
    fn rope(&self) -> Result<(f64, RopeScaling), ConfigError> {
        let object = |name: &str| self.get(name).and_then(Value::as_object);
        let parameters = object("rope_parameters").or(object("rope_scaling"));
        let number = |name: &str| parameters.and_then(|p| p.get(name)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(self.number("rope_theta")).unwrap_or(10_000.0);
        let text = |name: &str| parameters.and_then(|p| p.get(name)).and_then(Value::as_str);
        let scaling = match text("rope_type").or(text("type")) {
            None | Some("default") => RopeScaling::Default,
            Some("llama3") => {
                let need = |name: &str| {
                    number(name).filter(|v| *v > 0.0 && v.is_finite()).ok_or_else(|| {
                        ConfigError::Value(format!(
                            "the rotary scaling `llama3` needs a positive `{name}`"
                        ))
                    })
                };
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if low >= high {
                    return Err(ConfigError::Value(
                        "`low_freq_factor` must be below `high_freq_factor`".into(),
                    ));
                }
                RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low,
                    high,
                    original: need("original_max_position_embeddings")?,
                }
            }
            Some(other) => {
                return Err(ConfigError::Unsupported(format!(
                    "the rotary scaling `{other}` is not native"
                )));
            }
        };
        Ok((theta, scaling))
    }

    /// Each layer's window, from `sliding_window` and where it is given `layer_types`.
    fn windows(&self, family: Family, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
        let used = match family {
            Family::Llama => false,
            Family::Mistral | Family::Gemma2 => true,
            Family::Qwen2 => self.flag("use_sliding_window").unwrap_or(false),
        };
        if !used || self.get("sliding_window").is_none() {
            return Ok(vec![None; layers]);
        }
        let window = self.size("sliding_window")?;
        let types = self.get("layer_types").and_then(Value::as_array);
        let full_first =
            self.get("max_window_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
        let slides = |layer: usize| match (types, family) {
            (Some(types), _) => {
                types.get(layer).and_then(Value::as_str) == Some("sliding_attention")
            }
            (None, Family::Gemma2) => layer.is_multiple_of(2),
            (None, Family::Qwen2) => layer >= full_first,
            (None, _) => true,
        };
        Ok((0..layers).map(|layer| slides(layer).then_some(window)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({ "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
                "intermediate_size": 16, "vocab_size": 32 })
    }

    fn error(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut json = base();
        change(json.as_object_mut().unwrap());
        ModelConfig::from_json(&json).unwrap_err().to_string()
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        assert!(ModelConfig::from_json(&base()).is_ok());
        assert!(
            error(|m| drop(m.insert("model_type".into(), json!("phi3"))))
                .contains("`phi3` is not native")
        );
        assert!(
            error(|m| drop(m.insert("num_attention_heads".into(), json!(3))))
                .contains("not a multiple of 3")
        );
        assert!(
            error(|m| drop(m.insert("hidden_size".into(), json!(-4))))
                .contains("`hidden_size` is -4")
        );
        assert!(
            error(|m| drop(m.insert("vocab_size".into(), json!(1u64 << 40))))
                .contains("`vocab_size`")
        );
        assert!(
            error(|m| drop(m.insert("num_key_value_heads".into(), json!(7))))
                .contains("cannot share")
        );
        assert!(
            error(|m| drop(m.insert("rope_scaling".into(), json!({"type": "yarn"}))))
                .contains("`yarn`")
        );
        assert!(error(|m| drop(m.remove("vocab_size"))).contains("`vocab_size` is missing"));
    }
}
