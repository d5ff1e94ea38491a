//! The first process inside: gives each program a scratch folder, answers for its system calls, kills it.
//!
//! It reads nothing that a program can write. When its caller goes, it goes, and the kernel ends
//! every process inside with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::process::{Pid, Signal, kill_process};

use super::{Entered, Missing, root};
use crate::channel;
use crate::layers::{LayerState, Strictness};
use crate::limits::Limits;

const RECEIVE: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const ANSWER: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);

/// The first process inside.
pub(super) struct Warden<'a> {
    /// To the caller.
    control: &'a OwnedFd,
    /// To the interpreter.
    interpreter: OwnedFd,
    zygote: Pid,
    scratch: Option<PathBuf>,
    limits: Limits,
    /// Whether the zygote has become the interpreter, after which nothing is executed.
    executed: bool,
    running: Option<Pid>,
    /// Whether the program is to be killed as soon as its id is known.
    doomed: bool,
}

/// Whether there is more to do.
type More = bool;

impl<'a> Warden<'a> {
    pub fn new(
        control: &'a OwnedFd,
        interpreter: OwnedFd,
        zygote: Pid,
        scratch: Option<PathBuf>,
        limits: Limits,
    ) -> Warden<'a> {
        let (executed, running, doomed) = (false, None, false);
        Warden { control, interpreter, zygote, scratch, limits, executed, running, doomed }
    }

    /// Works until the caller or the interpreter goes.
    pub fn run(&mut self, mut missing: Missing, strictness: Strictness) -> io::Result<()> {
        let Some((text, files)) = channel::receive(&self.interpreter)? else { return Ok(()) };
        for LayerState { layer, missing: why } in serde_json::from_slice::<Vec<LayerState>>(&text)?
        {
            missing.add(layer, why.unwrap_or_default());
        }
        let refused = missing.refusal(strictness);
        let mut entered = Some(Entered { layers: missing.states(), refused });
        let Some(listener) = files.into_iter().next() else { return self.announce(&mut entered) };
        if entered.as_ref().is_some_and(|entered| entered.refused.is_some()) {
            return self.announce(&mut entered);
        }

        loop {
            let mut waiting = [
                PollFd::new(&listener, PollFlags::IN),
                PollFd::new(&self.interpreter, PollFlags::IN),
                PollFd::new(self.control, PollFlags::IN),
            ];
            match poll(&mut waiting, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [asked, spoke, told] = waiting.map(|each| !each.revents().is_empty());
            let more = (!asked || self.answer(&listener)?)
                && (!spoke || self.hear(&mut entered)?)
                && (!told || self.obey()?);
            if !more {
                // The end of this process ends all others of its namespace. Where it has none, these
                // are all there are.
                for process in [self.running, Some(self.zygote)].into_iter().flatten() {
                    let _ = kill_process(process, Signal::KILL);
                }
                return Ok(());
            }
        }
    }

    fn announce(&self, entered: &mut Option<Entered>) -> io::Result<()> {
        match entered.take() {
            Some(entered) => channel::send(self.control, &serde_json::to_vec(&entered)?, &[]),
            None => Ok(()),
        }
    }

    /// Takes a message of the interpreter.
    fn hear(&mut self, entered: &mut Option<Entered>) -> io::Result<More> {
        let Some((text, _)) = channel::receive(&self.interpreter)? else { return Ok(false) };
        match text.split_first() {
            Some((b'r', _)) => self.announce(entered)?,
            Some((b'p', number)) => {
                let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                self.running = number.and_then(Pid::from_raw);
                if self.doomed {
                    self.kill();
                }
            }
            Some((b'e', _)) => {
                (self.running, self.doomed) = (None, false);
                if self.scratch.is_some() {
                    root::drop_scratch()?;
                }
                channel::send(self.control, &text, &[])?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes an order of the caller: `kill`, or a job with its files.
    fn obey(&mut self) -> io::Result<More> {
        let Some((text, files)) = channel::receive(self.control)? else { return Ok(false) };
        if text == b"kill" {
            self.doomed = true;
            self.kill();
            return Ok(true);
        }
        self.doomed = false;
        if self.scratch.is_some() {
            root::mount_scratch(self.limits.scratch)?;
        }
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        channel::send(&self.interpreter, &text, &files)?;
        Ok(true)
    }

    fn kill(&self) {
        if let Some(process) = self.running {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
    }

    /// Answers a question of the kernel: whether a process may make this system call.
    fn answer(&mut self, listener: &OwnedFd) -> io::Result<More> {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: this request fills exactly such a structure.
        match unsafe { ioctl(listener, Updater::<RECEIVE, _>::new(&mut question)) } {
            Ok(()) => {}
            // The process has gone meanwhile.
            Err(Errno::NOENT | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let permitted = self.permits(&question);
        let mut answer = libc::seccomp_notif_resp {
            id: question.id,
            val: 0,
            error: if permitted { 0 } else { -libc::EPERM },
            flags: if permitted { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 },
        };
        // SAFETY: this request reads exactly such a structure.
        match unsafe { ioctl(listener, Updater::<ANSWER, _>::new(&mut answer)) } {
            Ok(()) | Err(Errno::NOENT | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Only the zygote makes processes, it is executed once, and signals go to their sender alone.
    ///
    /// Decided by who asks and by arguments that are numbers: what a pointer names could change
    /// after the answer.
    fn permits(&mut self, question: &libc::seccomp_notif) -> bool {
        let call = libc::c_long::from(question.data.nr);
        let args = question.data.args;
        // A process that is killed was killed by a limit: it must not look so by its own doing.
        let to_itself =
            |signal: u64| args[0] as u32 == question.pid && signal as i32 != libc::SIGKILL;
        let is_zygote = question.pid == self.zygote.as_raw_nonzero().get() as u32;
        match call {
            libc::SYS_execve => is_zygote && !std::mem::replace(&mut self.executed, true),
            libc::SYS_kill | libc::SYS_tkill => to_itself(args[1]),
            libc::SYS_tgkill => to_itself(args[2]),
            _ => is_zygote && self.executed,
        }
    }
}
