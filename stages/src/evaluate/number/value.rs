//! Exact values of numbers: decimals of any length, and fractions.

use num_bigint::BigUint;

/// Digits of a numerator or denominator above which a fraction is not compared.
const MOST_DIGITS: u64 = 1000;

/// A number by its exact value: `1/2`, `0.5` and `5e-1` are equal.
#[derive(Debug, Clone)]
pub struct Number {
    negative: bool,
    magnitude: Magnitude,
}

#[derive(Debug, Clone)]
enum Magnitude {
    Decimal(Decimal),
    Fraction { numerator: BigUint, denominator: BigUint },
}

/// A decimal number: its digits times a power of ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    /// Without zeros at either end; empty for zero.
    digits: String,
    /// 0 for zero.
    exponent: i64,
}

impl Decimal {
    /// The number `whole.fraction` times ten to the `exponent`.
    pub fn new(whole: &str, fraction: &str, exponent: i64) -> Decimal {
        let all = format!("{whole}{fraction}");
        let leading = all.trim_start_matches('0');
        let digits = leading.trim_end_matches('0');
        if digits.is_empty() {
            return Decimal { digits: String::new(), exponent: 0 };
        }
        let exponent = exponent - fraction.len() as i64 + (leading.len() - digits.len()) as i64;
        Decimal { digits: digits.to_owned(), exponent }
    }

    /// Multiplies by a power of ten.
    pub fn scaled(self, exponent: i64) -> Decimal {
        if self.digits.is_empty() {
            self
        } else {
            Decimal { exponent: self.exponent + exponent, ..self }
        }
    }

    /// Whether it is less than another; false where they are too long to compute with.
    pub fn is_below(&self, other: &Decimal) -> bool {
        self.parts().zip(other.parts()).is_some_and(|((a, b), (c, d))| a * d < c * b)
    }

    /// Returns numerator and denominator; `None` where either is too long to compute with.
    fn parts(&self) -> Option<(BigUint, BigUint)> {
        let length = self.digits.len() as u64 + self.exponent.unsigned_abs();
        if length > MOST_DIGITS {
            return None;
        }
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        let digits = BigUint::parse_bytes(digits.as_bytes(), 10)?;
        let power = BigUint::from(10u8).pow(u32::try_from(self.exponent.unsigned_abs()).ok()?);
        Some(if self.exponent < 0 { (digits, power) } else { (digits * power, BigUint::from(1u8)) })
    }
}

impl Number {
    pub(super) fn decimal(decimal: Decimal) -> Number {
        Number { negative: false, magnitude: Magnitude::Decimal(decimal) }
    }

    /// Returns `whole + numerator / denominator`; `None` where the denominator is zero or a part is
    /// too long.
    pub(super) fn fraction(
        whole: &Decimal,
        numerator: &Decimal,
        denominator: &Decimal,
    ) -> Option<Number> {
        let ((whole, one), (above, above_of)) = (whole.parts()?, numerator.parts()?);
        let (below, below_of) = denominator.parts()?;
        let denominator = &above_of * below;
        let numerator = above * below_of;
        if denominator == BigUint::ZERO {
            return None;
        }
        let numerator = numerator * &one + whole * &denominator;
        let magnitude = Magnitude::Fraction { numerator, denominator: denominator * one };
        Some(Number { negative: false, magnitude })
    }

    pub(super) fn with_sign(self, negative: bool) -> Number {
        Number { negative, ..self }
    }

    fn is_zero(&self) -> bool {
        match &self.magnitude {
            Magnitude::Decimal(decimal) => decimal.digits.is_empty(),
            Magnitude::Fraction { numerator, .. } => *numerator == BigUint::ZERO,
        }
    }
}

impl Magnitude {
    fn parts(&self) -> Option<(BigUint, BigUint)> {
        match self {
            Magnitude::Decimal(decimal) => decimal.parts(),
            Magnitude::Fraction { numerator, denominator } => {
                Some((numerator.clone(), denominator.clone()))
            }
        }
    }
}

impl PartialEq for Magnitude {
    fn eq(&self, other: &Magnitude) -> bool {
        if let (Magnitude::Decimal(one), Magnitude::Decimal(other)) = (self, other) {
            return one == other;
        }
        let parts = self.parts().zip(other.parts());
        parts.is_some_and(|((a, b), (c, d))| a * d == c * b)
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        let same_sign = self.negative == other.negative || (self.is_zero() && other.is_zero());
        same_sign && self.magnitude == other.magnitude
    }
}
