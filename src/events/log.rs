//! Layer: log lines on stderr, for people or as JSON.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::registry::LookupSpan;

use crate::cli::LogFormat;
use crate::escape::colour;
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
    // Only who wants everything wants the end of every span.
    let spans = if level == LevelFilter::TRACE { FmtSpan::CLOSE } else { FmtSpan::NONE };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Lines { terminal, json: format == LogFormat::Json })
        .with_span_events(spans);
    Some(match format {
        LogFormat::Human => layer.with_ansi(colour()).with_filter(level).boxed(),
        LogFormat::Json => layer.json().with_filter(level).boxed(),
    })
}

/// Writes log lines above the bars.
struct Lines {
    terminal: Terminal,
    json: bool,
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
        let text = if self.to.json { escaped(&text) } else { text.into_owned() };
        if !text.is_empty() {
            self.to.terminal.write(&text);
        }
    }
}
