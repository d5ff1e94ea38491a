//! The identity of a file: everything that its metadata tells about its content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Identifies a file's content without reading it.
///
/// A program can put a file's modification time back, as `cp -p` does, but not its change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    seconds: i64,
    nanoseconds: i64,
    /// Seconds and nanoseconds of the last change of anything: content, name, mode or times.
    changed_seconds: i64,
    changed_nanoseconds: i64,
}

impl FileIdentity {
    /// Takes the identity of a file from its metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            changed_seconds: metadata.ctime(),
            changed_nanoseconds: metadata.ctime_nsec(),
        }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether two identities differ at most by a change of name or mode, such as the cache itself
    /// makes when it moves a file in.
    pub(crate) fn has_content_of(&self, other: &Self) -> bool {
        let FileIdentity { changed_seconds, changed_nanoseconds, .. } = *other;
        Self { changed_seconds, changed_nanoseconds, ..*self } == *other
    }

    /// Whether two machines may have seen one file with these identities: all agrees but the number
    /// of the device, which is each machine's own.
    pub fn is_elsewhere(&self, other: &Self) -> bool {
        Self { device: other.device, ..*self } == *other
    }

    /// Whether the last change, of the content or of anything else, lies at least `age` back. A
    /// time in the future does not.
    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        let now = SystemTime::now();
        let old = |seconds: i64, nanoseconds: i64| {
            let since_epoch = Duration::new(seconds.max(0) as u64, nanoseconds as u32);
            now.duration_since(UNIX_EPOCH + since_epoch).is_ok_and(|passed| passed >= age)
        };
        old(self.seconds, self.nanoseconds) && old(self.changed_seconds, self.changed_nanoseconds)
    }
}
