//! The cache of Refrain: artifacts under their digests, tables, keys, and the records of results.
//!
//! # The folder
//!
//! ```text
//! .refrain/
//!   format               `1`: the version of this layout; a newer one is refused, never overwritten;
//!                        its lock keeps removal and writers apart: [`Cache::lock_for_removal`]
//!   .gitignore           `*`
//!   CACHEDIR.TAG         tells backups that they may leave the folder out
//!   objects/ab/cdef…     an artifact under its digest: a read-only file, or a folder of such files
//!   records/records.log  key → outputs, metrics, profile, manifest; the first line of a key counts
//!   records/claims.log   which process computes which key; emptied when no other uses the cache
//!   records/files.log    path and identity → digest, of files that were hashed before
//!   rows/FUNCTION.rows   the row memo: per-row results of a function, under the digest of the row
//!   rows/F.SESSION.rows  the rows of one job on another machine, until they are moved into F.rows
//!   deliveries/          results of jobs on other machines, until they are moved into the records
//!   jobs/                the jobs that run on other machines, a folder each
//!   plans/               the reports of complete runs and the files they depend on
//!   runs/                one event log per run, JSON Lines
//!   unfinished/KEY/      the checkpoint of an interrupted node; removed when its record is written
//!   tmp/session-…/       unfinished files of one process; removed when it ends, or after its death
//!   tmp/corrupt/         damaged objects and logs, set aside: [`Cache::set_aside`]
//! ```
//!
//! # Guarantees
//!
//! An object is written in `tmp/`, made read-only and renamed into place; only then may a
//! [`Record`] name it. A process that is killed between any two of these steps leaves a leftover in
//! `tmp/`, or an object without a record: never a record without its object, never half an object
//! under a digest.
//!
//! Objects and records are synced in groups, with [`Cache::sync`], so a power cut costs at most the
//! last group. It may leave a record of that group without a sound object, but no such object is
//! trusted: a file is hashed before it counts, unless [`FileDigests`] remembers it, which happens
//! only after the group is synced; and an object is hashed before a new copy is dropped in its
//! favour.
//!
//! All this is tested at every write, sync, renaming and removal (`write/faults.rs`).
//!
//! Processes share a cache without locks. Objects are equal where their names are. Logs
//! ([`AppendLog`]) grow by whole checked lines, which a local file system keeps apart, and their
//! order decides which record of a key is the first.
//!
//! A key that one process computes is waited for by the others ([`Cache::claim`]), until its
//! session has been without a sign of life for a lease ([`Sharing`]). File locks only tell sooner
//! that a process died; the lock of `format` is held by a process that removes ([`RemovalLock`]),
//! and for a moment by one that begins to write. Everything works where file locks are missing.
//!
//! # Identity
//!
//! - A [`Digest`] is BLAKE3: of a file what `b3sum` prints, of a folder that of the lines that `b3sum`
//!   prints.
//! - A [`Key`] is the digest of a [`Manifest`]; one walk feeds the hasher and
//!   [`Manifest::differences`].
//! - The bytes of a table that [`TableWriter`] writes depend on its schema and rows alone. Columns have
//!   *normal* types ([`normal_schema`]), so that the same rows read from different programs' files are
//!   the same bytes.
//!
//! # A stage's use of it
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
mod deliveries;
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
pub use cache::{Cache, SessionWatch};
pub use digest::{
    Digest, FileIdentity, OnHashed, ParseDigestError, digest_file, digest_listing, listing_text,
    parse_listing,
};
pub use error::{CacheError, Corrupt};
pub use gc::{Damage, Entry, Listing, ListingError, Object, Recorded};
pub use logs::{
    AppendLog, FileDigests, HashedFile, Holder, LogContent, LogLine, Record, RecordError,
    RecordSummary, Records, RowMemo, Stored,
};
pub use manifest::{Difference, Key, Manifest};
pub use objects::{FolderWriter, ScratchDir};
pub use presence::{RemovalLock, Sharing};
pub use result::{MAIN, Metric, NodeResult, same_metrics};
pub use table::{
    Batches, ROW_GROUP_ROWS, SLICE_ROWS, TableError, TableInfo, TableReader, TableWriter, columns,
    normal_batch, normal_schema, type_name,
};
pub use unfinished::Unfinished;
pub use untrusted::{contained, is_inside, open_plain, panic_is_contained, read_plain};
