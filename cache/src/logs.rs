//! Append-only checked logs: records, row memos, remembered digests and claims.

mod claims;
mod compact;
mod entries;
mod file_digests;
mod lines;
mod record_line;
mod records;
mod rows;
mod upkeep;

pub use claims::Holder;
pub use file_digests::{FileDigests, HashedFile};
pub use lines::{AppendLog, LogContent, LogLine};
pub use records::{Record, RecordError, RecordSummary, Records, Stored};
pub use rows::RowMemo;

pub(crate) use claims::Claims;
pub(crate) use lines::checked_line;
pub(crate) use rows::segments;
pub(crate) use upkeep::LogKind;
