//! Llama 2 and 3.

use crate::fields::{ConfigError, Fields};

use super::{Biases, Family};

pub(super) struct Llama;

impl Family for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "layer_types",
            "max_window_layers",
            "query_pre_attn_scalar",
            "sliding_window",
            "use_sliding_window",
        ]
    }

    fn biases(&self, fields: &Fields<'_>) -> Result<Biases, ConfigError> {
        let attention = fields.flag("attention_bias", false)?;
        Ok(Biases { attention, output: attention, mlp: fields.flag("mlp_bias", false)? })
    }
}
