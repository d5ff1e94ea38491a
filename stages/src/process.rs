//! Runs a process in a group of its own, keeps the end of what it prints, and ends the group when
//! asked to stop.

mod tail;

use std::collections::BTreeMap;
use std::io::{self, PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use refrain_engine::kind::{Cancel, StageError};

use tail::Tail;

/// Bytes of output that are shown when a command fails.
const TAIL: usize = 8 * 1024;
/// Longest time between two looks at a process.
const POLL: Duration = Duration::from_millis(50);
/// Wait for the last output once the process has ended: a process that left the group may hold the
/// pipe.
const LINGER: Duration = Duration::from_secs(1);
/// Grace period between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// Starts a program with its private memory limited to the kibibytes of `$1`, or to less where less
/// is allowed.
///
/// What is limited is what the process writes to alone, not its address space: of that many
/// programs reserve far more than they use. Each process of the command has the limit for itself.
const LIMITED: &str = "ulimit -d \"$1\" 2>/dev/null; shift; exec \"$@\"";

/// A command and all that it is given.
pub(crate) struct Job<'a> {
    /// The program and its arguments, at least the former.
    pub command: &'a [String],
    /// The folder in which it runs.
    pub folder: &'a Path,
    /// All variables that it sees.
    pub environment: &'a BTreeMap<String, String>,
    /// Texts that must not be shown, each at least one byte.
    pub secrets: &'a [String],
    /// Bytes of memory that each of its processes may take for itself.
    pub memory: Option<u64>,
    /// Its end.
    pub ending: Ending,
}

/// The way in which a process ends that is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A stop kills it. Only when its time is over is it asked to end by itself.
    Killed,
    /// It is always asked to end by itself, and killed when it has not after so long. It reads from
    /// a pipe that this process holds open, whose end tells it that this process is gone.
    Asked(Duration),
}

impl Ending {
    /// The time between the request and the end.
    fn grace(self) -> Duration {
        match self {
            Ending::Killed => GRACE,
            Ending::Asked(grace) => grace,
        }
    }
}

/// The end of a process.
#[derive(Debug, PartialEq)]
pub(crate) enum Ended {
    /// With exit status 0.
    Success,
    /// In another way.
    Failure {
        /// Such as `ended with exit status 1`.
        how: String,
        /// The end of what it printed, secrets masked.
        tail: String,
    },
}

/// Runs the command to its end.
pub(crate) fn run(job: &Job<'_>, cancel: &Cancel) -> Result<Ended, StageError> {
    run_watched(job, cancel, &mut || Ok(()))
}

/// Runs the command to its end, and calls `watch` again and again meanwhile; its error ends the
/// command.
pub(crate) fn run_watched(
    job: &Job<'_>,
    cancel: &Cancel,
    watch: &mut dyn FnMut() -> Result<(), StageError>,
) -> Result<Ended, StageError> {
    let longest_secret = job.secrets.iter().map(String::len).max().unwrap_or(0);
    let mut tail = Tail::new(TAIL + longest_secret);
    let (mut child, output) = spawn(job)?;
    let mut output = Output { pipe: Some(output), tail: &mut tail };
    let (status, in_time) = wait(&mut child, &mut output, job.ending, cancel, watch)?;
    let ended = Instant::now();
    while output.pipe.is_some() && ended.elapsed() < LINGER {
        output.read(LINGER.saturating_sub(ended.elapsed()));
    }
    if status.success() && in_time {
        return Ok(Ended::Success);
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    let how = if in_time { how } else { format!("{how} when it was stopped") };
    Ok(Ended::Failure { how, tail: tail.show(job.secrets, longest_secret) })
}

/// Starts the process; both its outputs go into one pipe, so that they stay in order.
fn spawn(job: &Job<'_>) -> Result<(Child, PipeReader), StageError> {
    let (program, arguments) =
        job.command.split_first().ok_or_else(|| StageError::bug("`run` without a program"))?;
    let environment = |error: io::Error| StageError::Environment {
        message: format!("`{program}` could not be started: {error}"),
        hint: match error.kind() {
            io::ErrorKind::NotFound => Some("it is looked for in the folders of PATH".into()),
            io::ErrorKind::PermissionDenied => {
                Some("run a script by its interpreter: `[python3, …]`".into())
            }
            _ => None,
        },
    };
    let (reader, writer) = io::pipe().map_err(environment)?;
    let place = place_of(program, job);
    let mut command = match job.memory {
        None => Command::new(place),
        Some(bytes) => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", LIMITED, "sh", &(bytes / 1024).to_string()]).arg(place);
            shell
        }
    };
    let child = command
        .args(arguments)
        .current_dir(job.folder)
        .env_clear()
        .envs(job.environment)
        .stdin(match job.ending {
            Ending::Killed => Stdio::null(),
            Ending::Asked(_) => Stdio::piped(),
        })
        .stdout(writer.try_clone().map_err(environment)?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .map_err(environment)?;
    Ok((child, reader))
}

/// Where a program lies: a relative path with a slash is one in the scratch folder, whatever the
/// current folder is; a bare name is looked for in the folders of the command's own PATH.
///
/// The system would look a bare name up as well, but only in a copy of this process made for the
/// purpose, which takes longer than most of what is started.
fn place_of(program: &str, job: &Job<'_>) -> PathBuf {
    if program.contains('/') {
        return job.folder.join(program);
    }
    let folders = job
        .environment
        .get("PATH")
        .map_or(Vec::new(), |path| std::env::split_paths(path).collect());
    let places = folders.iter().map(|folder| job.folder.join(folder).join(program));
    let executable = |place: &PathBuf| {
        place
            .metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    places.into_iter().find(executable).unwrap_or_else(|| program.into())
}

/// Waits for the end of the process, or for a request to stop; then kills whatever is left of its
/// group. Says whether it ended within its time; when that is over, it is first asked to end by
/// itself.
///
/// The group is killed before the process is reaped: until then its number cannot become that of
/// another group.
fn wait(
    child: &mut Child,
    output: &mut Output<'_>,
    ending: Ending,
    cancel: &Cancel,
    watch: &mut dyn FnMut() -> Result<(), StageError>,
) -> Result<(ExitStatus, bool), StageError> {
    let lost = |error: io::Error| StageError::Environment {
        message: format!("the command could not be waited for: {error}"),
        hint: None,
    };
    let pid = Pid::from_child(child);
    // Nearly always the pipe closes when the process ends, and is all that has to be waited for.
    let mut pause = Duration::from_micros(20);
    let (mut late, mut is_asked): (Option<Instant>, bool) = (None, false);
    let ended = loop {
        let read = output.read(POLL);
        if let Err(error) = watch() {
            break Err(error);
        }
        is_asked = cancel.is_asked();
        if is_asked && ending == Ending::Killed {
            break Err(StageError::Cancelled);
        }
        if late.is_some_and(|since| since.elapsed() >= ending.grace()) {
            break Ok(());
        }
        if late.is_none() && (is_asked || cancel.is_late()) {
            late = Some(Instant::now());
            // Where no process of the group is left, that is seen below.
            let _ = kill_process_group(pid, Signal::TERM);
        }
        if read {
            continue;
        }
        match has_ended(pid) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(lost(error)),
        }
        if output.pipe.is_none() {
            thread::sleep(pause);
            pause = (pause * 2).min(POLL);
        }
    };
    // It fails when no process of the group is left, which is what is wanted.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait().map_err(lost)?;
    ended?;
    if is_asked { Err(StageError::Cancelled) } else { Ok((status, late.is_none())) }
}

/// Whether a child has ended; it stays to be waited for.
fn has_ended(child: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(child), options) {
        Ok(status) => Ok(status.is_some()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The output of the process.
struct Output<'a> {
    /// `None` once nobody can write to it any more.
    pipe: Option<PipeReader>,
    tail: &'a mut Tail,
}

impl Output<'_> {
    /// Reads what there is, or waits for it; says whether there was anything.
    fn read(&mut self, longest: Duration) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let timeout =
            Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return false,
            Ok(_) | Err(_) => {}
        }
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.tail.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
        self.pipe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(command: &[&str], folder: &Path, cancel: &Cancel) -> Result<Ended, StageError> {
        let command: Vec<String> = command.iter().map(|s| s.to_string()).collect();
        let environment = BTreeMap::from([
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("KEY".into(), "hunter2".into()),
        ]);
        let secrets = ["hunter2".into()];
        run(
            &Job {
                command: &command,
                folder,
                environment: &environment,
                secrets: &secrets,
                memory: None,
                ending: Ending::Killed,
            },
            cancel,
        )
    }

    #[test]
    fn failures_show_the_status_and_both_outputs_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo one; echo two $KEY >&2; echo three; exit 3";
        let ended = job(&["sh", "-c", script], folder.path(), &Cancel::default()).unwrap();
        let tail = "one\ntwo ***\nthree\n".to_owned();
        assert_eq!(ended, Ended::Failure { how: "ended with exit status 3".into(), tail });
        let ended = job(&["sh", "-c", "kill -9 $$"], folder.path(), &Cancel::default()).unwrap();
        assert_eq!(
            ended,
            Ended::Failure { how: "was ended by signal 9".into(), tail: String::new() }
        );
        assert_eq!(job(&["true"], folder.path(), &Cancel::default()).unwrap(), Ended::Success);
        let error = job(&["no-such-program"], folder.path(), &Cancel::default()).unwrap_err();
        assert!(
            error.to_string().starts_with("`no-such-program` could not be started: "),
            "{error}"
        );
    }

    /// What is late is asked to end first, and killed when it does not; success that comes too late
    /// is none.
    #[test]
    fn what_takes_too_long_is_asked_to_end_and_then_killed() {
        let folder = tempfile::tempdir().unwrap();
        let late = |script: &str| {
            let cancel = Cancel::default().within(Duration::from_millis(300));
            match job(&["sh", "-c", script], folder.path(), &cancel).unwrap() {
                Ended::Failure { how, tail } => (how, tail),
                Ended::Success => panic!("{script}: it counts as a success"),
            }
        };
        let (how, tail) =
            late("trap 'echo bye; exit 0' TERM; echo hello; while true; do sleep 0.05; done");
        assert_eq!(how, "ended with exit status 0 when it was stopped");
        assert!(tail.starts_with("hello\n") && tail.ends_with("bye\n"), "{tail}");
        let (how, _) = late("trap '' TERM; while true; do sleep 0.05; done");
        assert_eq!(how, "was ended by signal 9 when it was stopped");
    }

    #[test]
    fn memory_beyond_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let command: Vec<String> = ["sh", "-c", "ulimit -d"].map(String::from).into();
        let environment = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
        let job = |script: &str, memory| {
            let command = [&command[..2], &[script.to_owned()]].concat();
            let job = Job {
                command: &command,
                folder: folder.path(),
                environment: &environment,
                secrets: &[],
                memory,
                ending: Ending::Killed,
            };
            run(&job, &Cancel::default()).unwrap()
        };
        let limit = Some(64 << 20);
        assert_eq!(job("[ \"$(ulimit -d)\" = 65536 ]", limit), Ended::Success, "the limit is set");
        assert_ne!(
            job("[ \"$(ulimit -d)\" = 65536 ]", None),
            Ended::Success,
            "and only where it is declared"
        );
        assert_eq!(
            job("ulimit -d 1024; exec sh -c true", limit),
            Ended::Success,
            "a lower one stays possible"
        );
        // The shell itself keeps the text of a variable: twice the limit does not fit.
        let much = "x=$(head -c 130000000 /dev/zero | tr '\\0' x); echo ${#x}";
        assert!(matches!(job(much, limit), Ended::Failure { .. }), "memory beyond it");
        assert_eq!(job(much, None), Ended::Success);
    }

    /// A killed command takes the processes that it started with it.
    #[test]
    fn a_stop_kills_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        let begin = Instant::now();
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                job(&["sh", "-c", "(sleep 2; echo late > late) & sleep 60"], folder.path(), &cancel)
            });
            thread::sleep(Duration::from_millis(300));
            cancel.cancel();
            assert!(matches!(running.join().unwrap(), Err(StageError::Cancelled)));
        });
        assert!(begin.elapsed() < Duration::from_millis(1900), "the group was waited for");
        thread::sleep(Duration::from_millis(2200).saturating_sub(begin.elapsed()));
        assert!(!folder.path().join("late").exists());
    }
}
