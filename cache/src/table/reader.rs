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
use parquet::file::metadata::ParquetMetaData;

use super::types::{normal_batch, normal_schema};
use super::{TableError, footer, io_error, pages};
use crate::untrusted::{contained, open_plain};

/// An open table: its schema and its number of rows are known, its rows are read when they are asked for.
#[derive(Debug, Clone)]
pub struct TableReader {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    schema: SchemaRef,
    /// The places in the file of the schema's columns.
    roots: Vec<usize>,
    rows: u64,
}

impl TableReader {
    /// Opens a Parquet file and reads its header.
    ///
    /// # Errors
    /// [`TableError::Io`]; [`TableError::Unreadable`] for what is no sound Parquet file; [`TableError::Unsupported`] and
    /// [`TableError::Duplicate`] for a column that a table cannot hold.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        Self::open_except(path, &[])
    }

    /// Opens a Parquet file as [`TableReader::open`] does, without some of its columns: they may be of any type.
    ///
    /// # Errors
    /// As [`TableReader::open`]; [`TableError::Missing`] for a column to leave out that is not there.
    pub fn open_except(path: &Path, left_out: &[&str]) -> Result<Self, TableError> {
        let file = open_file(path)?;
        let size = file.metadata().map_err(|source| io_error(path, "opened", source))?.len();
        let fits = footer::check_depth(&file).map_err(|source| io_error(path, "read", source))?;
        fits.map_err(|reason| unreadable(path, reason))?;
        let metadata = sound(path, || ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()))?;
        let rows =
            check_sizes(metadata.metadata(), size).map_err(|reason| unreadable(path, reason))?;

        let whole = metadata.schema();
        if let Some(name) = left_out.iter().find(|name| whole.index_of(name).is_err()) {
            return Err(missing(name, whole));
        }
        let kept = |root: &usize| !left_out.contains(&whole.field(*root).name().as_str());
        let roots: Vec<usize> = (0..whole.fields().len()).filter(kept).collect();
        let schema = normal_schema(&whole.project(&roots)?)?;
        Ok(Self { path: path.to_path_buf(), metadata, schema, roots, rows })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The schema, with normal types: see [`normal_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads the table from its start in batches of up to `batch_rows` rows (at least one), with normal types.
    /// `columns` are the columns wanted, in any order: they come in the order of the table. `None` means all.
    ///
    /// # Errors
    /// [`TableError::Missing`] for a column that is not there; [`TableError::Io`].
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        batch_rows: usize,
    ) -> Result<Batches, TableError> {
        let mask = match columns {
            None if self.roots.len() == self.metadata.schema().fields().len() => {
                ProjectionMask::all()
            }
            None => {
                ProjectionMask::roots(self.metadata.parquet_schema(), self.roots.iter().copied())
            }
            Some(names) => {
                let roots: Result<Vec<usize>, TableError> =
                    names.iter().map(|name| Ok(self.roots[self.position(name)?])).collect();
                ProjectionMask::roots(self.metadata.parquet_schema(), roots?)
            }
        };
        // Opened anew, because two readers of one descriptor would move each other's position.
        let file = open_file(&self.path)?;
        self.check_pages(&file, &mask)?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(mask)
                .with_batch_size(batch_rows.max(1));
        let reader = sound(&self.path, || builder.build())?;
        Ok(Batches { path: self.path.clone(), reader: Some(reader), left: self.rows })
    }

    /// Reads the whole table into one batch; for tables that are known to be small.
    ///
    /// # Errors
    /// As [`TableReader::batches`] and its items.
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

/// The error for a column that a schema lacks.
pub(crate) fn missing(name: &str, schema: &SchemaRef) -> TableError {
    let there = schema.fields().iter().map(|field| field.name().clone()).collect();
    TableError::Missing { column: name.to_owned(), there }
}

/// The rows of a table, batch by batch; ends after the first error.
pub struct Batches {
    path: PathBuf,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows that the header promises and that have not come yet.
    left: u64,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let batch = sound(&self.path, || reader.next().transpose())
            .and_then(|batch| batch.as_ref().map(normal_batch).transpose())
            .and_then(|batch| self.count(batch));
        if !matches!(batch, Ok(Some(_))) {
            self.reader = None;
        }
        batch.transpose()
    }
}

impl Batches {
    /// Compares the rows that come with those that the header promises.
    fn count(&mut self, batch: Option<RecordBatch>) -> Result<Option<RecordBatch>, TableError> {
        let rows = batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        let left = self.left.checked_sub(rows).filter(|left| *left == 0 || batch.is_some());
        match left {
            Some(left) => self.left = left,
            None => {
                return Err(unreadable(
                    &self.path,
                    "it holds another number of rows than its header says",
                ));
            }
        }
        Ok(batch)
    }
}

/// Calls into the Parquet reader and names the file in its errors; on some damaged files that reader panics.
fn sound<T, E: Display>(path: &Path, call: impl FnOnce() -> Result<T, E>) -> Result<T, TableError> {
    match contained(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(unreadable(path, error.to_string())),
        Err(panic) => Err(unreadable(path, format!("its content is damaged ({panic})"))),
    }
}

/// Compares what the header says with the size of the file, before anything is allocated by it; returns the number of rows.
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
