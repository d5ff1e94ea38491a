//! Checking and rewriting the logs of a cache, each by its own rules.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::entries::EntryLog;
use super::file_digests::FileDigests;
use super::lines::AppendLog;
use super::records::Records;

/// The logs that are checked for damage. Claims are not among them: they are emptied all the time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogKind {
    /// `records/records.log`.
    Records,
    /// `records/files.log`.
    FileDigests,
    /// A row memo, `rows/FUNCTION.rows`.
    RowMemo,
}

impl LogKind {
    /// Returns the logs of the cache in `root`, given the names in its folder `rows`.
    pub(crate) fn all(root: &Path, rows: impl Iterator<Item = String>) -> Vec<(Self, PathBuf)> {
        let memos = rows.map(|name| root.join("rows").join(name));
        let memos = memos.filter(|path| path.extension() == Some(OsStr::new("rows")));
        [(Self::Records, "records.log"), (Self::FileDigests, "files.log")]
            .map(|(kind, name)| (kind, root.join("records").join(name)))
            .into_iter()
            .chain(memos.map(|path| (Self::RowMemo, path)))
            .collect()
    }

    /// Counts the places of a log that are damaged or cut off; a log that is not there has none.
    pub(crate) fn damaged(self, path: &Path) -> io::Result<usize> {
        let places = match self {
            Self::Records | Self::FileDigests => AppendLog::open_read_only(path)
                .and_then(|log| log.scan_from(0, |_, _| {}))
                .map(|scan| scan.torn + usize::from(scan.cut_off)),
            Self::RowMemo => EntryLog::open_read_only(path)
                .and_then(|log| log.scan_from(0, |_, _| {}))
                .map(|summary| summary.damaged),
        };
        match places {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            places => places,
        }
    }

    /// Rewrites a log without its damage. No other process may work with the cache.
    pub(crate) fn rewrite(self, path: &Path, scratch: &Path) -> io::Result<()> {
        match self {
            Self::Records => Records::rewrite(path, scratch),
            Self::FileDigests => FileDigests::rewrite(path, scratch),
            Self::RowMemo => EntryLog::rewrite(path, scratch),
        }
    }
}
