//! Layer: log lines on stderr, for people or as JSON.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use refrain_engine::run::event::{self, Fields};

use crate::cli::LogFormat;
use crate::escape::escape_controls;
use crate::output::escaped;
use crate::terminal::Terminal;

/// Returns the layer for a level, or none where nothing is wanted.
pub fn layer<S>(
    level: LevelFilter,
    format: LogFormat,
    terminal: Terminal,
) -> Option<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if level == LevelFilter::OFF {
        return None;
    }
    if format == LogFormat::Json {
        return Some(JsonLines { terminal }.with_filter(level).boxed());
    }
    // Only who wants everything wants the end of every span.
    let spans = if level == LevelFilter::TRACE { FmtSpan::CLOSE } else { FmtSpan::NONE };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Lines { terminal })
        .with_span_events(spans)
        .with_ansi(false);
    Some(layer.with_filter(level).boxed())
}

/// Writes an object per event: time, level, target, event, node, and the event's own fields.
struct JsonLines {
    terminal: Terminal,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        event::keep_node(attributes, id, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let fields = Fields::of_event(event);
        let mut time = String::new();
        // Writing to a string does not fail.
        let _written = SystemTime.format_time(&mut Writer::new(&mut time));

        let mut line = Map::new();
        line.insert("time".into(), time.into());
        line.insert("level".into(), metadata.level().as_str().to_lowercase().into());
        line.insert("target".into(), metadata.target().into());
        line.insert("event".into(), metadata.name().into());
        if let Some(of) = event::node_of(event, &fields, &context) {
            line.insert("node".into(), of.name.into());
        }
        for (name, value) in fields.iter().filter(|(name, _)| !["node", "name"].contains(name)) {
            line.insert(name.to_owned(), json!(value));
        }
        self.terminal.write(&format!("{}\n", escaped(&Value::Object(line).to_string())));
    }
}

/// Writes log lines above the bars.
struct Lines {
    terminal: Terminal,
}

/// A line that is being written.
struct Line<'a> {
    to: &'a Lines,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { to: self, text: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        if !text.is_empty() {
            // Messages hold what commands printed.
            self.to.terminal.write(&escape_controls(&text));
        }
    }
}
