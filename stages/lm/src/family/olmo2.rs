//! OLMo 2: norms after each block in place of before it, and of whole queries and keys.

use crate::fields::{ConfigError, Fields};

use super::{Biases, Defaults, Family, NormExtent, NormNames};

pub(super) struct Olmo2;

impl Family for Olmo2 {
    fn name(&self) -> &'static str {
        "olmo2"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "layer_types",
            "max_window_layers",
            "mlp_bias",
            "query_pre_attn_scalar",
            "sliding_window",
            "use_sliding_window",
        ]
    }

    fn defaults(&self) -> Defaults {
        Defaults { norm_eps: 1e-5, ..Defaults::LLAMA }
    }

    fn biases(&self, fields: &Fields<'_>) -> Result<Biases, ConfigError> {
        let attention = fields.flag("attention_bias", false)?;
        Ok(Biases { attention, output: attention, mlp: false })
    }

    fn norms(&self) -> NormNames {
        NormNames {
            before_attention: None,
            after_attention: Some("post_attention_layernorm"),
            before_mlp: None,
            after_mlp: Some("post_feedforward_layernorm"),
        }
    }

    fn query_key_norm(&self) -> Option<NormExtent> {
        Some(NormExtent::Token)
    }
}
