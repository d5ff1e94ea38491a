//! Finds the numbers of a text, whatever their spelling, and compares them exactly.
//!
//! | spelling | read as |
//! |---|---|
//! | `1,234.50`, `1 234.50`, `1'234.50`, `1_234.50`, `1{,}234.50` | groups of three; the space may be a narrow or no-break one |
//! | `1e6`, `1.5E-3`, `1.5 × 10^3`, `1.5 \times 10^{3}` | a power of ten |
//! | `1/2`, `3 1/2`, `½`, `3½`, `\frac{1}{2}` | a fraction, or a mixed number |
//! | `-5`, `−5`, `-$5`, `-£5`, `$-5`, `-\$5` | a negative number |
//! | `2:3`, `10-5`, `2^5`, `3.14.15`, `1,23`, `1/2/3` | an expression: found as a whole, equal to no number |

mod scan;
mod value;

pub use value::Number;

use scan::Scanner;

/// A number, or an expression of numbers such as `2:3`, at its place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'t> {
    /// Offset of its first byte.
    pub start: usize,
    /// Its text, with sign and currency where it is negative.
    pub text: &'t str,
}

impl Found<'_> {
    /// Offset behind its last byte.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// Finds the numbers of a text in their order. Half of an expression is never found alone.
pub fn numbers(text: &str) -> impl Iterator<Item = Found<'_>> {
    let scanner = Scanner::new(text);
    let mut at = 0;
    std::iter::from_fn(move || {
        let digits = scanner.next_start(at)?;
        at = scanner.expression(digits);
        let start = scanner.start_with_sign(digits);
        Some(Found { start, text: &text[start..at] })
    })
}

impl Number {
    /// Reads a text that is one number, with currency and percent signs around it.
    pub fn parse(text: &str) -> Option<Number> {
        let text = text.trim();
        let scanner = Scanner::new(text);
        let (begin, negative) = scanner.signs(0);
        let (end, number) = scanner.quantity(begin)?;
        let end = scanner.units(end);
        // A number may end a sentence.
        let end = if text[end..] == *"." { end + 1 } else { end };
        if end == text.len() { number.map(|number| number.with_sign(negative)) } else { None }
    }
}

#[cfg(test)]
mod tests;
