//! Mistral: Llama with a sliding window in every layer.

use crate::fields::{ConfigError, Fields};

use super::{Defaults, Family, window};

pub(super) struct Mistral;

impl Family for Mistral {
    fn name(&self) -> &'static str {
        "mistral"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attention_bias",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "max_window_layers",
            "mlp_bias",
            "query_pre_attn_scalar",
            "use_sliding_window",
        ]
    }

    fn defaults(&self) -> Defaults {
        Defaults { kv_heads: Some(8), max_positions: 131_072, ..Defaults::LLAMA }
    }

    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        Ok(vec![window(fields, 4096)?; layers])
    }
}
