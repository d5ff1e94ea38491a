//! Llama 2 and 3.

use crate::fields::{ConfigError, Fields};

use super::{Biases, Family};

pub(super) struct Llama;

impl Family for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }

    fn biases(&self, fields: &Fields<'_>) -> Result<Biases, ConfigError> {
        let attention = fields.flag("attention_bias", false)?;
        Ok(Biases { attention, output: attention, mlp: fields.flag("mlp_bias", false)? })
    }
}
