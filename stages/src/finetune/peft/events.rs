//! The events of a trainer: lines of JSON in a file that is read while it grows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::Deserialize;

use refrain_engine::kind::StageError;

use crate::backend::PEFT_PROFILE;

/// Bytes of the longest line.
const LONGEST: usize = 1 << 20;
/// Bytes that are read at once.
const CHUNK: u64 = 1 << 16;
/// Characters of a line or name that are shown.
const SHOWN: usize = 200;
/// Where the contract is.
pub(super) const CONTRACT: &str = "`docs/trainer.md` says what a trainer reports";

/// An event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The training begins, or goes on.
    Start(Start),
    /// A step was made.
    Step { step: u64, loss: f64, grad_norm: f64 },
    /// The loss on `evaluate_on` was measured after a step.
    Evaluate { step: u64, loss: f64 },
    /// The model is there as it was after so many steps.
    Keep { step: u64 },
    /// A folder holds all that is needed to go on after so many steps.
    Checkpoint { step: u64, folder: String },
    /// A remark for people.
    Note { text: String },
    /// The training was asked to stop, and did.
    Stopped {},
    /// The training is done.
    End { best_step: Option<u64> },
    /// It failed.
    Error {
        message: String,
        hint: Option<String>,
        /// Whether the machine lacks something.
        #[serde(default)]
        environment: bool,
    },
    /// One of a later version.
    #[serde(other)]
    Unknown,
}

/// The versions and devices that a trainer reports.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Start {
    /// The steps that are done: 0, or those of the checkpoint that it was given.
    pub step: u64,
    /// Number of parameters that are trained.
    pub trainable: u64,
    /// The programs whose versions can move the last bits.
    pub versions: BTreeMap<String, String>,
    /// The kind of its devices.
    pub device: String,
    /// Number of processes.
    pub world: u64,
    /// Whether each process holds a part of the parameters.
    #[serde(default)]
    pub sharded: bool,
    /// Threads of a process.
    pub threads: u64,
}

impl Start {
    /// Writes the profile.
    pub fn profile(&self) -> String {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let sharded = if self.sharded { " sharded" } else { "" };
        plain(&format!(
            "{PEFT_PROFILE} ({}) on {} × {}{sharded}, {} threads",
            versions.join(", "),
            self.world,
            self.device,
            self.threads
        ))
    }
}

/// The file of the events.
pub(super) struct Events {
    path: PathBuf,
    file: Option<File>,
    /// The start of a line that is not complete.
    rest: Vec<u8>,
}

impl Events {
    pub fn new(path: PathBuf) -> Events {
        Events { path, file: None, rest: Vec::new() }
    }

    /// Reads the events since the last call.
    pub fn read(&mut self) -> Result<Vec<Event>, StageError> {
        let mut events = Vec::new();
        while self.fill().map_err(|error| self.unreadable(&error))? > 0 {
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                match self.rest.len() > LONGEST {
                    true => return Err(wrong("the trainer reports an endless line")),
                    false => continue,
                }
            };
            let rest = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, rest);
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for line in lines {
                events.push(parse(line)?);
            }
        }
        Ok(events)
    }

    /// Reads further bytes; a file that is not there yet has none.
    fn fill(&mut self) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => match File::open(&self.path) {
                Ok(file) => none.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            },
        };
        file.take(CHUNK).read_to_end(&mut self.rest)
    }

    fn unreadable(&self, error: &io::Error) -> StageError {
        StageError::Environment {
            message: format!("cannot read `{}`: {error}", self.path.display()),
            hint: None,
        }
    }
}

fn parse(line: &[u8]) -> Result<Event, StageError> {
    serde_json::from_slice(line).map_err(|error| {
        let text = plain(&String::from_utf8_lossy(line));
        wrong(format!("the trainer reports `{text}`, which is not an event: {error}"))
    })
}

/// The trainer does not keep the contract.
pub(super) fn wrong(message: impl Into<String>) -> StageError {
    StageError::with_hint(message, CONTRACT)
}

/// A text of the trainer on one line, without control characters, and not too long.
pub(super) fn plain(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn events_are_read_as_lines_become_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.jsonl");
        let mut events = Events::new(path.clone());
        assert_eq!(events.read().unwrap(), []);
        let mut text = "{\"event\": \"step\", \"step\": 0, \"loss\": 1.5, \"grad_norm\": 2.0}\n\n{\"event\": \"ke"
            .to_owned();
        fs::write(&path, &text).unwrap();
        let step = Event::Step { step: 0, loss: 1.5, grad_norm: 2.0 };
        assert_eq!(events.read().unwrap(), [step]);
        assert_eq!(events.read().unwrap(), []);
        text.push_str("ep\", \"step\": 3}\n{\"event\": \"party\"}\n{\"event\": \"end\", \"best_step\": null}\n");
        fs::write(&path, &text).unwrap();
        let expected = [Event::Keep { step: 3 }, Event::Unknown, Event::End { best_step: None }];
        assert_eq!(events.read().unwrap(), expected);
    }

    #[test]
    fn what_is_no_event_is_shown() {
        for line in ["hello\n", "{\"event\": \"step\", \"step\": 0, \"loss\": NaN}\n", "[]\n"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("report.jsonl");
            fs::write(&path, line).unwrap();
            let error = Events::new(path).read().unwrap_err().to_string();
            assert!(error.contains(line.trim()) && error.contains("is not an event"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.jsonl");
        fs::write(&path, "x".repeat(2 << 20)).unwrap();
        let error = Events::new(path).read().unwrap_err().to_string();
        assert_eq!(error, "the trainer reports an endless line");
    }

    #[test]
    fn the_profile_is_one_line() {
        let start = Start {
            step: 0,
            trainable: 1,
            versions: [("torch".to_owned(), "2.15\n0".to_owned())].into(),
            device: "x86_64".into(),
            world: 2,
            sharded: true,
            threads: 4,
        };
        assert_eq!(start.profile(), "peft (torch 2.15 0) on 2 × x86_64 sharded, 4 threads");
    }
}
