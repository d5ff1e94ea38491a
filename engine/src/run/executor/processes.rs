//! Jobs as programs of their own, on this machine or by `ssh` on others.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use refrain_cache::write::write_atomic;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::kind::machine::ExecutorConfig;

use super::shell::quoted;
use super::{Executor, ExecutorError, Job, JobResources, JobState, LOG_FILE};

/// Time between two questions where the configuration does not say.
const POLL: Duration = Duration::from_millis(500);
/// The file in a job's folder with the number of its process on this machine, and its start.
const PROCESS_FILE: &str = "process";

/// Programs on this machine, or on others by `ssh`.
pub struct Processes {
    hosts: Vec<String>,
    options: Vec<String>,
    variables: Vec<(String, OsString)>,
    poll: Duration,
    started: Mutex<HashMap<String, Started>>,
}

/// A program that this process started.
struct Started {
    child: Child,
    /// The position of its machine in the list.
    host: usize,
}

impl Processes {
    /// Programs as the configuration has them. On this machine they get `variables` and no other.
    pub fn new(config: &ExecutorConfig, variables: Vec<(String, OsString)>) -> Processes {
        Processes {
            hosts: config.hosts.clone(),
            options: config.options.clone(),
            variables,
            poll: config.poll.unwrap_or(POLL),
            started: Mutex::default(),
        }
    }

    /// Returns the position of the machine on which the fewest jobs run.
    fn freest(&self, started: &mut HashMap<String, Started>) -> usize {
        let mut running = vec![0; self.hosts.len().max(1)];
        for job in started.values_mut() {
            running[job.host] += usize::from(matches!(job.child.try_wait(), Ok(None)));
        }
        let order = running.iter().enumerate().min_by_key(|(_, running)| **running);
        order.map_or(0, |(host, _)| host)
    }

    /// Makes the command of a job on one of the machines.
    fn command(&self, host: usize, job: &Job, words: &[OsString]) -> Command {
        // The shell opens the log, and becomes the program.
        let mut command = Command::new("sh");
        command.args(["-c", "log=$1; shift; exec \"$@\" >\"$log\" 2>&1", "sh"]);
        command.arg(job.folder.join(LOG_FILE));
        match self.hosts.get(host) {
            None => {
                command.args(words).env_clear();
                command.envs(self.variables.iter().map(|(name, value)| (name, value)));
            }
            Some(host) => {
                let mut line = b"exec env".to_vec();
                let mut push = |word: &[u8]| {
                    line.push(b' ');
                    line.extend(word);
                };
                for (name, value) in &self.variables {
                    let mut set = OsString::from(format!("{name}="));
                    set.push(value);
                    push(&quoted(&set));
                }
                words.iter().for_each(|word| push(&quoted(word)));
                command.args(["ssh", "-oBatchMode=yes"]).args(&self.options).arg("--").arg(host);
                command.arg(String::from_utf8_lossy(&line).into_owned());
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The interruption of a terminal is for the run, which cancels its jobs.
        command.process_group(0);
        command
    }

    fn started(&self) -> MutexGuard<'_, HashMap<String, Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for Processes {
    fn submit(&self, job: &Job, words: &[OsString], _: &JobResources) -> Result<(), ExecutorError> {
        let mut started = self.started();
        let host = self.freest(&mut started);
        let child = self.command(host, job, words).spawn().map_err(|error| {
            ExecutorError::Unreachable(format!("a program cannot be started: {error}"))
        })?;
        let process = process_line(child.id());
        started.insert(job.name.clone(), Started { child, host });
        drop(started);

        // A later run finds the job by it; without it, that run computes the nodes anew.
        let _unfound = write_atomic(&job.folder.join(PROCESS_FILE), process.as_bytes());
        Ok(())
    }

    fn states(&self, jobs: &[&Job]) -> Result<Vec<JobState>, ExecutorError> {
        let mut started = self.started();
        let state = |job: &&Job| match started.get_mut(&job.name) {
            Some(Started { child, .. }) => match child.try_wait() {
                Ok(Some(status)) => JobState::Ended(status.to_string()),
                Ok(None) | Err(_) => JobState::Running,
            },
            None if running_process(job).is_some() => JobState::Running,
            None => JobState::Unknown,
        };
        Ok(jobs.iter().map(state).collect())
    }

    fn cancel(&self, jobs: &[&Job]) -> Result<(), ExecutorError> {
        for job in jobs {
            if let Some(process) = running_process(job) {
                // One that ended meanwhile needs no end.
                let _ended = kill_process_group(process, Signal::TERM);
            }
        }
        Ok(())
    }

    fn poll_every(&self) -> Duration {
        self.poll
    }
}

/// Returns the process of a job, if it is the one that was started for it and runs.
fn running_process(job: &Job) -> Option<Pid> {
    let line = fs::read_to_string(job.folder.join(PROCESS_FILE)).ok()?;
    let number: u32 = line.split(' ').next()?.parse().ok()?;
    (process_line(number) == line).then(|| Pid::from_raw(number.try_into().ok()?)).flatten()
}

/// Writes the number of a process and the time of its start, which together no two have; without
/// the time where it is over.
fn process_line(number: u32) -> String {
    format!("{number} {}", start_of(number).unwrap_or_default())
}

/// Reads when a process was started, in ticks since this machine was; `None` for one that is over.
fn start_of(number: u32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{number}/stat"))?;
    // The name of the program, in parentheses, may hold anything.
    let behind = text.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut fields = behind.split_whitespace();
    let state = fields.next().unwrap_or_default();
    let start = fields.nth(18).unwrap_or_default();
    match state {
        "Z" | "X" => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(start.to_owned()),
    }
}
