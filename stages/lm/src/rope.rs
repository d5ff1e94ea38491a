//! Rotary positions: the scaling that a configuration asks for, and the frequencies that it gives.

mod read;
mod rotary;

use std::f64::consts::PI;

pub(crate) use read::{Reader, kind, parameters};
pub use rotary::Rotary;

/// Base, extent and scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Entries of a head that are rotated, its first ones; even.
    pub dim: usize,
    /// Positions whose cosines and sines are kept.
    pub positions: usize,
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
    /// Dynamic NTK: the base grows with the row, as soon as that is longer than the first context.
    Dynamic {
        /// The stretch.
        factor: f64,
        /// Context of the first training, in tokens.
        original: f64,
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
    /// LongRoPE (arXiv 2402.13753): a divisor per frequency, one list for rows within the first
    /// context and one for longer rows.
    LongRope {
        /// Divisors in rows of at most `original` tokens.
        short: Vec<f64>,
        /// Divisors in longer rows.
        long: Vec<f64>,
        /// Context of the first training, in tokens.
        original: f64,
        /// Factor of cosines and sines, in both.
        amplitude: f64,
    },
}

impl Rope {
    /// Returns the frequencies in a row of so many tokens, `[dim / 2]`, in radians per position.
    pub fn frequencies(&self, length: usize) -> Vec<f64> {
        let (dim, theta) = (self.dim as f64, self.theta_in(length));
        let plain = (0..self.dim / 2).map(|i| libm::pow(theta, -((2 * i) as f64) / dim));
        plain
            .enumerate()
            .map(|(dimension, frequency)| self.scaling.apply(dimension, frequency, length))
            .collect()
    }

    /// The base in a row of so many tokens.
    fn theta_in(&self, length: usize) -> f64 {
        match self.scaling {
            RopeScaling::Dynamic { factor, original } if length as f64 > original => {
                let stretch = factor * length as f64 / original - (factor - 1.0);
                let dim = self.dim as f64;
                self.theta * libm::pow(stretch, dim / (dim - 2.0))
            }
            _ => self.theta,
        }
    }

    /// Returns the factor of cosines and sines.
    pub fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } | RopeScaling::LongRope { amplitude, .. } => {
                amplitude
            }
            _ => 1.0,
        }
    }

    /// The longest row whose frequencies are those of the shortest; `None` where they do not depend
    /// on the row.
    pub fn first_context(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { original, .. } | RopeScaling::LongRope { original, .. } => {
                Some(original as usize)
            }
            _ => None,
        }
    }

    /// Whether a row that grows to `length` tokens under generation is computed anew, because its
    /// earlier tokens had the other frequencies.
    ///
    /// With `longrope` that happens once. With `dynamic` it would be every token: cached keys stay
    /// as they are, as in transformers.
    pub fn switches_at(&self, length: usize) -> bool {
        matches!(self.scaling, RopeScaling::LongRope { .. })
            && self.first_context() == length.checked_sub(1)
    }
}

impl RopeScaling {
    fn apply(&self, dimension: usize, frequency: f64, length: usize) -> f64 {
        match self {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            &RopeScaling::Llama3 { factor, low, high, original } => {
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
            &RopeScaling::Yarn { factor, low, high, .. } => {
                let stretched = ((dimension as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (1.0 - stretched) + frequency / factor * stretched
            }
            RopeScaling::LongRope { short, long, original, .. } => {
                let divisors = if length as f64 > *original { long } else { short };
                frequency / divisors[dimension]
            }
        }
    }
}
