//! The batch scheduler Slurm, by its commands: `sbatch`, `squeue` and `scancel`.
//!
//! Only output that is the same in all versions is read. Jobs are known by their names, which no
//! two share, so that a run that was started again finds them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::kind::machine::ExecutorConfig;

use super::shell::quoted;
use super::{Executor, ExecutorError, Job, JobResources, JobState, LOG_FILE, OTHER_RESOURCES};

/// Time between two questions where the configuration does not say.
const POLL: Duration = Duration::from_secs(2);
/// Time of a job beyond the limits of its stages, to start and to deliver.
const MARGIN: Duration = Duration::from_secs(120);
/// The limit of jobs that one command names.
const NAMED: usize = 200;

/// Words of `sbatch` that say that it may take the job later.
const LATER: [&str; 8] = [
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
    "temporarily unable to accept job",
    "Resource temporarily unavailable",
    "SubmitJob",
    "Protocol authentication error",
];

/// Reasons for which a waiting job will never start.
const NEVER: [&str; 8] = [
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionConfig",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
];

/// Slurm.
pub struct Slurm {
    options: Vec<String>,
    /// Variables of a job, with their values.
    variables: Vec<(String, OsString)>,
    /// Variables of this process that its commands must not see.
    hidden: Vec<OsString>,
    poll: Duration,
    /// Slurm's numbers of the jobs, by name, as far as they are known.
    numbers: Mutex<HashMap<String, String>>,
}

impl Slurm {
    /// Slurm as the configuration has it. Jobs get `variables` and no other; the commands that submit
    /// and ask run without `hidden`, such as those that tell a job of Slurm from its own.
    pub fn new(
        config: &ExecutorConfig,
        variables: Vec<(String, OsString)>,
        hidden: Vec<OsString>,
    ) -> Slurm {
        Slurm {
            options: config.options.clone(),
            variables,
            hidden,
            poll: config.poll.unwrap_or(POLL),
            numbers: Mutex::default(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in &self.hidden {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command to its end.
    fn run(&self, mut command: Command, input: Option<&[u8]>) -> Result<String, ExecutorError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = output(&mut command, input).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ExecutorError::Refused {
                message: format!("cannot start `{program}`: {error}"),
                hint: Some("run this where Slurm's commands are in PATH".into()),
            },
            _ => ExecutorError::Unreachable(format!("cannot start `{program}`: {error}")),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        Err(ExecutorError::Refused { message: format!("`{program}`: {line}"), hint: None })
    }

    fn numbers(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for Slurm {
    fn submit(
        &self,
        job: &Job,
        words: &[OsString],
        resources: &JobResources,
    ) -> Result<(), ExecutorError> {
        let mut command = self.command("sbatch");
        // Nothing of this process's environment; what a job needs stands in its script.
        command.args(["--parsable", "--export=NIL", "--no-requeue"]);
        command.arg("--job-name").arg(&job.name);
        command.arg("--chdir").arg(&job.folder);
        command.arg("--output").arg(job.folder.join(LOG_FILE));
        command.arg(format!("--cpus-per-task={}", resources.threads));
        if let Some(memory) = resources.memory {
            command.arg(format!("--mem={}M", memory.div_ceil(1 << 20)));
        }
        if resources.gpus > 0 {
            command.arg(format!("--gres=gpu:{}", resources.gpus));
        }
        if let Some(time) = resources.time {
            command.arg(format!("--time={}", (time + MARGIN).as_secs().div_ceil(60)));
        }
        command.args(&self.options);

        let script = script(&self.variables, words);
        let answer = self.run(command, Some(&script)).map_err(|error| match error {
            ExecutorError::Refused { message, hint: None } => {
                match LATER.iter().any(|words| message.contains(words)) {
                    true => ExecutorError::Unreachable(message),
                    false => ExecutorError::Refused { message, hint: Some(OTHER_RESOURCES.into()) },
                }
            }
            error => error,
        })?;
        // With several clusters the name of one follows.
        let number = answer.trim().split(';').next().unwrap_or_default();
        self.numbers().insert(job.name.clone(), number.to_owned());
        Ok(())
    }

    fn states(&self, jobs: &[&Job]) -> Result<Vec<JobState>, ExecutorError> {
        let mut command = self.command("squeue");
        command.args(["--noheader", "--me", "--states=all", "--format=%i|%T|%r|%j"]);
        let text = self.run(command, None).map_err(|error| match error {
            ExecutorError::Refused { message, .. } => ExecutorError::Unreachable(message),
            error => error,
        })?;
        let mut found = HashMap::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(4, '|').collect();
            let [number, state, reason, name] = fields[..] else { continue };
            found.insert(name, (number, state, reason));
        }
        let mut numbers = self.numbers();
        let state = |job: &&Job| match found.get(job.name.as_str()) {
            None => JobState::Unknown,
            Some((number, state, reason)) => {
                numbers.insert(job.name.clone(), (*number).to_owned());
                state_of(state, reason)
            }
        };
        Ok(jobs.iter().map(state).collect())
    }

    fn cancel(&self, jobs: &[&Job]) -> Result<(), ExecutorError> {
        if jobs.iter().any(|job| !self.numbers().contains_key(&job.name)) {
            self.states(jobs)?;
        }
        let numbers: Vec<String> =
            jobs.iter().filter_map(|job| self.numbers().get(&job.name).cloned()).collect();
        for numbers in numbers.chunks(NAMED) {
            let mut command = self.command("scancel");
            command.args(numbers);
            self.run(command, None)?;
        }
        Ok(())
    }

    fn poll_every(&self) -> Duration {
        self.poll
    }
}

/// Reads the state of a job in `squeue`'s long words. Only what the job delivered says whether it
/// succeeded.
fn state_of(state: &str, reason: &str) -> JobState {
    match state {
        "PENDING" if NEVER.contains(&reason) => JobState::Stuck(reason.to_owned()),
        // A suspended job gives no signs of life.
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD"
        | "RESV_DEL_HOLD" | "SPECIAL_EXIT" | "SUSPENDED" | "STOPPED" => JobState::Waiting,
        "RUNNING" | "COMPLETING" | "RESIZING" | "SIGNALING" | "STAGE_OUT" => JobState::Running,
        state if ["", "None"].contains(&reason) => JobState::Ended(state.to_owned()),
        state => JobState::Ended(format!("{state} ({reason})")),
    }
}

/// Writes the script of a job: its variables, then the command in the place of the shell.
fn script(variables: &[(String, OsString)], words: &[OsString]) -> Vec<u8> {
    let mut script = b"#!/bin/sh\n".to_vec();
    for (name, value) in variables {
        script.extend(format!("export {name}=").into_bytes());
        script.extend(quoted(value));
        script.push(b'\n');
    }
    script.extend(b"exec");
    for word in words {
        script.push(b' ');
        script.extend(quoted(word));
    }
    script.push(b'\n');
    script
}

fn output(command: &mut Command, input: Option<&[u8]>) -> io::Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
        // A command that ends before it has read all says why itself.
        let _closed = pipe.write_all(bytes);
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_holds_its_variables_and_its_command_as_they_are() {
        let variables = vec![("A".to_owned(), OsString::from("it's $HOME `ls`\n2"))];
        let words = ["sh", "-c", "printf '%s|%s' \"$A\" \"$1\"", "sh", "a b'$A"];
        let words = words.map(OsString::from);
        let script = script(&variables, &words);
        let mut shell = Command::new("sh");
        shell.env_clear().env("PATH", "/usr/bin:/bin");
        let shown = output(&mut shell, Some(&script)).unwrap();
        assert_eq!(String::from_utf8(shown.stdout).unwrap(), "it's $HOME `ls`\n2|a b'$A");
    }

    #[test]
    fn a_state_is_never_a_success() {
        assert_eq!(state_of("PENDING", "Priority"), JobState::Waiting);
        assert_eq!(
            state_of("PENDING", "PartitionConfig"),
            JobState::Stuck("PartitionConfig".into())
        );
        assert_eq!(state_of("RUNNING", "None"), JobState::Running);
        assert_eq!(state_of("COMPLETED", "None"), JobState::Ended("COMPLETED".into()));
        assert_eq!(
            state_of("NODE_FAIL", "NodeDown"),
            JobState::Ended("NODE_FAIL (NodeDown)".into())
        );
    }
}
