//! Writes a log anew without the lines that nothing needs any more.

use std::io;
use std::io::Write;
use std::path::Path;

use super::lines::{AppendLog, check_of};
use crate::write::AtomicFile;

impl AppendLog {
    /// Replaces the log at `path` at once by those of its sound lines that `keep` wants, given offset and payload.
    ///
    /// What another process appends meanwhile is lost, so none may be at work.
    pub(crate) fn rewrite(
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
