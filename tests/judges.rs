//! A model as the judge of responses, and how far the order of two texts decides what it says.

use serde_json::{Value, json};

use crate::artifacts::{table, texts, truths};
use crate::space::Space;

/// A judge that has learnt by heart what it says of a few pairs.
const WORKFLOW: &str = r#"
refrain: 1
data:
  learnt: { path: learnt.jsonl }
  rows: { path: rows.jsonl }
stages:
  judge:
    finetune:
      data: learnt
      full: true
      from:
        config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64 }
        tokenizer: { vocab_size: 262 }
      steps: 100
      batch_size: 8
      learning_rate: 1e-2
      seed: 1
  one:
    evaluate:
      data: rows
      task: judge
      judge: { model: judge, max_new_tokens: 16, prompt: "{{ response }}={{ reference }}" }
  two:
    evaluate:
      data: rows
      task: judge
      pairs: true
      judge: { model: judge, max_new_tokens: 16, prompt: "{{ a }}{{ b }}" }
expect:
  - { stage: two, metric: agreement, value: 0.6666667, within: 1e-6 }
  - { stage: two, metric: position_bias, value: 0.3333333, within: 1e-6 }
"#;

const LEARNT: [(&str, &str); 7] = [
    ("4=5", "verdict no"),
    ("5=4", "verdict yes"),
    ("6=7", "who knows"),
    ("45", "verdict A"),
    ("54", "verdict B"),
    ("67", "verdict A"),
    ("76", "verdict A"),
];

#[test]
fn a_model_judges_and_its_bias_is_measured() {
    let space = Space::new();
    let learnt = LEARNT.map(|(prompt, response)| {
        format!("{}\n", json!({ "prompt": prompt, "response": response }))
    });
    space.write("learnt.jsonl", &learnt.concat());
    let rows = [("4", "5"), ("5", "4"), ("6", "7")];
    let rows = rows.map(|(response, reference)| {
        format!("{}\n", json!({ "prompt": "count", "response": response, "reference": reference }))
    });
    space.write("rows.jsonl", &rows.concat());
    space.write("w.yaml", WORKFLOW);
    let ran = space.ran("w.yaml", &[]);
    for node in ["one/judgements", "two/judgements", "two/swapped"] {
        assert!(ran.contains(node), "{ran:?}");
    }

    let one = table(&space, "one");
    assert_eq!(texts(&one, "response"), ["4", "5", "6"].map(|text| Some(text.to_owned())));
    assert_eq!(texts(&one, "prediction"), [Some("no".to_owned()), Some("yes".to_owned()), None]);
    assert_eq!(truths(&one, "correct"), [false, true, false]);
    let reasons = ["judged wrong", "judged right", "no verdict found"];
    assert_eq!(texts(&one, "reason"), reasons.map(|text| Some(text.to_owned())));
    let two = table(&space, "two");
    assert_eq!(truths(&two, "correct"), [true, false, false]);
    let reasons = ["preferred", "not preferred", "the order decides"];
    assert_eq!(texts(&two, "reason"), reasons.map(|text| Some(text.to_owned())));

    // Another way to read the verdict asks the judge nothing again.
    space.edit(
        "w.yaml",
        "task: judge\n      judge",
        "task: judge\n      pattern: '(yes)'\n      judge",
    );
    let again = space.ran("w.yaml", &[]);
    assert_eq!(again.into_iter().collect::<Vec<_>>(), ["one"]);
    space.edit(
        "w.yaml",
        "task: judge\n      pattern: '(yes)'\n      judge",
        "task: number\n      judge",
    );
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`task: number` takes no `judge`"), "{said}");
}

/// Judgements that were made elsewhere are read as those of a model here.
#[test]
fn judgements_may_be_given() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"response\": \"a\"}\n{\"response\": \"b\"}\n");
    space.write(
        "judged.jsonl",
        "{\"response\": \"Verdict: wrong? No. **Verdict: [[Correct]]**\"}\n{\"response\": \"verdict is no\"}\n",
    );
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl }, judged: { path: judged.jsonl } }\n\
         stages: { j: { evaluate: { data: rows, task: judge, judgements: judged } } }\n\
         expect: [{ stage: j, metric: accuracy, value: 0.5, within: 0.0 }]\n",
    );
    space.report("w.yaml", &[]);
    assert_eq!(truths(&table(&space, "j"), "correct"), [true, false]);
    space.write("judged.jsonl", "{\"response\": \"Verdict: right\"}\n");
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("`judgements` has 1 rows, and `data` 2"), "{said}");
    space.edit("w.yaml", ", judgements: judged", "");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`task: judge` needs `judge`"), "{said}");
}

/// Verdicts of a judge and of people, with what scikit-learn says of them.
const AGREEMENT: &str = include_str!("judges/agreement.json");

/// The answers of a judge that mean a verdict: in one order, and in the other.
fn answers(verdict: &str, pairs: bool) -> [&str; 2] {
    match (pairs, verdict) {
        (true, "response") => ["Verdict: A", "Verdict: B"],
        (true, "reference") => ["Verdict: B", "Verdict: A"],
        (true, "tie") => ["Verdict: A", "Verdict: A"],
        (false, "right") => ["Verdict: right", ""],
        (false, "wrong") => ["Verdict: wrong", ""],
        _ => ["who knows", "Verdict: A"],
    }
}

/// The agreement and kappa of a judge with people; `human` makes a verdict of a person's.
fn agreement(case: &Value, human: impl Fn(&str) -> Value) -> (f64, f64) {
    let space = Space::new();
    let pairs = case["pairs"] == true;
    let words = |name: &str| -> Vec<String> { serde_json::from_value(case[name].clone()).unwrap() };
    let (mut rows, mut judged, mut swapped) = (String::new(), String::new(), String::new());
    for (judge, person) in words("judge").iter().zip(words("human")) {
        let row = json!({ "response": "a", "reference": "b", "person": human(&person) });
        rows.push_str(&format!("{row}\n"));
        let [first, second] = answers(judge, pairs);
        judged.push_str(&format!("{}\n", json!({ "response": first })));
        swapped.push_str(&format!("{}\n", json!({ "response": second })));
    }
    // A row that nobody judged does not count.
    space.write("rows.jsonl", &format!("{rows}{{\"response\": \"a\", \"reference\": \"b\"}}\n"));
    space.write("judged.jsonl", &format!("{judged}{{\"response\": \"Verdict: A\"}}\n"));
    space.write("swapped.jsonl", &format!("{swapped}{{\"response\": \"Verdict: B\"}}\n"));
    let both = if pairs { ", pairs: true, swapped: swapped" } else { "" };
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata:\n  rows: {{ path: rows.jsonl }}\n  judged: {{ path: judged.jsonl }}\n  \
             swapped: {{ path: swapped.jsonl }}\nstages:\n  j: {{ evaluate: {{ data: rows, task: judge, \
             judgements: judged, human: person{both} }} }}\n"
        ),
    );
    let report = space.report("w.yaml", &[]);
    let nodes = report["nodes"].as_array().unwrap();
    let judged = nodes.iter().find(|node| node["node"] == "j").unwrap();
    let figure = |name: &str| {
        let metrics = judged["metrics"].as_array().unwrap();
        let metric = metrics.iter().find(|metric| metric["metric"] == name).unwrap();
        assert_eq!(metric["n"], words("judge").len(), "{name}");
        metric["value"].as_f64().unwrap_or(f64::NAN)
    };
    (figure("human_agreement"), figure("human_kappa"))
}

#[test]
fn judges_are_compared_with_people_as_scikit_learn_does() {
    let cases: Vec<Value> = serde_json::from_str(AGREEMENT).unwrap();
    for case in &cases {
        let close = |found: (f64, f64)| {
            let kappa = case["kappa"].as_f64().unwrap_or(f64::NAN);
            assert_eq!(found.0, case["agreement"].as_f64().unwrap(), "{case}");
            let is_close = (found.1 - kappa).abs() < 1e-12 || found.1.is_nan() && kappa.is_nan();
            assert!(is_close, "{found:?} {case}");
        };
        close(agreement(case, |word| json!(word)));
        if case["pairs"] == false {
            close(agreement(case, |word| json!(word == "right")));
        }
    }
}

#[test]
fn verdicts_of_people_are_checked() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"response\": \"a\", \"n\": 1, \"person\": \"maybe\"}\n");
    space.write("judged.jsonl", "{\"response\": \"Verdict: right\"}\n");
    let stage = "task: judge, judgements: judged, human: person";
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }}, judged: {{ path: judged.jsonl }} }}\n\
             stages: {{ j: {{ evaluate: {{ data: rows, {stage} }} }} }}\n"
        ),
    );
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("row 0 (`") && said.contains("its `person` is not a verdict"), "{said}");
    assert!(said.contains("verdicts are `right` and `wrong`"), "{said}");
    for (to, expected) in [
        ("task: judge, judgements: judged, human: n", "column `n` is int64, expected bool or text"),
        ("task: judge, judgements: judged, human: x", "the table has no column `x`"),
        ("task: exact_match, human: person", "`task: exact_match` takes no `human`"),
    ] {
        space.edit("w.yaml", stage, to);
        let said = space.fails(&["check", "w.yaml"]);
        assert!(said.contains(expected), "{said}");
        space.edit("w.yaml", to, stage);
    }
}
