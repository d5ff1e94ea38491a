//! The examples of docs/composition.md and the recipes, as they stand.

use std::path::Path;

use serde_json::Value;

use crate::artifacts::{figures, table, texts};
use crate::space::{Space, small};

/// Rows and paraphrases for the examples.
fn data(space: &Space) {
    small(space);
    let rows = space
        .read("train.jsonl")
        .replace("\"response\"", "\"reference\": \"it is 3.\", \"response\"");
    space.write("rows.jsonl", &rows);
    space.write("more.jsonl", &rows.replace("\"id\": \"r", "\"id\": \"m"));
    let said = |i: usize| {
        format!(
            "{{\"id\": \"r{}\", \"sample\": {}, \"prompt\": \"so: {i}\", \"response\": \"x\"}}\n",
            i / 2,
            i % 2
        )
    };
    space.write("said.jsonl", &(0..48).map(said).collect::<String>());
}

#[test]
fn every_example_of_the_docs_runs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/composition.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let mut space = Space::new();
    let mut ran = 0;
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let file =
            block.lines().next().unwrap().strip_prefix("# ").expect("a block names its file");
        space.write(file, block);
        if file == "w.yaml" {
            data(&space);
            space.write(file, block);
            let said = space.run(&["check", "w.yaml"]);
            assert_eq!(said.code, 0, "{block}\n{}", said.stderr);
            let said = space.run(&["run", "w.yaml"]);
            assert_eq!(said.code, 0, "{block}\n{}", said.stderr);
            ran += 1;
            space = Space::new();
        }
    }
    assert_eq!(ran, 6);
}

/// A workflow that includes recipes by their place in the repository, with the small base.
fn with_recipes(include: &str, more: &str) -> Space {
    let space = Space::new();
    data(&space);
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/recipes");
    let base = "  base:\n    finetune:\n      data: train\n      from:\n        config: { hidden_size: 16, \
                intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 512 }\n        \
                tokenizer: { vocab_size: 280 }\n      steps: 20\n      batch_size: 4\n      learning_rate: 1e-2\n";
    let include = include.replace("RECIPES", &recipes.display().to_string());
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata:\n  train: {{ path: train.jsonl }}\n  list: {{ path: list.jsonl, columns: {{ prompt: topic }} }}\n\
             include:\n{include}stages:\n{base}{more}"
        ),
    );
    let topic = |i: usize| format!("{{\"topic\": \"topic {i}\"}}\n");
    space.write("list.jsonl", &(0..12).map(topic).collect::<String>());
    space
}

#[test]
fn paraphrases_replace_generated_rows_by_a_knob() {
    let space = with_recipes(
        "  made:\n    file: RECIPES/paraphrase.yaml\n    with: { model: base, data: train, questions: 2, paraphrases: 3, \
         share: \"${share}\", question_tokens: 6, answer_tokens: 4 }\n",
        "  variety: { diversify: { data: made/rows, measure: [distinct_1] } }\n  \
         tuned: { finetune: { model: base, data: made/rows, lora: { rank: 2 }, steps: 1 } }\n\
         sweep: { share: [0, 0.5, 1] }\n",
    );
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.contains("made/asked") && ran.contains("made/rows[share=0.5]"), "{ran:?}");
    // Twenty-four originals make 48 rows, of which 24 or 48 are paraphrases, three of each
    // original.
    for (share, replaced) in [("0", 0), ("0.5", 24), ("1", 48)] {
        let node = format!("made/rows[share={share}]");
        let rows = table(&space, &node);
        assert_eq!(rows.num_rows(), 48);
        let origins = texts(&rows, "origin");
        assert_eq!(origins.iter().filter(|o| o.as_deref() == Some("with")).count(), replaced);
        assert_eq!(figures(&space, &format!("{node}.metrics"))("originals"), replaced as f64 / 3.0);
    }
    // The paraphrases are questions, with the answers of their originals.
    let rows = table(&space, "made/paraphrased");
    let (prompts, responses) = (texts(&rows, "prompt"), texts(&rows, "response"));
    assert_eq!(rows.num_rows(), 72);
    assert_eq!(responses[0].as_deref(), Some("it is 1."));
    assert_ne!(prompts[0].as_deref(), Some("0 plus 1?"));
    space.edit("w.yaml", "[0, 0.5, 1]", "[0, 0.25, 0.5, 1]");
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.iter().all(|node| node.contains("share=0.25")), "{ran:?}");
}

#[test]
fn topics_make_sets_of_one_size() {
    let space = with_recipes(
        "  made:\n    file: RECIPES/topics.yaml\n    with: { model: base, topics: list, number: \"${number}\", \
         samples: \"${samples}\", count: 12, task_tokens: 6, answer_tokens: 4 }\n",
        "sweep: [{ name: one, number: 1, samples: 12 }, { name: four, number: 4, samples: 3 }, { name: all, number: 12, samples: 1 }]\n",
    );
    space.ran("w.yaml", &[]);
    let topics = |point: &str| -> std::collections::BTreeSet<Option<String>> {
        texts(&table(&space, &format!("made/chosen[point={point}]")), "prompt")
            .into_iter()
            .collect()
    };
    for (point, number) in [("one", 1), ("four", 4), ("all", 12)] {
        assert_eq!(topics(point).len(), number);
        let rows = table(&space, &format!("made/rows[point={point}]"));
        assert_eq!(rows.num_rows(), 12);
        let ids: std::collections::BTreeSet<Option<String>> =
            texts(&rows, "id").into_iter().collect();
        assert_eq!(ids.len(), number, "a topic is the id of its tasks");
    }
    assert!(topics("one").is_subset(&topics("four")) && topics("four").is_subset(&topics("all")));
    space.edit("w.yaml", "count: 12", "count: 13");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.contains("the mixture takes 13 rows of `generated`, which has 12"), "{said}");
}

#[test]
fn topics_come_from_a_model() {
    let space = with_recipes(
        "  named:\n    file: RECIPES/model-topics.yaml\n    with: { model: base, number: 3, times: 40, topic_tokens: 2 }\n  \
         made:\n    file: RECIPES/topics.yaml\n    with: { model: base, topics: named/frequent, number: 2, samples: 2, count: 4, \
         task_tokens: 6, answer_tokens: 4 }\n",
        "",
    );
    space.ran("w.yaml", &[]);
    let named = texts(&table(&space, "named/named"), "prompt");
    assert_eq!(named.len(), 40);
    let frequent = table(&space, "named/frequent");
    assert_eq!(frequent.num_rows(), 3);
    let count = |topic: &Option<String>| named.iter().filter(|named| *named == topic).count();
    let counts: Vec<usize> = texts(&frequent, "prompt").iter().map(count).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts[0] > 0, "{counts:?}");
    let most = named.iter().map(count).max();
    assert_eq!(Some(counts[0]), most, "the most frequent topic comes first");
    assert_eq!(table(&space, "made/rows").num_rows(), 4);
}

#[test]
fn recipes_are_checked_as_they_stand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/recipes");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        // By itself a recipe lacks what it is handed, and nothing else.
        let said = Space::new().run(&["check", &path.display().to_string(), "--format", "json"]);
        let errors: Value = serde_json::from_str(&said.stderr).unwrap();
        for error in errors["errors"].as_array().unwrap() {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("needs `") || message.contains("nothing reads"), "{message}");
        }
    }
}

/// The replication of the second paper at full size, with a tiny model in the place of both of its
/// models.
#[test]
fn the_replication_of_diversity_is_checked_and_planned_with_stand_ins() {
    let space = Space::new();
    data(&space);
    space.report("w.yaml", &["--only", "base"]);
    let base = space.run(&["show", "w.yaml", "base", "--path"]).stdout.trim().to_owned();
    let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/diversity.yaml");
    let rows = space.path("rows.jsonl");
    let set = [
        format!("model={base}"),
        format!("encoder={base}"),
        format!("training={}", rows.display()),
        format!("testing={}", rows.display()),
    ];
    let set: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
    let workflow = workflow.to_str().unwrap();
    for command in ["check", "plan"] {
        let said = space.run(&[&[command, workflow, "--cache", "cache"], &set[..]].concat());
        assert_eq!(said.code, 0, "{}", said.stderr);
    }
}
