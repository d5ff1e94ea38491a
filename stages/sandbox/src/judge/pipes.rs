//! The pipes to a process that is judged: nothing waits longer for it than its time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::sandbox::{Role, Sandbox, wait};

use super::JudgeError;

/// Longest time before a waiting thread notices that it is to stop.
pub(super) const NOTICED: Duration = Duration::from_millis(50);

/// Until when something is waited for.
pub(super) struct Watch<'a> {
    pub deadline: Instant,
    pub stop: &'a dyn Fn() -> bool,
}

impl Watch<'_> {
    /// Waits until a file is ready; `false` where the time is over.
    fn wait(&self, file: BorrowedFd<'_>, what: PollFlags) -> Result<bool, JudgeError> {
        loop {
            if (self.stop)() {
                return Err(JudgeError::Stopped);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Ok(false);
            }
            if wait(file, what, self.deadline.min(now + NOTICED))? {
                return Ok(true);
            }
        }
    }
}

/// Our ends of the pipes to a process.
pub(super) struct Pipes {
    given: OwnedFd,
    told: OwnedFd,
}

impl Pipes {
    /// Starts a process, with two pipes and further files.
    pub fn begin(
        sandbox: &Sandbox,
        role: Role,
        more: &[BorrowedFd<'_>],
    ) -> Result<Pipes, JudgeError> {
        let (theirs, given) = pipe_with(PipeFlags::CLOEXEC)?;
        let (told, their_told) = pipe_with(PipeFlags::CLOEXEC)?;
        // A flag of our end alone: it must never wait for a process that does not read.
        rustix::fs::fcntl_setfl(&given, OFlags::WRONLY | OFlags::NONBLOCK)?;
        let mut files = vec![theirs.as_fd(), their_told.as_fd()];
        files.extend(more);
        sandbox.begin(role, &files)?;
        Ok(Pipes { given, told })
    }

    /// Writes data with its length before it, as far as the process reads and the time allows.
    pub fn give(&self, data: &[u8], watch: &Watch<'_>) -> Result<(), JudgeError> {
        let length = (data.len() as u64).to_le_bytes();
        for mut part in [&length[..], data] {
            while !part.is_empty() && watch.wait(self.given.as_fd(), PollFlags::OUT)? {
                match rustix::io::write(&self.given, part) {
                    Ok(written) => part = &part[written..],
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // It has ended, and how is told elsewhere.
                    Err(Errno::PIPE) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Appends what comes next; `false` at the end, at the limit, and when the time is over.
    pub fn more(
        &self,
        told: &mut Vec<u8>,
        longest: usize,
        watch: &Watch<'_>,
    ) -> Result<bool, JudgeError> {
        if told.len() >= longest || !watch.wait(self.told.as_fd(), PollFlags::IN)? {
            return Ok(false);
        }
        let mut part = [0; 1 << 14];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.told, &mut part))?;
        told.extend_from_slice(&part[..count]);
        Ok(count > 0)
    }
}

/// The parts of data that are each preceded by their length.
pub(super) fn frames(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (frame, rest) = rest.split_at_checked(length)?;
        data = rest;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_data_does() {
        let data = [&3u64.to_le_bytes()[..], b"abc", &0u64.to_le_bytes(), &9u64.to_le_bytes()];
        let data = data.concat();
        let parts: Vec<&[u8]> = frames(&data).collect();
        assert_eq!(parts, [b"abc".as_slice(), b""]);
    }
}
