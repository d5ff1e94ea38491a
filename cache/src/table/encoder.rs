//! Encodes slices of rows as row groups, the columns on all cores at once.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, SchemaRef};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::basic::{Compression, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use rayon::prelude::*;

use super::size::batch_bytes;
use super::writer::{ROW_GROUP_ROWS, SLICE_ROWS};

/// Bytes of slices that are held, so that there is work for all cores.
const HELD_BYTES: u64 = 16 << 20;
/// Limit on the rows that are held: narrow ones may be parts of larger arrays.
const HELD_ROWS: usize = 4 * ROW_GROUP_ROWS;
/// Bytes up to which waking other threads takes longer than encoding.
const SMALL: u64 = 1 << 18;

/// Writes slices as row groups. A column of a row group is encoded by one thread, slice after slice,
/// so that its bytes do not depend on the number of threads.
pub(super) struct Encoder<W: Write + Send> {
    file: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// Limit on the bytes of the rows of a row group.
    group_limit: u64,
    /// The row groups that are not in the file yet; all but the last are complete.
    groups: VecDeque<Group>,
    held_bytes: u64,
    held_rows: usize,
}

/// A row group that is not in the file yet.
struct Group {
    columns: Vec<Column>,
    rows: usize,
    bytes: u64,
    is_complete: bool,
}

/// A column of a row group. Parquet flattens it to as many columns as it has leaves.
struct Column {
    field: FieldRef,
    /// The writers of its leaves, until the row group is complete.
    leaves: Vec<ArrowColumnWriter>,
    /// The slices that are not encoded yet.
    slices: Vec<ArrayRef>,
    chunks: Vec<ArrowColumnChunk>,
}

impl<W: Write + Send> Encoder<W> {
    /// Starts a file of rows with normal types.
    pub fn new(file: W, schema: SchemaRef, group_limit: u64) -> Result<Self, ParquetError> {
        // Without Arrow's own copy of the schema: its bytes change with Arrow's version, and all
        // normal types come back from Parquet's schema alone.
        let leaves = ArrowSchemaConverter::new().with_coerce_types(false).convert(&schema)?;
        let properties = Arc::new(properties(&leaves)?);
        let file = SerializedFileWriter::new(file, leaves.root_schema_ptr(), properties)?;
        let factory = ArrowRowGroupWriterFactory::new(&file, schema.clone());
        let groups = VecDeque::new();
        Ok(Self { file, factory, schema, group_limit, groups, held_bytes: 0, held_rows: 0 })
    }

    /// Appends a slice of at most [`SLICE_ROWS`] rows, which take `bytes`.
    pub fn write(&mut self, slice: &RecordBatch, bytes: u64) -> Result<(), ParquetError> {
        if let Some(group) = self.groups.back_mut()
            && group.bytes > 0
            && group.bytes + bytes > self.group_limit
        {
            group.is_complete = true;
        }
        let rows = slice.num_rows();
        let left = match self.groups.back() {
            Some(group) if !group.is_complete => ROW_GROUP_ROWS - group.rows,
            _ => ROW_GROUP_ROWS,
        };
        if rows <= left {
            self.hold(slice, bytes)?;
        } else {
            let rest = batch_bytes(slice, left..rows);
            self.hold(&slice.slice(0, left), bytes - rest)?;
            self.hold(&slice.slice(left, rows - left), rest)?;
        }
        match self.held_bytes >= HELD_BYTES || self.held_rows >= HELD_ROWS {
            true => self.encode(),
            false => Ok(()),
        }
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<W, ParquetError> {
        if let Some(group) = self.groups.back_mut() {
            group.is_complete = true;
        }
        self.encode()?;
        self.file.into_inner()
    }

    /// Adds a slice to the row group that is not complete, or to a new one.
    fn hold(&mut self, slice: &RecordBatch, bytes: u64) -> Result<(), ParquetError> {
        if self.groups.back().is_none_or(|group| group.is_complete) {
            let group = self.new_group()?;
            self.groups.push_back(group);
        }
        if let Some(group) = self.groups.back_mut() {
            for (column, array) in group.columns.iter_mut().zip(slice.columns()) {
                column.slices.push(array.clone());
            }
            group.rows += slice.num_rows();
            group.bytes += bytes;
            group.is_complete = group.rows == ROW_GROUP_ROWS;
        }
        self.held_bytes += bytes;
        self.held_rows += slice.num_rows();
        Ok(())
    }

    fn new_group(&self) -> Result<Group, ParquetError> {
        let fields = self.schema.fields().iter();
        let mut columns: Vec<Column> = fields.map(Column::new).collect();
        let index = self.file.flushed_row_groups().len() + self.groups.len();
        for (leaf, writer) in self.factory.create_column_writers(index)?.into_iter().enumerate() {
            columns[self.file.schema_descr().get_column_root_idx(leaf)].leaves.push(writer);
        }
        Ok(Group { columns, rows: 0, bytes: 0, is_complete: false })
    }

    /// Encodes the slices that are held, and writes the row groups that are complete.
    fn encode(&mut self) -> Result<(), ParquetError> {
        let mut parts = Vec::new();
        for group in &mut self.groups {
            let is_complete = group.is_complete;
            parts.extend(group.columns.iter_mut().map(|column| (column, is_complete)));
        }
        if self.held_bytes <= SMALL {
            parts.into_iter().try_for_each(|(column, is_last)| column.encode(is_last))?;
        } else {
            let parts = parts.into_par_iter().with_max_len(1);
            // All of them, so that the error is that of the first column.
            let encoded: Vec<Result<(), ParquetError>> =
                parts.map(|(column, is_last)| column.encode(is_last)).collect();
            encoded.into_iter().collect::<Result<(), _>>()?;
        }
        (self.held_bytes, self.held_rows) = (0, 0);

        while let Some(group) = self.groups.pop_front_if(|group| group.is_complete) {
            let mut row_group = self.file.next_row_group()?;
            for chunk in group.columns.into_iter().flat_map(|column| column.chunks) {
                chunk.append_to_row_group(&mut row_group)?;
            }
            row_group.close()?;
        }
        Ok(())
    }
}

impl Column {
    fn new(field: &FieldRef) -> Column {
        let field = field.clone();
        Column { field, leaves: Vec::new(), slices: Vec::new(), chunks: Vec::new() }
    }

    /// Encodes the slices that are held; after the last ones, completes the chunks.
    fn encode(&mut self, is_last: bool) -> Result<(), ParquetError> {
        for slice in self.slices.drain(..) {
            let leaves = compute_leaves(&self.field, &slice)?;
            for (writer, leaf) in self.leaves.iter_mut().zip(&leaves) {
                writer.write(leaf)?;
            }
        }
        if is_last {
            let chunks = self.leaves.drain(..).map(ArrowColumnWriter::close);
            self.chunks = chunks.collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

/// Every setting that shapes the bytes, fixed here, so that another default in a later Parquet
/// crate changes none of them.
///
/// Parquet 1.0 pages and encodings, because every reader knows them. Zstandard at level 3: its
/// matcher is the same on every instruction set, which holds only below level 5.
fn properties(leaves: &SchemaDescriptor) -> Result<WriterProperties, ParquetError> {
    let zstd = ZstdLevel::try_new(3)?;
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
    // Measured values hardly repeat: a dictionary of them costs time and is thrown away when it is
    // full.
    for leaf in leaves.columns() {
        if matches!(leaf.physical_type(), PhysicalType::FLOAT | PhysicalType::DOUBLE) {
            properties = properties.set_column_dictionary_enabled(leaf.path().clone(), false);
        }
    }
    Ok(properties.build())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_writer::ArrowWriterOptions;

    use super::*;
    use crate::table::normal_batch;

    /// More rows than are held at once: texts, some of them null, numbers and lists in mappings.
    fn rows() -> RecordBatch {
        let count = HELD_ROWS as i32 + 2 * ROW_GROUP_ROWS as i32 + 100;
        let size = |row: i32| (row.unsigned_abs() as usize * 7919) % 300;
        let texts =
            (0..count).map(|row| (row % 7 != 3).then(|| row.to_string().repeat(size(row) / 4)));
        let numbers = (0..count).map(|row| f64::from(row) / 3.0);
        let lists = (0..count).map(|row| (row % 5 != 2).then(|| vec![Some(row); size(row) / 20]));
        let lists = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)) as ArrayRef;
        let pairs = arrow::array::StructArray::try_from(vec![
            ("list", lists),
            ("number", Arc::new(Float64Array::from_iter_values(numbers)) as ArrayRef),
        ]);
        let batch = RecordBatch::try_from_iter([
            ("text", Arc::new(StringArray::from_iter(texts)) as ArrayRef),
            ("pair", Arc::new(pairs.unwrap()) as ArrayRef),
        ]);
        normal_batch(&batch.unwrap()).unwrap()
    }

    fn slices(rows: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
        let starts = (0..rows.num_rows()).step_by(SLICE_ROWS);
        starts.map(|at| rows.slice(at, SLICE_ROWS.min(rows.num_rows() - at)))
    }

    #[test]
    fn any_number_of_threads_writes_what_the_writer_of_the_crate_writes() {
        let rows = rows();
        let leaves = ArrowSchemaConverter::new().convert(&rows.schema()).unwrap();
        let options = ArrowWriterOptions::new()
            .with_skip_arrow_metadata(true)
            .with_properties(properties(&leaves).unwrap());
        let mut writer =
            ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options).unwrap();
        slices(&rows).for_each(|slice| writer.write(&slice).unwrap());
        let expected = writer.into_inner().unwrap();

        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let written = pool.install(|| {
                let mut encoder = Encoder::new(Vec::new(), rows.schema(), u64::MAX).unwrap();
                for slice in slices(&rows) {
                    let bytes = batch_bytes(&slice, 0..slice.num_rows());
                    encoder.write(&slice, bytes).unwrap();
                }
                encoder.finish().unwrap()
            });
            assert!(written == expected, "{threads} threads");
        }
    }
}
