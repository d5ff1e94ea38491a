//! Installs the layers that show and keep what the libraries emit: bars, run log, log and trace.

mod chrome;
mod log;
mod progress;

use std::io::IsTerminal;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::run_log::RunLog;
use refrain_engine::run::event::TARGET;
use refrain_engine::run::executor::JobEvents;

use crate::cli::{Arguments, Command};
use crate::command_error::CommandError;
use crate::terminal::Terminal;

use chrome::ChromeTrace;
use progress::Progress;

/// The layers of this process that a command begins and ends.
pub struct Observers {
    /// The log in the cache's `runs/`.
    pub run_log: RunLog,
    /// The events of a job, for the run that made it.
    pub job_events: JobEvents,
    trace: Option<ChromeTrace>,
}

impl Observers {
    /// Installs the layers that the command line asks for, for all threads.
    pub fn install(arguments: &Arguments) -> Result<Observers, CommandError> {
        let options = &arguments.log;
        let level = options.level();
        let quiet = matches!(&arguments.command, Command::Run(run) if run.quiet);
        let terminal = Terminal::stderr(std::io::stderr().is_terminal() && !quiet);

        let trace = options.trace.as_deref().map(ChromeTrace::create).transpose()?;
        let observers =
            Observers { run_log: RunLog::default(), job_events: JobEvents::default(), trace };
        let most = if observers.trace.is_some() { Level::TRACE } else { Level::DEBUG };
        let wanted = Targets::new().with_target(TARGET, level.max(LevelFilter::from_level(most)));
        let progress = Progress::new(terminal.clone(), quiet, level == LevelFilter::OFF);

        tracing_subscriber::registry()
            .with(wanted)
            .with(observers.run_log.clone())
            .with(observers.job_events.clone())
            .with(progress)
            .with(log::layer(level, options.log_format, terminal))
            .with(observers.trace.clone())
            .try_init()
            .map_err(|error| CommandError::new(ErrorClass::Environment, error.to_string()))?;
        Ok(observers)
    }

    /// Completes what was written; nothing is emitted after it.
    pub fn finish(&self) -> Result<(), CommandError> {
        self.trace.as_ref().map_or(Ok(()), ChromeTrace::finish)
    }
}
