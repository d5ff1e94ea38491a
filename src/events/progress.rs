//! Layer: shows a run on stderr, with bars on a terminal and plain lines elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use refrain_engine::run::event::{self, Fields, NodeOf, TARGET};

use crate::escape::escape_controls;
use crate::human;
use crate::terminal::Terminal;

/// How often bars are drawn and lines are due.
const TICK: Duration = Duration::from_millis(200);
/// How long a node runs before it is shown: most nodes of a large sweep never are.
const SHOW_AFTER: Duration = Duration::from_millis(400);
/// How long a node runs before its first plain line, and a run before its time left is told.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// Shortest time between two plain lines of one node.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Columns of a bar.
const BAR: usize = 20;

/// The display of a run.
pub struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    terminal: Terminal,
    /// Whether only failures and remarks are printed.
    quiet: bool,
    /// Whether lines are printed; not where a log says the same.
    lines: bool,
    state: Mutex<State>,
    /// Notified when the run ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    run: Option<Run>,
    nodes: BTreeMap<u64, Node>,
}

/// A run under way.
struct Run {
    begin: Instant,
    /// Nodes that are wanted.
    total: u64,
    /// Nodes that are done, failed or out of reach.
    done: u64,
    /// Those of them that were computed.
    computed: u64,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

/// A node under way.
struct Node {
    name: String,
    begin: Instant,
    figures: Option<Figures>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

/// Where a node is.
struct Figures {
    done: u64,
    total: Option<u64>,
    unit: String,
}

impl Progress {
    /// Shows runs on a terminal; without `lines` only the bars.
    pub fn new(terminal: Terminal, quiet: bool, lines: bool) -> Progress {
        let state = Mutex::new(State::default());
        let shared = Shared { terminal, quiet, lines, state, ended: Condvar::new() };
        Progress { shared: Arc::new(shared) }
    }

    fn begin(&self, total: u64) {
        let now = Instant::now();
        let shared = &self.shared;
        let bar = shared.terminal.add_last(ProgressBar::new(1).with_style(style("{wide_msg}")));
        let run = Run { begin: now, total, done: 0, computed: 0, bar, last_line: now };
        *shared.state() = State { run: Some(run), nodes: BTreeMap::new() };

        if shared.lines && !shared.quiet || shared.terminal.has_bars() {
            let weak = Arc::downgrade(shared);
            let ticks = thread::Builder::new().name("progress".into());
            // Without a thread for it there is no display, which is no reason to end a run.
            let _display = ticks.spawn(move || tick(&weak));
        }
    }
}

/// Draws until the run ends.
fn tick(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let state = shared.state();
        let waited = shared.ended.wait_timeout_while(state, TICK, |state| state.run.is_some());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.run.is_none() {
            return;
        }
        match shared.terminal.has_bars() {
            true => shared.draw(&mut state),
            false => shared.print_due(&mut state),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws a bar for each node that is under way, as many as there is room for, and one for all.
    fn draw(&self, state: &mut State) {
        let Some(Run { bar: Some(overall), .. }) = &state.run else { return };
        let overall = overall.clone();
        let (columns, rows) = self.terminal.size();
        let room = rows.saturating_sub(2).max(1);

        let mut drawn = state.nodes.values().filter(|node| node.bar.is_some()).count();
        for node in state.nodes.values_mut() {
            if node.bar.is_none() && drawn < room && node.begin.elapsed() >= SHOW_AFTER {
                node.bar = self.terminal.add_above(&overall, ProgressBar::new(1));
                drawn += 1;
            }
        }

        let shown: Vec<&Node> = state.nodes.values().filter(|node| node.bar.is_some()).collect();
        let longest = shown.iter().map(|node| node.name.width()).max().unwrap_or(0);
        let beside = shown.iter().map(|node| node.columns()).max().unwrap_or(0);
        let names = longest.min(columns.saturating_sub(beside + 2).max(columns / 3));
        for node in shown {
            node.draw(names);
        }
        overall.set_message(state.summary().unwrap_or_default());
    }

    /// Prints a line for each node that is due, and then one for all.
    fn print_due(&self, state: &mut State) {
        for node in state.nodes.values_mut() {
            let due = match node.last_line {
                Some(last) => last.elapsed() >= LINE_EVERY,
                None => node.begin.elapsed() >= FIRST_LINE,
            };
            if due {
                node.last_line = Some(Instant::now());
                self.terminal.line(&format!("{:10}{}: {}", "", node.name, node.figures()));
            }
        }
        let summary = state.summary();
        let Some(run) = &mut state.run else { return };
        if let Some(summary) =
            summary.filter(|_| run.total > 1 && run.last_line.elapsed() >= LINE_EVERY)
        {
            run.last_line = Instant::now();
            self.terminal.line(&format!("{:10}{summary}", ""));
        }
    }

    /// Takes a node off the display; whether it was on it.
    fn remove(&self, node: u64) -> bool {
        let removed = self.state().nodes.remove(&node);
        if let Some(bar) = removed.as_ref().and_then(|node| node.bar.as_ref()) {
            self.terminal.remove(bar);
        }
        removed.is_some()
    }

    /// Takes everything off the display.
    fn end(&self) {
        let State { run, nodes } = std::mem::take(&mut *self.state());
        self.ended.notify_all();
        let bars = nodes.into_values().filter_map(|node| node.bar);
        for bar in bars.chain(run.and_then(|run| run.bar)) {
            self.terminal.remove(&bar);
        }
    }

    /// Counts a node as done.
    fn count(&self, computed: bool) {
        if let Some(run) = &mut self.state().run {
            run.done += 1;
            run.computed += u64::from(computed);
        }
    }

    fn line(&self, text: &str) {
        if self.lines {
            self.terminal.line(text);
        }
    }

    fn event(&self, name: &str, fields: &Fields, of: NodeOf) {
        let node = &of.name;
        let message = fields.text("message").unwrap_or_default();
        match name {
            "progress" => {
                let (Some(done), total) = (fields.number("done"), fields.number("total")) else {
                    return;
                };
                let unit = fields.text("unit").unwrap_or_default().to_owned();
                if let Some(node) = self.state().nodes.get_mut(&of.node) {
                    node.figures = Some(Figures { done, total, unit });
                }
            }
            "cached" | "skipped" => self.count(false),
            "finished" => {
                self.count(true);
                let seconds = fields.float("seconds").unwrap_or_default();
                if !self.quiet {
                    let time =
                        human::time(Duration::try_from_secs_f64(seconds).unwrap_or_default());
                    self.line(&format!("{time:>8}  {node}"));
                }
                if fields.is_true("differs") {
                    self.line(&format!(
                        "warning: `{node}` is not reproducible: an earlier result of the same key \
                         has other bytes"
                    ));
                }
            }
            "failed" => {
                self.count(true);
                let what = fields.text("what").unwrap_or("stage");
                let hint = fields.text("hint").map(|hint| format!("\n  = help: {hint}"));
                let hint = hint.unwrap_or_default();
                self.line(&format!("error: {what} `{node}` failed: {message}{hint}"));
            }
            "note" | "retry" | "damaged" | "waiting" | "taken_over" => {
                self.line(&format!("note: `{node}`: {message}"));
            }
            _ => {}
        }
    }
}

impl State {
    /// Says how many nodes are done, and how long the rest will take, once that can be told.
    fn summary(&self) -> Option<String> {
        let run = self.run.as_ref()?;
        let elapsed = run.begin.elapsed().as_secs_f64();
        let under_way: f64 = self.nodes.values().filter_map(Node::share).sum();
        let left = run.total.saturating_sub(run.done) as f64 - under_way;
        let made = run.computed as f64 + under_way;

        let mut text = format!("{} of {} nodes", run.done, run.total);
        if elapsed >= FIRST_LINE.as_secs_f64() && made > 0.0 {
            text += &format!(", {} left", seconds(elapsed / made * left.max(0.0)));
        }
        Some(text)
    }
}

impl Node {
    fn new(name: String) -> Node {
        Node {
            name: escape_controls(&name),
            begin: Instant::now(),
            figures: None,
            bar: None,
            last_line: None,
        }
    }

    /// Returns how much of it is done, from 0 to 1, where that is known.
    fn share(&self) -> Option<f64> {
        let Figures { done, total, .. } = self.figures.as_ref()?;
        total.filter(|total| *total > 0).map(|total| (*done as f64 / total as f64).min(1.0))
    }

    /// Says where it is: how much is done, how fast it goes, how long it will take.
    fn figures(&self) -> String {
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
    fn columns(&self) -> usize {
        let bar = if self.total().is_some() { BAR + 1 } else { 0 };
        bar + self.figures().width()
    }

    fn total(&self) -> Option<u64> {
        self.figures.as_ref()?.total
    }

    /// Draws its bar, with so many columns for its name.
    fn draw(&self, columns: usize) {
        let Some(bar) = &self.bar else { return };
        let name = shortened(&self.name, columns);
        let pad = " ".repeat(columns.saturating_sub(name.width()));
        match self.figures.as_ref().and_then(|figures| Some((figures.done, figures.total?))) {
            Some((done, total)) => {
                bar.set_style(style(&format!("{{prefix}} {{bar:{BAR}}} {{wide_msg}}")));
                bar.set_length(total);
                bar.set_position(done);
            }
            None => bar.set_style(style("{prefix} {wide_msg}")),
        }
        bar.set_prefix(format!("{name}{pad}"));
        bar.set_message(self.figures());
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    style.progress_chars("━╸ ")
}

fn seconds(seconds: f64) -> String {
    human::time(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
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

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Progress {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        event::keep_node(attributes, id, &context);
        let fields = || Fields::of_span(attributes);
        match attributes.metadata().name() {
            "run" => self.begin(fields().number("nodes").unwrap_or_default()),
            "node" | "hash" => {
                let fields = fields();
                let named = fields.number("node").zip(fields.text("name"));
                if let Some((number, name)) = named {
                    self.shared.state().nodes.insert(number, Node::new(name.to_owned()));
                }
            }
            _ => {}
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !event.metadata().target().starts_with(TARGET) {
            return;
        }
        let fields = Fields::of_event(event);
        if let Some(of) = event::node_of(event, &fields, &context) {
            self.shared.event(event.metadata().name(), &fields, of);
        } else if event.metadata().name() == "stopping" {
            self.shared.line(fields.text("message").unwrap_or_default());
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        match span.name() {
            "run" => self.shared.end(),
            "node" | "hash" => {
                let node = span.extensions().get::<NodeOf>().map(|of| of.node);
                if let Some(node) = node {
                    self.shared.remove(node);
                }
            }
            _ => {}
        }
    }
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

    #[test]
    fn time_left_counts_what_is_computed_and_what_is_under_way() {
        let begin = Instant::now() - Duration::from_secs(30);
        let run = Run { begin, total: 10, done: 6, computed: 2, bar: None, last_line: begin };
        let figures = Figures { done: 1, total: Some(2), unit: "rows".into() };
        let node = Node { figures: Some(figures), ..Node::new("scored".into()) };
        let state = State { run: Some(run), nodes: BTreeMap::from([(3, node)]) };
        // 2.5 nodes took 30 seconds, and 3.5 are left.
        assert_eq!(state.summary().unwrap(), "6 of 10 nodes, 42.0 s left");
    }
}
