//! Times and sizes as people write them.

use std::time::Duration;

/// Seconds of each unit of time.
const TIMES: [(&str, f64); 5] = [("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];

/// Bytes of each unit of size.
const SIZES: [(&str, f64); 9] = [
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

/// Reads a time such as `30d`.
pub fn age(text: &str) -> Result<Duration, String> {
    let seconds = number(text, &TIMES)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "it is too long".into())
}

/// Reads a size such as `50GB`.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = number(text, &SIZES)?;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err("it is too large".into()) }
}

fn number(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let known = || units.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let number: f64 = number.parse().map_err(|_| "it must begin with a number".to_string())?;
    match units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => Ok(number * factor),
        None => Err(format!("it must end with a unit, one of {}", known())),
    }
}

/// A size for people.
pub fn bytes(bytes: u64) -> String {
    let (unit, factor) =
        SIZES[..5].iter().rev().find(|(_, factor)| bytes as f64 >= *factor).unwrap_or(&SIZES[0]);
    let number = bytes as f64 / factor;
    if *factor == 1.0 || number >= 100.0 {
        format!("{number:.0} {unit}")
    } else {
        format!("{number:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_with_their_units() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!((size("50GB"), size("1.5kib"), size("7B")), (Ok(50_000_000_000), Ok(1536), Ok(7)));
        assert!(age("30").unwrap_err().contains("a unit, one of `s`, `min`, `h`, `d`, `w`"));
        assert!(age("d").unwrap_err().contains("begin with a number") && age("-1d").is_err());
        assert!(age("1e300d").is_err() && size("99999999999999999999TB").is_err() && size("1..2GB").is_err());
    }

    #[test]
    fn a_size_is_written_in_the_unit_that_fits() {
        let written = [0, 999, 1000, 12_345_678, 2_000_000_000_000].map(bytes);
        assert_eq!(written, ["0 B", "999 B", "1.0 KB", "12.3 MB", "2.0 TB"]);
    }
}
