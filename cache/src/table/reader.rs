//! Reads Parquet files, our own and other programs', in batches.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::types::{normal_batch, normal_schema};
use super::{TableError, footer, io_error, pages};
use crate::untrusted::{contained, open_plain};

/// Bytes that a batch takes at most, as far as the file tells; a single row may be larger.
const BATCH_BYTES: u64 = 256 << 20;

/// An open table: its schema and its number of rows are known, its rows are read on demand.
#[derive(Debug, Clone)]
pub struct TableReader {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    schema: SchemaRef,
    /// The position in the file of each column of the schema.
    positions: Vec<usize>,
    rows: u64,
}

impl TableReader {
    /// Opens a Parquet file and reads its header.
    ///
    /// # Errors
    /// [`TableError::Io`]; [`TableError::Unreadable`] for a file that is not a sound Parquet file;
    /// [`TableError::Unsupported`] and [`TableError::Duplicate`] for a column that a table cannot hold.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        Self::open_except(path, &[])
    }

    /// Opens a Parquet file as [`TableReader::open`] does, without the columns named in `dropped`,
    /// which may be of any type.
    ///
    /// # Errors
    /// See [`TableReader::open`]; [`TableError::Missing`] for a dropped column that is not there.
    pub fn open_except(path: &Path, dropped: &[&str]) -> Result<Self, TableError> {
        let file = open_file(path)?;
        let size = file.metadata().map_err(|source| io_error(path, "opened", source))?.len();
        let fits = footer::check_depth(&file).map_err(|source| io_error(path, "read", source))?;
        fits.map_err(|reason| unreadable(path, reason))?;
        let metadata = sound(path, || ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()))?;
        let rows =
            check_sizes(metadata.metadata(), size).map_err(|reason| unreadable(path, reason))?;

        let whole = metadata.schema();
        if let Some(absent) = dropped.iter().find(|name| whole.index_of(name).is_err()) {
            return Err(missing(absent, whole));
        }
        let kept = |position: &usize| !dropped.contains(&whole.field(*position).name().as_str());
        let positions: Vec<usize> = (0..whole.fields().len()).filter(kept).collect();
        let schema = normal_schema(&whole.project(&positions)?)?;
        Ok(Self { path: path.to_path_buf(), metadata, schema, positions, rows })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the schema, with normal types: see [`normal_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads the table from its start in batches of up to `batch_rows` rows (at least one), with
    /// normal types; of long rows fewer are read at once. `columns` are the columns wanted, in any
    /// order: they come in the order of the table. `None` means all.
    ///
    /// # Errors
    /// [`TableError::Missing`] for a column that is not there; [`TableError::Io`].
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        batch_rows: usize,
    ) -> Result<Batches, TableError> {
        let roots = match columns {
            None => self.positions.clone(),
            Some(names) => {
                let position = |name: &&str| Ok(self.positions[self.position(name)?]);
                names.iter().map(position).collect::<Result<_, TableError>>()?
            }
        };
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots);
        self.check_pages(&open_file(&self.path)?, &mask)?;

        let mut batches = Batches {
            path: self.path.clone(),
            metadata: self.metadata.clone(),
            batch_rows: batch_rows.min(self.rows_in(BATCH_BYTES, &mask)).max(1),
            mask,
            reader: None,
            rows: self.rows,
            read: 0,
        };
        batches.open()?;
        Ok(batches)
    }

    /// Returns the number of rows that take so many bytes, by the longest average of a row group.
    fn rows_in(&self, bytes: u64, mask: &ProjectionMask) -> usize {
        let row_bytes = |group: &RowGroupMetaData| {
            let columns = group.columns().iter().enumerate();
            let wanted = columns.filter(|(leaf, _)| mask.leaf_included(*leaf));
            let bytes: u64 = wanted.map(|(_, c)| c.uncompressed_size().max(0) as u64).sum();
            bytes / (group.num_rows().max(1) as u64)
        };
        let longest = self.metadata.metadata().row_groups().iter().map(row_bytes).max();
        usize::try_from(bytes / longest.unwrap_or(1).max(1)).unwrap_or(usize::MAX)
    }

    /// Reads the whole table into one batch; for tables that are known to be small.
    ///
    /// # Errors
    /// See [`TableReader::batches`].
    pub fn read_all(&self, columns: Option<&[&str]>) -> Result<RecordBatch, TableError> {
        let batches: Result<Vec<RecordBatch>, TableError> =
            self.batches(columns, super::ROW_GROUP_ROWS)?.collect();
        let batches = batches?;
        let schema = match (batches.first(), columns) {
            (Some(batch), _) => batch.schema(),
            (None, None) => self.schema.clone(),
            (None, Some(names)) => {
                let mut positions =
                    names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>, _>>()?;
                positions.sort_unstable();
                positions.dedup();
                self.schema.project(&positions)?.into()
            }
        };
        Ok(arrow::compute::concat_batches(&schema, &batches)?)
    }

    fn check_pages(&self, file: &File, mask: &ProjectionMask) -> Result<(), TableError> {
        for group in self.metadata.metadata().row_groups() {
            let wanted =
                group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
            for (_, column) in wanted {
                let sound = pages::check_pages(file, column);
                let sound = sound.map_err(|source| io_error(&self.path, "read", source))?;
                sound.map_err(|reason| unreadable(&self.path, reason))?;
            }
        }
        Ok(())
    }

    fn position(&self, name: &str) -> Result<usize, TableError> {
        self.schema.index_of(name).map_err(|_| missing(name, &self.schema))
    }
}

/// Returns the error for a column that a schema lacks.
pub(crate) fn missing(name: &str, schema: &SchemaRef) -> TableError {
    let there = schema.fields().iter().map(|field| field.name().clone()).collect();
    TableError::Missing { column: name.to_owned(), there }
}

/// The rows of a table, batch by batch; ends after the first error.
pub struct Batches {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    batch_rows: usize,
    /// `None` at the end.
    reader: Option<ParquetRecordBatchReader>,
    /// Rows that the header promises.
    rows: u64,
    /// Rows that have come.
    read: u64,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = loop {
            match self.read_batch().transpose()? {
                // The header did not tell how long the rows are, as where equal texts are stored
                // once.
                Err(error) if self.batch_rows > 1 && is_overflow(&error) => {
                    self.batch_rows = self.batch_rows.div_ceil(4);
                    if let Err(error) = self.open() {
                        break Err(error);
                    }
                }
                batch => break batch,
            }
        };
        if batch.is_err() {
            self.reader = None;
        }
        Some(batch)
    }
}

impl Batches {
    /// Starts reading behind the rows that have come. The file is opened anew, because two readers
    /// of one descriptor would move each other's position.
    fn open(&mut self) -> Result<(), TableError> {
        let file = open_file(&self.path)?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(self.mask.clone())
                .with_batch_size(self.batch_rows);
        let builder = match self.read {
            0 => builder,
            read => builder.with_offset(read as usize),
        };
        self.reader = Some(sound(&self.path, || builder.build())?);
        Ok(())
    }

    fn read_batch(&mut self) -> Result<Option<RecordBatch>, TableError> {
        let Some(reader) = self.reader.as_mut() else { return Ok(None) };
        let batch = sound(&self.path, || reader.next().transpose())?;
        let batch = batch.as_ref().map(normal_batch).transpose()?;

        // Compares the rows that come with those that the header promises.
        self.read += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        if self.read > self.rows || batch.is_none() && self.read < self.rows {
            return Err(unreadable(
                &self.path,
                "it holds another number of rows than its header says",
            ));
        }
        Ok(batch)
    }
}

/// Whether a batch was too long for the offsets of one of its columns.
fn is_overflow(error: &TableError) -> bool {
    match error {
        TableError::Unreadable { reason, .. } | TableError::Rows { reason } => {
            reason.to_lowercase().contains("overflow")
        }
        _ => false,
    }
}

/// Calls the Parquet reader, which panics on some damaged files, and names the file in its errors.
fn sound<T, E: Display>(path: &Path, call: impl FnOnce() -> Result<T, E>) -> Result<T, TableError> {
    match contained(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(unreadable(path, error.to_string())),
        Err(panic) => Err(unreadable(path, format!("its content is damaged ({panic})"))),
    }
}

/// Compares the header with the size of the file, before it determines any allocation, and returns
/// the number of rows.
fn check_sizes(metadata: &ParquetMetaData, file_size: u64) -> Result<u64, String> {
    let mut rows = 0_u64;
    for group in metadata.row_groups() {
        let group_rows =
            u64::try_from(group.num_rows()).map_err(|_| "a row group has less than no rows")?;
        rows = rows.checked_add(group_rows).ok_or("it has more rows than can be counted")?;
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let inside = start >= 0
                && column.compressed_size() >= 0
                && end.is_some_and(|end| u64::try_from(end).is_ok_and(|end| end <= file_size));
            if !inside {
                let path = column.column_path();
                return Err(format!(
                    "the data of the column `{}` lie outside the file",
                    path.string()
                ));
            }
        }
    }
    Ok(rows)
}

fn open_file(path: &Path) -> Result<File, TableError> {
    open_plain(path).map_err(|source| io_error(path, "opened", source))
}

fn unreadable(path: &Path, reason: impl Into<String>) -> TableError {
    TableError::Unreadable { path: path.into(), reason: reason.into() }
}
