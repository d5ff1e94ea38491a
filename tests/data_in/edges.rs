//! Files that are empty, have no rows, lie in several parts, or are written as other systems do.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;

use crate::artifacts::table;
use crate::space::Space;

use super::{digest, gzip, read, refused};

#[test]
fn files_without_anything_in_them_are_named() {
    let space = Space::new();
    for name in ["a.json", "a.csv", "a.parquet", "a.arrow", "d/b.json", "e/b.csv"] {
        space.write(name, "");
    }
    space.write("bom.json", "\u{feff}");
    space.write("d/a.json", "[{\"prompt\": \"a\"}]");
    space.write("e/a.csv", "prompt\na\n");
    std::fs::write(space.path("a.json.gz"), gzip("")).unwrap();
    for (path, expected) in [
        ("a.json", "a.json:1:1`: the file is empty; an empty list is `[]`"),
        ("bom.json", "bom.json:1:1`: the file is empty"),
        ("a.json.gz", "a.json.gz:1:1`: the file is empty"),
        ("d", "d/b.json:1:1`: the file is empty"),
        ("a.csv", "a.csv`: the file is empty"),
        ("e", "e/b.csv`: the file is empty"),
        ("a.parquet", "a.parquet`: the file is empty"),
        ("a.arrow", "a.arrow`: the file is empty"),
    ] {
        let said = refused(&space, &format!("path: {path}"));
        assert!(said.contains(expected), "{path}: {said}");
        assert!(said.starts_with("exit code 2"), "{path}: {said}");
    }
    // A list of nothing is a table, and so are no lines.
    space.write("list.json", " [ ]\n");
    space.write("lines.jsonl", "\n");
    assert!(read(&space, "path: list.json").is_empty());
    assert!(read(&space, "path: lines.jsonl").is_empty());
}

/// Writes the batches as an Arrow file, as a stream, and as Parquet.
fn write_columns(space: &Space, batches: &[RecordBatch]) {
    let schema = batches[0].schema();
    let create = |name: &str| File::create(space.path(name)).unwrap();
    let mut file = FileWriter::try_new(create("file.arrow"), &schema).unwrap();
    let mut stream = StreamWriter::try_new(create("stream.arrow"), &schema).unwrap();
    let mut parquet = ArrowWriter::try_new(create("file.parquet"), schema, None).unwrap();
    for batch in batches {
        file.write(batch).unwrap();
        stream.write(batch).unwrap();
        parquet.write(batch).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    parquet.close().unwrap();
}

#[test]
fn columns_without_rows_keep_their_types() {
    let fields =
        [Field::new("prompt", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
    let rows = RecordBatch::try_new(
        Arc::new(Schema::new(fields.to_vec())),
        vec![Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(Int64Array::from(vec![1, 2]))],
    )
    .unwrap();
    let none = rows.slice(0, 0);
    let space = Space::new();
    for (batches, count) in [
        (vec![rows.clone()], 2),
        (vec![none.clone()], 0),
        (vec![none.clone(), rows.slice(0, 1), none, rows.slice(1, 1)], 2),
    ] {
        write_columns(&space, &batches);
        let expected = digest(&space, "path: file.arrow");
        let found = table(&space, "rows");
        assert_eq!((found.num_rows(), found.num_columns()), (count, 3));
        assert_eq!(found.column_by_name("n").unwrap().data_type(), &DataType::Int64);
        for name in ["stream.arrow", "file.parquet"] {
            assert_eq!(digest(&space, &format!("path: {name}")), expected, "{name}");
        }
    }
}

#[test]
fn cells_are_read_as_spreadsheets_write_them() {
    let space = Space::new();
    space.write("plain.csv", "prompt,n\n\"a\r\nb\",1\nc,2\n");
    let expected = digest(&space, "path: plain.csv");
    // A byte-order mark before a quoted name, line ends of two bytes, and none behind the last
    // line.
    let text = "\u{feff}\"prompt\",\"n\"\r\n\"a\r\nb\",1\r\n\r\n\"c\",2";
    space.write("a.csv", text);
    space.write("d/a.csv", "\u{feff}prompt,n\r\n\"a\r\nb\",1\r\n");
    // The second shard has the columns in another order.
    space.write("d/b.csv", "\u{feff}\"n\",prompt\r\n2,c\r\n");
    std::fs::write(space.path("a.csv.gz"), gzip(text)).unwrap();
    for path in ["a.csv", "d", "a.csv.gz"] {
        assert_eq!(digest(&space, &format!("path: {path}")), expected, "{path}");
    }
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for name in ["wide.csv", "wide.json", "wide.jsonl"] {
        std::fs::write(space.path(name), &utf16).unwrap();
        let said = refused(&space, &format!("path: {name}"));
        assert!(said.contains("it is UTF-16; only UTF-8 is read"), "{said}");
    }
}

/// The members of a file end anywhere, and one of them may be empty.
#[test]
fn members_of_a_compressed_file_are_one_text() {
    let space = Space::new();
    for (name, text) in [
        ("a.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n"),
        ("a.json", "[{\"prompt\": \"a\"}, {\"prompt\": \"b\"}]"),
        ("a.csv", "prompt\n\"a\"\nb\n"),
    ] {
        space.write("plain.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n");
        let expected = digest(&space, "path: plain.jsonl");
        for at in [1, text.len() / 2, text.len()] {
            let (first, rest) = text.split_at(at);
            let members = [gzip(first), gzip(""), gzip(rest)].concat();
            let packed = format!("{name}.gz");
            std::fs::write(space.path(&packed), &members).unwrap();
            assert_eq!(digest(&space, &format!("path: {packed}")), expected, "{name} {at}");
            std::fs::write(space.path(&packed), &members[..members.len() - 5]).unwrap();
            let said = refused(&space, &format!("path: {packed}"));
            assert!(said.contains(&format!("cannot read `{packed}`")), "{said}");
        }
    }
}

#[test]
fn shards_have_the_columns_of_the_first() {
    let space = Space::new();
    space.write("j/a.jsonl", "{\"prompt\": \"a\", \"n\": 1}\n");
    space.write("j/b.jsonl", "");
    space.write("j/c.jsonl", "{\"prompt\": \"b\", \"m\": 2}\n");
    let rows = read(&space, "path: j");
    assert_eq!((rows[0].len(), rows[1].len()), (3, 3), "{rows:?}");
    assert!(!rows[0].contains_key("m") && rows[1]["m"] == 2, "{rows:?}");

    space.write("c/a.csv", "prompt,n\na,1\n");
    space.write("c/b.csv", "prompt\nb\n");
    space.write("d/a.csv", "prompt\na\n");
    space.write("d/b.csv", "prompt,n\nb,1\n");
    let said = refused(&space, "path: c");
    assert!(said.contains("b.csv` has no column `n`, which `"), "{said}");
    let said = refused(&space, "path: d");
    assert!(said.contains("b.csv` has a column `n`, which `"), "{said}");
    assert!(said.contains("have the same columns"), "{said}");
    for path in ["none/*.jsonl", "*.nothing", "c/?.jsonl"] {
        let said = refused(&space, &format!("path: \"{path}\""));
        assert!(said.contains(&format!("no file matches `{path}`")), "{said}");
    }
}
