//! The architectures that are computed natively, one file each: what sets them apart is read here
//! and nowhere else.

mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;

use crate::fields::{ConfigError, Fields};
use crate::rope::{Reader, Rope};

/// An architecture: the defaults of its configuration, as transformers has them, and what its
/// layers have or lack.
///
/// The methods' own bodies describe Llama.
pub(crate) trait Family: Sync {
    /// `model_type` in `config.json`.
    fn name(&self) -> &'static str;

    /// Fields with these names take the place of those that `config.json` lacks.
    fn defaults(&self) -> Defaults {
        Defaults::LLAMA
    }

    /// The biases of the linear layers.
    fn biases(&self, _: &Fields<'_>) -> Result<Biases, ConfigError> {
        Ok(Biases::default())
    }

    /// The keys that a query of each layer sees, itself included; `None` = all before it.
    fn windows(&self, _: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
        Ok(vec![None; layers])
    }

    /// Scaling and soft caps of attention scores and logits.
    fn scores(&self, _: &Fields<'_>, head_dim: usize) -> Result<Scores, ConfigError> {
        let (attention_cap, logit_cap) = (None, None);
        Ok(Scores { attention_scale: 1.0 / libm::sqrt(head_dim as f64), attention_cap, logit_cap })
    }

    /// Rotary positions; `reader` has whole heads to rotate.
    fn ropes(&self, fields: &Fields<'_>, reader: Reader) -> Result<Ropes, ConfigError> {
        Ok(Ropes { full: reader.read(fields, 10_000.0)?, sliding: None })
    }

    /// The extent of the norms of queries and keys, where there are such.
    fn query_key_norm(&self) -> Option<NormExtent> {
        None
    }

    /// Whether the weights hold query, key and value as one matrix, `qkv_proj`, and gate and up as
    /// another, `gate_up_proj`.
    fn fused(&self) -> bool {
        false
    }

    /// Fields of other architectures, which transformers does not read for this one.
    fn unread(&self) -> &'static [&'static str];

    /// Offset added to the stored weights of norms.
    fn norm_offset(&self) -> f32 {
        0.0
    }

    /// The norms of a layer.
    fn norms(&self) -> NormNames {
        NormNames {
            before_attention: Some("input_layernorm"),
            after_attention: None,
            before_mlp: Some("post_attention_layernorm"),
            after_mlp: None,
        }
    }

    /// The factor of the embedding, in f32 as the reference rounds it.
    fn embedding_scale(&self, _hidden: usize) -> f32 {
        1.0
    }
}

/// Values of fields that `config.json` leaves out.
pub(crate) struct Defaults {
    /// Of `num_key_value_heads`; `None` = as many as query heads.
    pub kv_heads: Option<usize>,
    /// Of `head_dim`; `None` = hidden size over query heads.
    pub head_dim: Option<usize>,
    /// Of `max_position_embeddings`.
    pub max_positions: usize,
    /// Of `tie_word_embeddings`.
    pub tied: bool,
    /// The field that names the activation.
    pub activation_field: &'static str,
    /// Its value.
    pub activation: &'static str,
    /// Of `rms_norm_eps`.
    pub norm_eps: f64,
}

impl Defaults {
    const LLAMA: Defaults = Defaults {
        kv_heads: None,
        head_dim: None,
        max_positions: 2048,
        tied: false,
        activation_field: "hidden_act",
        activation: "silu",
        norm_eps: 1e-6,
    };
}

/// Presence of biases in linear layers.
#[derive(Default)]
pub(crate) struct Biases {
    /// Query, key and value.
    pub attention: bool,
    /// The output projection of attention.
    pub output: bool,
    /// The feed-forward layers.
    pub mlp: bool,
}

/// Scaling and soft caps of attention scores and logits.
pub(crate) struct Scores {
    /// Factor of the attention scores.
    pub attention_scale: f64,
    /// Soft cap of the attention scores.
    pub attention_cap: Option<f32>,
    /// Soft cap of the logits.
    pub logit_cap: Option<f32>,
}

/// Rotary positions of the layers.
pub(crate) struct Ropes {
    /// Of layers that see everything before them, or of all.
    pub full: Rope,
    /// Of layers with a window, where they have their own.
    pub sliding: Option<Rope>,
}

/// Extent of a norm of queries or keys, between projection and rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormExtent {
    /// Each head by itself; all heads share their weights.
    Head,
    /// All heads of a token together.
    Token,
}

/// Names of a layer's norms in the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NormNames {
    /// Norm before attention.
    pub before_attention: Option<&'static str>,
    /// Norm after attention, before the residual is added.
    pub after_attention: Option<&'static str>,
    /// Norm before the feed-forward layers.
    pub before_mlp: Option<&'static str>,
    /// Norm after the feed-forward layers, before the residual is added.
    pub after_mlp: Option<&'static str>,
}

/// All native architectures.
const FAMILIES: [&dyn Family; 8] = [
    &llama::Llama,
    &mistral::Mistral,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &olmo2::Olmo2,
    &phi3::Phi3,
];

/// Lists the native architectures, to end a sentence.
fn names() -> String {
    let names = FAMILIES.map(|family| family.name());
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("{} and {last}", others.join(", "))
}

/// Finds an architecture by its `model_type`.
pub(crate) fn find(name: &str) -> Result<&'static dyn Family, ConfigError> {
    let found = FAMILIES.into_iter().find(|family| family.name() == name);
    found.ok_or_else(|| ConfigError::Foreign { family: name.to_owned(), native: names() })
}

/// The windows of layers that `layer_types` names, or else `slides` chooses by number.
fn layered(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let Some(types) = fields.get("layer_types") else {
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == layers).ok_or_else(|| {
        ConfigError::Value(format!("`layer_types` must be a list of {layers} names, one per layer"))
    })?;
    let window_of = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(window),
        _ => Err(ConfigError::Unsupported(format!("`layer_types` holds {kind}"))),
    };
    types.iter().map(window_of).collect()
}

/// `sliding_window`: a size, or `null` for none; `default` where it is absent.
fn window(fields: &Fields<'_>, default: usize) -> Result<Option<usize>, ConfigError> {
    match fields.written("sliding_window") {
        Some(serde_json::Value::Null) => Ok(None),
        _ => fields.size_or("sliding_window", default).map(Some),
    }
}
