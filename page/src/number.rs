//! Numbers, times and sizes as people read them.

/// Formats a value with four significant digits, a whole number as it is.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return grouped(value);
    }
    format!("{value:.*}", decimals(value)).replace('-', "−")
}

/// Formats a mean with its standard deviation, neither with more digits than the larger is worth.
pub fn with_deviation(value: f64, deviation: Option<f64>) -> String {
    match deviation {
        Some(deviation) => {
            let decimals = decimals(value.abs().max(deviation));
            format!("{value:.decimals$} ± {deviation:.decimals$}")
        }
        None => number(value),
    }
}

/// Formats a difference with its sign.
pub fn signed(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value => format!("{value:+.*}", decimals(value)).replace('-', "−"),
    }
}

/// Formats a p-value.
pub fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") }
}

/// Formats a duration in seconds.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Formats a number of bytes.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
    let fits = UNITS.iter().rev().find(|(_, factor)| bytes as f64 >= *factor);
    match fits {
        None => format!("{bytes} B"),
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / factor),
    }
}

/// `1 node`, `2,000 nodes`.
pub fn count(n: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(n as f64), if n == 1 { "" } else { "s" })
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("−{out}") } else { out }
}

/// Decimals that leave four significant digits, and at most six.
fn decimals(value: f64) -> usize {
    if value == 0.0 { 0 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_significant_digits() {
        assert_eq!(
            [0.61239, 265.123, 12.0, 12345.0].map(number),
            ["0.6124", "265.1", "12", "12,345"]
        );
        assert_eq!(with_deviation(0.51784, Some(0.04734)), "0.5178 ± 0.0473");
        assert_eq!(with_deviation(0.0, Some(0.0)), "0 ± 0");
        assert_eq!([0.0, 0.0511, -0.2].map(signed), ["0", "+0.05110", "−0.2000"]);
        assert_eq!([0.00001, 0.03].map(p_value), ["< 0.0001", "0.0300"]);
        assert_eq!([0.0123, 12.0, 600.0, 7200.0].map(time), ["12 ms", "12.0 s", "10 min", "2.0 h"]);
        assert_eq!([999, 12_300].map(size), ["999 B", "12.3 KB"]);
    }
}
