//! Fetches one file: goes on where an earlier attempt ended, hashes what arrives, and gives the file
//! its name when its bytes are those that were promised.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, header};
use url::Url;

use refrain_cache::write::{ResumedFile, create_dir_all, open_lock};
use refrain_engine::kind::Progress;
use refrain_engine::source::upstream::shown;

use crate::client::{Answer, Ask, Client, NoAnswer, number, pause};
use crate::error::FetchError;
use crate::etag::{Expected, Hasher};
use crate::transfer::Transfer;

/// Attempts in a row that bring nothing, before a file counts as out of reach.
const IDLE: u32 = 5;
/// Attempts for one file: a server may break off this often.
const ATTEMPTS: u32 = 1000;
/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;
/// Longest pause between two looks at a lock that another process holds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A file that is to be fetched.
pub(crate) struct Download<'a> {
    /// Its name in messages.
    pub what: &'a str,
    /// The repository that it is of, or its own address.
    pub owner: &'a str,
    pub url: &'a Url,
    pub expected: Expected,
    /// The commit that the hub must say it is of.
    pub commit: Option<&'a str>,
    /// The place of an incomplete file.
    pub partial: &'a Path,
    pub target: &'a Path,
    /// The file that is locked meanwhile.
    pub lock: &'a Path,
}

/// Whoever waits for a file.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub transfer: &'a Transfer,
    pub progress: &'a Progress,
    /// Whether to stop.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    fn check(&self) -> Result<(), FetchError> {
        if (self.stopped)() { Err(FetchError::Interrupted) } else { Ok(()) }
    }

    fn pause(&self, time: Duration) -> Result<(), FetchError> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.check()?;
            thread::sleep(LOOK_EVERY.min(time.saturating_sub(begin.elapsed())));
        }
        Ok(())
    }
}

/// The file so far.
struct Part<'a> {
    download: &'a Download<'a>,
    watch: Watch<'a>,
    limit: u64,
    file: ResumedFile,
    hasher: Hasher,
    /// Bytes that are written and hashed.
    bytes: u64,
    /// The size, once it is known.
    size: Option<u64>,
    /// The validator of the answer that they came from.
    validator: Option<String>,
    /// Whether bytes of an earlier answer are among them.
    is_resumed: bool,
}

/// The end of an answer.
enum Ended {
    /// The server says that it is the whole file.
    Whole,
    /// It broke off.
    Cut { reason: String, wait: Option<Duration> },
}

impl Client {
    /// Fetches a file; returns the bytes that arrived.
    pub fn download(&self, download: &Download<'_>, watch: Watch<'_>) -> Result<u64, FetchError> {
        for path in [download.target, download.lock] {
            let folder = path.parent().unwrap_or(Path::new("."));
            create_dir_all(folder).map_err(FetchError::io(folder))?;
        }
        let _lock = lock(download.lock, watch)?;
        // Another process may have fetched it meanwhile.
        match download.expected {
            Expected::Hub(_, size) if has_size(download.target, size) => {
                watch.transfer.spare(size);
                return Ok(0);
            }
            Expected::Declared(_) if download.target.is_file() => return Ok(0),
            _ => {}
        }
        let mut part = Part::open(download, watch, self.settings().max_size)?;
        let before = part.bytes;
        watch.transfer.spare(before);
        part.receive(self)?;
        let mut found = part.digest();
        if found != download.expected.to_string() && part.is_resumed {
            // One of the answers that it was put together of may have been of another file.
            part.restart()?;
            part.receive(self)?;
            found = part.digest();
        }
        let size = part.bytes;
        part.place(found)?;
        Ok(size.saturating_sub(before))
    }
}

/// Whether a file is there with its size; a disk that was full may have left less of it.
pub(crate) fn has_size(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Locks a file against other processes; without a lock where the system has none, since the bytes
/// are checked.
fn lock(path: &Path, watch: Watch<'_>) -> Result<File, FetchError> {
    let file = open_lock(path).map_err(FetchError::io(path))?;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        watch.pause(LOOK_EVERY)?;
    }
    Ok(file)
}

impl<'a> Part<'a> {
    fn open(
        download: &'a Download<'a>,
        watch: Watch<'a>,
        limit: u64,
    ) -> Result<Part<'a>, FetchError> {
        let io = FetchError::io(download.partial);
        let file = ResumedFile::open(download.partial).map_err(&io)?;
        let (size, validator) = match &download.expected {
            Expected::Hub(etag, size) => (Some(*size), etag.validator()),
            Expected::Declared(_) => (None, None),
        };
        let hasher = download.expected.hasher();
        let mut part = Part {
            download,
            watch,
            limit,
            file,
            hasher,
            bytes: 0,
            size,
            validator,
            is_resumed: false,
        };
        part.read_written().map_err(&io)?;
        watch.check()?;
        if part.size.is_some_and(|size| part.bytes > size) || part.bytes > limit {
            part.restart()?;
        }
        Ok(part)
    }

    /// Hashes what an earlier fetch left.
    fn read_written(&mut self) -> io::Result<()> {
        let mut written = self.file.written();
        written.seek(io::SeekFrom::Start(0))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = written.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.hasher.update(&buffer[..read]);
            self.bytes += read as u64;
            if (self.watch.stopped)() {
                break;
            }
        }
        self.is_resumed = self.bytes > 0;
        Ok(())
    }

    /// Begins anew.
    fn restart(&mut self) -> Result<(), FetchError> {
        self.file.restart().map_err(FetchError::io(self.download.partial))?;
        self.watch.transfer.expect(self.bytes);
        (self.hasher, self.bytes, self.is_resumed) = (self.download.expected.hasher(), 0, false);
        Ok(())
    }

    /// Receives the rest of the file, in as many attempts as it takes.
    fn receive(&mut self, client: &Client) -> Result<(), FetchError> {
        let mut idle = 0;
        for _ in 0..ATTEMPTS {
            self.watch.check()?;
            if self.size == Some(self.bytes) {
                return Ok(());
            }
            let before = self.bytes;
            let (reason, wait) = match self.attempt(client)? {
                Ended::Whole => return Ok(()),
                Ended::Cut { reason, wait } => (reason, wait),
            };
            self.is_resumed |= self.bytes > 0;
            idle = if self.bytes > before { 0 } else { idle + 1 };
            if idle >= IDLE {
                return Err(self.unreachable(reason));
            }
            if self.size != Some(self.bytes) {
                self.watch.pause(pause(idle.max(1), wait))?;
            }
        }
        Err(self.unreachable(format!("it breaks off again and again, {ATTEMPTS} times")))
    }

    fn unreachable(&self, reason: String) -> FetchError {
        FetchError::Unreachable { url: shown(self.download.url), reason }
    }

    fn attempt(&mut self, client: &Client) -> Result<Ended, FetchError> {
        let Download { url, owner, .. } = *self.download;
        let validator = self.validator.clone();
        let ask = Ask { url, from: self.bytes, validator: validator.as_deref(), is_head: false };
        let with_token = matches!(self.download.expected, Expected::Hub(..));
        let answer = match client.ask(ask, with_token) {
            Ok(answer) => answer,
            Err(NoAnswer::Final(error)) => return Err(error),
            Err(NoAnswer::Temporary { reason, wait }) => return Ok(Ended::Cut { reason, wait }),
        };
        match answer.status {
            200 if self.bytes > 0 => self.restart()?,
            200 => {}
            206 if self.bytes > 0 => self.check_range(answer.response.headers())?,
            // What is there is longer than the file: it was another one.
            416 if self.bytes > 0 => {
                self.restart()?;
                let reason = "the server does not have the rest of it".into();
                return Ok(Ended::Cut { reason, wait: None });
            }
            _ => match client.refusal(&answer, url, owner) {
                NoAnswer::Final(error) => return Err(error),
                NoAnswer::Temporary { reason, wait } => return Ok(Ended::Cut { reason, wait }),
            },
        }
        self.check_headers(&answer)?;
        self.read(answer)
    }

    /// Checks that a part begins where it was asked to.
    fn check_range(&mut self, headers: &HeaderMap) -> Result<(), FetchError> {
        let text = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let (range, total) =
            text.and_then(|text| text.strip_prefix("bytes ")?.split_once('/')).unwrap_or_default();
        let first = range.split('-').next().and_then(|first| first.trim().parse().ok());
        let total: Option<u64> = total.trim().parse().ok();
        let is_other = self.size.is_some_and(|size| total.is_some_and(|total| total != size));
        if first != Some(self.bytes) || is_other {
            let asked = self.bytes;
            let reason = format!(
                "bytes from {asked} on were asked for, and `{}` came",
                text.unwrap_or("no range")
            );
            return Err(FetchError::Answer { url: shown(self.download.url), reason });
        }
        self.size = self.size.or(total);
        Ok(())
    }

    /// Checks that the answer is about the file that was promised.
    fn check_headers(&mut self, answer: &Answer) -> Result<(), FetchError> {
        let headers = answer.response.headers();
        if let Expected::Hub(etag, size) = &self.download.expected {
            let what = self.download.what.to_owned();
            let commit = self.download.commit.unwrap_or_default().to_owned();
            if let Some(found) = answer.hub.commit.as_deref().filter(|found| *found != commit) {
                let reason = format!("the commit {commit} was asked for, and {found} came");
                return Err(FetchError::Answer { url: shown(self.download.url), reason });
            }
            if let Some(found) = answer.hub.etag.as_ref().filter(|found| *found != etag) {
                let (before, found) = (etag.to_string(), found.to_string());
                return Err(FetchError::Changed { what, commit, before, found });
            }
            if let Some(found) = answer.hub.size.filter(|found| found != size) {
                let reason = format!("its size is {found}, and was {size}");
                return Err(FetchError::Answer { url: shown(self.download.url), reason });
            }
        }
        if let Some(length) = number(headers, header::CONTENT_LENGTH.as_str()) {
            let size = self.bytes.saturating_add(length);
            self.check_size(size)?;
            if self.size.is_none() {
                self.size = Some(size);
                self.watch.transfer.expect(length);
            }
        }
        let validator = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
        // A weak one does not say that the bytes are equal.
        self.validator = validator.filter(|text| text.starts_with('"')).map(str::to_owned);
        Ok(())
    }

    /// Refuses more bytes than the file has, or than may arrive.
    fn check_size(&self, bytes: u64) -> Result<(), FetchError> {
        if let Some(size) = self.size.filter(|size| bytes > *size) {
            let reason = format!("it has {size} bytes, and more came");
            return Err(FetchError::Answer { url: shown(self.download.url), reason });
        }
        if bytes > self.limit {
            let what = self.download.what.to_owned();
            return Err(FetchError::TooLarge { what, bytes, limit: self.limit });
        }
        Ok(())
    }

    fn read(&mut self, answer: Answer) -> Result<Ended, FetchError> {
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            self.watch.check()?;
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    let reason = format!("the connection failed: {error}");
                    return Ok(Ended::Cut { reason, wait: None });
                }
            };
            self.check_size(self.bytes.saturating_add(read as u64))?;
            let bytes = &buffer[..read];
            self.file.write_all(bytes).map_err(FetchError::io(self.download.partial))?;
            self.hasher.update(bytes);
            self.bytes += read as u64;
            self.watch.transfer.arrived(read as u64, self.watch.progress);
        }
        Ok(match self.size {
            Some(size) if self.bytes < size => {
                let reason = format!("{} of {size} bytes came", self.bytes);
                Ended::Cut { reason, wait: None }
            }
            _ => Ended::Whole,
        })
    }

    /// Returns the digest of what arrived.
    fn digest(&mut self) -> String {
        std::mem::replace(&mut self.hasher, self.download.expected.hasher()).finish()
    }

    /// Gives the file its name, if its digest is the one that was promised.
    fn place(self, found: String) -> Result<(), FetchError> {
        let Download { what, expected, partial, target, .. } = self.download;
        let expected_text = expected.to_string();
        if found == expected_text {
            return self.file.place(target).map_err(FetchError::io(target));
        }
        self.file.remove().map_err(FetchError::io(partial))?;
        Err(FetchError::WrongBytes {
            what: (*what).to_owned(),
            expected: expected_text,
            found,
            is_declared: matches!(expected, Expected::Declared(_)),
        })
    }
}
