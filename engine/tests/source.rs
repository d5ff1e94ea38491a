//! Tables from JSON Lines and Parquet: one form, values as they stand in the file, faults with
//! their places.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, DurationSecondArray, Float64Array, Int64Array,
    ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray, StructBuilder,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::util::display::array_value_to_string;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, Cache, TableReader};
use refrain_engine::kind::type_name;
use refrain_engine::source::{SourceError, SourceSpec};

/// A folder with a cache, and the files that a test writes.
struct Files {
    folder: tempfile::TempDir,
    cache: Cache,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        Files { folder, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self, name: &str, options: Value) -> SourceSpec {
        let options: Map<String, Value> = options.as_object().unwrap().clone();
        SourceSpec::new(self.path(name), &options).unwrap()
    }

    fn jsonl(&self, text: &str, options: Value) -> Result<Artifact, SourceError> {
        std::fs::write(self.path("rows.jsonl"), text).unwrap();
        self.spec("rows.jsonl", options).import(&self.cache)
    }

    fn parquet(&self, batch: &RecordBatch, options: Value) -> Result<Artifact, SourceError> {
        let file = File::create(self.path("rows.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        self.spec("rows.parquet", options).import(&self.cache)
    }

    fn table(&self, artifact: &Artifact) -> RecordBatch {
        let path = self.cache.object_path(&artifact.digest);
        TableReader::open(&path).unwrap().read_all(None).unwrap()
    }

    /// The texts of a column of the table that JSON Lines become.
    fn column(&self, text: &str, options: Value, column: &str) -> Vec<String> {
        texts(&self.table(&self.jsonl(text, options).unwrap()), column)
    }

    /// The error of JSON Lines that are refused, without the folder.
    fn refused(&self, text: &str, options: Value) -> String {
        let error = self.jsonl(text, options).unwrap_err();
        let folder = format!("{}/", self.folder.path().display());
        format!("{error}; {}", error.hint().unwrap_or_default()).replace(&folder, "")
    }
}

fn texts(table: &RecordBatch, column: &str) -> Vec<String> {
    let column = table.column_by_name(column).unwrap_or_else(|| panic!("there is no `{column}`"));
    (0..column.len()).map(|row| array_value_to_string(column, row).unwrap()).collect()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Turns with a role, a content in parts, and calls of tools, as Hugging Face's datasets write them
/// to Parquet: every field of every turn is there, if as null.
fn conversation() -> ArrayRef {
    let part: Fields =
        vec![Field::new("type", DataType::Utf8, true), Field::new("text", DataType::Utf8, true)]
            .into();
    let mut parts = ListBuilder::new(StructBuilder::from_fields(part, 0));
    for words in [&["Wea", "ther?"][..], &[], &["20 degrees"]] {
        for word in words {
            let fields = parts.values();
            fields.field_builder::<StringBuilder>(0).unwrap().append_value("text");
            fields.field_builder::<StringBuilder>(1).unwrap().append_value(word);
            fields.append(true);
        }
        parts.append(!words.is_empty());
    }
    let call: Fields = vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("arguments", DataType::Utf8, true),
    ]
    .into();
    let mut calls = ListBuilder::new(StructBuilder::from_fields(call, 0));
    for name in [None, Some("w"), None] {
        if let Some(name) = name {
            let fields = calls.values();
            fields.field_builder::<StringBuilder>(0).unwrap().append_value(name);
            fields.field_builder::<StringBuilder>(1).unwrap().append_null();
            fields.append(true);
        }
        calls.append(name.is_some());
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("role", strings(&["user", "assistant", "assistant"])),
        ("content", Arc::new(parts.finish())),
        ("tool_calls", Arc::new(calls.finish())),
    ];
    let fields: Fields = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let turns =
        StructArray::new(fields, columns.into_iter().map(|(_, column)| column).collect(), None);
    let item = Arc::new(Field::new("item", turns.data_type().clone(), true));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([3]), Arc::new(turns), None))
}

#[test]
fn the_same_rows_from_both_formats_are_the_same_table() {
    let large = Decimal128Array::from(vec![Some(1 << 64), Some(-5)]);
    let large = large.with_precision_and_scale(38, 0).unwrap();
    let small = Decimal128Array::from(vec![1, 2]).with_precision_and_scale(20, 0).unwrap();
    let one_to_four = Int64Array::from(vec![1, 2, 3, 4]);
    let item = || Arc::new(Field::new("item", DataType::Int64, true));
    let lists =
        ListArray::new(item(), OffsetBuffer::from_lengths([1, 3]), Arc::new(one_to_four), None);
    let cases: Vec<(&str, Vec<(&str, ArrayRef)>)> = vec![
        (
            "{\"id\": 18446744073709551615, \"x\": 1}\n{\"id\": 18446744073709551614, \"x\": 18446744073709551615}\n",
            vec![
                ("id", Arc::new(UInt64Array::from(vec![u64::MAX, u64::MAX - 1]))),
                ("x", Arc::new(UInt64Array::from(vec![1, u64::MAX]))),
            ],
        ),
        // A type that is wider than its numbers makes no difference.
        (
            "{\"x\": 1, \"y\": 1, \"z\": [1]}\n{\"x\": 2, \"y\": 2, \"z\": [2, 3, 4]}\n",
            vec![
                ("x", Arc::new(UInt64Array::from(vec![1, 2]))),
                ("y", Arc::new(small)),
                ("z", Arc::new(lists)),
            ],
        ),
        (
            "{\"reference\": 18446744073709551616, \"x\": 18446744073709551616}\n{\"reference\": -5, \"x\": -5}\n",
            vec![("reference", Arc::new(large.clone())), ("x", Arc::new(large))],
        ),
        (
            "{\"prompt\": \"a\", \"reference\": 18, \"x\": 18}\n{\"prompt\": \"b\", \"reference\": 2.5, \"x\": 2.5}\n",
            vec![
                ("prompt", strings(&["a", "b"])),
                ("reference", Arc::new(Float64Array::from(vec![18.0, 2.5]))),
                ("x", Arc::new(Float64Array::from(vec![18.0, 2.5]))),
            ],
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Wea\"}, \"ther?\"]}, \
             {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"name\": \"w\"}]}, \
             {\"from\": \"gpt\", \"value\": \"20 degrees\", \"name\": null}]}\n",
            vec![("messages", conversation())],
        ),
    ];
    let files = Files::new();
    for (jsonl, columns) in cases {
        let parquet = batch(columns);
        let from_jsonl = files.jsonl(jsonl, json!({})).unwrap();
        let from_parquet = files.parquet(&parquet, json!({})).unwrap();
        let (a, b) = (files.table(&from_jsonl), files.table(&from_parquet));
        assert_eq!(a, b, "{jsonl}");
        assert_eq!(from_jsonl.digest, from_parquet.digest, "{jsonl}");
    }
}

#[test]
fn every_usual_codec_of_parquet_is_read() {
    let files = Files::new();
    let rows = "{\"prompt\": \"a\"}\n".to_owned() + &"{\"prompt\": \"b\"}\n".repeat(500);
    let expected = files.jsonl(&rows, json!({})).unwrap().digest;
    let prompts: Vec<&str> = std::iter::once("a").chain(std::iter::repeat_n("b", 500)).collect();
    let table = batch(vec![("prompt", strings(&prompts))]);
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4_RAW,
        Compression::LZ4,
        Compression::ZSTD(Default::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let file = File::create(files.path("rows.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties)).unwrap();
        writer.write(&table).unwrap();
        writer.close().unwrap();
        let read = files.spec("rows.parquet", json!({})).import(&files.cache).unwrap();
        assert_eq!(read.digest, expected, "{codec}");
    }
}

#[test]
fn text_is_as_it_stands_in_the_file() {
    let files = Files::new();
    let rows = "{\"id\": 1, \"reference\": 18, \"other\": 18}\n{\"id\": 1.0, \"reference\": 2.50, \"other\": 2.5}\n\
                {\"id\": \"1e0\", \"reference\": 18446744073709551616, \"other\": true}\n";
    assert_eq!(files.column(rows, json!({}), "reference"), ["18", "2.50", "18446744073709551616"]);
    assert_eq!(files.column(rows, json!({}), "id"), ["1", "1.0", "1e0"]);
    // A column of several types is text, and its numbers are what they were.
    assert_eq!(files.column(rows, json!({}), "other"), ["18", "2.5", "true"]);
    let renamed = json!({ "columns": { "response": "other" } });
    assert_eq!(files.column(rows, renamed, "response"), ["18", "2.5", "true"]);
    // Whole numbers that a float cannot hold make the column text, not other numbers.
    let mixed = "{\"x\": 9007199254740993}\n{\"x\": 2.5}\n";
    assert_eq!(files.column(mixed, json!({}), "x"), ["9007199254740993", "2.5"]);
}

#[test]
fn a_fault_of_a_row_names_file_line_and_remedy() {
    let files = Files::new();
    let cases = [
        (
            "{\"id\": \"a\"}\n\n{\"id\": \"b\"}\n \n{\"id\": \"a\"}\n",
            "`rows.jsonl:5:1`: duplicate id `a`, the first in line 1; to have ids made, rename",
        ),
        ("\n{\"id\": null, \"x\": 1}\n", "`rows.jsonl:2:1`: the row has no `id`; "),
        (
            "{\"x\": 1}\n{\"y\": 2, \"x\": {\"z\": 1}}\n",
            "`rows.jsonl:2:15`: `x` is a mapping here, but a number in line 1; leave the column out: `drop: [x]`",
        ),
        ("{\"x\": 1}\n{\"x\": 1e999}\n", "`rows.jsonl:2:1`: `x` is 1e999, which is too large"),
        (
            "{\"messages\": [{\"role\": \"narrator\", \"content\": \"a\"}]}\n",
            "`rows.jsonl:1:14`: a turn of `messages` has the unknown role `narrator`; rename it",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}\n",
            "`rows.jsonl:1:14`: the `content` of a turn of `messages` has a part `image_url`; only parts",
        ),
    ];
    for (rows, expected) in cases {
        let said = files.refused(rows, json!({}));
        assert!(said.starts_with(expected), "{rows}: {said}");
    }
    let twice = batch(vec![("id", strings(&["a", "b", "a"]))]);
    let error = files.parquet(&twice, json!({ "rows": "1.." })).map(|_| ());
    assert!(error.is_ok(), "a row that is not selected is not looked at");
    let error = files.parquet(&twice, json!({})).unwrap_err().to_string();
    assert!(error.ends_with("row 2: duplicate id `a`, the first in row 0"), "{error}");
}

#[test]
fn columns_are_renamed_or_left_out_but_never_replaced() {
    let files = Files::new();
    let rows = "{\"response\": \"a\", \"x\": \"b\"}\n";
    let said = files.refused(rows, json!({ "columns": { "response": "x" } }));
    assert!(said.contains("has a column `response` already, which `x` would replace"), "{said}");
    assert!(said.contains("`columns: { response: x, old_response: response }`"), "{said}");
    let both = json!({ "columns": { "response": "x", "old": "response" } });
    assert_eq!(files.column(rows, both.clone(), "response"), ["b"]);
    assert_eq!(files.column(rows, both, "old"), ["a"]);
    let dropped = json!({ "columns": { "response": "x" }, "drop": ["response"] });
    assert_eq!(files.column(rows, dropped, "response"), ["b"]);
    let said = files.refused(rows, json!({ "drop": ["y"] }));
    assert!(said.contains("has no column `y`, which `drop` leaves out; its columns are"), "{said}");

    // What no table can hold can be left out, in both formats.
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    for odd in ["{}", "[1, [2]]", &deep, "[{\"a\": 1e999}]"] {
        let rows = format!("{{\"x\": 1, \"odd\": {odd}}}\n");
        let said = files.refused(&rows, json!({}));
        assert!(said.ends_with("leave the column out: `drop: [odd]`"), "{odd}: {said}");
        assert_eq!(files.column(&rows, json!({ "drop": ["odd"] }), "x"), ["1"]);
    }
    let durations = Arc::new(DurationSecondArray::from(vec![1]));
    let odd = batch(vec![("a", strings(&["1"])), ("odd", durations), ("x", strings(&["2"]))]);
    let error = files.parquet(&odd, json!({})).unwrap_err();
    assert!(error.hint().unwrap_or_default().contains("`drop: [odd]`"), "{error}");
    let table = files.table(&files.parquet(&odd, json!({ "drop": ["odd"] })).unwrap());
    assert_eq!((texts(&table, "a"), texts(&table, "x")), (vec!["1".into()], vec!["2".into()]));
}

/// An option that was added later moves no key of a source that does not use it.
#[test]
fn only_options_that_are_given_enter_the_key() {
    let files = Files::new();
    let plain = files.spec("rows.jsonl", json!({})).options();
    assert_eq!(plain, json!({ "format": "jsonl", "columns": {}, "rows": null }));
    let dropped = files.spec("rows.jsonl", json!({ "drop": ["b", "a", "b"] })).options();
    assert_eq!(dropped["drop"], json!(["a", "b"]));
}

#[test]
fn own_samples_share_an_id() {
    let files = Files::new();
    let row = |id: &str, sample: &str| format!("{{\"id\": \"{id}\", \"sample\": {sample}}}\n");
    let rows = [row("a", "0"), row("a", "1"), row("b", "0")].concat();
    assert_eq!(files.column(&rows, json!({}), "sample"), ["0", "1", "0"]);
    let said = files.refused(&(rows.clone() + &row("a", "1")), json!({}));
    assert!(said.contains(":4:1`: duplicate id `a` with sample 1, the first in line 2"), "{said}");
    let said = files.refused(&(rows + &row("a", "null")), json!({}));
    assert!(said.contains(":4:1`: the row with id `a` has no `sample`"), "{said}");
}

#[test]
fn columns_are_never_cast_from_one_kind_to_another() {
    let files = Files::new();
    let cases = [
        ("logprobs", "[true]", "list of bool"),
        ("logprobs", "[null, -1]", "list of float32"),
        ("logprobs", "[]", "list of float32"),
        ("token_ids", "[1.5]", "list of float64"),
        ("token_ids", "[1]", "list of int32"),
        ("loss_mask", "[0, 1]", "list of int64"),
        ("correct", "1", "int64"),
        ("correct", "\"true\"", "text"),
        ("perplexity", "\"1.5\"", "text"),
        ("perplexity", "1", "float64"),
        ("sample", "\"0\"", "text"),
        ("prompt", "[1]", "list of int64"),
        ("reference", "null", "text"),
    ];
    for (name, value, expected) in cases {
        let table = files.jsonl(&format!("{{\"{name}\": {value}}}\n"), json!({})).unwrap();
        let table = files.table(&table);
        let found = table.column_by_name(name).unwrap().data_type().clone();
        assert_eq!(type_name(&found), expected, "{name}: {value}");
    }
    let truths = batch(vec![("perplexity", Arc::new(BooleanArray::from(vec![true])))]);
    let table = files.table(&files.parquet(&truths, json!({})).unwrap());
    assert_eq!(texts(&table, "perplexity"), ["true"]);
    let said = files.refused("{\"sample\": 3000000000}\n", json!({}));
    assert!(said.starts_with("`rows.jsonl:1:1`: a value of column `sample`"), "{said}");
}

#[test]
fn conversations_of_every_maker_have_one_form() {
    let files = Files::new();
    // Plain turns have the columns that they always had.
    let plain = "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}\n\
                 {\"conversations\": [{\"from\": \"User\", \"value\": \"c\"}, {\"from\": \"chatgpt\", \"value\": \"d\"}]}\n\
                 {\"conversations\": [{\"from\": \"user\", \"value\": \"e\"}, {\"from\": \"model\", \"value\": \"f\"}]}\n";
    let renamed = json!({ "columns": { "messages": "conversations" } });
    let table = files.table(&files.jsonl(plain, renamed).unwrap());
    let names: Vec<String> = table.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "messages", "response"]);
    assert_eq!(texts(&table, "response"), ["b", "d", "f"]);
    assert_eq!(texts(&table, "messages")[1], "[{role: user, content: c}]");

    // Under another name they are a column like any other.
    let moved = json!({ "columns": { "other": "messages" } });
    let rows = "{\"messages\": [{\"speaker\": \"a\"}]}\n";
    assert_eq!(files.column(rows, moved, "other"), ["[{speaker: a}]"]);

    let rows = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": null, \
                \"tool_calls\": [{\"n\": 12345678901234567890123}]}], \"tools\": [{\"name\": \"w\", \"x\": null}]}\n\
                {\"messages\": [{\"role\": \"user\", \"content\": \"b\", \"name\": \"eve\"}], \"tools\": []}\n";
    let table = files.table(&files.jsonl(rows, json!({})).unwrap());
    assert_eq!(
        texts(&table, "response_fields"),
        [r#"{"tool_calls":[{"n":12345678901234567890123}]}"#, ""]
    );
    assert_eq!(texts(&table, "response"), ["", ""]);
    assert_eq!(table.column_by_name("response").unwrap().null_count(), 1);
    assert_eq!(texts(&table, "tools"), [r#"[{"name":"w"}]"#, "[]"]);
    let second = &texts(&table, "messages")[1];
    assert_eq!(second, r#"[{role: user, content: b, fields: {"name":"eve"}}]"#);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    let files = Files::new();
    let row = "{\"prompt\": \"a row of some length\", \"response\": \"and its answer\"}\n";
    std::fs::write(files.path("rows.jsonl"), row.repeat(50_000)).unwrap();
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().append(true).open(files.path("rows.jsonl")).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(row.as_bytes()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let result = files.spec("rows.jsonl", json!({})).import(&files.cache);
        done.store(true, Ordering::Relaxed);
        result
    });
    assert!(matches!(result, Err(SourceError::Changed { .. })), "{result:?}");
}
