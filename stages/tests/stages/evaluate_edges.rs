//! `evaluate` at its edges: no rows, any text, a stop, and bytes that must not change unnoticed.

use arrow::array::{
    Array, BooleanArray, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::Float32Type;
use proptest::prelude::*;
use refrain_cache::columns::column;
use refrain_engine::kind::{Cancel, StageError};

use crate::bench::{Bench, Made, array, batch};

/// A table of responses to judge: id, response, reference.
fn answers(rows: &[(String, String, String)]) -> RecordBatch {
    batch([
        ("id", array(StringArray::from_iter_values(rows.iter().map(|row| &row.0)))),
        ("response", array(StringArray::from_iter_values(rows.iter().map(|row| &row.1)))),
        ("reference", array(StringArray::from_iter_values(rows.iter().map(|row| &row.2)))),
    ])
}

fn row(id: &str, response: &str, reference: &str) -> (String, String, String) {
    (id.into(), response.into(), reference.into())
}

fn verdicts(made: &Made) -> Vec<bool> {
    column::<BooleanArray>(&made.table, "correct").unwrap().iter().map(Option::unwrap).collect()
}

#[test]
fn an_empty_table_has_columns_and_undefined_figures() {
    let bench = Bench::new("evaluate");
    let made = bench.run("task: exact_match, pass_at: [1]", &answers(&[])).unwrap();
    assert_eq!(made.table.num_rows(), 0);
    for name in ["accuracy", "no_answer", "pass_at_1"] {
        let metric = made.metric(name);
        assert!(metric.value.is_nan() && metric.low.is_none() && metric.n == 0, "{metric:?}");
    }
    let logprobs = ListArray::from_iter_primitive::<Float32Type, Vec<Option<f32>>, _>([]);
    let scored = batch([
        ("prompt_tokens", array(Int32Array::from(Vec::<i32>::new()))),
        ("logprobs", array(logprobs)),
        ("perplexity", array(Float64Array::from(Vec::<f64>::new()))),
    ]);
    assert!(bench.run("task: perplexity", &scored).unwrap().figure("perplexity").is_nan());
}

#[test]
fn the_perplexity_leaves_out_the_prompt() {
    let logprobs =
        [Some(vec![None, Some(-9.0), Some(-1.0), Some(-2.0)]), Some(vec![None, Some(-9.0)])];
    let table = batch([
        ("prompt_tokens", array(Int32Array::from(vec![2, 2]))),
        ("logprobs", array(ListArray::from_iter_primitive::<Float32Type, _, _>(logprobs))),
        ("perplexity", array(Float64Array::from(vec![Some(1.5_f64.exp()), None]))),
    ]);
    let made = Bench::new("evaluate").run("task: perplexity", &table).unwrap();
    let (tokens, rows) = (made.metric("perplexity"), made.metric("mean_perplexity"));
    assert!(
        (tokens.value - 1.5_f64.exp()).abs() < 1e-12 && (rows.value - tokens.value).abs() < 1e-12
    );
    assert_eq!((tokens.n, rows.n), (2, 1));
}

#[test]
fn presets_can_be_overridden() {
    let table = answers(&[
        row("a", "so PARIS ", "Paris"),
        row("b", "paris", "Paris"),
        row("c", "5.0", "5"),
    ]);
    let bench = Bench::new("evaluate");
    let judged = |parameters: &str| verdicts(&bench.run(parameters, &table).unwrap());
    assert_eq!(judged("task: exact_match"), [false, false, false]);
    assert_eq!(judged("task: exact_match, ignore_case: true"), [false, true, false]);
    assert_eq!(judged("task: exact_match, compare: number"), [false, false, true]);
    assert_eq!(judged("task: number, compare: text"), [false, false, false]);
    assert_eq!(
        judged("task: exact_match, extract: { after: 'so ' }, ignore_case: true"),
        [true, false, false]
    );
    assert_eq!(judged("task: regex, extract: { regex: '[0-9]' }"), [false, false, true]);
}

#[test]
fn each_k_of_pass_at_stands_once() {
    let (problems, _) =
        Bench::new("evaluate").check("task: number, pass_at: [2, 5, 2]", &answers(&[]).schema());
    assert_eq!(problems, ["pass_at: `pass_at` names 2 twice"]);
}

#[test]
fn a_stop_is_heeded_while_rows_are_judged() {
    let cancel = Cancel::default();
    cancel.cancel();
    let table = answers(&[row("a", "x", "x")]);
    let stopped = Bench::new("evaluate").run_until("task: exact_match", &table, &cancel);
    assert!(matches!(stopped, Err(StageError::Cancelled)));
}

/// Whoever changes these bytes must raise the version of `evaluate`: old results lie in caches under the old one.
#[test]
fn the_bytes_and_the_intervals_are_those_of_version_1() {
    let rows: Vec<_> = (0..100)
        .map(|i| row(&(i / 4).to_string(), &(i * 7 % 11).to_string(), &(i % 5).to_string()))
        .collect();
    let bench = Bench::new("evaluate");
    let made = bench.run("task: number, pass_at: [2]", &answers(&rows)).unwrap();
    assert_eq!(made.digest, "cd7e9938b5e883658d9fbd6b0ca8dae0f400e1e4957e3b8278c372b10426be01");
    let ends =
        |name: &str| (made.metric(name).value, made.metric(name).low, made.metric(name).high);
    assert_eq!(ends("accuracy"), (0.09, Some(0.04), Some(0.15)));
    assert_eq!(ends("pass_at_2"), (0.1733333333333333, Some(0.08), Some(0.27999999999999997)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A response that is its reference is right whatever both are, where it holds an answer; no text makes it panic.
    #[test]
    fn any_text_equals_itself(response in "(\\PC|[0-9$,.%#/\n -])*", other in "[0-9$,.%#/\n -]*") {
        let bench = Bench::new("evaluate");
        let table = answers(&[row("a", &response, &response), row("b", &response, &other)]);
        for task in ["task: exact_match", "task: number", "task: number, extract: last_number"] {
            let made = bench.run(&format!("{task}, bootstrap: 0"), &table).unwrap();
            let answered = column::<StringArray>(&made.table, "prediction").unwrap().is_valid(0);
            prop_assert_eq!(verdicts(&made)[0], answered);
        }
    }

    /// Rows may come in any batches and prompts in any order: a verdict is that of its row alone.
    #[test]
    fn a_verdict_is_a_function_of_its_row(numbers in prop::collection::vec((0..9_u8, 0..9_u8), 1..40)) {
        let bench = Bench::new("evaluate");
        let of = |pairs: &[(u8, u8)]| {
            let row = |(a, b): &(u8, u8)| row("same", &format!("it is {a}."), &b.to_string());
            let table = answers(&pairs.iter().map(row).collect::<Vec<_>>());
            verdicts(&bench.run("task: number, bootstrap: 0", &table).unwrap())
        };
        let expected: Vec<bool> = numbers.iter().map(|(a, b)| a == b).collect();
        prop_assert_eq!(of(&numbers), expected.clone());
        let reversed: Vec<_> = numbers.iter().rev().copied().collect();
        prop_assert_eq!(of(&reversed), expected.into_iter().rev().collect::<Vec<_>>());
    }
}
