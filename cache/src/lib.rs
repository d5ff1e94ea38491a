//! The cache of Refrain: artifacts under their digests, the format of tables, keys, and the records of what made what.
//!
//! # The folder
//!
//! ```text
//! .refrain/
//!   format               `1`: the version of this layout; a newer one is refused, never overwritten; see [`Cache::lock_for_removal`]
//!   .gitignore           `*`
//!   CACHEDIR.TAG         tells backups that all of this can be made again
//!   objects/ab/cdef…     an artifact under its digest: a read-only file, or a folder of read-only files
//!   records/records.log  key → outputs, metrics, profile, manifest; the first line of a key counts
//!   records/claims.log   which process computes which key; emptied when nobody else uses the cache
//!   records/files.log    path, inode, device, size, time → digest of files that were hashed before
//!   rows/FUNCTION.rows   the row memo: what a function of one row gave, under the digest of the row
//!   plans/               what complete runs rested on, so that the next one need not plan
//!   runs/                one event log a run, JSON Lines
//!   unfinished/KEY/      what a node that was stopped had done, for its next run; removed when its record is written
//!   tmp/session-…/       what one process is writing; removed when it ends, or by a later one when it died
//!   tmp/corrupt/         objects that were not what their name says, set aside by [`Cache::set_aside`]
//! ```
//!
//! # What is promised
//!
//! An object is written in `tmp/`, made read-only and renamed into place; only then may a [`Record`] name it. A process
//! that is killed between any two of these steps leaves a leftover in `tmp/`, or an object that no record names: never a
//! record without its object, never half an object under a digest.
//!
//! Objects and records are put on disk in groups, with [`Cache::sync`], so a power cut costs at most
//! the last group. It may leave a record of that group without a sound object. No such object is ever trusted: a file is
//! hashed before it counts, unless [`FileDigests`] remembers it, and that is written only after the group is on disk; and
//! an object is hashed before a new one is dropped in its favour.
//!
//! All this is tested at every write, sync, renaming and removal ([`write::faults`]).
//!
//! Processes share a cache without locks. Objects are equal where their names are. Logs ([`AppendLog`]) grow by whole
//! checked lines, which a local file system keeps apart, and their order decides which record of a key is the first.
//!
//! What one process computes the others wait for ([`Cache::claim`]), until its session gives no sign of life for a lease
//! ([`Sharing`]). Locks of files only tell sooner that a process died; that of `format` is taken by a process that
//! removes ([`RemovalLock`]), and for a moment by one that begins to write. Nothing fails where locks are missing.
//!
//! # Identity
//!
//! - A [`Digest`] is BLAKE3: of a file what `b3sum` prints, of a folder that of the lines that `b3sum` prints.
//! - A [`Key`] is the digest of a [`Manifest`]; one walk feeds the hasher and [`Manifest::differences`].
//! - The bytes of a table that [`TableWriter`] writes depend on its schema and rows alone. Columns have *normal* types
//!   ([`normal_schema`]), so that the same rows read from different programs' files are the same bytes.
//!
//! # A stage's way through it
//!
//! ```
//! # use std::sync::Arc;
//! # use arrow::array::{Int32Array, RecordBatch};
//! use refrain_cache::{Cache, TableReader};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let batch = RecordBatch::try_from_iter([("x", Arc::new(Int32Array::from(vec![1, 2])) as _)])?;
//! let cache = Cache::open(&folder.path().join(".refrain"))?;
//! let mut table = cache.new_table(batch.schema())?;
//! table.write(&batch)?;
//! let artifact = cache.store_table(table)?;
//! let reader = TableReader::open(&cache.object_path(&artifact.digest))?;
//! for batch in reader.batches(Some(&["x"]), 1_024)? {
//!     assert_eq!(batch?.num_rows(), 2);
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![warn(missing_docs)]

pub mod gc;
pub mod write;

mod artifact;
mod cache;
mod digest;
mod error;
mod logs;
mod manifest;
mod objects;
mod presence;
mod result;
mod table;
mod unfinished;
mod untrusted;

pub use artifact::{Artifact, ArtifactKind, Artifacts};
pub use cache::Cache;
pub use digest::{Digest, FileIdentity, OnHashed, ParseDigestError, digest_file, digest_listing};
pub use error::{CacheError, Corrupt};
pub use gc::{Damage, Entry, Listing, ListingError, Object, Recorded};
pub use logs::{
    AppendLog, FileDigests, HashedFile, Holder, LogContent, LogLine, Record, RecordError,
    RecordSummary, Records, RowMemo, Stored,
};
pub use manifest::{Difference, Key, Manifest};
pub use objects::{FolderWriter, ScratchDir};
pub use presence::{RemovalLock, Sharing};
pub use result::{Metric, NodeResult};
pub use table::{
    Batches, ROW_GROUP_ROWS, SLICE_ROWS, TableError, TableInfo, TableReader, TableWriter, columns,
    normal_batch, normal_schema, type_name,
};
pub use unfinished::Unfinished;
pub use untrusted::{contained, open_plain, panic_is_contained, read_plain};
