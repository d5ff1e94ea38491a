//! Sizes and times as people read them.

use std::time::Duration;

/// Bytes of each unit of size.
const SIZES: [(&str, f64); 5] = [("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];

/// Formats a time.
pub fn time(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Formats a number of bytes.
pub fn size(bytes: u64) -> String {
    let (unit, factor) =
        SIZES.iter().rev().find(|(_, factor)| bytes as f64 >= *factor).unwrap_or(&SIZES[0]);
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
    fn a_size_is_written_in_the_unit_that_fits() {
        let written = [0, 999, 1000, 12_345_678, 2_000_000_000_000].map(size);
        assert_eq!(written, ["0 B", "999 B", "1.0 KB", "12.3 MB", "2.0 TB"]);
    }
}
