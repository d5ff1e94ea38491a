//! Reads rotary scalings in the spelling of transformers 4 or 5.

use std::f64::consts::PI;

use crate::fields::{ConfigError, Fields};

use super::{Rope, RopeScaling};

/// Reads the parameters of rotary positions of one model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    /// Entries of a head that are rotated.
    pub dim: usize,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// The context of the first training, where the configuration itself gives it.
    pub original: Option<f64>,
}

/// Returns `rope_scaling` (transformers 4), else `rope_parameters` (transformers 5): where both are
/// given, transformers takes the older one.
pub(crate) fn parameters<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, ConfigError> {
    let scaling = fields.object("rope_scaling", "rope_scaling.")?;
    let parameters = fields.object("rope_parameters", "rope_parameters.")?;
    Ok(scaling.or(parameters))
}

impl Reader {
    /// Reads the rotary positions that all layers of a model have; `theta` is the default.
    pub fn read(&self, fields: &Fields<'_>, theta: f64) -> Result<Rope, ConfigError> {
        let theta = fields.positive("rope_theta", theta)?;
        let original = fields.number("original_max_position_embeddings")?;
        let reader = Reader { original: original.or(self.original), ..*self };
        match parameters(fields)? {
            Some(parameters) => reader.scaled(&parameters, theta),
            None => Ok(reader.plain(theta)),
        }
    }

    /// Rotary positions without a scaling.
    pub fn plain(&self, theta: f64) -> Rope {
        let scaling = RopeScaling::Default;
        Rope { theta, dim: self.dim, positions: self.max_positions, scaling }
    }

    /// Reads a mapping of parameters in which every head is rotated as a whole.
    pub fn scaled(&self, parameters: &Fields<'_>, theta: f64) -> Result<Rope, ConfigError> {
        if parameters.number("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
            let message = "`partial_rotary_factor` is not honoured".to_owned();
            return Err(ConfigError::Unsupported(message));
        }
        self.of_kind(kind(parameters)?, parameters, theta)
    }

    /// Reads a mapping of parameters as those of one kind of scaling.
    pub fn of_kind(
        &self,
        kind: &str,
        parameters: &Fields<'_>,
        theta: f64,
    ) -> Result<Rope, ConfigError> {
        let theta = parameters.positive("rope_theta", theta)?;
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: need(parameters, "factor")? },
            "dynamic" => self.dynamic(parameters)?,
            "llama3" => self.llama3(parameters)?,
            "yarn" => self.yarn(parameters, theta)?,
            "longrope" => self.longrope(parameters)?,
            other => {
                let message =
                    format!("the rotary scaling `{}` is not native", other.escape_debug());
                return Err(ConfigError::Unsupported(message));
            }
        };
        // transformers reads it for some kinds only.
        parameters.ignore("original_max_position_embeddings");
        parameters.finish()?;
        Ok(Rope { theta, dim: self.dim, positions: self.max_positions, scaling })
    }

    /// The context of the first training: a field of the configuration wins over one of the
    /// scaling.
    fn original_length(&self, parameters: &Fields<'_>) -> Result<f64, ConfigError> {
        let within =
            parameters.positive("original_max_position_embeddings", self.max_positions as f64)?;
        let length = self.original.unwrap_or(within);
        if length >= 1.0 {
            return Ok(length);
        }
        Err(ConfigError::Value("`original_max_position_embeddings` must be at least 1".into()))
    }

    fn dynamic(&self, parameters: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let factor = need(parameters, "factor")?;
        if self.dim <= 2 {
            return Err(ConfigError::Value(
                "the rotary scaling `dynamic` needs heads of more than 2 entries".into(),
            ));
        }
        Ok(RopeScaling::Dynamic { factor, original: self.max_positions as f64 })
    }

    fn llama3(&self, parameters: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let (low, high) =
            (need(parameters, "low_freq_factor")?, need(parameters, "high_freq_factor")?);
        if low >= high {
            return Err(ConfigError::Value(
                "`low_freq_factor` must be below `high_freq_factor`".into(),
            ));
        }
        let factor = need(parameters, "factor")?;
        Ok(RopeScaling::Llama3 { factor, low, high, original: self.original_length(parameters)? })
    }

    fn yarn(&self, parameters: &Fields<'_>, theta: f64) -> Result<RopeScaling, ConfigError> {
        let original = self.original_length(parameters)?;
        let factor = parameters.positive("factor", self.max_positions as f64 / original)?;
        if theta <= 1.0 {
            return Err(ConfigError::Value("`rope_theta` must be above 1 with `yarn`".into()));
        }

        // The dimension whose frequency turns so often within the first context.
        let dim = self.dim as f64;
        let turning =
            |turns: f64| dim * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(theta));
        // Zero means the default, as everything that is false does in Python.
        let or_default =
            |given: Option<f64>, usual: f64| given.filter(|n| *n != 0.0).unwrap_or(usual);
        let mut low = turning(or_default(parameters.number("beta_fast")?, 32.0));
        let mut high = turning(or_default(parameters.number("beta_slow")?, 1.0));
        if parameters.flag("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }

        let loudness =
            |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 };
        let given =
            |name| parameters.number(name).map(|number| number.filter(|number| *number != 0.0));
        let (mscale, all) = (given("mscale")?, given("mscale_all_dim")?);
        let amplitude = match (parameters.number("attention_factor")?, mscale, all) {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all)) => loudness(mscale) / loudness(all),
            (None, _, _) => loudness(1.0),
        };
        if !(low.is_finite() && high.is_finite() && amplitude.is_finite()) {
            return Err(unfit());
        }
        Ok(RopeScaling::Yarn { factor, low, high, amplitude })
    }

    fn longrope(&self, parameters: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let original = self.original_length(parameters)?;
        let divisors = |name: &'static str| {
            let divisors = parameters.numbers(name)?;
            if divisors.len() == self.dim / 2 && divisors.iter().all(|divisor| *divisor > 0.0) {
                return Ok(divisors);
            }
            Err(ConfigError::Value(format!(
                "`{name}` of the rotary scaling must be {} numbers above 0",
                self.dim / 2
            )))
        };
        let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
        let factor = parameters.positive("factor", self.max_positions as f64 / original)?;
        let amplitude = match parameters.number("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => libm::sqrt(1.0 + libm::log(factor) / libm::log(original)),
        };
        if !amplitude.is_finite() {
            return Err(unfit());
        }
        Ok(RopeScaling::LongRope { short, long, original, amplitude })
    }
}

/// The kind of scaling, under its newer or older name.
pub(crate) fn kind<'a>(parameters: &Fields<'a>) -> Result<&'a str, ConfigError> {
    let (newer, older) = (parameters.text("rope_type")?, parameters.text("type")?);
    Ok(newer.or(older).unwrap_or("default"))
}

/// A positive number that the scaling cannot do without.
fn need(parameters: &Fields<'_>, name: &'static str) -> Result<f64, ConfigError> {
    let missing = || ConfigError::Value(format!("the rotary scaling lacks `{name}`"));
    match parameters.number(name)?.ok_or_else(missing)? {
        number if number > 0.0 => Ok(number),
        _ => Err(ConfigError::Value(format!("`{name}` of the rotary scaling must be above 0"))),
    }
}

fn unfit() -> ConfigError {
    ConfigError::Value("the numbers of the rotary scaling do not fit together".into())
}
