//! Axes: round ticks, and the way from a value to a place.

use crate::escape::Html;
use crate::number::number;

/// A scale from values to places.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    kind: Kind,
}

/// The kind of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    /// With ticks at whole numbers alone.
    Whole,
    Log,
}

impl Scale {
    /// A scale over values, which must not be empty, with a little room at both ends.
    pub fn over(values: impl IntoIterator<Item = f64>, [from, to]: [f64; 2]) -> Scale {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = match high - low {
            0.0 => low.abs().max(1.0) * 0.1,
            span => span * 0.06,
        };
        Scale { low: low - room, high: high + room, from, to, kind: Kind::Linear }
    }

    /// A scale from one value to another.
    pub fn exact([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Scale {
        let high = if high > low { high } else { low + 1.0 };
        Scale { low, high, from, to, kind: Kind::Linear }
    }

    /// A scale of whole numbers.
    pub fn whole([low, high]: [f64; 2], places: [f64; 2]) -> Scale {
        Scale { kind: Kind::Whole, ..Scale::exact([low, high], places) }
    }

    /// A logarithmic scale from one value above 0 to another.
    pub fn log([low, high]: [f64; 2], places: [f64; 2]) -> Scale {
        Scale { kind: Kind::Log, ..Scale::exact([low, high], places) }
    }

    /// Returns the place of a value; one outside has the nearest end.
    pub fn at(&self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Log => (value.max(1e-300) / self.low).ln() / (self.high / self.low).ln(),
            Kind::Linear | Kind::Whole => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Whether a value is on the scale.
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Returns about `count` round values on the scale.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.kind == Kind::Log {
            return self.log_ticks(count);
        }
        let step = step((self.high - self.low) / count.max(1) as f64);
        let step = if self.kind == Kind::Whole { step.max(1.0) } else { step };
        // A quotient such as 0.3 / 0.1 has no exact binary form; its last bits may not lose a tick.
        let (first, last) = (self.low / step - 1e-9, self.high / step + 1e-9);
        let (first, last) = (first.ceil(), last.floor());
        let count = ((last - first).max(0.0) as usize).min(50);
        (0..=count).map(|i| round((first + i as f64) * step, step)).collect()
    }

    /// Powers of ten on the scale; of two, where it is short.
    fn log_ticks(&self, count: usize) -> Vec<f64> {
        let base: f64 = if self.high / self.low > 100.0 { 10.0 } else { 2.0 };
        let power = |value: f64| value.ln() / base.ln();
        let (first, last) = (power(self.low) - 1e-9, power(self.high) + 1e-9);
        let (first, last) = (first.ceil() as i32, last.floor() as i32);
        let stride = ((last - first) / count.max(1) as i32 + 1).max(1);
        (first..=last).step_by(stride as usize).map(|power| base.powi(power)).collect()
    }
}

/// The round step of at least a size: 1, 2 or 5 times a power of ten.
fn step(size: f64) -> f64 {
    let power = 10_f64.powf(size.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= size * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A multiple of a step without the noise of its last bits.
fn round(value: f64, step: f64) -> f64 {
    let digits = (2.0 - step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}").parse().unwrap_or(value)
}

/// Formats the value of a tick: as short as it is round.
pub fn tick_label(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1e4 => format!("{}k", value / 1e3),
        v if v < 1e-4 => format!("{value:e}"),
        _ if value.fract() == 0.0 => number(value),
        _ => value.to_string().replace('-', "−"),
    }
}

/// Draws a horizontal axis with its grid, its ticks and its title below it.
pub fn horizontal(
    svg: &mut Html,
    scale: &Scale,
    [top, bottom]: [f64; 2],
    title: &str,
    count: usize,
) {
    for tick in scale.ticks(count) {
        let x = scale.at(tick);
        svg.empty(
            "line",
            &[("class", &"grid"), ("x1", &x), ("x2", &x), ("y1", &top), ("y2", &bottom)],
        );
        let y = bottom + 15.0;
        svg.leaf(
            "text",
            &[("class", &"soft small middle"), ("x", &x), ("y", &y)],
            tick_label(tick),
        );
    }
    let (from, to) = (scale.from.min(scale.to), scale.from.max(scale.to));
    svg.empty(
        "line",
        &[("class", &"axis"), ("x1", &from), ("x2", &to), ("y1", &bottom), ("y2", &bottom)],
    );
    if !title.is_empty() {
        let (x, y) = ((from + to) / 2.0, bottom + 31.0);
        svg.leaf("text", &[("class", &"soft small middle"), ("x", &x), ("y", &y)], title);
    }
}

/// Draws a vertical axis with its grid and ticks, its title above it.
pub fn vertical(svg: &mut Html, scale: &Scale, [left, right]: [f64; 2], title: &str, count: usize) {
    for tick in scale.ticks(count) {
        let (y, x) = (scale.at(tick), left - 6.0);
        svg.empty(
            "line",
            &[("class", &"grid"), ("x1", &left), ("x2", &right), ("y1", &y), ("y2", &y)],
        );
        let y = y + 4.0;
        svg.leaf("text", &[("class", &"soft small end"), ("x", &x), ("y", &y)], tick_label(tick));
    }
    let top = scale.from.min(scale.to) - 8.0;
    svg.leaf("text", &[("class", &"soft small"), ("x", &4.0), ("y", &top)], title);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let linear = Scale::exact([0.03, 0.97], [0.0, 100.0]);
        assert_eq!(linear.ticks(4), [0.5]);
        assert_eq!(linear.ticks(5), [0.2, 0.4, 0.6, 0.8]);
        assert_eq!(Scale::exact([0.0, 0.3], [0.0, 1.0]).ticks(3), [0.0, 0.1, 0.2, 0.3]);
        let log = Scale::log([1.0, 64.0], [0.0, 60.0]);
        assert_eq!(log.ticks(4), [1.0, 4.0, 16.0, 64.0]);
        assert_eq!(Scale::log([1.0, 65_536.0], [0.0, 1.0]).ticks(6), [1.0, 10.0, 100.0, 1e3, 1e4]);
        assert_eq!(Scale::whole([5.0, 7.5], [0.0, 1.0]).ticks(6), [5.0, 6.0, 7.0]);
        assert_eq!((log.at(8.0), log.at(0.5), log.at(1e9)), (30.0, 0.0, 60.0));
    }

    #[test]
    fn a_scale_over_one_value_has_room_around_it() {
        let scale = Scale::over([3.0, f64::NAN], [0.0, 10.0]);
        assert_eq!(scale.at(3.0), 5.0);
        assert!(scale.holds(2.8) && !scale.holds(4.0));
    }
}
