//! Reads durations, sizes and sums of money as people write them: a number and its unit, `90s`,
//! `4GB` or `2.50USD`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Units of time, each with its milliseconds, the longest first.
const TIMES: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
/// Units of memory, each with its bytes: powers of a thousand, and of 1024.
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
/// The longest duration: a year. What is added to a clock stays within its range.
const LONGEST: u64 = 366 * 86_400_000;

/// Reads a duration above zero and of a year or less, such as `500ms`, `90s`, `30m`, `2h`, `1d`.
///
/// # Errors
/// The fault of the text, as a fragment.
pub fn duration(text: &str) -> Result<Duration, String> {
    let millis = quantity(text, &TIMES, "`90s`, `30m` or `2h`")?;
    if millis > LONGEST {
        Err("it is longer than a year".into())
    } else {
        Ok(Duration::from_millis(millis))
    }
}

/// Reads a number of bytes above zero, such as `512MB`, `4GB`, `4GiB`.
///
/// # Errors
/// The fault of the text, as a fragment.
pub fn size(text: &str) -> Result<u64, String> {
    quantity(text, &SIZES, "`512MB` or `4GB`")
}

/// Formats a duration in the largest unit that holds it in whole numbers; [`duration`] reads it back.
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    let (unit, factor) =
        TIMES.iter().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
    format!("{}{unit}", millis / factor)
}

/// A sum of money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// Millionths.
    pub micros: u64,
    /// The code of the currency, such as `USD`.
    pub currency: String,
}

impl Money {
    /// Its amount.
    pub fn amount(&self) -> f64 {
        self.micros as f64 / 1e6
    }
}

impl FromStr for Money {
    type Err = String;

    /// Reads `20USD` or `0.15 EUR`.
    fn from_str(text: &str) -> Result<Money, String> {
        let wrong =
            || "write an amount above 0 and the code of a currency, such as `20USD`".to_owned();
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (amount, currency) = (&text[..end], text[end..].trim_start());
        let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
        let is_code = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
        let is_amount =
            !whole.is_empty() && part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_code || !is_amount {
            return Err(wrong());
        }
        let micros = format!("{whole}{part:0<6}").parse::<u64>().map_err(|_| "it is too large")?;
        match micros {
            0 => Err(wrong()),
            micros => Ok(Money { micros, currency: currency.to_owned() }),
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.currency)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn quantity(text: &str, units: &[(&str, u64)], examples: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let number = number.parse::<u64>().ok().filter(|n| *n > 0);
    let Some(number) = number else {
        return Err(format!("write a whole number above 0 and its unit, such as {examples}"));
    };
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number.checked_mul(*factor).ok_or_else(|| "it is too large".into()),
        None if unit.is_empty() => Err(format!("it has no unit; write it as in {examples}")),
        None => {
            let names: Vec<String> = units.iter().map(|(name, _)| format!("`{name}`")).collect();
            Err(format!("there is no unit `{unit}`; units are {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        let read = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("90s"), Ok(90_000));
        assert_eq!(read(" 30 m"), Ok(1_800_000));
        assert_eq!(read("2h"), Ok(7_200_000));
        for wrong in ["", "90", "0s", "1.5h", "-1s", "1y", "367d", "99999999999999999999s", "s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            (size("4GB"), size("4GiB"), size("512 MB")),
            (Ok(4_000_000_000), Ok(4 << 30), Ok(512_000_000))
        );
        for wrong in ["4", "4gb", "4G", "0MB", "99999999999TB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        let money = |text: &str| text.parse::<Money>().map(|m| (m.micros, m.currency));
        assert_eq!(money("20USD"), Ok((20_000_000, "USD".into())));
        assert_eq!(money(" 0.15 EUR"), Ok((150_000, "EUR".into())));
        assert_eq!(money("2.50USD").unwrap().0, 2_500_000);
        for wrong in ["20", "USD", "20usd", "0USD", "-1USD", "1.2.3USD", ".5USD", "1e3USD"] {
            assert!(money(wrong).is_err(), "{wrong}");
        }
        assert!(money("0.0000001USD").is_err() && money("99999999999999USD").is_err());
        for text in ["1500ms", "90s", "30m", "2h", "6d", "1w"] {
            assert_eq!(show(duration(text).unwrap()), text);
        }
    }
}
