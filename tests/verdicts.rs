//! Verdicts on the shared cases, from workflows as their users write them.

use std::path::Path;

use serde_json::Value;

use crate::artifacts::{lines, table, texts, truths};
use crate::space::{Space, shared};

/// A space with `w.yaml`, in which `SHARED` is the folder of the cases; `None` where it is absent.
fn case(workflow: &str) -> Option<Space> {
    let shared = shared()?.join("data");
    let space = Space::new();
    space.write("w.yaml", &workflow.replace("SHARED", &shared.display().to_string()));
    Some(space)
}

fn json(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const MATH: &str = r#"
refrain: 1
data:
  cases: { path: SHARED/eval-math/cases.jsonl, columns: { response: solution, reference: boxed } }
  pairs: { path: SHARED/eval-math/equivalence.jsonl, columns: { response: a, reference: b } }
  logged: { path: SHARED/eval-math/logged.jsonl, columns: { response: generation, reference: gold } }
stages:
  boxes: { evaluate: { data: cases, task: math, compare: none } }
  forms: { evaluate: { data: cases, task: math } }
  equal: { evaluate: { data: pairs, task: math, extract: whole } }
  judged:
    evaluate: { data: logged, task: math, extract: [{ regex: '(?i)answer:[ \t]*(.*)' }, boxed] }
expect:
  - { stage: forms, metric: accuracy, value: 1.0, within: 0.0 }
  - { stage: boxes, metric: no_answer, value: 0.0, within: 0.0 }
"#;

#[test]
fn answers_of_math_have_their_box_normal_form_and_verdict() {
    let Some(space) = case(MATH) else { return };
    space.report("w.yaml", &[]);
    let cases = lines("eval-math/cases.jsonl");
    let expected = json("eval-math/expected.json");
    assert_eq!(cases.len() as u64, expected["rows"].as_u64().unwrap());
    let all = |name: &str| -> Vec<Option<String>> {
        cases.iter().map(|case| case[name].as_str().map(str::to_owned)).collect()
    };
    let boxes = table(&space, "boxes");
    assert_eq!(texts(&boxes, "prediction"), all("boxed"));
    assert!(boxes.column_by_name("correct").is_none());
    let forms = texts(&table(&space, "forms"), "prediction");
    assert_eq!(forms, all("normalised"));
    let changed = forms.iter().zip(all("boxed")).filter(|(form, boxed)| *form != boxed).count();
    assert_eq!(changed as u64, expected["changed_by_normalisation"].as_u64().unwrap());

    let equal = truths(&table(&space, "equal"), "correct");
    let pairs = lines("eval-math/equivalence.jsonl");
    assert_eq!(equal.len() as u64, expected["equivalence_pairs"].as_u64().unwrap());
    for (pair, equal) in pairs.iter().zip(equal) {
        assert_eq!(Value::from(equal), pair["equivalent"], "{pair}");
    }
    let judged = table(&space, "judged");
    let logged = lines("eval-math/logged.jsonl");
    for (line, correct) in logged.iter().zip(truths(&judged, "correct")) {
        assert_eq!(Value::from(correct), line["judged_correct"], "{line}");
    }
    let found: Vec<bool> = texts(&judged, "prediction").iter().map(Option::is_some).collect();
    let extracted: Vec<bool> = logged.iter().map(|line| line["extracted"] != "").collect();
    assert_eq!(found, extracted);
}

const ARC: &str = r#"
refrain: 1
data:
  responses: { path: SHARED/eval-arc/responses.jsonl, columns: { question: id, recorded: correct, reference: answerKey } }
  questions: { path: SHARED/eval-arc/questions.jsonl, columns: { response: gold_line, reference: answerKey } }
stages:
  authors: { evaluate: { data: responses, task: arc } }
  right: { evaluate: { data: responses, task: choice } }
  gold: { evaluate: { data: questions, task: choice } }
expect:
  - { stage: authors, metric: correct, value: 60, within: 0 }
  - { stage: gold, metric: accuracy, value: 1.0, within: 0.0 }
"#;

#[test]
fn answers_of_arc_are_judged_by_the_authors_rule_and_by_the_right_one() {
    let Some(space) = case(ARC) else { return };
    space.report("w.yaml", &[]);
    let expected = json("eval-arc/expected.json");
    let authors = table(&space, "authors");
    assert_eq!(expected["responses"], authors.num_rows());
    let correct = truths(&authors, "correct");
    assert_eq!(correct, truths(&authors, "recorded"));
    assert_eq!(expected["correct"], correct.iter().filter(|correct| **correct).count());

    // The last statement counts, and neither spelling, brackets nor a line break hides an answer.
    let right = table(&space, "right");
    let responses = texts(&right, "response").into_iter().flatten();
    let keys = texts(&right, "reference").into_iter().flatten();
    for ((response, key), correct) in responses.zip(keys).zip(truths(&right, "correct")) {
        let after = |mark: &str| response.to_lowercase().rfind(mark).map(|at| at + mark.len());
        let said = &response[after("answer:").or(after("choice is")).unwrap_or(0)..];
        let is_key = said.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty());
        // In a box the word `boxed` comes before the label.
        let is_key = is_key.unwrap() == key || said.ends_with(&format!("{{{key}}}$"));
        assert_eq!(correct, is_key, "{response} {key}");
    }
    let gold = texts(&table(&space, "gold"), "prediction");
    assert_eq!(gold, texts(&table(&space, "gold"), "reference"));
}

const GSM8K_VERDICTS: &str = r#"
refrain: 1
data:
  solutions:
    path: SHARED/eval-gsm8k/solutions.jsonl
    columns: { question: id, response: solution }
  published:
    path: SHARED/eval-gsm8k/solutions.jsonl
    columns: { question: id, response: reference, reference: dataset_answer }
  logged: { path: SHARED/eval-gsm8k/logged.jsonl, columns: { question: id, response: generation } }
stages:
  of_model: { diversify: { data: solutions, keep: { where: { model: "${model}" } } } }
  judged: { evaluate: { data: of_model, task: regex, pattern: '(?m)^A: (.*)$', compare: number } }
  all: { evaluate: { data: solutions, task: regex, pattern: '(?m)^A: (.*)$', compare: number } }
  gold: { evaluate: { data: published, task: number } }
  authors: { evaluate: { data: logged, task: gsm8k } }
sweep:
  model: [6b_finetuning, 6b_verification, 175b_finetuning, 175b_verification]
expect:
  - { stage: gold, metric: accuracy, value: 1.0, within: 0.0 }
  - { stage: authors, metric: no_answer, value: 0.0, within: 0.0 }
"#;

#[test]
fn answers_of_gsm8k_have_the_recorded_verdicts() {
    let Some(space) = case(GSM8K_VERDICTS) else { return };
    let expected = json("eval-gsm8k/expected.json");
    let mut expects = String::new();
    for (model, correct) in expected["correct"].as_object().unwrap() {
        let none = expected["no_answer_line"][model].as_f64().unwrap()
            / expected["questions"].as_f64().unwrap();
        let at = format!("stage: judged, at: {{ model: {model} }}");
        expects += &format!("  - {{ {at}, metric: correct, value: {correct}, within: 0 }}\n");
        expects += &format!("  - {{ {at}, metric: no_answer, value: {none}, within: 1e-12 }}\n");
        let accuracy = &expected["accuracy"][model];
        expects += &format!("  - {{ {at}, metric: accuracy, value: {accuracy}, within: 1e-9 }}\n");
    }
    let workflow = space.read("w.yaml") + &expects;
    space.write("w.yaml", &workflow);
    space.report("w.yaml", &[]);
    let all = table(&space, "all");
    assert_eq!(all.num_rows(), 1320);
    assert_eq!(truths(&all, "correct"), truths(&all, "is_correct"));
    let authors = table(&space, "authors");
    for (line, correct) in lines("eval-gsm8k/logged.jsonl").iter().zip(truths(&authors, "correct"))
    {
        assert_eq!(correct, line["passed"] == 1, "{line}");
    }
}

const GSM8K: &str = r#"
refrain: 1
data:
  train: { path: SHARED/gsm8k/train.parquet, columns: { prompt: question, response: answer } }
  test: { path: SHARED/gsm8k/test.jsonl, columns: { prompt: question, response: answer } }
stages:
  answers: { evaluate: { data: "${split}", task: gsm8k, compare: none } }
sweep:
  split: [train, test]
"#;

#[test]
fn the_answers_of_gsm8k_are_found_without_references() {
    let Some(space) = case(GSM8K) else { return };
    space.report("w.yaml", &[]);
    for split in ["train", "test"] {
        let expected = &json("gsm8k/expected.json")[split];
        let answers = table(&space, &format!("answers[split={split}]"));
        assert_eq!(expected["rows"], answers.num_rows());
        let found = texts(&answers, "prediction");
        let plain = |text: &Option<String>| text.as_ref().unwrap().replace(',', "").parse::<i64>();
        let numbers: Vec<i64> = found.iter().map(|text| plain(text).unwrap()).collect();
        assert_eq!(expected["answers_that_are_integers"], numbers.len());
        assert_eq!(expected["negative"], numbers.iter().filter(|n| **n < 0).count());
        assert_eq!(expected["sum_of_answers"], numbers.iter().sum::<i64>().to_string());
        let commas = found.iter().flatten().filter(|text| text.contains(',')).count();
        assert_eq!(expected["with_thousands_comma"], commas);
        let chars = |name| -> usize {
            texts(&answers, name).iter().flatten().map(|text| text.chars().count()).sum()
        };
        assert_eq!(expected["question_chars"], chars("prompt"));
        assert_eq!(expected["answer_chars"], chars("response"));
        assert!(texts(&answers, "reason").iter().flatten().all(|reason| reason == "found"));
    }
}

/// A verdict that was made elsewhere is summed up as one of ours is, and the table stays as it is.
#[test]
fn given_verdicts_are_summed_up_over_prompts() {
    let space = Space::new();
    let row = |id: &str, sample: u8, correct: bool| {
        format!("{{\"id\": \"{id}\", \"sample\": {sample}, \"correct\": {correct}}}\n")
    };
    let rows = [row("a", 0, true), row("a", 1, false), row("b", 0, false), row("b", 1, false)];
    space.write("rows.jsonl", &rows.concat());
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\n\
         stages: { j: { evaluate: { data: rows, task: given, pass_at: [1, 2] } } }\n\
         expect:\n\
         - { stage: j, metric: accuracy, value: 0.25, within: 0.0 }\n\
         - { stage: j, metric: pass_at_2, value: 0.5, within: 0.0 }\n",
    );
    let digests = space.digests("w.yaml", &[]);
    assert_eq!(digests["rows"]["main"], digests["j"]["main"]);
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"correct\": true}\n{\"id\": \"b\", \"correct\": null}\n",
    );
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("row 1 (`b`) has no `correct`"), "{said}");
    space.edit("w.yaml", "task: given", "task: given, extract: whole");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`task: given` takes no `extract`"), "{said}");
}

/// Captured text stays as it is, and nothing between two marks is an answer too.
#[test]
fn captured_text_is_kept_as_it_is() {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"response\": \"<a>  x\\n</a>\"}\n{\"response\": \"<a></a>\"}\n{\"response\": \"no\"}\n",
    );
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n\
         \x20 kept: { evaluate: { data: rows, task: regex, pattern: '(?s)<a>(.*?)</a>', compare: none } }\n\
         \x20 trimmed:\n\
         \x20   evaluate: { data: rows, task: regex, extract: { regex: '(?s)<a>(.*?)</a>', trim: true }, compare: none }\n\
         expect: [{ stage: kept, metric: no_answer, value: 0.3333, within: 0.001 }]\n",
    );
    space.report("w.yaml", &[]);
    let kept = table(&space, "kept");
    assert_eq!(texts(&kept, "prediction"), [Some("  x\n".into()), Some(String::new()), None]);
    let reasons: Vec<_> = texts(&kept, "reason").into_iter().flatten().collect();
    assert_eq!(reasons, ["found", "found", "no answer found"]);
    let trimmed = texts(&table(&space, "trimmed"), "prediction");
    assert_eq!(trimmed, [Some("x".into()), Some(String::new()), None]);
    // Without `compare: none` a table without references is refused.
    space.edit("w.yaml", ", compare: none", "");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("no column `reference`") && said.contains("compare: none"), "{said}");
}

const PASS_AT_K: &str = r#"
refrain: 1
data:
  samples: { path: SHARED/pass-at-k/samples.jsonl, explode: correct, columns: { id: row_id } }
  first: { path: SHARED/pass-at-k/samples.jsonl, explode: correct, columns: { id: row_id }, rows: { where: { sample: 0 } } }
stages:
  all: { evaluate: { data: samples, task: given, pass_at: [1, 2, 5, 10, 32] } }
  one: { evaluate: { data: first, task: given } }
expect:
"#;

#[test]
fn recorded_samples_have_the_published_pass_at_k() {
    let Some(space) = case(PASS_AT_K) else { return };
    let expected = json("pass-at-k/expected.json");
    let mut workflow = space.read("w.yaml");
    for (k, value) in expected["pass_at_k"].as_object().unwrap() {
        workflow +=
            &format!("  - {{ stage: all, metric: pass_at_{k}, value: {value}, within: 1e-9 }}\n");
    }
    let first = &expected["first_sample_accuracy"];
    workflow += &format!("  - {{ stage: one, metric: accuracy, value: {first}, within: 1e-9 }}\n");
    space.write("w.yaml", &workflow);
    space.report("w.yaml", &[]);
    let all = table(&space, "all");
    let counts = expected["correct_per_prompt"].as_array().unwrap();
    let right = truths(&all, "correct");
    assert_eq!((expected["prompts"].as_u64(), right.len()), (Some(45), 45 * 32));
    for (samples, count) in right.chunks(32).zip(counts) {
        assert_eq!(Value::from(samples.iter().filter(|right| **right).count()), *count);
    }
}
