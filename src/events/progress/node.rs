//! A node under way: its bar, and its progress in words.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::escape::escape_controls;
use crate::human;

/// Columns of a bar.
pub const BAR: usize = 20;

/// A node under way.
pub struct Node {
    pub name: String,
    /// The name of its stage.
    pub stage: String,
    pub begin: Instant,
    pub figures: Option<Figures>,
    pub bar: Option<ProgressBar>,
    pub last_line: Option<Instant>,
}

/// Where a node is.
pub struct Figures {
    pub done: u64,
    pub total: Option<u64>,
    pub unit: String,
}

impl Node {
    /// A node that begins now.
    pub fn new(name: &str) -> Node {
        Node {
            name: escape_controls(name),
            stage: stage_of(name).to_owned(),
            begin: Instant::now(),
            figures: None,
            bar: None,
            last_line: None,
        }
    }

    /// Returns how much of it is done, from 0 to 1, where that is known.
    pub fn share(&self) -> Option<f64> {
        let Figures { done, total, .. } = self.figures.as_ref()?;
        total.filter(|total| *total > 0).map(|total| (*done as f64 / total as f64).min(1.0))
    }

    /// Says where it is: how much is done, how fast it goes, how long it will take.
    pub fn figures(&self) -> String {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let Some(Figures { done, total, unit }) = &self.figures else { return seconds(elapsed) };
        let rate = *done as f64 / elapsed.max(1e-9);
        let left = total.filter(|_| *done > 0).map(|t| t.saturating_sub(*done) as f64 / rate);
        let left = left.map(|left| format!(", {} left", seconds(left))).unwrap_or_default();
        if unit == "bytes" {
            let of = total.map(|total| format!(" of {}", human::size(total))).unwrap_or_default();
            let (done, rate) = (human::size(*done), human::size(rate as u64));
            return format!("hashed {done}{of}, {rate}/s{left}");
        }
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        let rate = if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.2}") };
        format!("{done}{of} {unit}, {rate}/s{left}")
    }

    /// Returns the columns that it takes beside its name.
    pub fn columns(&self) -> usize {
        let bar = if self.total().is_some() { BAR + 1 } else { 0 };
        bar + self.figures().width()
    }

    fn total(&self) -> Option<u64> {
        self.figures.as_ref()?.total
    }

    /// Draws its bar, with so many columns for its name.
    pub fn draw(&self, columns: usize) {
        let Some(bar) = &self.bar else { return };
        match self.figures.as_ref().and_then(|figures| Some((figures.done, figures.total?))) {
            Some((done, total)) => {
                bar.set_style(style(&format!("{{prefix}} {{bar:{BAR}}} {{wide_msg}}")));
                bar.set_length(total);
                bar.set_position(done);
            }
            None => bar.set_style(style("{prefix} {wide_msg}")),
        }
        bar.set_prefix(padded(&self.name, columns));
        bar.set_message(self.figures());
    }
}

/// The name of a node's stage.
pub fn stage_of(node: &str) -> &str {
    node.split('[').next().unwrap_or(node)
}

/// The style of a bar.
pub fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    style.progress_chars("━╸ ")
}

/// Formats a time in seconds.
pub fn seconds(seconds: f64) -> String {
    human::time(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}

/// Shortens a name to so many columns, or fills it up to them.
pub fn padded(name: &str, columns: usize) -> String {
    let name = shortened(name, columns);
    let pad = " ".repeat(columns.saturating_sub(name.width()));
    format!("{name}{pad}")
}

/// Shortens a name to so many columns, in its middle: sweep points differ at the end.
fn shortened(name: &str, columns: usize) -> String {
    if name.width() <= columns {
        return name.to_owned();
    }
    let room = columns.saturating_sub(1);
    let end = fitting(name.chars().rev(), room - room / 3);
    let end: String = end.chars().rev().collect();
    format!("{}…{end}", fitting(name.chars(), room / 3))
}

/// Returns the first characters that fit into so many columns.
fn fitting(characters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    characters.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shortened_in_its_middle() {
        assert_eq!(shortened("tuned[arm=masked]", 17), "tuned[arm=masked]");
        assert_eq!(shortened("tuned[arm=masked,threshold=2]", 16), "tuned…reshold=2]");
        assert_eq!(shortened("模型模型模型", 7), "模…模型");
        assert_eq!(shortened("abc", 0), "…");
    }
}
