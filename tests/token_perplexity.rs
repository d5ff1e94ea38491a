//! The workflows of the first paper: at full size on stand-ins, and what its miniature showed.

use std::path::Path;

use serde_json::json;

use crate::space::Space;

/// A space with the full-size workflow, and models and tables of the right shapes in place of the
/// published ones.
fn stand_ins() -> (Space, Vec<String>) {
    let space = Space::new();
    crate::space::small(&space);
    space.report("w.yaml", &["--only", "base"]);
    let model = space.run(&["show", "w.yaml", "base", "--path"]).stdout;
    space.write("token-perplexity.yaml", include_str!("../workflows/token-perplexity.yaml"));
    space.write(
        "token-perplexity/tests.yaml",
        include_str!("../workflows/token-perplexity/tests.yaml"),
    );

    let choices = json!({ "text": ["red", "blue"], "label": ["A", "B"] });
    let tables = [
        (
            "mbpp",
            json!({ "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 1) == 2"] }),
        ),
        ("math", json!({ "problem": "1 plus 1?", "solution": "\\boxed{2}" })),
        ("arc", json!({ "question": "What is red?\n", "choices": choices, "answerKey": "A" })),
        ("gsm8k", json!({ "question": "1 plus 1?", "answer": "It is 2.\n#### 2" })),
        (
            "bird",
            json!({ "question": "How many?", "evidence": "", "schema": "CREATE TABLE t (a INT)", "db_id": "shop", "SQL": "SELECT count(*) FROM t" }),
        ),
    ];
    for (name, row) in &tables {
        space.write(&format!("{name}.jsonl"), &format!("{row}\n"));
    }
    space.write("databases/shop/shop.sqlite", "");

    let mut set = vec!["bird-databases=databases".to_owned(), "bird-dev=bird.jsonl".into()];
    set.extend(["gemma", "gemma-9b", "mistral", "llama"].map(|m| format!("{m}={}", model.trim())));
    set.push("gsm8k-test=gsm8k.jsonl".into());
    for name in ["mbpp", "math", "arc"] {
        set.extend(["train", "validation", "test"].map(|p| format!("{name}-{p}={name}.jsonl")));
    }
    (space, set.into_iter().flat_map(|s| ["--set".to_owned(), s]).collect())
}

#[test]
fn the_full_size_workflow_checks_and_plans_on_stand_ins() {
    let (space, set) = stand_ins();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let checked = space.run(&[&["check", "token-perplexity.yaml"], &set[..]].concat());
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let planned = space.run(&[&["plan", "token-perplexity.yaml"], &set[..]].concat());
    assert_eq!(planned.code, 0, "{}", planned.stderr);

    // A cell of the tables, from the samples to the tests of the chosen epoch.
    for node in [
        "answers[model=llama3-8b,trained=mbpp]",
        "tuned[model=llama3-8b,trained=mbpp,arm=self-output]",
        "validated[model=llama3-8b,trained=mbpp,arm=self-output,epoch=2]",
        "best[model=llama3-8b,trained=mbpp,arm=self-output]",
        "after/gsm8k[model=llama3-8b,trained=mbpp,arm=self-output]",
    ] {
        assert!(planned.stdout.contains(node), "no `{node}` is planned");
    }
}

#[test]
fn the_miniature_showed_what_its_lock_says() {
    let workflow =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/token-perplexity-mini.yaml");
    let said = Space::new().run(&["verify", workflow.to_str().unwrap(), "--no-data"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
}
