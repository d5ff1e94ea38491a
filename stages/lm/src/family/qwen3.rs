//! Qwen 3: Qwen 2 without biases, with norms of each head of queries and keys.

use crate::fields::{ConfigError, Fields};

use super::qwen2::Qwen2;
use super::{Biases, Defaults, Family, NormExtent};

pub(super) struct Qwen3;

impl Family for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "mlp_bias",
            "query_pre_attn_scalar",
        ]
    }

    fn defaults(&self) -> Defaults {
        Defaults { head_dim: Some(128), ..Qwen2.defaults() }
    }

    fn biases(&self, fields: &Fields<'_>) -> Result<Biases, ConfigError> {
        let attention = fields.flag("attention_bias", false)?;
        Ok(Biases { attention, output: attention, mlp: false })
    }

    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        Qwen2.windows(fields, layers)
    }

    fn query_key_norm(&self) -> Option<NormExtent> {
        Some(NormExtent::Head)
    }
}
