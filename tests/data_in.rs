//! Tables as they lie on a disk: every format and compression, shards, lists that are exploded, rows
//! that are chosen by what they hold.

use std::fs::File;
use std::io::Write;

use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::json::LineDelimitedWriter;
use serde_json::{Map, Value, json};

use crate::artifacts::table;
use crate::space::Space;

mod edges; // files that are empty, in parts, or of one batch
mod instructions; // rows with instruction, input and output
mod lists; // lists whose elements become rows
mod papers; // the published data of the papers
mod replaced; // patterns in columns of text

/// A stage that takes any table.
const COPIED: &str = "s: { run: { command: [cp, \"${in.t}\", \"${out.o}\"], inputs: { t: rows }, outputs: { o: file } } }";

/// A workflow that reads `rows` with these options.
fn workflow(options: &str) -> String {
    format!("refrain: 1\ndata:\n  rows: {{ {options} }}\nstages:\n  {COPIED}\n")
}

/// Reads a source, and returns the digest of its table.
fn digest(space: &Space, options: &str) -> String {
    space.write("w.yaml", &workflow(options));
    let digests = space.digests("w.yaml", &["--only", "rows"]);
    digests["rows"]["main"]["digest"].as_str().unwrap_or_else(|| panic!("{digests:?}")).to_owned()
}

/// The rows of a node's table as JSON, without what is null.
fn rows(space: &Space, node: &str) -> Vec<Map<String, Value>> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&table(space, node)).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reads a source, and returns its rows.
fn read(space: &Space, options: &str) -> Vec<Map<String, Value>> {
    digest(space, options);
    rows(space, "rows")
}

/// The message to a source that must be refused.
fn refused(space: &Space, options: &str) -> String {
    space.write("w.yaml", &workflow(options));
    space.refuses(&["run", "w.yaml", "--quiet"])
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

const ROWS: [(&str, &str, i64, f64, bool); 3] = [
    ("one, \"two\"", "a\nb", 1, 0.5, true),
    ("three", "ü", -2, 2.0, false),
    ("four", "", 3, 1e3, true),
];

/// The same rows as JSON Lines, as a list, and as cells.
fn texts() -> (String, String, impl Fn(char) -> String) {
    let objects: Vec<Value> = ROWS
        .iter()
        .map(|(prompt, response, n, x, b)| {
            let response = if response.is_empty() { Value::Null } else { json!(response) };
            json!({ "prompt": prompt, "response": response, "n": n, "x": x, "b": b, "none": null })
        })
        .collect();
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let list = serde_json::to_string_pretty(&objects).unwrap();
    let cells = |delimiter: char| {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let row = |(prompt, response, n, x, b): &(&str, &str, i64, f64, bool)| {
            let cells = [
                quoted(prompt),
                if response.is_empty() { String::new() } else { quoted(response) },
                n.to_string(),
                x.to_string(),
                if *b { "True".into() } else { "False".into() },
                String::new(),
            ];
            cells.join(&delimiter.to_string())
        };
        let header = ["prompt", "response", "n", "x", "b", "none"].join(&delimiter.to_string());
        let rows: Vec<String> = std::iter::once(header).chain(ROWS.iter().map(row)).collect();
        rows.join("\r\n")
    };
    (lines, list, cells)
}

#[test]
fn the_same_rows_in_every_format_are_the_same_table() {
    let space = Space::new();
    let (lines, list, cells) = texts();
    space.write("a.jsonl", &lines);
    space.write("a.json", &list);
    space.write("lines.json", &lines);
    space.write("a.csv", &cells(','));
    space.write("a.tsv", &format!("\u{feff}{}", cells('\t')));
    space.write("unnamed", &list);
    std::fs::write(space.path("a.jsonl.gz"), gzip(&lines)).unwrap();
    // Two members, as `cat a.gz b.gz` makes them, under a name that does not tell it.
    let (first, rest) = lines.split_at(lines.find('\n').unwrap() + 1);
    std::fs::write(space.path("packed.jsonl"), [gzip(first), gzip(rest)].concat()).unwrap();
    std::fs::write(space.path("a.csv.zst"), zstd::encode_all(cells(',').as_bytes(), 3).unwrap())
        .unwrap();
    // In shards, in the order of their names; files of other kinds do not count.
    space.write("shards/b.jsonl", rest);
    space.write("shards/a.jsonl", first);
    space.write("shards/README.md", "not rows");

    let expected = digest(&space, "path: a.jsonl");
    let table = table(&space, "rows");
    // Columns of ours, and those that were made, come back as they are.
    let mut writer =
        StreamWriter::try_new(File::create(space.path("a.arrow")).unwrap(), &table.schema())
            .unwrap();
    writer.write(&table.slice(0, 1)).unwrap();
    writer.write(&table.slice(1, 2)).unwrap();
    writer.finish().unwrap();
    for (name, compression) in
        [("z.feather", CompressionType::ZSTD), ("l.ipc", CompressionType::LZ4_FRAME)]
    {
        let options = IpcWriteOptions::default().try_with_compression(Some(compression)).unwrap();
        let file = File::create(space.path(name)).unwrap();
        let mut writer = FileWriter::try_new_with_options(file, &table.schema(), options).unwrap();
        writer.write(&table).unwrap();
        writer.finish().unwrap();
    }

    for options in [
        "path: a.json",
        "path: lines.json",
        "path: a.csv",
        "path: a.tsv",
        "path: unnamed",
        "path: a.jsonl.gz",
        "path: packed.jsonl",
        "path: a.csv.zst",
        "path: shards",
        "path: \"sh*/?.jsonl\"",
        "path: a.arrow",
        "path: z.feather",
        "path: l.ipc",
        "path: z.feather, format: arrow",
    ] {
        assert_eq!(digest(&space, options), expected, "{options}");
    }
}

/// The digest of a folder is that of the lines of `b3sum`, and whatever changes in it is noticed.
#[test]
fn every_shard_counts() {
    let space = Space::new();
    space.write("d/a.jsonl", "{\"prompt\": \"a\"}\n");
    space.write("d/b.jsonl", "{\"prompt\": \"b\"}\n");
    assert_eq!(read(&space, "path: d").len(), 2);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(space.ran("w.yaml", &[]).len(), 1);
    assert_eq!(space.ran("w.yaml", &[]).len(), 0);
    assert_eq!(space.ran("w.yaml", &[]).len(), 0);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    // A new shard, a shard that is edited, one that is gone.
    space.write("d/c.jsonl", "{\"prompt\": \"c\"}\n");
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 3);
    assert!(space.ran("w.yaml", &[]).contains("rows"));
    assert_eq!(rows(&space, "rows").len(), 3);
    space.write("d/b.jsonl", "{\"prompt\": \"b2\"}\n");
    assert!(space.ran("w.yaml", &[]).contains("rows"));
    assert_eq!(rows(&space, "rows")[1]["prompt"], "b2");
    std::fs::remove_file(space.path("d/a.jsonl")).unwrap();
    assert!(space.ran("w.yaml", &[]).contains("rows"));
    // Other files do not count.
    space.write("d/notes.txt", "x");
    assert_eq!(space.ran("w.yaml", &[]).len(), 0);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    std::fs::remove_dir_all(space.path("d")).unwrap();
    assert_eq!(space.run(&["verify", "w.yaml", "--no-data"]).code, 0);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 3);
}

#[test]
fn what_is_wrong_with_a_file_names_its_line() {
    let space = Space::new();
    space.write("cells.csv", "prompt,n\n\"a\nb\",1\n\nc\n");
    space.write("twice.csv", "a,a\n1,2\n");
    space.write("list.json", "[\n {\"x\": 1},\n {\"x\": [1]}\n]");
    space.write("open.json", "[{\"x\": 1},\n {\"x\": 2}");
    space.write("not.json", "[{\"x\": 1},\n {\"x\": 2]}\n]");
    space.write("d/a.jsonl", "{\"x\": 1}\n");
    space.write("d/b.jsonl", "{\"x\": 1}\n\n{\"x\": {\"y\": 1}}\n");
    space.write("e/a.csv", "x,y\n1,2\n");
    space.write("e/b.csv", "y,z\n1,2\n");
    space.write("same.csv", "id\na\nb\na\n");
    space.write("data.bin", "\u{1}\u{2}");
    std::fs::write(space.path("a.jsonl"), [b'B', b'Z', b'h', b'9']).unwrap();
    std::fs::write(space.path("cut.arrow"), [0xff; 9]).unwrap();
    let cases = [
        ("path: cells.csv", "cells.csv:5:1`: the row has 1 cell, the first one 2"),
        ("path: twice.csv", "twice.csv:1:1`: the column `a` appears twice"),
        ("path: list.json", "list.json:3:8`: `x` is a list here, but a number in line 2"),
        ("path: list.json", "`drop: [x]`"),
        ("path: open.json", "the file ends in the middle of the list"),
        ("path: not.json", "not.json:2:9`: this is not JSON"),
        ("path: d", "b.jsonl:3:7`: `x` is a mapping here, but a number in line 1 of `"),
        ("path: e", "has no column `x`, which `"),
        ("path: same.csv", "same.csv:4:1`: duplicate id `a`, the first in line 2"),
        ("path: data.bin", "data.bin` cannot be told from its name"),
        ("path: a.jsonl", "compressed by bzip2"),
        ("path: cut.arrow", "the file is cut off"),
        ("path: d, split: train", "has no split `train`"),
        ("path: \"*.parquet\"", "no file matches"),
        ("path: d, format: hf", "is not a folder that `datasets` saved"),
        ("path: cells.csv, explode: n", "cannot be exploded by `n`"),
    ];
    for (options, expected) in cases {
        let said = refused(&space, options);
        assert!(said.contains(expected), "{options}: {said}");
        assert!(said.starts_with("exit code 2"), "{options}: {said}");
    }
}

/// Of a column with numbers, truths and texts nothing is lost, and an empty cell is null.
#[test]
fn cells_keep_what_they_hold() {
    let space = Space::new();
    space.write(
        "a.csv",
        ",zip,mixed,truth,large,messages\n\
         0,007,1,TRUE,18446744073709551615,\"[{\"\"from\"\": \"\"human\"\", \"\"value\"\": \"\"q\"\"}]\"\n\
         1,123,x,,1,\n",
    );
    let rows = read(&space, "path: a.csv");
    let first = json!({
        "column_1": 0, "zip": "007", "mixed": "1", "truth": true, "large": 18446744073709551615_u64,
        "messages": [{ "role": "user", "content": "q" }],
    });
    for (name, value) in first.as_object().unwrap() {
        assert_eq!(&rows[0][name], value, "{name}");
    }
    assert!(!rows[1].contains_key("truth") && rows[1]["zip"] == "123" && rows[1]["mixed"] == "x");
}
