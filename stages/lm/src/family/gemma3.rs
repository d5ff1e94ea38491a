//! Gemma 3, the model of text: Gemma 2 without soft caps of attention, with norms of queries and
//! keys, and rotary positions of their own in layers with a window.

use crate::fields::{ConfigError, Fields};
use crate::rope::Reader;

use super::gemma2::Gemma2;
use super::{Biases, Defaults, Family, NormExtent, NormNames, Ropes, Scores, layered};

pub(super) struct Gemma3;

impl Family for Gemma3 {
    fn name(&self) -> &'static str {
        "gemma3_text"
    }

    fn unread(&self) -> &'static [&'static str] {
        &["hidden_act", "max_window_layers", "mlp_bias", "use_sliding_window"]
    }

    fn defaults(&self) -> Defaults {
        Defaults { max_positions: 131_072, ..Gemma2.defaults() }
    }

    fn biases(&self, fields: &Fields<'_>) -> Result<Biases, ConfigError> {
        Gemma2.biases(fields)
    }

    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let window = fields.size_or("sliding_window", 4096)?;
        let pattern = fields.size_or("sliding_window_pattern", 6)?;
        layered(fields, layers, Some(window), |layer| !(layer + 1).is_multiple_of(pattern))
    }

    fn scores(&self, fields: &Fields<'_>, _: usize) -> Result<Scores, ConfigError> {
        let logit_cap = match fields.number("final_logit_softcapping")? {
            Some(_) => Some(fields.positive("final_logit_softcapping", 1.0)? as f32),
            None => None,
        };
        Ok(Scores {
            attention_scale: 1.0 / libm::sqrt(fields.positive("query_pre_attn_scalar", 256.0)?),
            attention_cap: None,
            logit_cap,
        })
    }

    /// A scaling of transformers 4 is that of layers without a window; transformers 5 names both.
    fn ropes(&self, fields: &Fields<'_>, reader: Reader) -> Result<Ropes, ConfigError> {
        let theta = fields.positive("rope_theta", 1_000_000.0)?;
        let local = fields.positive("rope_local_base_freq", 10_000.0)?;
        let older = fields.object("rope_scaling", "rope_scaling.")?;
        let Some(newer) = fields.object("rope_parameters", "rope_parameters.")? else {
            let full = match older {
                Some(scaling) => reader.scaled(&scaling, theta)?,
                None => reader.plain(theta),
            };
            return Ok(Ropes { full, sliding: Some(reader.plain(local)) });
        };
        if older.is_some() {
            let message = "it has both `rope_scaling` and `rope_parameters`".to_owned();
            return Err(ConfigError::Unsupported(message));
        }
        let of = |name, within, theta| match newer.object(name, within)? {
            Some(parameters) => reader.scaled(&parameters, theta),
            None => Ok(reader.plain(theta)),
        };
        let full = of("full_attention", "rope_parameters.full_attention.", theta)?;
        let sliding = of("sliding_attention", "rope_parameters.sliding_attention.", local)?;
        newer.finish()?;
        Ok(Ropes { full, sliding: Some(sliding) })
    }

    fn query_key_norm(&self) -> Option<NormExtent> {
        Some(NormExtent::Head)
    }

    fn norm_offset(&self) -> f32 {
        Gemma2.norm_offset()
    }

    fn norms(&self) -> NormNames {
        Gemma2.norms()
    }

    fn embedding_scale(&self, hidden: usize) -> f32 {
        Gemma2.embedding_scale(hidden)
    }
}
