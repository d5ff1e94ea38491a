//! Tables as they lie on a disk: every format and compression, shards, lists that are exploded, rows
//! that are chosen by what they hold.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::json::LineDelimitedWriter;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::artifacts::table;
use crate::space::{Space, shared};

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

const LISTS: &str = r#"{"q": "one", "meta": 1, "answers": [{"text": "a", "good": true}, {"text": "b", "good": false, "meta": 2}], "other": ["x", {"y": 1}]}
{"q": "two", "meta": 3, "answers": [{"text": "c", "good": true}, "bare", null], "other": []}
{"q": "none", "meta": 4, "answers": [], "other": null}
"#;

#[test]
fn lists_become_rows_of_their_elements() {
    let space = Space::new();
    space.write("rows.jsonl", LISTS);
    let options =
        "path: rows.jsonl, explode: answers, drop: [other], columns: { prompt: q, response: text }";
    let found = read(&space, options);
    let column = |name: &str| -> Vec<Value> {
        found.iter().map(|row| row.get(name).cloned().unwrap_or(Value::Null)).collect()
    };
    assert_eq!(column("response"), [json!("a"), json!("b"), json!("c"), json!(null), json!(null)]);
    assert_eq!(
        column("answers"),
        [json!(null), json!(null), json!(null), json!("bare"), json!(null)]
    );
    // The element's own wins.
    assert_eq!(column("meta"), [json!(1), json!(2), json!(3), json!(3), json!(3)]);
    assert_eq!(column("sample"), [json!(0), json!(1), json!(0), json!(1), json!(2)]);
    let ids = column("id");
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[3] == ids[4] && ids[0] != ids[2]);

    // Rows are chosen of the elements, which keep their numbers.
    let chosen = |rows: &str| read(&space, &format!("{options}, rows: {{ {rows} }}"));
    let good = chosen("where: good");
    assert_eq!(good.iter().map(|row| row["response"].clone()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(chosen("where: { response: not_null, meta: { \">\": 1 } }").len(), 2);
    assert_eq!(chosen("where: { response: not_null }, first: 2").len(), 2);
    let drawn = chosen("where: { response: not_null }, sample: 2, seed: 3");
    assert_eq!(drawn.len(), 2);
    assert_eq!(drawn, chosen("where: { response: not_null }, sample: 2, seed: 3"));
    let said = refused(&space, &format!("{options}, rows: {{ where: {{ goood: true }} }}"));
    assert!(said.contains("`where` names `goood`") && said.contains("`good`"), "{said}");
    space.write("few.jsonl", "{\"answers\": [1]}\n");
    let said = refused(&space, "path: few.jsonl, explode: answer");
    assert!(said.contains("has no column `answer`") && said.contains("did you mean"), "{said}");
    let said = refused(&space, "path: rows.jsonl, explode: q, drop: [other]");
    assert!(said.contains("rows.jsonl:1:7`: `q` is not a list here"), "{said}");
}

/// From Parquet and from Arrow as from JSON Lines, where no element lacks a field.
#[test]
fn lists_are_exploded_in_every_format() {
    let space = Space::new();
    let lines = "{\"q\": \"one\", \"n\": 1, \"l\": [{\"a\": \"x\", \"n\": 5}, {\"a\": null, \"n\": 6}], \"s\": [1, 2]}\n\
                 {\"q\": \"two\", \"n\": 2, \"l\": null, \"s\": []}\n\
                 {\"q\": \"three\", \"n\": 3, \"l\": [{\"a\": \"y\", \"n\": 7}], \"s\": [3]}\n";
    space.write("rows.jsonl", lines);
    digest(&space, "path: rows.jsonl, columns: { prompt: q }");
    let path = space.run(&["show", "w.yaml", "rows", "--path"]).stdout;
    std::fs::copy(space.path(path.trim()), space.path("rows.parquet")).unwrap();
    let table = table(&space, "rows");
    let file = File::create(space.path("rows.arrow")).unwrap();
    let mut writer = StreamWriter::try_new(file, &table.schema()).unwrap();
    writer.write(&table).unwrap();
    writer.finish().unwrap();
    for (column, rows) in [("l", 3), ("s", 3)] {
        let more = format!("explode: {column}, drop: [{}]", if column == "l" { "s" } else { "l" });
        let expected =
            digest(&space, &format!("path: rows.jsonl, columns: {{ prompt: q }}, {more}"));
        assert_eq!(self::rows(&space, "rows").len(), rows);
        for file in ["rows.parquet", "rows.arrow"] {
            // The table has ids of its own, which were made of the same prompts.
            let found = digest(&space, &format!("path: {file}, {more}"));
            assert_eq!(found, expected, "{file} {column}");
        }
    }
    let found = read(&space, "path: rows.parquet, explode: l, drop: [s, n]");
    assert!(found.iter().all(|row| !row.contains_key("n")), "{found:?}");
    let said = refused(&space, "path: rows.parquet, explode: l, drop: [m]");
    assert!(said.contains("has no column `m`"), "{said}");
    let said = refused(&space, "path: rows.parquet, explode: n");
    assert!(said.contains("which is int64, not a list"), "{said}");
}

/// A hexadecimal SHA-256.
fn sha256(parts: impl IntoIterator<Item = String>) -> String {
    let mut hasher = Sha256::new();
    parts.into_iter().for_each(|part| hasher.update(part.as_bytes()));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with sorted keys, without spaces.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| name.as_str());
            let entry =
                |(name, value): (&String, &Value)| format!("{}:{}", json!(name), sorted(value));
            format!("{{{}}}", entries.into_iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn expected(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

#[test]
fn a_data_set_that_was_saved_is_read_as_it_was() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/hf-arrow");
    let expected = expected(&folder);
    let space = Space::new();
    let path = folder.join("dataset").display().to_string();
    for (split, expected) in expected.as_object().unwrap() {
        let mut found = read(&space, &format!("path: {path}, split: {split}"));
        assert_eq!(found.len() as u64, expected["rows"].as_u64().unwrap(), "{split}");
        found.iter_mut().for_each(|row| drop(row.remove("id")));
        assert_eq!(sorted(&json!(found[0])), sorted(&expected["first_row"]));
        assert_eq!(sorted(&json!(found[found.len() - 1])), sorted(&expected["last_row"]));
        let lines: Vec<String> = found.iter().map(|row| sorted(&json!(row))).collect();
        assert_eq!(sha256([lines.join("\n")]), expected["rows_as_jsonl_sha256"], "{split}");
    }
    // As a conversation, the answer apart.
    let options =
        format!("path: {path}, split: mbpp-validation, columns: {{ messages: conversations }}");
    let found = read(&space, &options);
    assert_eq!(found[0]["messages"][0]["role"], "user");
    assert!(found[0]["response"].as_str().unwrap().starts_with("```python\n"));
    // The folder of a split alone.
    assert_eq!(read(&space, &format!("path: {path}/mbpp-validation, format: hf")).len(), 90);
    let said = refused(&space, &format!("path: {path}"));
    assert!(said.contains("has the splits `rephrase-validation`, `mbpp-validation`"), "{said}");
    let said = refused(&space, &format!("path: {path}, split: train"));
    assert!(said.contains("has no split `train`"), "{said}");
}

#[test]
fn gsm8k_is_read_whole() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/gsm8k");
    let expected = expected(&folder);
    let space = Space::new();
    for (part, file) in [("train", "train.parquet"), ("test", "test.jsonl")] {
        let path = folder.join(file).display().to_string();
        let options = format!("path: {path}, columns: {{ prompt: question, reference: answer }}");
        let found = read(&space, &options);
        let text = |row: &Map<String, Value>, name: &str| row[name].as_str().unwrap().to_owned();
        let characters =
            |name: &str| -> usize { found.iter().map(|row| text(row, name).chars().count()).sum() };
        let answers: Vec<String> = found
            .iter()
            .map(|row| text(row, "reference").split("#### ").nth(1).unwrap().to_owned())
            .collect();
        let sum: i64 = answers.iter().map(|a| a.replace(',', "").parse::<i64>().unwrap()).sum();
        let commas = answers.iter().filter(|answer| answer.contains(',')).count();
        let annotations: usize =
            found.iter().map(|row| text(row, "reference").matches("<<").count()).sum();
        let figures = json!({
            "rows": found.len(), "answers_that_are_integers": answers.len(),
            "negative": answers.iter().filter(|answer| answer.starts_with('-')).count(),
            "with_thousands_comma": commas, "sum_of_answers": sum.to_string(),
            "calculator_annotations": annotations, "question_chars": characters("prompt"),
            "answer_chars": characters("reference"),
        });
        assert_eq!(figures, expected[part], "{part}");
    }
}

/// The samples of a file as rows, those of the model alone.
fn samples(path: &Path) -> String {
    format!(
        "path: {}, explode: accept, drop: [rejection], columns: {{ prompt: instruction, response: content }}, \
         rows: {{ where: {{ response: not_null, src: {{ \"!=\": ground_truth }} }} }}",
        path.display()
    )
}

#[test]
fn answers_that_passed_are_kept() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/filter-correct");
    let expected = expected(&folder);
    let space = Space::new();
    let found = read(&space, &samples(&folder.join("samples.jsonl")));
    assert_eq!(found.len() as u64, expected["kept"].as_u64().unwrap());
    let text =
        |row: &Map<String, Value>, name: &str| format!("{}\u{0}", row[name].as_str().unwrap());
    let turns = found.iter().flat_map(|row| [text(row, "prompt"), text(row, "response")]);
    assert_eq!(sha256(turns), expected["kept_conversations_sha256"]);
}

#[test]
fn the_answer_of_the_lowest_perplexity_is_chosen() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/select-lowest-ppl");
    let expected = expected(&folder);
    let space = Space::new();
    let source = samples(&folder.join("candidates.jsonl"))
        .replace("response: content", "response: content, id: row_id, perplexity: ppl");
    let stage = "s: { diversify: { data: rows, keep: { per: id, lowest: perplexity } } }";
    space.write("w.yaml", &workflow(&source).replace(COPIED, stage));
    space.report("w.yaml", &[]);
    let (candidates, chosen) = (rows(&space, "rows"), rows(&space, "s"));
    let prompts = expected["per_prompt"].as_array().unwrap();
    assert_eq!(chosen.len(), prompts.len());
    for (row, prompt) in chosen.iter().zip(prompts) {
        let id = prompt["row_id"].to_string();
        assert_eq!(row["id"], json!(id));
        assert_eq!(row["order"], prompt["lowest_order"], "{id}");
        assert_eq!(row["perplexity"], prompt["lowest_ppl"], "{id}");
        let count = candidates.iter().filter(|row| row["id"] == json!(id)).count();
        assert_eq!(json!(count), prompt["candidates"], "{id}");
    }
    let stored = std::fs::read_to_string(folder.join("expected_selected.jsonl")).unwrap();
    for (row, stored) in chosen.iter().zip(stored.lines()) {
        let stored = stored.to_owned();
        for name in ["prompt", "response"] {
            assert!(stored.contains(&json!(row[name]).to_string()[1..40]), "{name}");
        }
    }
}

#[test]
fn instructions_become_prompts() {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"instruction\": \"Add.\", \"input\": \"1 2\", \"output\": \"3\"}\n\
         {\"instruction\": \"Greet.\", \"input\": \"\", \"output\": \"Hi\"}\n",
    );
    space.write(
        "plain.jsonl",
        "{\"prompt\": \"Add.\\n1 2\", \"response\": \"3\"}\n{\"prompt\": \"Greet.\", \"response\": \"Hi\"}\n",
    );
    let found = read(&space, "path: rows.jsonl");
    let plain = read(&space, "path: plain.jsonl");
    for (row, plain) in found.iter().zip(&plain) {
        for (name, value) in plain {
            assert_eq!(&row[name], value, "{name}");
        }
    }
    assert_eq!(found[0]["input"], "1 2");
    // Its key can be told where the file is absent.
    digest(&space, "path: rows.jsonl");
    space.report("w.yaml", &[]);
    std::fs::remove_file(space.path("rows.jsonl")).unwrap();
    let said = space.run(&["verify", "w.yaml", "--no-data"]);
    assert_eq!(said.code, 0, "{}", said.stdout);
    // A table that has one of ours is taken as it is.
    space.write("own.jsonl", "{\"instruction\": \"a\", \"output\": \"b\", \"response\": \"c\"}\n");
    let found = read(&space, "path: own.jsonl");
    assert!(!found[0].contains_key("prompt") && found[0]["response"] == "c", "{found:?}");
}
