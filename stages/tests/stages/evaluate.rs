//! `evaluate`: verdicts and figures against recorded ones, and its messages.

use arrow::array::{AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, StringArray};
use arrow::array::{ListArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type};
use refrain_engine::kind::Taker;
use serde_json::Value;

use crate::bench::{Bench, Made, array, batch, message, reference_json, reference_lines};

/// A table of texts.
fn texts(columns: &[(&str, &[&str])]) -> RecordBatch {
    let columns =
        columns.iter().map(|(name, texts)| (*name, array(StringArray::from(texts.to_vec())), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn answers(responses: &[&str], references: &[&str]) -> RecordBatch {
    texts(&[("response", responses), ("reference", references)])
}

fn interval(made: &Made, figure: &str) -> Option<(f64, f64)> {
    let metric = made.metric(figure);
    metric.low.zip(metric.high)
}

fn column<'a>(lines: &'a [Value], name: &str) -> Vec<&'a str> {
    lines.iter().map(|line| line[name].as_str().unwrap()).collect()
}

#[test]
fn all_recorded_verdicts_on_gsm8k_are_reproduced() {
    let Some(lines) = reference_lines("eval-gsm8k/solutions.jsonl") else { return };
    let expected = reference_json("eval-gsm8k/expected.json").unwrap();
    let solutions = column(&lines, "solution");
    let marked = "task: number, extract: { regex: '(?m)^A: (.*)$' }, bootstrap: 0";
    // The reference ends with the same mark; the published answer has another, and is then a whole.
    for (parameters, reference) in
        [(marked, "reference"), ("task: number, extract: { after: 'A: ' }", "reference")]
    {
        let made = Bench::new("evaluate")
            .run(parameters, &answers(&solutions, &column(&lines, reference)))
            .unwrap();
        let correct = made.table["correct"].as_boolean();
        let wrong = (0..lines.len())
            .filter(|&i| correct.value(i) != lines[i]["is_correct"].as_bool().unwrap());
        assert_eq!(wrong.count(), 0, "{parameters}");
        let total: f64 =
            expected["correct"].as_object().unwrap().values().map(|n| n.as_f64().unwrap()).sum();
        assert_eq!(made.figure("correct"), total);
        assert!((made.figure("accuracy") - total / lines.len() as f64).abs() < 1e-12);
        let none: f64 = expected["no_answer_line"]
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_f64().unwrap())
            .sum();
        assert_eq!(made.figure("no_answer"), none / lines.len() as f64);
    }
}

/// The default way takes the last number where there is no `####`: it finds the gold of every published answer.
#[test]
fn the_published_answers_agree_with_the_references() {
    let Some(lines) = reference_lines("eval-gsm8k/solutions.jsonl") else { return };
    let table = answers(&column(&lines, "reference"), &column(&lines, "dataset_answer"));
    let made = Bench::new("evaluate").run("task: number, bootstrap: 0", &table).unwrap();
    assert_eq!(made.figure("accuracy"), 1.0);
}

#[test]
fn the_logged_verdicts_are_reproduced() {
    let Some(lines) = reference_lines("eval-gsm8k/logged.jsonl") else { return };
    let table = answers(&column(&lines, "generation"), &column(&lines, "reference"));
    let made = Bench::new("evaluate").run("task: number, bootstrap: 0", &table).unwrap();
    let correct = made.table["correct"].as_boolean();
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(correct.value(i), line["passed"] == 1, "{i}");
    }
    assert_eq!(made.table["prediction"].as_string::<i32>().value(4), "30000");
}

#[test]
fn pass_at_k_is_the_published_one() {
    let Some(lines) = reference_lines("pass-at-k/samples.jsonl") else { return };
    let expected = reference_json("pass-at-k/expected.json").unwrap();
    let (mut ids, mut samples, mut responses) = (Vec::new(), Vec::new(), Vec::new());
    // Sample by sample, so that the rows of one prompt lie far apart.
    for sample in 0..32 {
        for line in &lines {
            ids.push(line["row_id"].to_string());
            samples.push(sample);
            responses.push(if line["correct"][sample as usize] == true { "yes" } else { "no" });
        }
    }
    let table = batch([
        ("id", array(StringArray::from(ids))),
        ("sample", array(Int32Array::from(samples))),
        ("response", array(StringArray::from(responses))),
        ("reference", array(StringArray::from(vec!["yes"; lines.len() * 32]))),
    ]);
    let bench = Bench::new("evaluate");
    let made = bench.run("task: exact_match, pass_at: [1, 2, 5, 10, 32]", &table).unwrap();
    for (k, value) in expected["pass_at_k"].as_object().unwrap() {
        assert!(
            (made.figure(&format!("pass_at_{k}")) - value.as_f64().unwrap()).abs() < 1e-9,
            "{k}"
        );
    }
    assert!((made.figure("accuracy") - made.figure("pass_at_1")).abs() < 1e-12);
    let error = message(bench.run("task: exact_match, pass_at: [33]", &table));
    assert_eq!(error, "`pass_at: 33` needs 33 samples a prompt, and `0` has 32");
}

#[test]
fn verdicts_say_why_and_other_columns_stay() {
    let table = batch([
        ("note", array(Int32Array::from(vec![7, 8, 9, 10]))),
        ("correct", array(StringArray::from(vec!["old"; 4]))),
        (
            "response",
            array(StringArray::from(vec![Some(" Paris\n"), Some("Rome"), None, Some("  ")])),
        ),
        ("reference", array(StringArray::from(vec!["paris"; 4]))),
    ]);
    let made = Bench::new("evaluate").run("task: exact_match, ignore_case: true", &table).unwrap();
    let names: Vec<_> =
        made.table.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["note", "correct", "response", "reference", "prediction", "reason"]);
    assert_eq!(
        made.table["correct"].as_ref(),
        &BooleanArray::from(vec![true, false, false, false])
    );
    let text = |name: &str| {
        made.table[name].as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(text("prediction"), [Some("Paris".into()), Some("Rome".into()), None, None]);
    assert_eq!(
        text("reason").into_iter().flatten().collect::<Vec<_>>(),
        ["equal", "different", "no answer found", "no answer found"]
    );
    assert_eq!(made.figures(), ["accuracy", "correct", "no_answer"]);
    let whole = Bench::new("evaluate")
        .run("task: exact_match, trim: false, ignore_case: true", &table)
        .unwrap();
    assert_eq!(whole.figure("correct"), 0.0);
}

#[test]
fn intervals_come_from_prompts_and_hold_the_value() {
    let ids: Vec<String> = (0..200).map(|i| (i / 2).to_string()).collect();
    let responses: Vec<&str> = (0..200).map(|i| if i / 2 % 5 < 3 { "a" } else { "b" }).collect();
    let table = batch([
        ("id", array(StringArray::from(ids))),
        ("response", array(StringArray::from(responses))),
        ("reference", array(StringArray::from(vec!["a"; 200]))),
    ]);
    let bench = Bench::new("evaluate");
    let made = bench.run("task: exact_match", &table).unwrap();
    let (low, high) = interval(&made, "accuracy").unwrap();
    // 0.6 ± 1.96 · √(0.24 / 100): there are 100 prompts, though 200 rows.
    assert!((low - 0.504).abs() < 0.02 && (high - 0.696).abs() < 0.02, "{low} {high}");
    let made = bench.run("task: exact_match, bootstrap: 0", &table).unwrap();
    assert_eq!(interval(&made, "accuracy"), None);
}

#[test]
fn a_pattern_gives_its_group_to_both_sides() {
    let table = answers(&["I say: B.", "I say: C.", "B"], &["I say: B!", "B", "B"]);
    let made = Bench::new("evaluate").run(r"task: regex, pattern: 'say: (\w)'", &table).unwrap();
    assert_eq!(made.table["correct"].as_ref(), &BooleanArray::from(vec![true, false, false]));
}

fn scored() -> RecordBatch {
    // A prompt of one token; the second row's first response token has no prediction, the third row no response.
    let logprobs = [
        Some(vec![None, Some(-1.0), Some(-3.0)]),
        Some(vec![None, None, Some(-0.5), Some(-0.5)]),
        Some(vec![None]),
    ];
    batch([
        ("prompt_tokens", array(Int32Array::from(vec![1, 1, 1]))),
        ("logprobs", array(ListArray::from_iter_primitive::<Float32Type, _, _>(logprobs))),
        (
            "perplexity",
            array(Float64Array::from(vec![Some(2.0_f64.exp()), Some(0.5_f64.exp()), None])),
        ),
    ])
}

#[test]
fn perplexity_is_over_tokens_and_over_rows() {
    let made = Bench::new("evaluate").run("task: perplexity", &scored()).unwrap();
    assert!((made.figure("perplexity") - (5.0_f64 / 4.0).exp()).abs() < 1e-12);
    assert!((made.figure("mean_perplexity") - (2.0_f64.exp() + 0.5_f64.exp()) / 2.0).abs() < 1e-12);
    assert_eq!(made.table, scored());
    let (low, high) = interval(&made, "perplexity").unwrap();
    assert!((low - 0.5_f64.exp()).abs() < 1e-12 && (high - 2.0_f64.exp()).abs() < 1e-12);
}

#[test]
fn wrong_tables_are_named() {
    let error = |parameters: &str, table: &RecordBatch| {
        message(Bench::new("evaluate").run(parameters, table))
    };
    let table = batch([
        ("id", array(StringArray::from(vec!["x", "y"]))),
        ("response", array(StringArray::from(vec!["a", "b"]))),
        ("reference", array(StringArray::from(vec![Some("a"), None]))),
    ]);
    assert_eq!(error("task: exact_match", &table), "row 1 (`y`) has no `reference`");
    let short = batch([
        ("prompt_tokens", array(Int32Array::from(vec![2]))),
        (
            "logprobs",
            array(ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![None])])),
        ),
        ("perplexity", array(Float64Array::from(vec![2.0]))),
    ]);
    assert_eq!(
        error("task: perplexity", &short),
        "`prompt_tokens` and `logprobs` of row 0 do not fit"
    );
}

#[test]
fn wrong_parameters_are_named() {
    let problems =
        |parameters: &str| Bench::new("evaluate").check(parameters, &answers(&[], &[]).schema()).0;
    let only = |parameters: &str| {
        let mut problems = problems(parameters);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    };
    assert_eq!(problems("task: exact_match"), [""; 0]);
    assert_eq!(only("task: regex"), ": `task: regex` needs `pattern`");
    assert_eq!(only("task: number, pattern: 'x'"), "pattern: `task: number` takes no `pattern`");
    assert_eq!(
        only("task: regex, pattern: 'x', extract: whole"),
        "extract: `extract` cannot stand beside `pattern`"
    );
    assert_eq!(
        only("task: number, extract: { after: a, regex: b }"),
        "extract: it needs one of `after` and `regex`"
    );
    assert_eq!(only("task: number, extract: { after: '' }"), "extract.after: `after` is empty");
    assert_eq!(
        only("task: regex, pattern: '(a'"),
        "pattern: it is not a regular expression: unclosed group"
    );
    assert_eq!(
        problems("task: perplexity"),
        ["perplexity", "logprobs", "prompt_tokens"]
            .map(|name| { format!("data: the table has no column `{name}`") })
    );
    let scored = scored().schema();
    let of_scored = |parameters: &str| Bench::new("evaluate").check(parameters, &scored).0;
    assert_eq!(
        of_scored("task: perplexity, pass_at: [1], extract: whole"),
        [
            "extract: `task: perplexity` takes no `extract`: it judges no answers",
            "pass_at: `task: perplexity` takes no `pass_at`: it judges no answers",
        ]
    );
    assert_eq!(
        of_scored("task: number"),
        ["response", "reference"].map(|name| { format!("data: the table has no column `{name}`") })
    );
    let numbers = batch([
        ("response", array(Float32Array::from(vec![1.0]))),
        ("reference", array(StringArray::from(vec!["a"]))),
    ]);
    let (problems, _) = Bench::new("evaluate").check("task: number", &numbers.schema());
    assert_eq!(problems, ["data: column `response` is float32, expected text"]);
    assert_eq!(numbers.schema().field(0).data_type(), &DataType::Float32);
}

/// With a model the first stage takes what is not the judge's own.
#[test]
fn a_model_makes_two_stages() {
    let kinds = refrain_stages::kinds();
    let kind = kinds.get("evaluate").unwrap();
    let expand = |json: &str| {
        let Value::Object(params) = serde_json::from_str(json).unwrap() else { panic!() };
        kind.expand.unwrap()(&params)
    };
    assert!(expand(r#"{"data": "a", "task": "number"}"#).is_none());
    let expansion = expand(r#"{"model": "m", "data": "a", "task": "number"}"#).unwrap();
    assert_eq!((expansion.kind, expansion.suffix, expansion.link), ("generate", "answers", "data"));
    for name in ["model", "data", "temperature", "prompt", "seed"] {
        assert_eq!((expansion.takes)(name), Taker::First, "{name}");
    }
    for name in ["task", "extract", "compare", "pass_at", "bootstrap", "pattern", "trim"] {
        assert_eq!((expansion.takes)(name), Taker::Second, "{name}");
    }
    assert_eq!(
        expand(r#"{"model": "m", "data": "a", "task": "perplexity"}"#).unwrap().kind,
        "score"
    );
}
