//! stderr, shared by the bars of a run and the lines that are printed above them.

use std::io::Write;

use console::{Color, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use crate::escape::{colour, escape_controls};

/// Columns and rows where the system does not tell the size of the terminal.
const USUAL: (usize, usize) = (80, 24);

/// stderr, with bars where it is a terminal. Clones share it.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: Option<MultiProgress>,
    colour: bool,
}

/// Words with which lines begin, and their colours.
const LABELS: [(&str, Color); 3] =
    [("error", Color::Red), ("warning", Color::Yellow), ("note", Color::Cyan)];

impl Terminal {
    /// Takes stderr, with or without bars; a dumb terminal has none.
    pub fn stderr(bars: bool) -> Terminal {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let target = ProgressDrawTarget::stderr;
        let bars = (bars && !dumb).then(|| MultiProgress::with_draw_target(target()));
        Terminal { bars, colour: colour() && !dumb }
    }

    /// Whether it takes colour.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Whether it draws bars.
    pub fn has_bars(&self) -> bool {
        self.bars.is_some()
    }

    /// Returns its columns and rows.
    pub fn size(&self) -> (usize, usize) {
        let size = console::Term::stderr().size_checked();
        size.map_or(USUAL, |(rows, columns)| (usize::from(columns), usize::from(rows)))
    }

    /// Adds a bar below all others.
    pub fn add_last(&self, bar: ProgressBar) -> Option<ProgressBar> {
        self.bars.as_ref().map(|bars| bars.add(bar))
    }

    /// Adds a bar above another one.
    pub fn add_above(&self, other: &ProgressBar, bar: ProgressBar) -> Option<ProgressBar> {
        self.bars.as_ref().map(|bars| bars.insert_before(other, bar))
    }

    /// Inserts a bar at a place from above.
    pub fn insert(&self, place: usize, bar: ProgressBar) -> Option<ProgressBar> {
        self.bars.as_ref().map(|bars| bars.insert(place, bar))
    }

    /// Removes a bar, and what was drawn of it.
    pub fn remove(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        if let Some(bars) = &self.bars {
            bars.remove(bar);
        }
    }

    /// Prints a line above the bars; control characters in it are shown, not obeyed.
    pub fn line(&self, text: &str) {
        let text = escape_controls(text);
        let label = LABELS.iter().find_map(|(word, colour)| {
            let rest = text.strip_prefix(word)?.strip_prefix(':')?;
            Some((Style::new().fg(*colour).bold().apply_to(word), rest))
        });
        match label.filter(|_| self.colour) {
            Some((word, rest)) => self.write(&format!("{}:{rest}\n", word.force_styling(true))),
            None => self.write(&format!("{text}\n")),
        }
    }

    /// Prints a text of whole lines above the bars, as it is.
    pub fn write(&self, text: &str) {
        // A stderr that went away is no reason to end a run.
        let write = || drop(std::io::stderr().lock().write_all(text.as_bytes()));
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}
