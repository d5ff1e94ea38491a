//! `config.json` as transformers 5 spells it, in the spelling of version 4, which alone mistralrs
//! 0.8.1 reads.

use serde_json::{Map, Value};

/// The configuration in the older spelling; `None` where it is in it already.
pub(crate) fn older(config: &Value) -> Option<Value> {
    let mut config = config.as_object()?.clone();
    let mut rope: Map<String, Value> = config.get("rope_parameters")?.as_object()?.clone();
    if config.contains_key("rope_theta") {
        return None;
    }
    // One mapping a kind of layer, as newer architectures have it, has no theta here and stays as
    // it is.
    let theta = rope.remove("rope_theta")?;
    config.remove("rope_parameters");
    config.insert("rope_theta".into(), theta);
    if rope.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default") {
        config.insert("rope_scaling".into(), rope.into());
    }
    Some(config.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rope_parameters_move_to_their_old_places() {
        let plain =
            json!({ "a": 1, "rope_parameters": { "rope_theta": 5.0, "rope_type": "default" } });
        assert_eq!(older(&plain), Some(json!({ "a": 1, "rope_theta": 5.0 })));
        let scaled = json!({ "rope_parameters": { "rope_theta": 5.0, "rope_type": "llama3", "factor": 2.0 } });
        let expected =
            json!({ "rope_theta": 5.0, "rope_scaling": { "rope_type": "llama3", "factor": 2.0 } });
        assert_eq!(older(&scaled), Some(expected));
        assert_eq!(older(&json!({ "rope_theta": 5.0 })), None);
        assert_eq!(
            older(&json!({ "rope_parameters": { "full_attention": { "rope_theta": 1.0 } } })),
            None
        );
    }
}
