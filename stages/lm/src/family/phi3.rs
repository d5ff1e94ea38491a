//! Phi-3: Llama with fused matrices, an optional window in every layer, and heads of which only the
//! first entries may be rotated.

use crate::fields::{ConfigError, Fields};
use crate::rope::{self, Reader};

use super::{Defaults, Family, Ropes};

pub(super) struct Phi3;

impl Family for Phi3 {
    fn name(&self) -> &'static str {
        "phi3"
    }

    fn unread(&self) -> &'static [&'static str] {
        &[
            "attention_bias",
            "attn_logit_softcapping",
            // The class with which it was trained; transformers has its own.
            "auto_map",
            "final_logit_softcapping",
            "full_attn_mod",
            "hidden_activation",
            "interpolate_factor",
            "layer_types",
            "lm_head_bias",
            "max_window_layers",
            "mlp_bias",
            "query_pre_attn_scalar",
            "use_sliding_window",
        ]
    }

    fn defaults(&self) -> Defaults {
        Defaults { max_positions: 4096, norm_eps: 1e-5, ..Defaults::LLAMA }
    }

    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let window = fields.get("sliding_window").map(|_| fields.size("sliding_window"));
        Ok(vec![window.transpose()?; layers])
    }

    fn ropes(&self, fields: &Fields<'_>, reader: Reader) -> Result<Ropes, ConfigError> {
        let theta = fields.positive("rope_theta", 10_000.0)?;
        let share = fields.positive("partial_rotary_factor", 1.0)?;
        let original = fields.positive("original_max_position_embeddings", 4096.0)?;
        let parameters = rope::parameters(fields)?;
        let share = match &parameters {
            Some(parameters) => parameters.positive("partial_rotary_factor", share)?,
            None => share,
        };
        let dim = (reader.dim as f64 * share) as usize;
        if dim < 2 || !dim.is_multiple_of(2) || dim > reader.dim {
            let message = format!(
                "`partial_rotary_factor` {share} rotates {dim} of the {} entries of a head",
                reader.dim
            );
            return Err(ConfigError::Value(message));
        }
        let reader = Reader { dim, original: Some(original), ..reader };
        let Some(parameters) = parameters else {
            return Ok(Ropes { full: reader.plain(theta), sliding: None });
        };
        // The names of `longrope` in older configurations of this family.
        let kind = match rope::kind(&parameters)? {
            "su" | "yarn" => "longrope",
            kind @ ("default" | "longrope") => kind,
            other => {
                let message =
                    format!("the rotary scaling `{}` is not one of phi3", other.escape_debug());
                return Err(ConfigError::Unsupported(message));
            }
        };
        Ok(Ropes { full: reader.of_kind(kind, &parameters, theta)?, sliding: None })
    }

    fn fused(&self) -> bool {
        true
    }
}
