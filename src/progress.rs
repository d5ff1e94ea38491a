//! Shows a run on stderr: bars on a terminal, plain lines elsewhere, both with rate and time left.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use refrain_engine::graph::{Graph, NodeId};
use refrain_engine::run::event::Event;

use crate::failure::{of_node, shown};

/// Shortest time between two plain lines of one node.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The display of one run.
pub struct Display<'a> {
    graph: &'a Graph,
    bars: Option<MultiProgress>,
    quiet: bool,
    running: Mutex<HashMap<NodeId, Running>>,
}

struct Running {
    since: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl<'a> Display<'a> {
    /// A display; `terminal` chooses bars, `quiet` leaves only failures and remarks.
    pub fn new(graph: &'a Graph, terminal: bool, quiet: bool) -> Display<'a> {
        let bars = (terminal && !quiet)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Display { graph, bars, quiet, running: Mutex::new(HashMap::new()) }
    }

    /// Shows one event.
    pub fn event(&self, event: &Event<'_>) {
        let mut running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Begin { .. } | Event::Cached { .. } | Event::Skipped { .. } => {}
            Event::Started { node, .. } => {
                let now = Instant::now();
                let bar = self.bars.as_ref().map(|bars| bars.add(bar(&self.name(*node))));
                running.insert(*node, Running { since: now, last_line: now, bar });
            }
            Event::Progress { node, done, total, unit } => {
                if let Some(state) = running.get_mut(node) {
                    self.progress(*node, state, *done, *total, unit);
                }
            }
            Event::Note { node, text } => {
                self.print(&format!("note: `{}`: {text}", self.name(*node)))
            }
            Event::Finished { node, elapsed, differs } => {
                clear(running.remove(node));
                if !self.quiet {
                    self.print(&format!("{:>8}  {}", time(*elapsed), self.name(*node)));
                }
                if *differs {
                    self.print(&format!(
                        "warning: `{}` is not reproducible: an earlier result of the same key has other bytes",
                        self.name(*node)
                    ));
                }
            }
            Event::Failed { node, failure } => {
                clear(running.remove(node));
                let (_, message, hint) = of_node(failure);
                let hint = hint.map(|h| format!("\n  = help: {h}")).unwrap_or_default();
                let what = match self.graph.node(*node) {
                    source if source.is_source() => source.kind_name(),
                    _ => "stage",
                };
                self.print(&format!(
                    "error: {what} `{}` failed: {message}{hint}",
                    self.name(*node)
                ));
            }
        }
    }

    fn name(&self, node: NodeId) -> String {
        self.graph.node(node).name.clone()
    }

    fn progress(
        &self,
        node: NodeId,
        state: &mut Running,
        done: u64,
        total: Option<u64>,
        unit: &str,
    ) {
        let seconds = state.since.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(1e-9);
        let left = total.filter(|_| done > 0).map(|t| t.saturating_sub(done) as f64 / rate);
        let left = left
            .map(|s| format!(", {} left", time(Duration::from_secs_f64(s.min(1e9)))))
            .unwrap_or_default();
        let rate = if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.2}") };
        if let Some(bar) = &state.bar {
            bar.set_length(total.unwrap_or(done.max(1)));
            bar.set_position(done);
            bar.set_message(format!("{done} {unit}, {rate}/s{left}"));
        } else if !self.quiet && state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            let of = total.map(|t| format!(" of {t}")).unwrap_or_default();
            self.print(&format!(
                "          {}: {done}{of} {unit}, {rate}/s{left}",
                self.name(node)
            ));
        }
    }

    /// Prints a line above the bars.
    #[expect(clippy::print_stderr, reason = "progress goes to stderr")]
    fn print(&self, line: &str) {
        let line = shown(line);
        match &self.bars {
            // A terminal that went away is no reason to end a run.
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:30!} {bar:24} {msg}")
        .expect("the template is well formed");
    let bar = ProgressBar::new(1).with_style(style.progress_chars("━╸ "));
    bar.set_prefix(shown(name));
    bar
}

fn clear(running: Option<Running>) {
    if let Some(bar) = running.and_then(|r| r.bar) {
        bar.finish_and_clear();
    }
}

/// A time for people.
pub fn time(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
