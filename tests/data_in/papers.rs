//! The published data of the papers, read as they lie on the disk.

use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::space::{Space, shared};

use super::{COPIED, read, refused, rows, workflow};

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
