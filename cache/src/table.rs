//! Tables as Parquet files whose bytes depend on schema and rows alone.

use std::fmt;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::SchemaDescriptor;
use thiserror::Error;

use crate::digest::Digest;
use crate::write::{TempFile, parent_of};

pub mod columns;

mod footer;
mod pages;
mod reader;
mod thrift;
mod types;

pub(crate) use reader::missing;
pub use reader::{Batches, TableReader};
pub use types::{normal_batch, normal_schema, type_name};

/// Rows of a row group: what a writer and a reader hold in memory, encoded. Part of the format of our files.
pub const ROW_GROUP_ROWS: usize = 16_384;

/// Rows handed to the encoders at once. They look at page limits between slices, so this too is part of the format.
pub const SLICE_ROWS: usize = 1_024;

/// Why a table could not be written or read.
#[derive(Debug, Error)]
pub enum TableError {
    /// The file system refused.
    #[error("the table `{}` could not be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `created`, `opened` or `written`.
        action: &'static str,
        /// What the file system said.
        source: io::Error,
    },
    /// The file holds no readable table.
    #[error("`{}` is no readable Parquet file: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A column's type has no place in a table.
    #[error("the column `{column}` is {found}, which a table cannot hold")]
    Unsupported {
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// Two columns have one name.
    #[error("the column `{column}` appears twice")]
    Duplicate {
        /// The column.
        column: String,
    },
    /// A column is not there.
    #[error("the column `{column}` is missing; there are {}", Listed(there))]
    Missing {
        /// The column.
        column: String,
        /// The columns that are there.
        there: Vec<String>,
    },
    /// A column has another type.
    #[error("the column `{column}` is {found}, expected {expected}")]
    Type {
        /// The column.
        column: String,
        /// The type that it has.
        found: String,
        /// The type that was asked for.
        expected: &'static str,
    },
    /// Arrow or Parquet refused to build or encode a batch.
    #[error("the rows could not be put into a table: {reason}")]
    Rows {
        /// What they say.
        reason: String,
    },
}

impl From<ArrowError> for TableError {
    fn from(error: ArrowError) -> Self {
        Self::Rows { reason: error.to_string() }
    }
}

/// Names in backticks, joined by commas.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}`{name}`", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableInfo {
    /// Rows of the table.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Digest of the file.
    pub digest: Digest,
}

/// Writes a table. The file's bytes depend on the schema and the rows, not on how the rows were cut into batches.
pub struct TableWriter {
    /// Where [`TableWriter::finish`] puts the file.
    path: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<HashingFile>,
    /// Batches that together are shorter than a slice.
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    rows: u64,
}

impl TableWriter {
    /// Starts the table `path`; the file appears when the table is finished.
    ///
    /// # Errors
    /// Those of creating a file; [`TableError::Unsupported`] and [`TableError::Duplicate`] for a column that a table
    /// cannot hold.
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        Self::start(parent_of(path), path, schema)
    }

    /// Starts a table in a folder for temporary files, to be placed by who knows its digest.
    pub(crate) fn create_in(folder: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        Self::start(folder, folder, schema)
    }

    fn start(folder: &Path, path: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        let schema = normal_schema(&schema)?;
        let temp = TempFile::create(folder).map_err(|source| io_error(path, "created", source))?;
        Self::over(Some(temp), path, schema)
    }

    /// Starts a table whose bytes are hashed and kept nowhere, to be given to [`TableWriter::hash`].
    ///
    /// # Errors
    /// [`TableError::Unsupported`] and [`TableError::Duplicate`] for a column that a table cannot hold.
    pub fn hash_only(schema: SchemaRef) -> Result<Self, TableError> {
        Self::over(None, Path::new("-"), normal_schema(&schema)?)
    }

    fn over(temp: Option<TempFile>, path: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        let file = HashingFile { temp, hasher: blake3::Hasher::new() };
        // Without Arrow's own copy of the schema: its bytes change with Arrow's version, and all normal types come back
        // from Parquet's schema alone.
        let options = ArrowWriterOptions::new()
            .with_skip_arrow_metadata(true)
            .with_properties(properties(&leaf_columns(&schema)?)?);
        let writer =
            ArrowWriter::try_new_with_options(file, schema.clone(), options).map_err(rows_error)?;
        Ok(Self {
            path: path.to_path_buf(),
            schema,
            writer,
            pending: Vec::new(),
            pending_rows: 0,
            rows: 0,
        })
    }

    /// The schema of the table that comes back: see [`normal_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends rows. Columns are converted to their normal types; names and order must be those of the schema.
    ///
    /// # Errors
    /// [`TableError::Rows`] when the columns are not those of the schema; those of writing.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        let batch = normal_batch(batch)?;
        if batch.schema_ref() != &self.schema {
            return Err(schema_error(&batch, &self.schema));
        }
        self.rows += batch.num_rows() as u64;
        let mut start = 0;
        // The slice that earlier batches began is completed first.
        if self.pending_rows > 0 {
            start = batch.num_rows().min(SLICE_ROWS - self.pending_rows);
            self.hold(batch.slice(0, start));
            if self.pending_rows == SLICE_ROWS {
                self.write_pending()?;
            }
        }
        while batch.num_rows() - start >= SLICE_ROWS {
            self.writer
                .write(&batch.slice(start, SLICE_ROWS))
                .map_err(|e| write_error(&self.path, e))?;
            start += SLICE_ROWS;
        }
        self.hold(batch.slice(start, batch.num_rows() - start));
        Ok(())
    }

    /// Completes the table: the file is on disk under its path when this returns.
    ///
    /// # Errors
    /// Those of writing, syncing and renaming; there is then no file, or the one from before.
    pub fn finish(self) -> Result<TableInfo, TableError> {
        let path = self.path.clone();
        let (info, temp) = self.close()?;
        temp.commit(&path).map_err(|source| io_error(&path, "written", source))?;
        Ok(info)
    }

    /// Completes the content of the file, which has no name yet.
    pub(crate) fn close(self) -> Result<(TableInfo, TempFile), TableError> {
        let (info, temp) = self.complete()?;
        Ok((info, temp.expect("a table that is only hashed is not placed")))
    }

    /// Completes the table and returns the digest and size that its file would have.
    ///
    /// # Errors
    /// [`TableError::Rows`] where the rows cannot be written.
    pub fn hash(self) -> Result<TableInfo, TableError> {
        Ok(self.complete()?.0)
    }

    fn complete(mut self) -> Result<(TableInfo, Option<TempFile>), TableError> {
        self.write_pending()?;
        let file = self.writer.into_inner().map_err(|error| write_error(&self.path, error))?;
        let info = TableInfo {
            rows: self.rows,
            bytes: file.hasher.count(),
            digest: file.hasher.finalize().into(),
        };
        Ok((info, file.temp))
    }

    fn hold(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.pending_rows += batch.num_rows();
            self.pending.push(batch);
        }
    }

    fn write_pending(&mut self) -> Result<(), TableError> {
        let slice = concat_batches(&self.schema, &self.pending)?;
        self.pending.clear();
        self.pending_rows = 0;
        self.writer.write(&slice).map_err(|error| write_error(&self.path, error))
    }
}

impl fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWriter")
            .field("path", &self.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Every setting that shapes the bytes, fixed here, so that another default in a later Parquet crate changes none of them.
///
/// Parquet 1.0 pages and encodings, because every reader knows them. Zstandard at level 3: its matcher is the same on every
/// instruction set, which holds only below level 5.
fn properties(leaves: &SchemaDescriptor) -> Result<WriterProperties, TableError> {
    let zstd = ZstdLevel::try_new(3).map_err(rows_error)?;
    let mut properties = WriterProperties::builder()
        .set_created_by("refrain".to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(zstd))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(None)
        .set_write_batch_size(SLICE_ROWS)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(ROW_GROUP_ROWS)
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(1 << 20)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_offset_index_disabled(true)
        .set_bloom_filter_enabled(false)
        .set_write_page_header_statistics(false)
        .set_write_row_group_number_distinct_values(false)
        .set_write_path_in_schema(true)
        .set_coerce_types(false)
        .set_content_defined_chunking(None)
        .set_key_value_metadata(None)
        .set_sorting_columns(None);
    // Measured values hardly repeat: a dictionary of them costs time and is thrown away when it is full.
    for leaf in leaves.columns() {
        if matches!(leaf.physical_type(), PhysicalType::FLOAT | PhysicalType::DOUBLE) {
            properties = properties.set_column_dictionary_enabled(leaf.path().clone(), false);
        }
    }
    Ok(properties.build())
}

/// The columns as Parquet flattens them.
fn leaf_columns(schema: &SchemaRef) -> Result<SchemaDescriptor, TableError> {
    parquet::arrow::ArrowSchemaConverter::new()
        .with_coerce_types(false)
        .convert(schema)
        .map_err(rows_error)
}

/// Hashes what is written to it, and passes it on to a file where there is one.
struct HashingFile {
    temp: Option<TempFile>,
    hasher: blake3::Hasher,
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.temp {
            Some(temp) => temp.write(bytes)?,
            None => bytes.len(),
        };
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.as_mut().map_or(Ok(()), TempFile::flush)
    }
}

fn schema_error(batch: &RecordBatch, schema: &SchemaRef) -> TableError {
    let columns = |schema: &SchemaRef| {
        let named = schema
            .fields()
            .iter()
            .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())));
        named.collect::<Vec<_>>().join(", ")
    };
    TableError::Rows {
        reason: format!(
            "they have the columns ({}), the table has ({})",
            columns(batch.schema_ref()),
            columns(schema)
        ),
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> TableError {
    TableError::Io { path: path.into(), action, source }
}

fn rows_error(error: ParquetError) -> TableError {
    TableError::Rows { reason: error.to_string() }
}

/// An error while a table is written: the file system's where there is one inside.
fn write_error(path: &Path, error: ParquetError) -> TableError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(source) => io_error(path, "written", *source),
            Err(inner) => TableError::Rows { reason: inner.to_string() },
        },
        error => rows_error(error),
    }
}
