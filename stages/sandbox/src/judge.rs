//! The verdict on a program, which forgeries inside its process do not reach.
//!
//! A program and its tests run in one process, as the data set's own rule has it; they passed when
//! that process tells the random token that it was given with the tests, and ends without an error.
//! A program that passes so runs once more, in a process that knows no tests: they run in another
//! sandbox, which asks it for its functions' values. Where that does not confirm the first verdict
//! it is [`Verdict::Suspicious`].

mod pipes;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::layers::LayerState;
use crate::sandbox::{Ending, Launch, Role, Sandbox, SandboxError};

use pipes::{NOTICED, Pipes, Watch, frames};

/// The most that a judging process has to tell.
const TOLD: usize = 1 << 10;
/// The most that compiled tests take.
const COMPILED: usize = 64 << 20;
/// Time for compiling tests, and for a served program to end once nobody asks it.
const SHORT: Duration = Duration::from_secs(10);

/// The verdict on a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The tests passed, and did so again where the program could not know them.
    Passed,
    /// The tests passed in the program's own process, and the second run does not confirm it.
    Suspicious,
    /// An assertion does not hold.
    Wrong,
    /// It is not Python.
    Syntax,
    /// An exception of this class.
    Exception(String),
    /// It ended before its tests did.
    Ended,
    /// It took too long.
    TimedOut,
    /// It asked for more memory than it may have.
    Memory,
    /// The kernel ended it, such as for a stack that overflowed.
    Crashed,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The tests cannot be used.
    #[error("the tests are not Python: {0}")]
    Tests(String),
    /// A stop was asked for.
    #[error("interrupted")]
    Stopped,
}

impl From<io::Error> for JudgeError {
    fn from(error: io::Error) -> JudgeError {
        JudgeError::Sandbox(error.into())
    }
}

impl From<Errno> for JudgeError {
    fn from(error: Errno) -> JudgeError {
        io::Error::from(error).into()
    }
}

/// Tests as the interpreter compiled them.
#[derive(Debug)]
struct Tests {
    text: String,
    code: Vec<u8>,
    /// The names that the program must define.
    names: Vec<u8>,
}

/// Judges programs, one at a time.
#[derive(Debug)]
pub struct Judge {
    launch: Launch,
    /// Where programs run.
    player: Sandbox,
    /// Where tests run alone. No program is ever run here.
    referee: Sandbox,
    /// The last tests: samples of one prompt share them.
    tests: Option<Tests>,
}

impl Judge {
    /// Starts the two sandboxes.
    pub fn start(launch: &Launch) -> Result<Judge, SandboxError> {
        let player = Sandbox::start(launch)?;
        let referee = Sandbox::start(launch)?;
        Ok(Judge { launch: launch.clone(), player, referee, tests: None })
    }

    /// Returns the layers of its sandboxes.
    pub fn layers(&self) -> &[LayerState] {
        self.player.layers()
    }

    /// Judges a program by its tests; `stop` is asked often whether to give up.
    ///
    /// # Errors
    ///
    /// [`JudgeError::Tests`] where the tests are not Python.
    pub fn judge(
        &mut self,
        program: &str,
        tests: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Verdict, JudgeError> {
        for last in [false, true] {
            match self.attempt(program, tests, stop) {
                // A program that ends its sandbox twice does so by itself.
                Err(JudgeError::Sandbox(SandboxError::Gone)) if last => {
                    self.restart()?;
                    return Ok(Verdict::Crashed);
                }
                Err(JudgeError::Sandbox(SandboxError::Gone)) => self.restart()?,
                other => return other,
            }
        }
        Ok(Verdict::Crashed)
    }

    fn restart(&mut self) -> Result<(), SandboxError> {
        self.player = Sandbox::start(&self.launch)?;
        self.referee = Sandbox::start(&self.launch)?;
        Ok(())
    }

    fn attempt(
        &mut self,
        program: &str,
        tests: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Verdict, JudgeError> {
        if self.tests.as_ref().is_none_or(|known| known.text != tests) {
            self.tests = Some(prepare(&mut self.referee, tests, stop)?);
        }
        let Some(tests) = &self.tests else { return Ok(Verdict::Crashed) };
        let limits = self.launch.limits;
        let watch = || Watch { deadline: Instant::now() + limits.wall(), stop };
        let verdict = run(&mut self.player, program, tests, limits.time, &watch())?;
        if verdict != Verdict::Passed {
            return Ok(verdict);
        }
        let confirmed = confirm(&mut self.player, &mut self.referee, program, tests, &watch())?;
        Ok(if confirmed { Verdict::Passed } else { Verdict::Suspicious })
    }
}

/// Ends a process at once when what waited for it failed.
fn settle<T>(
    sandbox: &mut Sandbox,
    result: Result<T, JudgeError>,
    deadline: Instant,
) -> Result<(T, Ending, bool), JudgeError> {
    match result {
        Ok(value) => {
            let (ending, killed) = sandbox.end(deadline)?;
            Ok((value, ending, killed))
        }
        Err(error) => {
            sandbox.end(Instant::now())?;
            Err(error)
        }
    }
}

/// Compiles tests in the sandbox of the referee.
fn prepare(
    referee: &mut Sandbox,
    text: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Tests, JudgeError> {
    let watch = Watch { deadline: Instant::now() + SHORT, stop };
    let pipes = Pipes::begin(referee, Role::Prepare, &[])?;
    let told = (|| {
        let mut told = Vec::new();
        pipes.give(text.as_bytes(), &watch)?;
        while pipes.more(&mut told, COMPILED, &watch)? {}
        Ok(told)
    })();
    let (told, ..) = settle(referee, told, watch.deadline)?;

    let mut parts = frames(told.get(1..).unwrap_or_default());
    match (told.first(), parts.next(), parts.next()) {
        (Some(b'c'), Some(code), Some(names)) => {
            Ok(Tests { text: text.into(), code: code.into(), names: names.into() })
        }
        (Some(b'e'), Some(why), _) => {
            Err(JudgeError::Tests(String::from_utf8_lossy(why).into_owned()))
        }
        _ => Err(JudgeError::Tests("the compiler gave up on them".into())),
    }
}

/// Runs a program with its tests.
fn run(
    player: &mut Sandbox,
    program: &str,
    tests: &Tests,
    limit: Duration,
    watch: &Watch<'_>,
) -> Result<Verdict, JudgeError> {
    let mut token = [0; 16];
    getrandom(&mut token, GetRandomFlags::empty())?;
    let pipes = Pipes::begin(player, Role::Judge, &[])?;
    let told = (|| {
        let mut told = Vec::new();
        pipes.give(program.as_bytes(), watch)?;
        // The tests are given once the program has come to its end.
        if pipes.more(&mut told, TOLD, watch)? && told.first() == Some(&b'r') {
            pipes.give(&tests.code, watch)?;
            pipes.give(&token, watch)?;
        }
        while pipes.more(&mut told, TOLD, watch)? {}
        Ok(told)
    })();
    let full = told.as_ref().is_ok_and(|told| told.len() >= TOLD);
    let deadline = if full { Instant::now() } else { watch.deadline };
    let (told, ending, killed) = settle(player, told, deadline)?;
    if full {
        return Ok(Verdict::Ended);
    }

    // The kernel sends this signal when the time is used up, and kills a program that ignores it a
    // second later. It counts in ticks, which are not exact.
    let spent = ending.signal() == Some(libc::SIGXCPU) || ending.spent >= limit / 2;
    Ok(verdict(&told, &token, ending, killed || ending.signal().is_some() && spent))
}

fn verdict(told: &[u8], token: &[u8], ending: Ending, late: bool) -> Verdict {
    match (ending.signal(), late) {
        (Some(libc::SIGKILL | libc::SIGXCPU) | None, true) => return Verdict::TimedOut,
        (Some(libc::SIGKILL), false) => return Verdict::Memory,
        (Some(_), _) => return Verdict::Crashed,
        (None, false) => {}
    }
    let (ready, rest) = match told.strip_prefix(b"r") {
        Some(rest) => (true, rest),
        None => (false, told),
    };
    match rest.split_first() {
        Some((b'p', told)) if ready && ending.is_success() && told == token => Verdict::Passed,
        Some((b's', _)) if !ready => Verdict::Syntax,
        Some((b'w', [])) if ready => Verdict::Wrong,
        Some((b'm', [])) => Verdict::Memory,
        Some((b'x', name)) => Verdict::Exception(class_name(name)),
        _ => Verdict::Ended,
    }
}

/// The name of an exception's class, which the program chooses.
fn class_name(name: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match std::str::from_utf8(name) {
        Ok(text) if !name.is_empty() && name.len() <= 64 && name.iter().all(plain) => text.into(),
        _ => "Exception".into(),
    }
}

/// Runs the tests in one sandbox against the program in another.
fn confirm(
    player: &mut Sandbox,
    referee: &mut Sandbox,
    program: &str,
    tests: &Tests,
    watch: &Watch<'_>,
) -> Result<bool, JudgeError> {
    let (asked, asks) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answered, answers) = pipe_with(PipeFlags::CLOEXEC)?;
    let served = Pipes::begin(player, Role::Serve, &[asked.as_fd(), answers.as_fd()])?;
    let judged = Pipes::begin(referee, Role::Referee, &[asks.as_fd(), answered.as_fd()]);
    drop((asked, asks, answered, answers));
    let told = judged.and_then(|judged| {
        let mut told = Vec::new();
        served.give(program.as_bytes(), watch)?;
        judged.give(&tests.code, watch)?;
        judged.give(&tests.names, watch)?;
        while judged.more(&mut told, TOLD, watch)? {}
        Ok(told)
    });
    let outcome = settle(referee, told, watch.deadline);
    // The program is asked no more, and ends at once if it is honest.
    drop(served);
    player.end(Instant::now() + NOTICED)?;
    let (told, ending, _) = outcome?;
    Ok(told == b"y" && ending.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_the_token_at_the_very_end() {
        let token = [7; 16];
        let ended = |status| Ending::of(status, Duration::ZERO);
        let told = |end: &[u8]| [b"rp", end].concat();
        let cases = [
            (told(&token), 0, Verdict::Passed),
            (told(&token), 256, Verdict::Ended),
            (told(&[token.as_slice(), b"x"].concat()), 0, Verdict::Ended),
            (told(&[6; 16]), 0, Verdict::Ended),
            ([b"p".as_slice(), &token].concat(), 0, Verdict::Ended),
            (told(&token), libc::SIGSEGV, Verdict::Crashed),
            (b"r".to_vec(), 0, Verdict::Ended),
            (b"rw".to_vec(), 0, Verdict::Wrong),
            (b"w".to_vec(), 0, Verdict::Ended),
            (b"sSyntaxError".to_vec(), 0, Verdict::Syntax),
            (b"rsSyntaxError".to_vec(), 0, Verdict::Ended),
            (b"rxNameError".to_vec(), 0, Verdict::Exception("NameError".into())),
            (b"rx\x1b[2J".to_vec(), 0, Verdict::Exception("Exception".into())),
            (b"rm".to_vec(), 0, Verdict::Memory),
            (Vec::new(), libc::SIGKILL, Verdict::Memory),
        ];
        for (told, status, expected) in cases {
            assert_eq!(verdict(&told, &token, ended(status), false), expected, "{told:?}");
        }
        assert_eq!(verdict(b"r", &token, ended(libc::SIGKILL), true), Verdict::TimedOut);
        assert_eq!(verdict(&told(&token), &token, ended(0), true), Verdict::TimedOut);
    }
}
