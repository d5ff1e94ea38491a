//! The architectures and fields that mistralrs 0.8.1 computes as transformers does; all others are
//! refused by name.
//!
//! mistralrs reads the fields that it knows and passes over all others, so that a model with one
//! more feature would get wrong logits in silence.

use refrain_lm::fields::{ConfigError, Fields};
use serde_json::Value;

/// An architecture whose logits were compared with those of transformers.
struct Architecture {
    /// `model_type` in `config.json`.
    name: &'static str,
    /// Its class in `architectures`, by which mistralrs chooses its code.
    class: &'static str,
    /// Fields that mistralrs honours, beside those of [`SHAPE`].
    honoured: &'static [&'static str],
    /// Fields that transformers does not read for this architecture.
    unread: &'static [&'static str],
    /// Types of rotary scaling that it honours.
    rotary: &'static [&'static str],
    /// The field of the activation, and the one that was compared.
    activation: (&'static str, &'static str),
    /// The window where `sliding_window` is absent.
    window: Option<u64>,
}

/// Fields of the shape, which every architecture here honours.
const SHAPE: [&str; 9] = [
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
];

/// Fields of windows in layers, without effect where there is no window.
const WINDOWS: [&str; 2] = ["max_window_layers", "use_sliding_window"];

static ARCHITECTURES: [Architecture; 6] = [
    Architecture {
        name: "llama",
        class: "LlamaForCausalLM",
        honoured: &[],
        unread: &["sliding_window", "layer_types"],
        rotary: &["default", "linear", "llama3"],
        activation: ("hidden_act", "silu"),
        window: None,
    },
    Architecture {
        name: "mistral",
        class: "MistralForCausalLM",
        honoured: &["head_dim"],
        unread: &[],
        rotary: &["default"],
        activation: ("hidden_act", "silu"),
        window: Some(4096),
    },
    Architecture {
        name: "qwen2",
        class: "Qwen2ForCausalLM",
        honoured: &[],
        unread: &[],
        rotary: &["default"],
        activation: ("hidden_act", "silu"),
        window: None,
    },
    Architecture {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        honoured: &["head_dim"],
        unread: &[],
        rotary: &["default"],
        activation: ("hidden_act", "silu"),
        window: None,
    },
    Architecture {
        name: "phi3",
        class: "Phi3ForCausalLM",
        honoured: &["original_max_position_embeddings"],
        unread: &[],
        rotary: &["default"],
        activation: ("hidden_act", "silu"),
        window: None,
    },
    Architecture {
        name: "gemma2",
        class: "Gemma2ForCausalLM",
        honoured: &["head_dim", "query_pre_attn_scalar"],
        unread: &["hidden_act"],
        rotary: &["default"],
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        window: Some(4096),
    },
];

/// Checks that mistralrs honours every field of a `config.json`, in the spelling of transformers 4.
///
/// # Errors
/// The first field or architecture that it does not honour, or that was not compared.
pub(crate) fn check_config(json: &Value) -> Result<(), ConfigError> {
    let fields = Fields::new(json)?;
    let refuse = |message: String| Err(ConfigError::Unsupported(message));
    let name = fields.text("model_type")?.unwrap_or_default();
    let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == name) else {
        return refuse(format!(
            "model type `{}` was not compared with transformers",
            name.escape_debug()
        ));
    };
    let class = json["architectures"][0].as_str().unwrap_or_default();
    if class != architecture.class {
        let class = class.escape_debug();
        return refuse(format!("`architectures` names `{class}`, not `{}`", architecture.class));
    }

    for field in SHAPE.iter().chain(architecture.honoured).chain(architecture.unread) {
        fields.ignore(field);
    }
    check_activation(&fields, architecture)?;
    check_window(&fields, architecture)?;
    check_rotary(&fields, architecture)?;
    check_heads(&fields)?;
    if name == "gemma2" {
        check_caps(&fields)?;
    }
    fields.finish()
}

fn check_activation(fields: &Fields<'_>, known: &Architecture) -> Result<(), ConfigError> {
    let (field, compared) = known.activation;
    match fields.text(field)? {
        Some(given) if given != compared => {
            Err(ConfigError::Unsupported(format!("`{field}` is `{}`", given.escape_debug())))
        }
        _ => Ok(()),
    }
}

/// A window is one key too wide in mistralrs 0.8.1, so no row may be longer than it.
fn check_window(fields: &Fields<'_>, known: &Architecture) -> Result<(), ConfigError> {
    if known.unread.contains(&"sliding_window") {
        return Ok(());
    }
    let positions = fields.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(0);
    let window = match fields.written("sliding_window") {
        None => known.window,
        Some(value) => value.as_u64(),
    };
    if let Some(window) = window.filter(|window| *window < positions) {
        return Err(ConfigError::Unsupported(format!(
            "`sliding_window` is {window}, and rows may be longer (`max_position_embeddings` is {positions})"
        )));
    }
    // Without a window these say nothing.
    WINDOWS.iter().for_each(|field| fields.ignore(field));
    if let Some(types) = fields.get("layer_types").and_then(Value::as_array)
        && let Some(other) = types.iter().find(|kind| {
            !["full_attention", "sliding_attention"].contains(&kind.as_str().unwrap_or_default())
        })
    {
        return Err(ConfigError::Unsupported(format!("`layer_types` holds {other}")));
    }
    Ok(())
}

fn check_rotary(fields: &Fields<'_>, known: &Architecture) -> Result<(), ConfigError> {
    fields.number("rope_theta")?;
    if fields.number("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
        return Err(ConfigError::Unsupported("`partial_rotary_factor` is not 1".into()));
    }
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(scaling) = fields.object(name, "rope_scaling.")? else { continue };
        let (newer, older) = (scaling.text("rope_type")?, scaling.text("type")?);
        let kind = newer.or(older).unwrap_or("default");
        if !known.rotary.contains(&kind) {
            let kind = kind.escape_debug();
            return Err(ConfigError::Unsupported(format!("the rotary scaling is `{kind}`")));
        }
        for field in ["factor", "rope_theta"] {
            scaling.number(field)?;
        }
        if kind == "llama3" {
            for field in ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
            {
                scaling.number(field)?;
            }
        }
        scaling.finish()?;
    }
    Ok(())
}

/// Refuses a `head_dim` that mistralrs does not read and would take for the hidden size over the
/// heads.
fn check_heads(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let size = |name| fields.get(name).and_then(Value::as_u64);
    if fields.was_read("head_dim") {
        return Ok(());
    }
    match (size("head_dim"), size("hidden_size"), size("num_attention_heads")) {
        (Some(head), Some(hidden), Some(heads)) if head.checked_mul(heads) != Some(hidden) => {
            Err(ConfigError::Unsupported(format!(
                "`head_dim` is {head}, not `hidden_size` over `num_attention_heads`"
            )))
        }
        _ => Ok(()),
    }
}

/// mistralrs takes an absent soft cap for none, transformers for its default.
fn check_caps(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.written(field).is_none() {
            return Err(ConfigError::Unsupported(format!("`{field}` is absent")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_mistralrs_passes_over_is_refused_by_name() {
        let base = |name: &str, class: &str| {
            json!({ "model_type": name, "architectures": [class], "hidden_size": 64, "num_attention_heads": 4,
                    "max_position_embeddings": 512, "hidden_act": "silu", "use_cache": true, "eos_token_id": 1 })
        };
        let with = |mut json: Value, change: Value| {
            json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            check_config(&json)
        };
        let llama = base("llama", "LlamaForCausalLM");
        let phi3 = base("phi3", "Phi3ForCausalLM");
        let qwen2 = base("qwen2", "Qwen2ForCausalLM");
        for fine in [
            (&llama, json!({})),
            (
                &llama,
                json!({ "head_dim": 16, "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }),
            ),
            (&qwen2, json!({ "sliding_window": null, "max_window_layers": 28 })),
            (&qwen2, json!({ "sliding_window": 512, "use_sliding_window": false })),
            (&phi3, json!({ "sliding_window": 2047, "embd_pdrop": 0.0 })),
        ] {
            with(fine.0.clone(), fine.1).unwrap();
        }
        for (json, change, name) in [
            (&llama, json!({ "attention_bias": true }), "`attention_bias`"),
            (&llama, json!({ "head_dim": 32 }), "`head_dim`"),
            (&llama, json!({ "rope_scaling": { "type": "yarn", "factor": 2.0 } }), "`yarn`"),
            (&llama, json!({ "quantization_config": { "bits": 4 } }), "`quantization_config`"),
            (&llama, json!({ "hidden_act": "gelu" }), "`hidden_act`"),
            (&llama, json!({ "model_type": "mixtral" }), "`mixtral`"),
            (&llama, json!({ "architectures": ["MistralForCausalLM"] }), "`architectures`"),
            (&phi3, json!({ "sliding_window": 24 }), "`sliding_window` is 24"),
            (&phi3, json!({ "partial_rotary_factor": 0.75 }), "`partial_rotary_factor`"),
            (&qwen2, json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } }), "`linear`"),
        ] {
            let error = with(json.clone(), change).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
