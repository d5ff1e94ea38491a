//! Rotary positions: the scaling that a configuration asks for, and the frequencies that it gives.

use std::f64::consts::PI;

use crate::fields::{ConfigError, Fields};

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies for contexts longer than those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Unchanged.
    Default,
    /// All frequencies are divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths are stretched, short ones kept, those between blended.
    Llama3 {
        /// The stretch.
        factor: f64,
        /// Lower bound of the blend.
        low: f64,
        /// Upper bound of the blend.
        high: f64,
        /// Context of the first training, in tokens.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071): a blend by dimension, and louder cosines and sines.
    Yarn {
        /// The stretch.
        factor: f64,
        /// Dimensions below this keep their frequency.
        low: f64,
        /// Dimensions above this are stretched in full.
        high: f64,
        /// Factor of cosines and sines.
        amplitude: f64,
    },
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers
    /// 5).
    pub(crate) fn read(
        fields: &Fields<'_>,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Rope, ConfigError> {
        let theta = fields.positive("rope_theta", 10_000.0)?;
        let original = fields.number("original_max_position_embeddings")?;
        let scaling = fields.object("rope_scaling", "rope_scaling.")?;
        let parameters = fields.object("rope_parameters", "rope_parameters.")?;

        // Where both are given, transformers takes the older one.
        let Some(parameters) = scaling.or(parameters) else {
            return Ok(Rope { theta, scaling: RopeScaling::Default });
        };
        let theta = parameters.positive("rope_theta", theta)?;
        let (newer, older) = (parameters.text("rope_type")?, parameters.text("type")?);
        let scaling = match newer.or(older).unwrap_or("default") {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: need(&parameters, "factor")? },
            "llama3" => llama3(&parameters, original, max_positions)?,
            "yarn" => yarn(&parameters, theta, head_dim, original, max_positions)?,
            other => {
                let message =
                    format!("the rotary scaling `{}` is not native", other.escape_debug());
                return Err(ConfigError::Unsupported(message));
            }
        };
        if parameters.number("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
            let message = "`partial_rotary_factor` is not honoured".to_owned();
            return Err(ConfigError::Unsupported(message));
        }
        parameters.finish()?;
        Ok(Rope { theta, scaling })
    }

    /// Returns the frequencies, `[head_dim / 2]`, in radians per position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2)
            .map(|i| libm::pow(self.theta, -((2 * i) as f64) / head_dim as f64))
            .enumerate();
        plain.map(|(dimension, frequency)| self.scaling.apply(dimension, frequency)).collect()
    }

    /// Returns the factor of cosines and sines.
    pub fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } => amplitude,
            _ => 1.0,
        }
    }
}

impl RopeScaling {
    fn apply(&self, dimension: usize, frequency: f64) -> f64 {
        match *self {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
            RopeScaling::Yarn { factor, low, high, .. } => {
                let stretched = ((dimension as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (1.0 - stretched) + frequency / factor * stretched
            }
        }
    }
}

/// A positive number that the scaling cannot do without.
fn need(parameters: &Fields<'_>, name: &'static str) -> Result<f64, ConfigError> {
    let missing = || ConfigError::Value(format!("the rotary scaling lacks `{name}`"));
    match parameters.number(name)?.ok_or_else(missing)? {
        number if number > 0.0 => Ok(number),
        _ => Err(ConfigError::Value(format!("`{name}` of the rotary scaling must be above 0"))),
    }
}

/// The context of the first training: a field of the configuration wins over one of the scaling.
fn original_length(
    parameters: &Fields<'_>,
    original: Option<f64>,
    max_positions: usize,
) -> Result<f64, ConfigError> {
    let within = parameters.positive("original_max_position_embeddings", max_positions as f64)?;
    let length = original.unwrap_or(within);
    if length >= 1.0 {
        return Ok(length);
    }
    Err(ConfigError::Value("`original_max_position_embeddings` must be at least 1".into()))
}

fn llama3(
    parameters: &Fields<'_>,
    original: Option<f64>,
    max_positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let (low, high) = (need(parameters, "low_freq_factor")?, need(parameters, "high_freq_factor")?);
    if low >= high {
        return Err(ConfigError::Value(
            "`low_freq_factor` must be below `high_freq_factor`".into(),
        ));
    }
    let factor = need(parameters, "factor")?;
    let original = original_length(parameters, original, max_positions)?;
    Ok(RopeScaling::Llama3 { factor, low, high, original })
}

fn yarn(
    parameters: &Fields<'_>,
    theta: f64,
    head_dim: usize,
    original: Option<f64>,
    max_positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let original = original_length(parameters, original, max_positions)?;
    let factor = parameters.positive("factor", max_positions as f64 / original)?;
    if theta <= 1.0 {
        return Err(ConfigError::Value("`rope_theta` must be above 1 with `yarn`".into()));
    }

    // The dimension whose frequency turns so often within the first context.
    let turning = |turns: f64| {
        head_dim as f64 * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(theta))
    };
    // Zero means the default, as everything that is false does in Python.
    let or_default = |given: Option<f64>, usual: f64| given.filter(|n| *n != 0.0).unwrap_or(usual);
    let mut low = turning(or_default(parameters.number("beta_fast")?, 32.0));
    let mut high = turning(or_default(parameters.number("beta_slow")?, 1.0));
    if parameters.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }

    let loudness =
        |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 };
    let given = |name| parameters.number(name).map(|number| number.filter(|number| *number != 0.0));
    let (mscale, all) = (given("mscale")?, given("mscale_all_dim")?);
    let amplitude = match (parameters.number("attention_factor")?, mscale, all) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all)) => loudness(mscale) / loudness(all),
        (None, _, _) => loudness(1.0),
    };
    if !(low.is_finite() && high.is_finite() && amplitude.is_finite()) {
        return Err(ConfigError::Value(
            "the numbers of the rotary scaling do not fit together".into(),
        ));
    }
    Ok(RopeScaling::Yarn { factor, low, high, amplitude })
}
