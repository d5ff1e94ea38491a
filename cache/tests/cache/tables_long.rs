//! Tables whose rows are so long that Arrow's offsets, of 31 bits, cannot count a batch of them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use refrain_cache::columns::column;
use refrain_cache::{TableReader, TableWriter};

/// Writes the same text in every row, and returns the rows that come back and their bytes.
fn round_trip(path: &Path, length: usize, rows: usize) -> (usize, u64) {
    let text = Arc::new(StringArray::from_iter_values(["x".repeat(length)]));
    let row = RecordBatch::try_from_iter([("text", text as _)]).unwrap();
    let mut writer = TableWriter::create(path, row.schema()).unwrap();
    (0..rows).for_each(|_| writer.write(&row).unwrap());
    writer.finish().unwrap();

    let (mut found, mut bytes) = (0, 0);
    for batch in TableReader::open(path).unwrap().batches(None, rows).unwrap() {
        let batch = batch.unwrap();
        found += batch.num_rows();
        let texts = column::<StringArray>(&batch, "text").unwrap();
        bytes += texts.iter().flatten().map(|text| text.len() as u64).sum::<u64>();
    }
    (found, bytes)
}

#[test]
fn a_slice_of_more_than_two_gib_is_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let (length, rows) = (2_100_000, 1_024);
    let read = round_trip(&folder.path().join("long.parquet"), length, rows);
    assert_eq!(read, (rows, (length * rows) as u64));
}

/// The header counts the text once, so that nothing tells a reader how long the rows are.
#[test]
fn equal_texts_that_are_stored_once_are_read_in_batches_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (length, rows) = (900_000, 2_500);
    let path = folder.path().join("equal.parquet");
    assert_eq!(round_trip(&path, length, rows), (rows, (length * rows) as u64));
    assert!(path.metadata().unwrap().len() < length as u64);
}
