//! Tables: what comes back, and bytes that depend on schema and rows alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBuilder, DictionaryArray, FixedSizeListArray,
    Float32Array, Float32Builder, Float64Array, Int32Array, Int32Builder, Int64Array,
    LargeStringArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StringViewArray,
    StructBuilder, TimestampSecondArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int8Type, Schema, SchemaRef};
use proptest::prelude::*;
use refrain_cache::columns::{column, list_column, optional_column, with_column, without_column};
use refrain_cache::{
    SLICE_ROWS, TableError, TableInfo, TableReader, TableWriter, digest_file, normal_batch,
    type_name,
};

/// Rows with every type that stages use, nulls and empty lists among them; the values depend on the
/// row number alone.
pub fn rows(start: usize, count: usize) -> RecordBatch {
    let range = start..start + count;
    let mut tokens = ListBuilder::new(Int32Builder::new());
    let mut logprobs = ListBuilder::new(Float32Builder::new());
    let mut mask = ListBuilder::new(BooleanBuilder::new());
    let role_content = [("role", DataType::Utf8), ("content", DataType::Utf8)]
        .map(|(n, t)| Field::new(n, t, true));
    let mut messages = ListBuilder::new(StructBuilder::from_fields(role_content.to_vec(), 0));
    for i in range.clone() {
        for j in 0..i % 7 {
            let hash = (i * 31 + j).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            tokens.values().append_value((hash >> 40) as i32);
            logprobs.values().append_option((j > 0).then_some(-((hash >> 33) as f32) / 1e8));
            mask.values().append_value(hash & 1 == 0);
            messages.values().field_builder::<StringBuilder>(0).unwrap().append_value("user");
            messages
                .values()
                .field_builder::<StringBuilder>(1)
                .unwrap()
                .append_value(format!("{i} {j} é"));
            messages.values().append(true);
        }
        tokens.append(true);
        logprobs.append(true);
        mask.append(i % 5 != 0);
        messages.append(i % 3 != 0);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(range.clone().map(|i| Some(i.to_string())).collect::<StringArray>())),
        (
            "response",
            Arc::new(
                range
                    .clone()
                    .map(|i| (i % 4 > 0).then(|| "text ".repeat(i % 9)))
                    .collect::<StringArray>(),
            ),
        ),
        ("sample", Arc::new(range.clone().map(|i| i as i32 % 8).collect::<Int32Array>())),
        (
            "perplexity",
            Arc::new(
                range
                    .clone()
                    .map(|i| (i % 6 > 0).then(|| (i as f64).sqrt()))
                    .collect::<Float64Array>(),
            ),
        ),
        ("correct", Arc::new(range.map(|i| Some(i % 2 == 0)).collect::<BooleanArray>())),
        ("token_ids", Arc::new(tokens.finish())),
        ("logprobs", Arc::new(logprobs.finish())),
        ("loss_mask", Arc::new(mask.finish())),
        ("messages", Arc::new(messages.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn write(path: &Path, schema: SchemaRef, batches: &[RecordBatch]) -> TableInfo {
    let mut writer = TableWriter::create(path, schema).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap()
}

/// Writes rows `0..sum` in batches of the given sizes, and returns the file's bytes.
fn written(sizes: &[usize]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    let mut start = 0;
    let batches: Vec<RecordBatch> = sizes
        .iter()
        .map(|&size| {
            start += size;
            rows(start - size, size)
        })
        .collect();
    write(&path, rows(0, 0).schema(), &batches);
    fs::read(&path).unwrap()
}

fn read(path: &Path) -> RecordBatch {
    TableReader::open(path).unwrap().read_all(None).unwrap()
}

#[test]
fn a_table_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    let batch = rows(0, 20_000);
    let info = write(&path, batch.schema(), std::slice::from_ref(&batch));
    assert_eq!((info.digest, info.bytes), digest_file(&path).unwrap());
    assert_eq!(info.rows, 20_000);
    let reader = TableReader::open(&path).unwrap();
    assert_eq!(reader.rows(), 20_000);
    assert_eq!(reader.schema(), &batch.schema());
    let types: Vec<String> =
        reader.schema().fields().iter().map(|f| type_name(f.data_type())).collect();
    let expected = [
        "utf8",
        "utf8",
        "int32",
        "float64",
        "bool",
        "list<int32>",
        "list<float32>",
        "list<bool>",
        "list<struct<role: utf8, content: utf8>>",
    ];
    assert_eq!(types, expected);
    assert_eq!(read(&path), batch);
}

#[test]
fn empty_tables_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    assert_eq!(write(&path, rows(0, 0).schema(), &[rows(0, 0)]).rows, 0);
    assert_eq!(read(&path), rows(0, 0));
    assert_eq!(
        TableReader::open(&path).unwrap().read_all(Some(&["sample"])).unwrap().num_columns(),
        1
    );
}

#[test]
fn batches_stream_the_columns_that_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    let batch = rows(0, 2_500);
    write(&path, batch.schema(), std::slice::from_ref(&batch));
    let reader = TableReader::open(&path).unwrap();
    let batches: Vec<RecordBatch> =
        reader.batches(Some(&["sample", "id"]), 1_000).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    let wanted = batch.project(&[0, 2]).unwrap();
    assert_eq!(arrow::compute::concat_batches(&wanted.schema(), &batches).unwrap(), wanted);
    let error = reader.batches(Some(&["ids"]), 1_000).err().unwrap();
    assert!(
        error.to_string().starts_with("the column `ids` is missing; there are `id`, `response`"),
        "{error}"
    );
}

/// A released reader must find in a lock the digest that a table has today: another one here is a
/// new version of `table`.
#[test]
fn the_bytes_of_this_table_never_change() {
    let bytes = written(&[3_000]);
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "9352f71bf0822ae5c4a5d00f7e2fb5031798a5e9788b9266b2342a2f33283806"
    );
    let created_by = b"refrain";
    assert!(bytes.windows(created_by.len()).any(|window| window == created_by));
    for foreign in [&b"parquet-rs"[..], b"ARROW:schema"] {
        assert!(!bytes.windows(foreign.len()).any(|window| window == foreign));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_cut_into_batches_leaves_no_trace(cuts in prop::collection::vec(0..20_000_usize, 0..12)) {
        let mut borders = cuts.clone();
        borders.extend([0, 20_000]);
        borders.sort_unstable();
        let sizes: Vec<usize> = borders.windows(2).map(|pair| pair[1] - pair[0]).collect();
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        prop_assert!(&written(&sizes) == WHOLE.get_or_init(|| written(&[20_000])), "{sizes:?}");
    }
}

/// Rows of 3 kB that do not repeat, so that dictionaries overflow and a row group has many pages.
fn wide_rows(start: usize, count: usize) -> RecordBatch {
    let text = |i: usize| blake3::hash(&i.to_le_bytes()).to_hex().as_str().repeat(24);
    let texts: StringArray = (start..start + count).map(|i| Some(text(i))).collect();
    let mut tokens = ListBuilder::new(Int32Builder::new());
    for i in start..start + count {
        tokens.append_value(
            (0..400).map(|j| Some(((i * 400 + j) as i32).wrapping_mul(0x9E37_79B1_u32 as i32))),
        );
    }
    let columns = [("text", texts.boxed()), ("token_ids", tokens.finish().boxed())];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
        .unwrap()
}

#[test]
fn the_cut_into_batches_moves_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    let whole = wide_rows(0, 5_000);
    let digest = write(&path, whole.schema(), std::slice::from_ref(&whole)).digest;
    for size in [300, 1_023, 1_024, 1_500, 2_048, 4_999] {
        let cut = (0..5_000).step_by(size).map(|start| whole.slice(start, size.min(5_000 - start)));
        let batches: Vec<RecordBatch> = cut.collect();
        assert_eq!(write(&path, whole.schema(), &batches).digest, digest, "batches of {size}");
    }
}

#[test]
fn batches_of_any_constant_size_leave_no_trace() {
    let whole = written(&[3_000]);
    for size in [1, 7, SLICE_ROWS - 1, SLICE_ROWS, SLICE_ROWS + 1, 2_999] {
        let mut sizes = vec![size; 3_000 / size];
        sizes.push(3_000 % size);
        assert!(written(&sizes) == whole, "batches of {size}");
    }
}

/// The same rows, in types that other programs choose for them, and hidden differences behind nulls
/// and slices.
#[test]
fn the_same_rows_in_other_types_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"].map(Some);
    let texts: [ArrayRef; 4] = [
        Arc::new(StringArray::from(names.to_vec())),
        Arc::new(LargeStringArray::from(names.to_vec())),
        Arc::new(StringViewArray::from(names.to_vec())),
        Arc::new(names.into_iter().collect::<DictionaryArray<Int8Type>>()),
    ];
    let lists: [ArrayRef; 2] = [
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            [1.0, 2.0, 3.0].map(|x| Some([Some(x)])),
            1,
        )),
        {
            let named = Field::new("element", DataType::Float32, false);
            let mut list = ListBuilder::new(Float32Builder::new()).with_field(named);
            for x in [9.0, 1.0, 2.0, 3.0] {
                list.append_value([Some(x)]);
            }
            list.finish().slice(1, 3).boxed()
        },
    ];
    let mut digests = Vec::new();
    for (text, list) in texts.iter().zip(lists.iter().cycle()) {
        for nullable in [false, true] {
            let field = |name: &str, array: &ArrayRef| {
                let metadata = [("origin".to_owned(), "elsewhere".to_owned())]
                    .into_iter()
                    .collect::<std::collections::HashMap<_, _>>();
                Field::new(name, array.data_type().clone(), nullable).with_metadata(metadata)
            };
            let schema = Arc::new(Schema::new(vec![field("text", text), field("list", list)]));
            let batch =
                RecordBatch::try_new(schema.clone(), vec![text.clone(), list.clone()]).unwrap();
            digests.push(write(&folder.path().join("table"), schema, &[batch]).digest);
        }
    }
    assert!(digests.iter().all(|digest| digest == &digests[0]), "{digests:?}");
}

trait Boxed {
    fn boxed(self) -> ArrayRef;
}

impl<A: Array + 'static> Boxed for A {
    fn boxed(self) -> ArrayRef {
        Arc::new(self)
    }
}

#[test]
fn every_normal_type_comes_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    let numbers = Int64Array::from(vec![Some(1), None, Some(100)]).boxed();
    let types = [
        "Int8",
        "Int16",
        "UInt8",
        "UInt16",
        "UInt32",
        "UInt64",
        "Float16",
        "Float32",
        "Date32",
        "Date64",
        "Time32(s)",
        "Time32(ms)",
        "Time64(µs)",
        "Time64(ns)",
        "Timestamp(s)",
        "Timestamp(ms)",
        "Timestamp(µs)",
        "Timestamp(ns)",
        "Timestamp(s, \"+02:00\")",
        "Decimal128(12, 2)",
        "Decimal32(5, 1)",
    ];
    for name in types {
        let data_type: DataType = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let via = if matches!(data_type, DataType::Time32(_) | DataType::Date32) {
            DataType::Int32
        } else {
            DataType::Int64
        };
        let array =
            arrow::compute::cast(&arrow::compute::cast(&numbers, &via).unwrap(), &data_type)
                .unwrap();
        assert_eq!(array.null_count(), 1, "{name}");
        let batch = RecordBatch::try_from_iter([("x", array)]).unwrap();
        write(&path, batch.schema(), std::slice::from_ref(&batch));
        assert_eq!(read(&path), normal_batch(&batch).unwrap(), "{name}");
    }
    let seconds =
        RecordBatch::try_from_iter([("x", TimestampSecondArray::from(vec![i64::MAX]).boxed())])
            .unwrap();
    assert!(matches!(normal_batch(&seconds), Err(TableError::Rows { .. })));
}

#[test]
fn columns_that_a_table_cannot_hold_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let create = |fields: Vec<Field>| {
        TableWriter::create(&folder.path().join("table"), Arc::new(Schema::new(fields)))
            .err()
            .map(|e| e.to_string())
    };
    let empty = DataType::Struct(Vec::<Field>::new().into());
    let list = DataType::List(Arc::new(Field::new("item", empty, true)));
    let error = create(vec![Field::new("odd", list, true)]).unwrap();
    assert_eq!(error, "the column `odd` is of type list<struct<>>, which a table cannot hold");
    let twice = vec![Field::new("x", DataType::Int32, true), Field::new("x", DataType::Utf8, true)];
    assert_eq!(create(twice).unwrap(), "the column `x` appears twice");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn rows_of_another_schema_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer =
        TableWriter::create(&folder.path().join("table"), rows(0, 0).schema()).unwrap();
    let error = writer.write(&rows(0, 3).project(&[0, 1]).unwrap()).unwrap_err();
    assert!(matches!(error, TableError::Rows { .. }), "{error}");
}

#[test]
fn typed_columns_say_what_is_wrong() {
    let batch = rows(0, 20);
    assert_eq!(column::<StringArray>(&batch, "id").unwrap().value(3), "3");
    let (lists, values) = list_column::<Int32Array>(&batch, "token_ids").unwrap();
    assert_eq!(lists.value_offsets()[20] as usize, values.len());
    assert!(optional_column::<StringArray>(&batch, "reference").unwrap().is_none());
    let text = |result: Result<(), TableError>| result.unwrap_err().to_string();
    assert_eq!(
        text(column::<StringArray>(&batch, "sample").map(drop)),
        "the column `sample` is int32, expected utf8"
    );
    assert_eq!(
        text(list_column::<Float32Array>(&batch, "token_ids").map(drop)),
        "the column `token_ids` is list<int32>, expected list<float32>"
    );
    assert!(
        text(column::<StringArray>(&batch, "text").map(drop))
            .starts_with("the column `text` is missing; there are `id`")
    );
    let replaced = with_column(&batch, "id", batch.column(2).clone()).unwrap();
    assert_eq!(replaced.schema().field(0).name(), "id");
    assert_eq!(column::<Int32Array>(&replaced, "id").unwrap().value(9), 1);
    let added = with_column(&batch, "new", batch.column(2).clone()).unwrap();
    assert_eq!(added.schema().index_of("new").unwrap(), batch.num_columns());
    assert_eq!(without_column(&added, "new").unwrap(), batch);
    assert!(with_column(&batch, "new", rows(0, 3).column(2).clone()).is_err());
}

/// A table that pandas wrote is read, and copied it is the same rows.
#[test]
fn a_table_of_another_program_is_read() {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/gsm8k/train.parquet"
    ));
    if !path.exists() {
        eprintln!("skipped: `{}` is not there", path.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.parquet");
    let table = read(&path);
    assert_eq!(table.num_rows(), 7_473);
    let question = column::<StringArray>(&table, "question").unwrap();
    assert!(question.value(0).starts_with("Natalia sold clips to 48 of her friends in April"));
    write(&copy, table.schema(), std::slice::from_ref(&table));
    assert_eq!(read(&copy), table);
}
