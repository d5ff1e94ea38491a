//! Writes tables, in slices and row groups that depend on the rows alone.

use std::fmt;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::errors::ParquetError;

use super::encoder::Encoder;
use super::size::{batch_bytes, rows_within};
use super::types::{normal_batch, normal_schema, type_name};
use super::{TableError, io_error};
use crate::digest::Digest;
use crate::write::{TempFile, parent_of};

/// Rows of a row group: both a writer and a reader hold them in memory, encoded. Part of the format
/// of our files.
pub const ROW_GROUP_ROWS: usize = 16_384;

/// Rows handed to the encoders at once. They check page limits between slices, so this too is part
/// of the format.
pub const SLICE_ROWS: usize = 1_024;

/// The limits in bytes of slices and row groups, part of the format too. A single row may be
/// larger.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Far below the 2 GiB that the offsets of a column can count.
    slice: u64,
    row_group: u64,
}

const LIMITS: Limits = Limits { slice: 1 << 30, row_group: 2 << 30 };

/// A finished table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableInfo {
    /// Rows of the table.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Digest of the file.
    pub digest: Digest,
}

/// Writes a table. The file's bytes depend on the schema and the rows, not on how the rows were cut
/// into batches.
pub struct TableWriter {
    /// The file that [`TableWriter::finish`] creates.
    path: PathBuf,
    schema: SchemaRef,
    encoder: Encoder<HashingFile>,
    limits: Limits,
    /// The parts of the slice that is not complete yet.
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: u64,
    rows: u64,
}

impl TableWriter {
    /// Starts the table `path`; the file appears when the table is finished.
    ///
    /// # Errors
    /// I/O errors; [`TableError::Unsupported`] and [`TableError::Duplicate`] for a column that a
    /// table cannot hold.
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        Self::start(parent_of(path), path, schema, LIMITS)
    }

    /// Starts a table in a folder for temporary files; the caller places it once it knows its
    /// digest.
    pub(crate) fn create_in(folder: &Path, schema: SchemaRef) -> Result<Self, TableError> {
        Self::start(folder, folder, schema, LIMITS)
    }

    fn start(
        folder: &Path,
        path: &Path,
        schema: SchemaRef,
        limits: Limits,
    ) -> Result<Self, TableError> {
        let schema = normal_schema(&schema)?;
        let temp = TempFile::create(folder).map_err(|source| io_error(path, "created", source))?;
        Self::over(Some(temp), path, schema, limits)
    }

    /// Starts a table whose bytes are hashed and not kept, to be given to [`TableWriter::hash`].
    ///
    /// # Errors
    /// [`TableError::Unsupported`] and [`TableError::Duplicate`] for a column that a table cannot
    /// hold.
    pub fn hash_only(schema: SchemaRef) -> Result<Self, TableError> {
        Self::over(None, Path::new("-"), normal_schema(&schema)?, LIMITS)
    }

    fn over(
        temp: Option<TempFile>,
        path: &Path,
        schema: SchemaRef,
        limits: Limits,
    ) -> Result<Self, TableError> {
        let file = HashingFile { temp, hasher: blake3::Hasher::new() };
        let encoder = Encoder::new(file, schema.clone(), limits.row_group).map_err(rows_error)?;
        Ok(Self {
            path: path.to_path_buf(),
            schema,
            encoder,
            limits,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            rows: 0,
        })
    }

    /// Returns the schema that the table will have when it is read: see [`normal_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends rows. Columns are converted to their normal types; names and order must be those of
    /// the schema.
    ///
    /// # Errors
    /// [`TableError::Rows`] when the columns are not those of the schema; I/O errors.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        let batch = normal_batch(batch)?;
        if batch.schema_ref() != &self.schema {
            return Err(schema_error(&batch, &self.schema));
        }

        self.rows += batch.num_rows() as u64;
        let mut start = 0;
        while start < batch.num_rows() {
            let wanted = (batch.num_rows() - start).min(SLICE_ROWS - self.pending_rows);
            let left = self.limits.slice.saturating_sub(self.pending_bytes);
            let fits = match batch_bytes(&batch, start..start + wanted) <= left {
                true => wanted,
                false => rows_within(&batch, start, wanted, left),
            };
            // A row that is larger than any slice makes one of its own.
            let taken = if fits == 0 && self.pending_rows == 0 { 1 } else { fits };
            self.hold(&batch, start, taken);
            start += taken;
            if taken < wanted || self.pending_rows == SLICE_ROWS {
                self.write_pending()?;
            }
        }
        Ok(())
    }

    /// Completes the table: the file is on disk under its path when this returns.
    ///
    /// # Errors
    /// I/O errors; there is then no file, or the one from before.
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
    /// [`TableError::Rows`] when the rows cannot be written.
    pub fn hash(self) -> Result<TableInfo, TableError> {
        Ok(self.complete()?.0)
    }

    fn complete(mut self) -> Result<(TableInfo, Option<TempFile>), TableError> {
        self.write_pending()?;
        let file = self.encoder.finish().map_err(|error| write_error(&self.path, error))?;
        let info = TableInfo {
            rows: self.rows,
            bytes: file.hasher.count(),
            digest: file.hasher.finalize().into(),
        };
        Ok((info, file.temp))
    }

    /// Adds rows of a batch to the slice that is not complete yet.
    fn hold(&mut self, batch: &RecordBatch, start: usize, rows: usize) {
        if rows > 0 {
            self.pending_bytes += batch_bytes(batch, start..start + rows);
            self.pending_rows += rows;
            self.pending.push(batch.slice(start, rows));
        }
    }

    /// Hands the rows that are held to the encoders, as one slice.
    fn write_pending(&mut self) -> Result<(), TableError> {
        let slice = match self.pending.as_slice() {
            [] => return Ok(()),
            [whole] => whole.clone(),
            parts => concat_batches(&self.schema, parts)?,
        };
        let bytes = std::mem::take(&mut self.pending_bytes);
        self.pending.clear();
        self.pending_rows = 0;

        self.encoder.write(&slice, bytes).map_err(|error| write_error(&self.path, error))
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

/// Hashes the bytes written to it, and passes them on to a file where there is one.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::TableReader;

    /// Texts of many sizes, some of them null, and lists.
    fn rows(count: i32) -> RecordBatch {
        let size = |row: i32| (row.unsigned_abs() as usize * 7919) % 300;
        let texts = (0..count).map(|row| (row % 7 != 3).then(|| "x".repeat(size(row))));
        let lists = (0..count).map(|row| {
            (row % 5 != 2).then(|| (0..size(row) as i32 / 4).map(Some).collect::<Vec<_>>())
        });
        RecordBatch::try_from_iter([
            ("number", Arc::new(Int32Array::from_iter_values(0..count)) as _),
            ("text", Arc::new(StringArray::from_iter(texts)) as _),
            ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)) as _),
        ])
        .unwrap()
    }

    fn written(path: &Path, rows: &RecordBatch, batch: usize, limits: Limits) -> TableInfo {
        let mut writer = TableWriter::start(parent_of(path), path, rows.schema(), limits).unwrap();
        for start in (0..rows.num_rows()).step_by(batch) {
            writer.write(&rows.slice(start, batch.min(rows.num_rows() - start))).unwrap();
        }
        writer.finish().unwrap()
    }

    /// The rows of each row group.
    fn groups(path: &Path) -> Vec<i64> {
        let file = std::fs::File::open(path).unwrap();
        let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
        let metadata = parquet::file::reader::FileReader::metadata(&reader).clone();
        metadata.row_groups().iter().map(|group| group.num_rows()).collect()
    }

    #[test]
    fn limits_in_bytes_are_a_matter_of_rows_and_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.parquet");
        let rows = rows(3_000);
        let limits = Limits { slice: 1_000, row_group: 5_000 };
        let whole = written(&path, &rows, 3_000, limits);
        let lengths = groups(&path);
        let mut start = 0;
        for length in &lengths {
            let end = start + *length as usize;
            assert!(batch_bytes(&rows, start..end) <= limits.row_group, "{start}..{end}");
            start = end;
        }
        assert!(lengths.len() > 100, "{lengths:?}");
        assert_eq!(TableReader::open(&path).unwrap().read_all(None).unwrap().num_rows(), 3_000);
        for batch in [1, 7, 1_023, 1_024, 1_025] {
            assert_eq!(written(&path, &rows, batch, limits), whole, "in batches of {batch}");
        }
    }

    #[test]
    fn a_row_above_every_limit_is_a_slice_and_a_row_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.parquet");
        let texts = ["a".to_owned(), "b".repeat(10_000), "c".to_owned(), "d".to_owned()];
        let column = Arc::new(StringArray::from_iter_values(texts));
        let rows = RecordBatch::try_from_iter([("text", column as _)]).unwrap();
        let limits = Limits { slice: 100, row_group: 200 };
        let whole = written(&path, &rows, 4, limits);
        assert_eq!(groups(&path), [1, 1, 2]);
        assert_eq!(written(&path, &rows, 1, limits), whole);
    }
}
