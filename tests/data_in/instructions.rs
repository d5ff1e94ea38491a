//! Rows with instruction, input and output, as the Alpaca data have them.

use serde_json::json;

use crate::space::Space;

use super::{digest, read};

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

/// Whether a lock is right where the files are absent.
fn verifies_without_data(space: &Space, lines: &str, options: &str) {
    space.write("rows.jsonl", lines);
    digest(space, &format!("path: rows.jsonl{options}"));
    space.report("w.yaml", &[]);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    let there = [&["verify", "w.yaml", "--no-data"][..], &["results", "w.yaml"]];
    std::fs::remove_file(space.path("rows.jsonl")).unwrap();
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    for arguments in there {
        let said = space.run(arguments);
        assert_eq!(said.code, 0, "{options}: {}{}", said.stdout, said.stderr);
    }
}

#[test]
fn the_lock_tells_the_form_of_rows_that_are_absent() {
    let row = |more: &str| format!("{{\"instruction\": \"Add.\", \"output\": \"3\"{more}}}\n");
    let given = ", \"prompt\": \"Add!\", \"response\": \"4\"";
    let turns = ", \"prompt\": \"Add!\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}, \
                 {\"role\": \"assistant\", \"content\": \"b\"}]";
    for (more, options) in [
        ("", ""),
        (", \"input\": \"1 2\"", ", rows: { first: 1 }"),
        // Of these nothing is made, though they have what is made of others.
        (given, ""),
        (turns, ""),
        (given, ", columns: { question: prompt, prompt: instruction }"),
        (", \"prompt\": \"a\"", ", columns: { response: prompt }"),
    ] {
        verifies_without_data(&Space::new(), &row(more), options);
    }
}

#[test]
fn conditions_and_patterns_may_name_what_is_made_of_instructions() {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"instruction\": \"Add.\", \"output\": \"<b>3</b>\"}\n\
         {\"instruction\": \"Greet.\", \"output\": \"Hi\"}\n",
    );
    let options = "path: rows.jsonl, rows: { where: { prompt: \"Add.\" } }, \
                   replace: [{ column: response, pattern: \"</?b>\" }]";
    let found = read(&space, options);
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["response"], &found[0]["output"]), (&json!("3"), &json!("<b>3</b>")));
}
