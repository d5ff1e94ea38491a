//! The grammar of numbers, read from a place in a text.

use super::value::{Decimal, Number};

/// Separators of groups of three digits.
const SEPARATORS: [&str; 11] =
    [",", "'", "\u{2019}", " ", "\u{a0}", "\u{202f}", "\u{2009}", "\u{2007}", "_", "{,}", "\\,"];

/// Fractions with a character of their own.
const VULGAR: [(char, u8, u8); 18] = [
    ('½', 1, 2),
    ('⅓', 1, 3),
    ('⅔', 2, 3),
    ('¼', 1, 4),
    ('¾', 3, 4),
    ('⅕', 1, 5),
    ('⅖', 2, 5),
    ('⅗', 3, 5),
    ('⅘', 4, 5),
    ('⅙', 1, 6),
    ('⅚', 5, 6),
    ('⅐', 1, 7),
    ('⅛', 1, 8),
    ('⅜', 3, 8),
    ('⅝', 5, 8),
    ('⅞', 7, 8),
    ('⅑', 1, 9),
    ('⅒', 1, 10),
];

/// Operators that make an expression of two numbers, with the same space, or none, on both sides.
const OPERATORS: [&str; 13] =
    ["/", "\u{2044}", ":", "^", "**", "*", "×", "·", "÷", "\\times", "\\cdot", "+", "x"];

/// Characters that join digits without space into something that is not a list of numbers: dates,
/// versions, `5'10`.
const JOINTS: [char; 5] = [',', '.', '\'', '\u{2019}', '_'];

/// Reads numbers at places of a text; all places are offsets in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'t> {
    text: &'t str,
}

/// A quantity's end, and its value where it has one that can be compared.
type Quantity = (usize, Option<Number>);

impl<'t> Scanner<'t> {
    pub fn new(text: &'t str) -> Scanner<'t> {
        Scanner { text }
    }

    fn rest(&self, at: usize) -> &'t str {
        &self.text[at..]
    }

    fn before(&self, at: usize) -> Option<char> {
        self.text[..at].chars().next_back()
    }

    fn digit_at(&self, at: usize) -> bool {
        self.rest(at).starts_with(|c: char| c.is_ascii_digit())
    }

    fn digits(&self, at: usize) -> &'t str {
        let rest = self.rest(at);
        &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]
    }

    /// Skips spaces within a line.
    fn spaces(&self, at: usize) -> usize {
        let rest = self.rest(at);
        let is_space = |c: char| c.is_whitespace() && c != '\n' && c != '\r';
        at + rest.find(|c: char| !is_space(c)).unwrap_or(rest.len())
    }

    /// Finds where the next number starts, sign and currency aside.
    pub fn next_start(&self, from: usize) -> Option<usize> {
        let mut places = self.rest(from).char_indices().map(|(at, _)| from + at);
        places.find(|&at| self.starts_at(at))
    }

    fn starts_at(&self, at: usize) -> bool {
        match self.rest(at).chars().next() {
            Some('0'..='9') => true,
            Some('.') => self.digit_at(at + 1) && !self.before(at).is_some_and(ends_operand),
            Some('\\') => self.frac(at).is_some(),
            other => other.and_then(vulgar).is_some(),
        }
    }

    /// Reads a number and all that is joined to it by operators; returns where it ends.
    pub fn expression(&self, start: usize) -> usize {
        let mut end = self.quantity(start).map_or(start + 1, |(end, _)| end);
        while let Some(next) = self.operand_after(end) {
            end = self.quantity(next).map_or(next + 1, |(end, _)| end);
        }
        end
    }

    /// Finds the quantity that an operator joins to the one that ends at a place.
    fn operand_after(&self, end: usize) -> Option<usize> {
        let joined = self.rest(end).strip_prefix(JOINTS).map(|rest| self.text.len() - rest.len());
        if let Some(at) = joined.filter(|&at| self.digit_at(at)) {
            return Some(at);
        }
        let end = self.units(end);
        let at = self.spaces(end);
        let rest = self.rest(at);
        let operator = OPERATORS.iter().find(|sign| rest.starts_with(**sign));
        let behind = operator.map(|sign| at + sign.len()).or_else(|| self.minus(at))?;

        // `7 -8` are two numbers, and so are those of `Step 2: 3`; `7 - 8`, `7-8` and `2 : 3` are
        // expressions.
        let operand = self.spaces(behind);
        let balanced = (at > end) == (operand > behind) || rest.starts_with('/');
        let (operand, _) = self.signs(operand);
        (balanced && self.starts_at(operand)).then_some(operand)
    }

    /// Reads a minus sign of any shape; returns where it ends.
    fn minus(&self, at: usize) -> Option<usize> {
        let sign = self.rest(at).chars().next().filter(|c| is_minus(*c))?;
        Some(at + sign.len_utf8())
    }

    /// Skips sign and currency before a number, in either order; whether it is negative.
    pub fn signs(&self, start: usize) -> (usize, bool) {
        let (mut at, mut signed, mut paid, mut negative) = (start, false, false, false);
        loop {
            let next = self.spaces(at);
            let Some(c) = self.rest(next).chars().next() else { break };
            let escaped = self.rest(next).starts_with("\\$");
            if !signed && (is_minus(c) || c == '+') {
                (signed, negative) = (true, is_minus(c));
                at = next + c.len_utf8();
            } else if !paid && (escaped || is_currency(c)) {
                paid = true;
                at = next + if escaped { 2 } else { c.len_utf8() };
            } else {
                break;
            }
        }
        (if at == start { start } else { self.spaces(at) }, negative)
    }

    /// Skips a percent or currency sign behind a number.
    pub fn units(&self, end: usize) -> usize {
        let at = self.spaces(end);
        let at = at + usize::from(self.rest(at).starts_with('\\'));
        let Some(c) = self.rest(at).chars().next() else { return end };
        let behind = at + c.len_utf8();
        // The currency of `5 $10` is that of the second number.
        let is_unit = c == '%' || (is_currency(c) && !self.digit_at(behind));
        if is_unit { behind } else { end }
    }

    /// Extends a number to the left by a minus sign and a currency between the two.
    pub fn start_with_sign(&self, digits: usize) -> usize {
        let trimmed = |at: usize| {
            let before = &self.text[..at];
            before.trim_end_matches([' ', '\u{a0}']).len()
        };
        let mut at = digits;
        if let Some(c) = self.before(trimmed(at)).filter(|c| is_currency(*c)) {
            at = trimmed(at) - c.len_utf8();
            at -= usize::from(self.before(at) == Some('\\'));
        }
        let sign = |at: usize| self.before(at).filter(|c| is_minus(*c)).map(|c| at - c.len_utf8());
        let direct = sign(at).filter(|&start| !self.before(start).is_some_and(ends_operand));
        // Behind an equals sign a minus stands for itself even at a distance: `x = - 5`.
        let distant = sign(trimmed(at)).filter(|&start| self.before(trimmed(start)) == Some('='));
        direct.or(distant).unwrap_or(digits)
    }

    /// Reads one number without a sign.
    pub fn quantity(&self, start: usize) -> Option<Quantity> {
        let nothing = || Decimal::new("0", "", 0);
        if let Some((end, above, below)) = self.small_fraction(start) {
            return Some((end, Number::fraction(&nothing(), &above, &below)));
        }
        let (end, decimal, plain) = self.decimal(start)?;
        if plain {
            let part = self.spaces(end);
            let mixed =
                self.small_fraction(part).or_else(|| self.slashed(part).filter(|_| part > end));
            if let Some((end, above, below)) =
                mixed.filter(|(_, above, below)| above.is_below(below))
            {
                return Some((end, Number::fraction(&decimal?, &above, &below)));
            }
        }
        if let Some((end, above, below)) = self.slashed(start) {
            return Some((end, Number::fraction(&nothing(), &above, &below)));
        }
        if let Some((end, exponent)) = self.power_of_ten(end) {
            return Some((end, decimal.zip(exponent).map(|(d, e)| Number::decimal(d.scaled(e)))));
        }
        Some((end, decimal.map(Number::decimal)))
    }

    /// Reads `½` or `\frac{1}{2}`.
    fn small_fraction(&self, at: usize) -> Option<(usize, Decimal, Decimal)> {
        let whole = |digits: u8| Decimal::new(&digits.to_string(), "", 0);
        let c = self.rest(at).chars().next()?;
        match vulgar(c) {
            Some((above, below)) => Some((at + c.len_utf8(), whole(above), whole(below))),
            None => self.frac(at),
        }
    }

    /// Reads LaTeX's `\frac`, of two groups or two digits.
    fn frac(&self, at: usize) -> Option<(usize, Decimal, Decimal)> {
        let name = ["\\frac", "\\dfrac", "\\tfrac"]
            .into_iter()
            .find(|name| self.rest(at).starts_with(name))?;
        let argument = |at: usize| -> Option<(usize, Decimal)> {
            let at = self.spaces(at);
            if !self.rest(at).starts_with('{') {
                let digit = self.digits(at).get(..1)?;
                return Some((at + 1, Decimal::new(digit, "", 0)));
            }
            let (end, decimal, _) = self.decimal(self.spaces(at + 1))?;
            let end = self.spaces(end);
            self.rest(end).starts_with('}').then_some((end + 1, decimal?))
        };
        let (end, above) = argument(at + name.len())?;
        let (end, below) = argument(end)?;
        Some((end, above, below))
    }

    /// Reads `1/2`, which no third number follows.
    fn slashed(&self, at: usize) -> Option<(usize, Decimal, Decimal)> {
        let (end, above, _) = self.decimal(at)?;
        let slash = self.spaces(end);
        let behind = self.rest(slash).strip_prefix(['/', '\u{2044}'])?;
        let (end, below, _) = self.decimal(self.spaces(self.text.len() - behind.len()))?;
        Some((end, above?, below?))
    }

    /// Reads `1,234.5e6`: its end, its value unless its exponent is out of range, and whether it is
    /// digits alone.
    fn decimal(&self, start: usize) -> Option<(usize, Option<Decimal>, bool)> {
        let (mut end, whole) = self.grouped(start);
        let mut fraction = "";
        if self.rest(end).starts_with('.') {
            fraction = self.digits(end + 1);
            end += if fraction.is_empty() { 0 } else { 1 + fraction.len() };
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let plain = fraction.is_empty() && end - start == whole.len();
        match self.exponent(end) {
            Some((end, exponent)) => Some((
                end,
                exponent.map(|exponent| Decimal::new(&whole, fraction, exponent)),
                false,
            )),
            None => Some((end, Some(Decimal::new(&whole, fraction, 0)), plain)),
        }
    }

    /// Reads digits and the groups of three behind them; returns the end and the digits alone.
    fn grouped(&self, start: usize) -> (usize, String) {
        let first = self.digits(start);
        let mut all = first.to_owned();
        let mut end = start + first.len();
        if !(1..=3).contains(&first.len()) {
            return (end, all);
        }
        let group = |separator: &str, at: usize| {
            let digits =
                self.rest(at).starts_with(separator).then(|| self.digits(at + separator.len()))?;
            (digits.len() == 3).then_some(digits)
        };
        // A space before three digits is a separator only where the digits before it begin a
        // number.
        let possible = |separator: &str| {
            separator.chars().all(|c| !c.is_whitespace()) || !first.starts_with('0')
        };
        let separator =
            SEPARATORS.into_iter().find(|sign| possible(sign) && group(sign, end).is_some());
        while let Some((separator, digits)) =
            separator.and_then(|sign| Some((sign, group(sign, end)?)))
        {
            all.push_str(digits);
            end += separator.len() + digits.len();
        }
        (end, all)
    }

    /// Reads `e6`, which no letter follows; an exponent out of range has no value.
    fn exponent(&self, at: usize) -> Option<(usize, Option<i64>)> {
        self.rest(at).strip_prefix(['e', 'E'])?;
        let (end, exponent) = self.signed(at + 1)?;
        (!self.rest(end).starts_with(char::is_alphanumeric)).then_some((end, exponent))
    }

    /// Reads `× 10^3`; an exponent out of range has no value.
    fn power_of_ten(&self, at: usize) -> Option<(usize, Option<i64>)> {
        let at = self.spaces(at);
        let times = ["×", "\\times", "\\cdot", "·", "*", "x"];
        let times = times.into_iter().find(|sign| self.rest(at).starts_with(sign))?;
        let ten = self.spaces(at + times.len());
        let power = ["10^", "10**"].into_iter().find(|power| self.rest(ten).starts_with(power))?;
        let at = ten + power.len();
        if !self.rest(at).starts_with('{') {
            return self.signed(at);
        }
        let (end, exponent) = self.signed(at + 1)?;
        self.rest(end).starts_with('}').then_some((end + 1, exponent))
    }

    /// Reads an exponent; one out of range has no value.
    fn signed(&self, at: usize) -> Option<(usize, Option<i64>)> {
        let minus = self.minus(at);
        let start = minus.unwrap_or(at + usize::from(self.rest(at).starts_with('+')));
        let digits = self.digits(start);
        let exponent = digits.parse::<i32>().ok().map(i64::from);
        let exponent = exponent.map(|exponent| if minus.is_some() { -exponent } else { exponent });
        (!digits.is_empty()).then_some((start + digits.len(), exponent))
    }
}

fn vulgar(c: char) -> Option<(u8, u8)> {
    VULGAR.iter().find(|(sign, ..)| *sign == c).map(|(_, above, below)| (*above, *below))
}

fn is_minus(c: char) -> bool {
    matches!(c, '-' | '\u{2212}' | '\u{2013}' | '\u{2011}' | '\u{ff0d}')
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '£' | '€' | '¥' | '₹' | '₩' | '₽' | '₺' | '₫' | '₦')
}

/// Whether a minus behind the character subtracts.
fn ends_operand(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, ')' | ']' | '}')
}
