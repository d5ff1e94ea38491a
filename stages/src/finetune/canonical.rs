//! Resolves the defaults of `finetune` that depend on other parameters.

use serde_json::{Map, Value};

use refrain_lm::tokenizer_training::CHAT_TEMPLATE;

use crate::canonical::{self, FindModel, remove_default};

use super::params::Target;

/// Removes what is given as it is by default.
pub(super) fn canonicalize(params: &mut Map<String, Value>, model: FindModel<'_>) {
    if !params.contains_key("steps") {
        remove_default(params, "epochs", &1.into());
    }
    if let Some(Value::Array(steps)) = params.get_mut("keep") {
        steps.sort_by_key(Value::as_u64);
        steps.dedup();
    }
    if let Some(Value::Object(lora)) = params.get_mut("lora") {
        canonicalize_lora(lora);
    }
    let has_template = match params.get_mut("from") {
        Some(Value::Object(from)) => {
            canonicalize_new_model(from);
            // A new model is trained as a whole, and its tokenizer has a template.
            params.insert("full".into(), false.into());
            Some(true)
        }
        _ => canonical::has_template(model),
    };
    canonical::chat(params, has_template);
    canonical::bos(params);
    remove_default(params, "train_on", &"last".into());
    // Parameters that came later, and the values under which a training is what it was before.
    remove_default(params, "backend", &"native".into());
    remove_default(params, "dtype", &"f32".into());
    remove_default(params, "packing", &false.into());
}

fn canonicalize_lora(lora: &mut Map<String, Value>) {
    if let Some(rank) = lora.get("rank").and_then(Value::as_f64) {
        remove_default(lora, "alpha", &(2.0 * rank).into());
    }
    for name in ["dora", "rslora"] {
        remove_default(lora, name, &false.into());
    }

    // All layers in any order, and none, which means all too.
    let given = lora.get("targets").and_then(Value::as_array);
    let is_all = given.is_some_and(|given| {
        let listed = |target: &Target| given.iter().any(|name| name == target.word());
        given.is_empty() || Target::APART.iter().all(listed) && !Target::FUSED.iter().any(listed)
    });
    if is_all {
        lora.shift_remove("targets");
    }
}

fn canonicalize_new_model(from: &mut Map<String, Value>) {
    if let Some(Value::Object(config)) = from.get_mut("config") {
        let size =
            |config: &Map<String, Value>, name: &str| config.get(name).and_then(Value::as_u64);
        let heads = size(config, "num_attention_heads");
        let width = size(config, "hidden_size");
        if let Some(heads) = heads {
            remove_default(config, "num_key_value_heads", &heads.into());
        }
        if let (Some(heads), Some(width)) = (heads, width)
            && width % heads == 0
        {
            remove_default(config, "head_dim", &(width / heads).into());
        }
    }
    if let Some(Value::Object(tokenizer)) = from.get_mut("tokenizer") {
        remove_default(tokenizer, "chat_template", &CHAT_TEMPLATE.into());
    }
}
