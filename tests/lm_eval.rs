//! Task files of lm-evaluation-harness, against what it said of the same documents and models.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type};
use serde_json::Value;

use crate::artifacts::{figures, table, texts, truths};
use crate::space::{Space, set, shared};

/// The names of the tasks, and the parameters beside the file.
const TASKS: [(&str, &str); 6] = [
    ("sums", ", data: docs_sums, fewshot: docs_train"),
    ("names", ", data: docs_names"),
    ("pick", ", data: docs_pick"),
    ("pick_first", ", data: docs_pick"),
    ("claims", ", data: docs_claims"),
    ("last_word", ", data: docs_last_word"),
];

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lm_eval")
}

/// The task files and documents, and a workflow that asks a model of the folder.
fn space(model: &Path) -> Space {
    let space = Space::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml" || end == "jsonl") {
            let name = path.file_name().unwrap().to_str().unwrap();
            space.write(name, &std::fs::read_to_string(&path).unwrap());
        }
    }
    let mut workflow = format!(
        "refrain: 1\nmodels: {{ model: {{ path: '{}' }} }}\ndata:\n  docs_train: {{ path: sums_train.jsonl }}\n",
        model.display()
    );
    for name in ["sums", "names", "pick", "claims", "last_word"] {
        workflow += &format!("  docs_{name}: {{ path: {name}.jsonl }}\n");
    }
    workflow += "stages:\n";
    for (name, more) in TASKS {
        workflow += &format!(
            "  {name}: {{ evaluate: {{ model: model, task: {{ lm_eval: {name}.yaml }}, bootstrap: 0{more} }} }}\n"
        );
    }
    space.write("w.yaml", &workflow);
    space
}

/// What the harness said of the rows of a document.
type Rows = BTreeMap<u64, Vec<Value>>;

fn by_document(task: &Value) -> Rows {
    let mut rows = Rows::new();
    for row in task["rows"].as_array().unwrap() {
        rows.entry(row["doc"].as_u64().unwrap()).or_default().push(row.clone());
    }
    rows
}

/// The end that a filter gives to names.
fn suffix(filter: &Value) -> String {
    match filter.as_str().unwrap() {
        "none" => String::new(),
        name => format!("_{}", name.replace('-', "_")),
    }
}

/// The sums of the log-probabilities of a table's continuations.
fn sums(scored: &RecordBatch) -> Vec<f64> {
    let lists = scored.column_by_name("logprobs").unwrap().as_list::<i32>();
    let prompts = scored.column_by_name("prompt_tokens").unwrap().as_primitive::<Int32Type>();
    let sum = |row: usize| {
        let values = lists.value(row);
        let values = values.as_primitive::<Float32Type>();
        (prompts.value(row) as usize..values.len()).map(|at| f64::from(values.value(at))).sum()
    };
    (0..scored.num_rows()).map(sum).collect()
}

#[test]
fn every_verdict_is_that_of_the_harness() {
    let Some(shared) = shared() else { return };
    for model in ["llama", "qwen2"] {
        let said = std::fs::read_to_string(folder().join(format!("{model}.json"))).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        let space = space(&shared.join("parity").join(model).join("model"));
        space.report("w.yaml", &[]);
        for (name, _) in TASKS {
            let expected = &said["tasks"][name];
            let rows = by_document(expected);
            let what = |document: &u64| format!("{model}: {name}: document {document}");
            match name {
                "sums" | "names" => compare_texts(&space, name, &rows, &what),
                _ => compare_likelihoods(&space, name, &rows, &what),
            }
            let ours = figures(&space, &format!("{name}.metrics"));
            for (figure, value) in expected["figures"].as_object().unwrap() {
                let (metric, filter) = figure.split_once(',').unwrap();
                let metric = metric.replace("perplexity", "target_perplexity");
                let ours = ours(&format!("{metric}{}", suffix(&filter.into())));
                let value = value.as_f64().unwrap();
                assert!((ours / value - 1.0).abs() < 1e-3 || ours == value, "{name}: {figure}");
            }
        }
    }
}

fn compare_texts(space: &Space, name: &str, rows: &Rows, what: &dyn Fn(&u64) -> String) {
    let judged = table(space, name);
    let (prompts, responses) = (texts(&judged, "prompt"), texts(&judged, "response"));
    assert_eq!(judged.num_rows(), rows.len());
    for (document, rows) in rows {
        let at = *document as usize;
        for row in rows {
            let end = suffix(&row["filter"]);
            let text = |texts: &[Option<String>]| texts[at].clone().unwrap();
            assert_eq!(text(&prompts), row["prompt"], "{}", what(document));
            assert_eq!(text(&responses), row["response"], "{}", what(document));
            let answers = texts(&judged, &format!("prediction{end}"));
            assert_eq!(text(&answers), row["answer"], "{}{end}", what(document));
            let right = truths(&judged, &format!("exact_match{end}"))[at];
            let wanted = row["verdicts"]["exact_match"].as_f64().unwrap();
            assert_eq!(f64::from(u8::from(right)), wanted, "{}{end}", what(document));
        }
    }
}

fn compare_likelihoods(space: &Space, name: &str, rows: &Rows, what: &dyn Fn(&u64) -> String) {
    let (judged, scored) = (table(space, name), table(space, &format!("{name}/answers")));
    let (prompts, continuations) = (texts(&scored, "prompt"), texts(&scored, "response"));
    let sums = sums(&scored);
    let greedy = truths(&scored, "greedy");
    assert_eq!(judged.num_rows(), rows.len());
    let mut first = 0;
    for (document, rows) in rows {
        let row = &rows[0];
        let expected = row["continuations"].as_array().unwrap();
        for (option, continuation) in expected.iter().enumerate() {
            let at = first + option;
            assert_eq!(prompts[at].as_deref(), row["prompt"].as_str(), "{}", what(document));
            assert_eq!(continuations[at].as_deref(), continuation.as_str(), "{}", what(document));
            let logprob = row["logprobs"][option].as_f64().unwrap();
            let off = (sums[at] - logprob).abs();
            assert!(off < 1e-3, "{}: {} is not {logprob}", what(document), sums[at]);
            assert_eq!(row["greedy"][option], greedy[at], "{}", what(document));
        }
        first += expected.len();
        for (metric, value) in row["verdicts"].as_object().unwrap() {
            let (at, value) = (*document as usize, value.as_f64().unwrap());
            if metric == "perplexity" {
                let column = judged.column_by_name("logprob").unwrap();
                let ours = column.as_primitive::<Float64Type>().value(at);
                assert!((ours - value).abs() < 1e-3, "{}", what(document));
            } else {
                let ours = f64::from(u8::from(truths(&judged, metric)[at]));
                assert_eq!(ours, value, "{}: {metric}", what(document));
            }
        }
    }
    assert_eq!(first, scored.num_rows());
}

/// The fixtures hold right and wrong verdicts of every kind, so that the comparison can fail.
#[test]
fn the_harness_said_right_and_wrong_of_each_task() {
    let said = std::fs::read_to_string(folder().join("llama.json")).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let mut seen: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for (task, expected) in said["tasks"].as_object().unwrap() {
        for row in expected["rows"].as_array().unwrap() {
            for (metric, value) in row["verdicts"].as_object().unwrap() {
                let name = format!("{task}, {metric}, {}", row["filter"].as_str().unwrap());
                let seen = seen.entry(name).or_default();
                seen.0 |= value.as_f64() == Some(1.0);
                seen.1 |= value.as_f64() == Some(0.0);
            }
        }
    }
    seen.retain(|name, _| !name.contains("perplexity"));
    assert_eq!(seen.len(), 12 - 1, "{seen:?}");
    assert!(seen.values().all(|(right, wrong)| *right && *wrong), "{seen:?}");
}

/// A workflow that asks nothing: the kind `prepare` alone, which needs no model.
const ASKED: &str = "refrain: 1\ndata: { docs: { path: docs.jsonl } }\nstages: { asked: { prepare: { data: docs, task: { lm_eval: task.yaml } } } }\n";

/// A workflow with the three stages of a task; its model is never read.
const JUDGED: &str = "refrain: 1\nmodels: { model: { path: model } }\ndata: { docs: { path: docs.jsonl } }\nstages: { judged: { evaluate: { model: model, data: docs, task: { lm_eval: task.yaml } } } }\n";

const DOCS: &str = r#"{"id": "a", "q": "One?", "a": "one", "options": ["one", "two"], "right": 0}
{"id": "b", "q": "Two?", "a": "two", "options": ["one", "two"], "right": 1}
{"id": "c", "q": "Three?", "a": "[three", "options": ["three"], "right": 0}
"#;

const TASK: &str = "doc_to_text: q\ndoc_to_target: a\n";

fn small(workflow: &str, task: &str) -> Space {
    let space = Space::new();
    space.write("w.yaml", workflow);
    space.write("docs.jsonl", DOCS);
    space.write("task.yaml", task);
    let config = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
        "vocab_size": 32, "num_hidden_layers": 1, "intermediate_size": 16}"#;
    space.write("model/config.json", config);
    space.write("model/model.safetensors", "");
    space.write("model/tokenizer.json", "{}");
    space
}

#[test]
fn what_is_wrong_in_a_task_file_is_told_with_its_place() {
    let choices = "output_type: multiple_choice\ndoc_to_choice: options\ndoc_to_target: right\ndoc_to_text: q\n";
    for (task, expected) in [
        ("doc_to_texts: q\n", "task.yaml:1:1"),
        ("doc_to_texts: q\n", "the file has no parameter `doc_to_texts`"),
        (&format!("{TASK}process_docs: utils.go\n"), "`process_docs` is not supported here"),
        ("doc_to_text: !function utils.text\n", "`!function utils.text` is Python code"),
        ("doc_to_text: !function utils.text\n", "task.yaml:1:14"),
        ("group: all\ntask: [a, b]\n", "write a stage for each of them"),
        ("doc_to_target: a\n", "`doc_to_text` cannot be read: it is missing"),
        (
            &format!("{TASK}output_type: loglikelihood_rolling\n"),
            "cannot be `loglikelihood_rolling`",
        ),
        (&format!("{TASK}repeats: 2\n"), "only `repeats: 1` is supported"),
        (
            &format!("{TASK}num_fewshot: 2\nfewshot_split: train\ntest_split: test\n"),
            "the split `train`, which `data` is not",
        ),
        (
            &format!("{TASK}generation_kwargs: {{ until: [''] }}\n"),
            "an empty text would end every response at once",
        ),
        (&format!("{TASK}generation_kwargs: {{ max_new_tokens: 3 }}\n"), "write `max_gen_toks: 3`"),
        (
            &format!(
                "{TASK}filter_list: [{{ name: a, filter: [{{ function: regex, regex_pattern: '(' }}, {{ function: take_first }}] }}]\n"
            ),
            "the pattern cannot be used: unclosed group",
        ),
        (
            &format!(
                "{TASK}filter_list: [{{ name: a, filter: [{{ function: regex, regex_pattern: '(?=a)' }}, {{ function: take_first }}] }}]\n"
            ),
            "look-around",
        ),
        (
            &format!("{TASK}filter_list: [{{ name: a, filter: [{{ function: regex }}] }}]\n"),
            "`take_first` must be its last step",
        ),
        (
            &format!(
                "{TASK}filter_list: [{{ name: a, filter: [{{ function: majority_vote }}] }}]\n"
            ),
            "cannot be `majority_vote`",
        ),
        (
            &format!("{TASK}metric_list: [{{ metric: acc }}]\n"),
            "`acc` is not a metric of `output_type: generate_until`",
        ),
        (
            &format!(
                "{choices}filter_list: [{{ name: a, filter: [{{ function: take_first }}] }}]\n"
            ),
            "`filter_list` is not supported beside",
        ),
        (&format!("{TASK}doc_to_text: '{{{{ q'\n"), "duplicate key `doc_to_text`"),
        ("doc_to_text: '{{ q'\ndoc_to_target: a\n", "`doc_to_text` cannot be read: syntax error"),
        ("- 1\n", "the file is not a mapping"),
        (
            "include: task.yaml\n",
            "the files include each other in a circle: task.yaml -> task.yaml",
        ),
        ("include: b.yaml\n", "there is no `b.yaml` beside the file"),
        ("include: sub/b.yaml\n", "`sub/b.yaml` is in another folder"),
        ("include: link.yaml\n", "`link.yaml` is in another folder"),
    ] {
        let space = small(JUDGED, task);
        space.write("sub/b.yaml", TASK);
        std::os::unix::fs::symlink(space.path("sub/b.yaml"), space.path("link.yaml")).unwrap();
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.starts_with("exit code 2"), "{task}: {said}");
        assert!(said.contains(expected), "{task}: {said}");
    }
    for (workflow, expected) in [
        (JUDGED.replace("task.yaml", "none.yaml"), "cannot read `none.yaml`"),
        (JUDGED.replace("task.yaml", "\"${which}\""), "the path may not hold `${…}`"),
        (
            JUDGED
                .replace("{ lm_eval: task.yaml }", "\"${t}\"")
                .replace("stages:", "params: { t: { lm_eval: task.yaml } }\nstages:"),
            "`task.lm_eval` must stand in the stage itself",
        ),
        (
            JUDGED.replace("task: {", "compare: text, task: {"),
            "`compare` does nothing beside a task file",
        ),
        (
            JUDGED.replace("task: {", "fewshot: docs, task: {"),
            "no examples are wanted: `num_fewshot` is 0",
        ),
        (JUDGED.replace("task: {", "by: token, task: {"), "a task file takes no `by`"),
    ] {
        let said = small(&workflow, TASK).refuses(&["check", "w.yaml"]);
        assert!(said.contains(expected), "{workflow}: {said}");
    }
}

#[test]
fn a_file_of_a_hundred_megabytes_is_refused_unread() {
    let space = small(ASKED, TASK);
    let file = std::fs::File::create(space.path("task.yaml")).unwrap();
    file.set_len(100 << 20).unwrap();
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("cannot read `task.yaml`"), "{said}");
}

#[test]
fn a_document_that_cannot_be_asked_is_named() {
    let choices = |target: &str, choices: &str| {
        format!(
            "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: {target}\ndoc_to_choice: {choices}\n"
        )
    };
    for (task, expected) in [
        (
            TASK.replace("q", "'{{ q }} {{ none_such }}'"),
            "row 0 (`a`): `doc_to_text` of the task: undefined value",
        ),
        (TASK.replace("a\n", "'{{ a[9].b }}'\n"), "row 0 (`a`): `doc_to_target` of the task"),
        (
            choices("1", "options"),
            "row 2 (`c`): `doc_to_target` of the task: it is 1, which is none of the options 0 to 0",
        ),
        (
            choices("right", "q"),
            "row 0 (`a`): `doc_to_choice` of the task: it is not a list but `One?`",
        ),
        (
            choices("right", "'{{ options | join }}'"),
            "`doc_to_choice` of the task: it is not a list but `onetwo`",
        ),
        (choices("right", "'{{ [1, 2] }}'"), "an option is not a text but `1`"),
        (
            choices("'{{ options.index(a) }}'", "options"),
            "row 2 (`c`): `doc_to_target` of the task: invalid operation: `[three` is not in the list",
        ),
        (
            choices("right", "options").replace("doc_to_text: q", "doc_to_text: '{{ right }}'"),
            "it is a number",
        ),
        (
            format!("{TASK}num_fewshot: 3\nfewshot_split: test\ntest_split: test\n"),
            "3 examples are wanted, and there are 2 to choose from",
        ),
        (
            format!(
                "{TASK}description: '{{% for i in range(9000) %}}{{% for j in range(9000) %}}{{% endfor %}}{{% endfor %}}'\n"
            ),
            "`description` of the task",
        ),
    ] {
        let space = small(ASKED, &task);
        let said = space.refuses(&["run", "w.yaml"]);
        assert!(said.starts_with("exit code 1"), "{task}: {said}");
        assert!(said.contains(expected), "{task}: {said}");
    }
}

#[test]
fn the_content_of_the_file_decides_what_runs_again() {
    let task = "include: base.yaml\ndoc_to_target: a\n";
    let space = small(ASKED, task);
    space.write("base.yaml", "doc_to_text: '{{ q }} ${x} $${y}'\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&["docs", "asked"]));
    let prompts = texts(&table(&space, "asked"), "prompt");
    assert_eq!(prompts[0].as_deref(), Some("One? ${x} $${y}"));

    let same = "# A remark.\ntask: other\nmetadata: { version: 2 }\ndataset_path: x\ninclude: [base.yaml]\ndoc_to_target: a\ntarget_delimiter: ' '\nnum_fewshot: 0\ntest_split: null\n";
    space.write("task.yaml", same);
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    space.write("base.yaml", "doc_to_text: '{{ q }}'\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&["asked"]));
    space.write("base.yaml", "doc_to_text: '{{ q }}'\nfilter_list: []\nmetric_list: []\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
}

#[test]
fn another_filter_judges_again_and_generates_nothing() {
    let Some(shared) = shared() else { return };
    let space = space(&shared.join("parity/llama/model"));
    let only = ["--only", "names"];
    assert_eq!(space.ran("w.yaml", &only).len(), 4);
    space.edit("names.yaml", "([A-Za-z]+)", "([a-z]+)");
    assert_eq!(space.ran("w.yaml", &only), set(&["names"]));
    space.edit("names.yaml", "max_gen_toks: 12", "max_gen_toks: 11");
    assert!(space.ran("w.yaml", &only).is_subset(&set(&["names/answers", "names"])));
    space.edit("names.yaml", "num_fewshot: 2", "num_fewshot: 1");
    assert!(space.ran("w.yaml", &only).contains("names/prompts"));
}
