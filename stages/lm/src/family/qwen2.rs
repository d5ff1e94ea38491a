//! Qwen 2: Llama with biases on query, key and value, and optional windows in the upper layers.

use crate::fields::{ConfigError, Fields};

use super::{Biases, Defaults, Family, layered, window};

pub(super) struct Qwen2;

impl Family for Qwen2 {
    fn name(&self) -> &'static str {
        "qwen2"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attention_bias",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "mlp_bias",
            "query_pre_attn_scalar",
        ]
    }

    fn defaults(&self) -> Defaults {
        Defaults { kv_heads: Some(32), max_positions: 32_768, ..Defaults::LLAMA }
    }

    fn biases(&self, _: &Fields<'_>) -> Result<Biases, ConfigError> {
        Ok(Biases { attention: true, output: false, mlp: false })
    }

    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let used = fields.flag("use_sliding_window", false)?;
        let window = window(fields, 4096)?.filter(|_| used);
        let full = fields.number("max_window_layers")?.unwrap_or(28.0);
        layered(fields, layers, window, |layer| layer as f64 >= full)
    }
}
