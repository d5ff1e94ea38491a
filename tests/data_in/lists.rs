//! Lists whose elements become rows, and rows that are chosen of those.

use std::fs::File;

use arrow::ipc::writer::StreamWriter;
use serde_json::{Value, json};

use crate::artifacts::table;
use crate::space::Space;

use super::{digest, read, refused, rows};

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
    for (column, count) in [("l", 3), ("s", 3)] {
        let more = format!("explode: {column}, drop: [{}]", if column == "l" { "s" } else { "l" });
        let expected =
            digest(&space, &format!("path: rows.jsonl, columns: {{ prompt: q }}, {more}"));
        assert_eq!(rows(&space, "rows").len(), count);
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
