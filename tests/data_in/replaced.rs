//! Patterns in columns of text, replaced while a source is read.

use serde_json::{Map, Value, json};

use crate::space::{Space, shared};

use super::{digest, read, refused};

#[test]
fn patterns_are_replaced_one_after_the_other() {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"answer\": \"half is <<48/2=24>>24, so <<1+1=2>>2\", \"n\": 1}\n\
         {\"id\": \"b\", \"prompt\": \"q\", \"answer\": null, \"n\": 2}\n\
         {\"id\": \"c\", \"prompt\": \"r\", \"answer\": \"plain\", \"n\": 3}\n",
    );
    let source = "path: rows.jsonl, columns: { response: answer }";
    let clean = "{ column: response, pattern: \"<<[^<>]*>>\" }";
    let found = read(&space, &format!("{source}, replace: [{clean}]"));
    assert_eq!(found[0]["response"], "half is 24, so 2");
    assert!(!found[1].contains_key("response") && found[2]["response"] == "plain", "{found:?}");
    let swap = "{ column: response, pattern: \"(\\\\d+), so (\\\\d+)\", by: \"$2 of $1\" }";
    let found = read(&space, &format!("{source}, replace: [{clean}, {swap}]"));
    assert_eq!(found[0]["response"], "half is 2 of 24");
    // The order counts, and is in the key.
    let found = read(&space, &format!("{source}, replace: [{swap}, {clean}]"));
    assert_eq!(found[0]["response"], "half is 24, so 2");

    // Conditions see the text that is left, and so does an id that is made of it.
    let found = read(
        &space,
        &format!("{source}, replace: [{clean}], rows: {{ where: {{ response: plain }} }}"),
    );
    assert_eq!(found.len(), 1);
    let made = |source: &str| {
        let source = source.replace("columns: {", "columns: { old: id,");
        read(&space, &source)[0]["id"].clone()
    };
    assert_ne!(made(source), made(&format!("{source}, replace: [{clean}]")));

    for (replace, expected) in [
        ("{ column: respnse, pattern: x }", "has no column `respnse`, which `replace` names"),
        ("{ column: respnse, pattern: x }", "did you mean `response`?"),
        ("{ column: n, pattern: x }", "has a column `n` of int64, and `replace` takes text"),
        ("{ column: response, pattern: \"(\" }", "`(` is not a regular expression: unclosed group"),
        ("{ column: response }", "`replace[0]"),
    ] {
        let said = refused(&space, &format!("{source}, replace: [{replace}]"));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn an_empty_list_of_patterns_changes_no_key() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\"}\n");
    digest(&space, "path: rows.jsonl");
    space.edit("w.yaml", "path: rows.jsonl", "path: rows.jsonl, replace: []");
    assert!(space.ran("w.yaml", &["--only", "rows"]).is_empty());
}

/// The calculator's annotations of GSM8K are no words of the answer.
#[test]
fn annotations_of_gsm8k_are_left_out() {
    let Some(shared) = shared() else { return };
    let path = shared.join("data/gsm8k/train.parquet").display().to_string();
    let source = format!("path: {path}, columns: {{ prompt: question, response: answer }}");
    let space = Space::new();
    let text = |row: &Map<String, Value>| row["response"].as_str().unwrap().to_owned();
    let before: Vec<String> = read(&space, &source).iter().map(text).collect();
    let replace = "replace: [{ column: response, pattern: \"<<[^<>]*>>\" }]";
    let after: Vec<String> =
        read(&space, &format!("{source}, {replace}")).iter().map(text).collect();
    let bare = |text: &String| {
        let parts =
            text.split("<<").map(|part| part.split_once(">>").map_or(part, |(_, rest)| rest));
        parts.collect::<String>()
    };
    assert_eq!(before.iter().map(bare).collect::<Vec<_>>(), after);
    assert_eq!(json!(after.len()), 7473);
    assert!(before.iter().any(|text| text.contains("<<")));
}
