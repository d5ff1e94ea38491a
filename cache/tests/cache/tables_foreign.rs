//! Parquet files of other programs: every codec, and columns that no table of ours can hold.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int32Builder, MapBuilder, RecordBatch, StringArray, StringBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use refrain_cache::{TableError, TableReader};

fn write(path: &Path, batch: &RecordBatch, codec: Compression) {
    let properties = WriterProperties::builder().set_compression(codec).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn every_codec_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    let texts = StringArray::from_iter_values((0..2_000).map(|row| format!("text {}", row % 300)));
    let batch = RecordBatch::try_from_iter_with_nullable([("text", Arc::new(texts) as _, true)]);
    let batch = batch.unwrap();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        write(&path, &batch, codec);
        let read = TableReader::open(&path).and_then(|reader| reader.read_all(None));
        assert_eq!(read.unwrap(), batch, "{codec:?}");
    }
}

#[test]
fn a_column_that_no_table_can_hold_is_named_and_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_value(1);
    map.append(true).unwrap();
    let text = |text: &str| Arc::new(StringArray::from_iter_values([text]));
    let batch = RecordBatch::try_from_iter([
        ("id", text("1") as _),
        ("extra", Arc::new(map.finish()) as _),
        ("prompt", text("a") as _),
    ]);
    write(&path, &batch.unwrap(), Compression::UNCOMPRESSED);

    let error = TableReader::open(&path).unwrap_err();
    assert!(matches!(&error, TableError::Unsupported { column, .. } if column == "extra"));
    assert_eq!(error.to_string(), "the column `extra` is of type map, which a table cannot hold");
    let error = TableReader::open_except(&path, &["exrta"]).unwrap_err();
    assert!(matches!(error, TableError::Missing { .. }), "{error}");

    let reader = TableReader::open_except(&path, &["extra"]).unwrap();
    let names = |batch: &RecordBatch| {
        let fields = batch.schema();
        fields.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&reader.read_all(None).unwrap()), ["id", "prompt"]);
    assert_eq!(names(&reader.read_all(Some(&["prompt"])).unwrap()), ["prompt"]);
    assert!(matches!(reader.read_all(Some(&["extra"])), Err(TableError::Missing { .. })));
}
