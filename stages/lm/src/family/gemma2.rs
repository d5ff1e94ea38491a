//! Gemma 2: norms around each block, soft caps, a scaled embedding and windows in every other
//! layer.

use crate::fields::{ConfigError, Fields};

use super::{Biases, Defaults, Family, NormNames, Scores, layered, window};

pub(super) struct Gemma2;

impl Family for Gemma2 {
    fn name(&self) -> &'static str {
        "gemma2"
    }

    fn unread(&self) -> &'static [&'static str] {
        &["hidden_act", "max_window_layers", "mlp_bias", "use_sliding_window"]
    }

    fn defaults(&self) -> Defaults {
        Defaults {
            kv_heads: Some(4),
            head_dim: Some(256),
            max_positions: 8192,
            tied: true,
            activation_field: "hidden_activation",
            activation: "gelu_pytorch_tanh",
            norm_eps: 1e-6,
        }
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
        layered(fields, layers, window(fields, 4096)?, |layer| layer.is_multiple_of(2))
    }

    fn scores(&self, fields: &Fields<'_>, _: usize) -> Result<Scores, ConfigError> {
        let cap = |name, default| fields.positive_or_null(name, default);
        Ok(Scores {
            attention_scale: 1.0 / libm::sqrt(fields.positive("query_pre_attn_scalar", 256.0)?),
            attention_cap: cap("attn_logit_softcapping", 50.0)?.map(|cap| cap as f32),
            logit_cap: cap("final_logit_softcapping", 30.0)?.map(|cap| cap as f32),
        })
    }

    /// The weights are stored less one.
    fn norm_offset(&self) -> f32 {
        1.0
    }

    fn norms(&self) -> NormNames {
        NormNames {
            before_attention: Some("input_layernorm"),
            after_attention: Some("post_attention_layernorm"),
            before_mlp: Some("pre_feedforward_layernorm"),
            after_mlp: Some("post_feedforward_layernorm"),
        }
    }

    fn embedding_scale(&self, hidden: usize) -> f32 {
        (hidden as f32).sqrt()
    }
}
