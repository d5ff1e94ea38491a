//! Rewrites a log without its dead lines.

use std::io;
use std::io::Write;
use std::path::Path;

use super::lines::{AppendLog, check_of};
use crate::write::AtomicFile;

impl AppendLog {
    /// Atomically replaces the log at `path` by those of its sound lines that `keep` wants, given
    /// offset and payload. Lines move, so that the owner of a log alone can say which of them
    /// belong together: no other module rewrites one.
    ///
    /// Lines that another process appends meanwhile are lost, so none may be at work.
    pub(super) fn rewrite(
        path: &Path,
        scratch: &Path,
        mut keep: impl FnMut(u64, &str) -> bool,
    ) -> io::Result<()> {
        let mut file = AtomicFile::create(path, scratch)?;
        let mut failed = None;
        Self::open_read_only(path)?.scan_from(0, |offset, payload| {
            if failed.is_none() && keep(offset, payload) {
                failed = writeln!(file, "{} {payload}", check_of(payload)).err();
            }
        })?;
        failed.map_or_else(|| file.commit(), Err)
    }
}
