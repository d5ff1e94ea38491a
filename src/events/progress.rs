//! Layer: shows a run on stderr, with bars on a terminal and plain lines elsewhere.
//!
//! A run of more nodes than the terminal has rows is shown by stages, and below them the nodes that
//! have taken a while.

mod node;
mod stages;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use console::Color;
use indicatif::ProgressBar;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use unicode_width::UnicodeWidthStr;

use refrain_engine::run::event::{self, Fields, NodeOf, TARGET};

use crate::human;
use crate::terminal::Terminal;

use node::{Figures, Node, padded, seconds, stage_of, style};
use stages::{Stages, painted};

/// How often bars are drawn and lines are due.
const TICK: Duration = Duration::from_millis(200);
/// How long a node runs before it is shown: most nodes of a large sweep never are.
const SHOW_AFTER: Duration = Duration::from_millis(400);
/// How long a node runs before its first plain line, and a run before its time left is told.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// Shortest time between two plain lines of one node.
const LINE_EVERY: Duration = Duration::from_secs(5);

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
    stages: Stages,
    /// The lines of the stages that are shown.
    stage_bars: Vec<ProgressBar>,
}

/// The end of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Computed,
    Cached,
    Failed,
    /// A node that it reads failed.
    Skipped,
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
    /// Those of them that failed.
    failed: u64,
    bar: Option<ProgressBar>,
    last_line: Instant,
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
        let run = Run { begin: now, total, done: 0, computed: 0, failed: 0, bar, last_line: now };
        *shared.state() = State { run: Some(run), ..State::default() };

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

    /// Draws a line per stage where nodes would not fit, a bar for each node that is under way, as
    /// many as there is room for, and one line for all.
    fn draw(&self, state: &mut State) {
        let Some(Run { bar: Some(overall), total, .. }) = &state.run else { return };
        let (overall, total) = (overall.clone(), *total);
        let (columns, rows) = self.terminal.size();
        let room = rows.saturating_sub(2).max(1);
        let is_grouped = total > room as u64 && !state.stages.is_empty();
        let room_for_nodes = if is_grouped { room / 2 } else { room };

        let mut drawn = state.nodes.values().filter(|node| node.bar.is_some()).count();
        for node in state.nodes.values_mut() {
            let is_due = node.begin.elapsed() >= SHOW_AFTER;
            if node.bar.is_none() && drawn < room_for_nodes && is_due {
                node.bar = self.terminal.add_above(&overall, ProgressBar::new(1));
                drawn += 1;
            }
        }
        if is_grouped {
            self.draw_stages(state, room - drawn, columns);
        }

        let shown: Vec<&Node> = state.nodes.values().filter(|node| node.bar.is_some()).collect();
        let longest = shown.iter().map(|node| node.name.width()).max().unwrap_or(0);
        let beside = shown.iter().map(|node| node.columns()).max().unwrap_or(0);
        let names = longest.min(columns.saturating_sub(beside + 2).max(columns / 3));
        for node in shown {
            node.draw(names);
        }
        overall.set_message(state.summary(self.terminal.colour()).unwrap_or_default());
    }

    /// Draws a line for each stage, as many as there is room for.
    fn draw_stages(&self, state: &mut State, room: usize, columns: usize) {
        state.count_running();
        let State { stages, stage_bars, .. } = state;
        let shown = stages.shown(room);
        while stage_bars.len() > shown.len() {
            stage_bars.pop().iter().for_each(|bar| self.terminal.remove(bar));
        }
        while stage_bars.len() < shown.len() {
            let bar = ProgressBar::new(1).with_style(style("{wide_msg}"));
            let Some(bar) = self.terminal.insert(stage_bars.len(), bar) else { return };
            stage_bars.push(bar);
        }

        let colour = self.terminal.colour();
        let longest = shown.iter().map(|stage| stage.name.width()).max().unwrap_or(0);
        let names = longest.min(columns / 3);
        for (stage, bar) in shown.iter().zip(stage_bars) {
            let (cells, words) = (stage.bar(colour), stage.words(colour));
            bar.set_message(format!("{} {cells} {words}", padded(&stage.name, names)));
        }
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
        let summary = state.summary(false);
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
        let State { run, nodes, stage_bars, .. } = std::mem::take(&mut *self.state());
        self.ended.notify_all();
        let bars = nodes.into_values().filter_map(|node| node.bar);
        for bar in stage_bars.into_iter().chain(bars).chain(run.and_then(|run| run.bar)) {
            self.terminal.remove(&bar);
        }
    }

    /// Counts a node that ended.
    fn count(&self, node: &str, end: End) {
        let state = &mut *self.state();
        let stage = state.stages.stage(stage_of(node));
        match end {
            End::Computed => stage.computed += 1,
            End::Cached => stage.cached += 1,
            End::Failed | End::Skipped => stage.failed += 1,
        }
        if let Some(run) = &mut state.run {
            run.done += 1;
            run.computed += u64::from(matches!(end, End::Computed | End::Failed));
            run.failed += u64::from(end == End::Failed);
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
            "cached" => self.count(node, End::Cached),
            "skipped" => self.count(node, End::Skipped),
            "finished" => {
                self.count(node, End::Computed);
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
                self.count(node, End::Failed);
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
    /// Counts the nodes that are under way for their stages.
    fn count_running(&mut self) {
        self.stages.clear_running();
        for node in self.nodes.values() {
            self.stages.stage(&node.stage).running += 1;
        }
    }

    /// Says how many nodes are done, and how long the rest will take, once that can be told.
    fn summary(&self, colour: bool) -> Option<String> {
        let run = self.run.as_ref()?;
        let elapsed = run.begin.elapsed().as_secs_f64();
        let under_way: f64 = self.nodes.values().filter_map(Node::share).sum();
        let left = run.total.saturating_sub(run.done) as f64 - under_way;
        let made = run.computed as f64 + under_way;

        let mut text = format!("{} of {} nodes", run.done, run.total);
        if run.failed > 0 {
            let failed = format!("{} failed", run.failed);
            text += &format!(", {}", painted(&failed, Color::Red, colour));
        }
        if elapsed >= FIRST_LINE.as_secs_f64() && made > 0.0 {
            text += &format!(", {} left", seconds(elapsed / made * left.max(0.0)));
        }
        Some(text)
    }
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
                    self.shared.state().nodes.insert(number, Node::new(name));
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
            return;
        }
        match event.metadata().name() {
            "stopping" => self.shared.line(fields.text("message").unwrap_or_default()),
            "stage" => {
                let of = fields.text("stage").zip(fields.number("nodes"));
                let (stage, nodes) = of.unwrap_or_default();
                self.shared.state().stages.add(stage, nodes);
            }
            _ => {}
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
    fn time_left_counts_what_is_computed_and_what_is_under_way() {
        let begin = Instant::now() - Duration::from_secs(30);
        let run =
            Run { begin, total: 10, done: 6, computed: 2, failed: 0, bar: None, last_line: begin };
        let figures = Figures { done: 1, total: Some(2), unit: "rows".into() };
        let node = Node { figures: Some(figures), ..Node::new("scored") };
        let nodes = BTreeMap::from([(3, node)]);
        let state = State { run: Some(run), nodes, ..State::default() };
        // 2.5 nodes took 30 seconds, and 3.5 are left.
        assert_eq!(state.summary(false).unwrap(), "6 of 10 nodes, 42.0 s left");
    }
}
