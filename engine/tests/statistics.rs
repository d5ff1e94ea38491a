//! The statistics of comparisons against SciPy, statsmodels and NumPy: `statistics/references.py`
//! made the numbers.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::time::Instant;

use serde_json::Value;

use refrain_engine::statistics::{
    Draws, Interval, Population, deviation, holm, mcnemar, mean, newcombe, normal_quantile,
    percentile, sign_flip, student, student_p, two_way, wilcoxon, wilson,
};

const REFERENCES: &str = include_str!("statistics/references.json");

fn cases(name: &str) -> Vec<Value> {
    let mut document: Value = serde_json::from_str(REFERENCES).unwrap();
    let Value::Array(cases) = document[name].take() else { panic!("no `{name}`") };
    cases
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Within 1e-9 of the reference, of the reference itself where it is large.
fn same(obtained: f64, reference: &Value, case: &dyn std::fmt::Debug) {
    let reference = number(reference);
    let off = (obtained - reference).abs();
    assert!(off <= 1e-9 * reference.abs().max(1.0), "{obtained} is not {reference}: {case:?}");
}

fn ends(interval: Interval, case: &Value) {
    same(interval.low, &case["low"], case);
    same(interval.high, &case["high"], case);
}

#[test]
fn tests_of_differences_are_those_of_scipy() {
    let cases = cases("paired");
    assert!(cases.len() >= 200);
    for case in &cases {
        let differences = numbers(&case["differences"]);
        same(sign_flip(&differences), &case["sign_flip"], case);
        match (wilcoxon(&differences), &case["wilcoxon"]) {
            (None, Value::Null) => {}
            (Some(found), reference) => {
                same(found.statistic, &reference[0], case);
                same(found.p, &reference[1], case);
                // A small probability counts by its digits.
                let relative = found.p / number(&reference[1]) - 1.0;
                assert!(relative.abs() < 1e-9, "{relative:e}: {case}");
                assert_eq!(found.exact, reference[2], "{case}");
            }
            (None, _) => panic!("no test: {case}"),
        }
    }
}

#[test]
fn mcnemar_is_that_of_statsmodels() {
    let cases = cases("mcnemar");
    assert!(cases.len() >= 200);
    for case in &cases {
        let p = mcnemar(case["first"].as_u64().unwrap(), case["second"].as_u64().unwrap());
        same(p, &case["p"], case);
        let reference = number(&case["p"]);
        assert!((p - reference).abs() <= 1e-8 * reference, "{p:e}: {case}");
    }
}

#[test]
fn students_interval_and_test_are_those_of_scipy() {
    let cases = cases("student");
    assert!(cases.len() >= 200);
    for case in &cases {
        let values = numbers(&case["values"]);
        ends(student(&values, number(&case["confidence"])).unwrap(), case);
        same(student_p(&values).unwrap(), &case["p"], case);
    }
    assert_eq!(student(&[1.0], 0.95), None);
    assert_eq!(student_p(&[1.0]), None);
}

#[test]
fn corrections_are_those_of_statsmodels() {
    let cases = cases("holm");
    assert!(cases.len() >= 200);
    for case in &cases {
        let corrected = holm(&numbers(&case["p"]));
        for (corrected, reference) in corrected.iter().zip(case["corrected"].as_array().unwrap()) {
            same(*corrected, reference, case);
        }
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn intervals_of_shares_are_those_of_statsmodels() {
    let cases = cases("wilson");
    assert!(cases.len() >= 200);
    for case in &cases {
        let (share, n, confidence) =
            (number(&case["share"]), number(&case["n"]), number(&case["confidence"]));
        let interval = wilson(share, n, confidence);
        ends(interval, case);
        assert!(interval.width() > 0.0, "{case}");
        let difference = newcombe([share, number(&case["other"])], n, confidence);
        same(difference.low, &case["difference"][0], case);
        same(difference.high, &case["difference"][1], case);
    }
}

#[test]
fn quantiles_of_the_normal_distribution_are_those_of_scipy() {
    for case in cases("normal") {
        same(normal_quantile(number(&case["p"])), &case["x"], &case);
    }
}

/// Values from a stream, as the script draws them.
fn values(case: u64, count: usize) -> Vec<f64> {
    let stream = Draws::new("values", case, &[]);
    let unit = |i| (stream.at(i) >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count as u64).map(unit).collect()
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The mean over the drawn seeds of the mean over the drawn rows.
fn draws_of(columns: Vec<Vec<f64>>, draws: usize) -> Vec<f64> {
    let (rows, seeds) = (columns[0].len(), columns.len());
    let found = two_way(&[Population { rows, columns }], seeds, draws, |draw| {
        let of_seeds: Vec<f64> = draw.seeds.iter().map(|seed| draw.means[0][*seed]).collect();
        Ok::<f64, Infallible>(mean(&of_seeds))
    });
    found.unwrap()
}

#[test]
fn bootstrap_ends_are_those_of_numpy_with_the_same_draws() {
    let cases = cases("bootstrap");
    assert!(cases.len() >= 200);
    for (number, case) in cases.iter().enumerate() {
        let (rows, seeds) = (size(&case["rows"]), size(&case["seeds"]));
        let mut all = values(number as u64, rows * seeds);
        for value in &mut all {
            *value = match number % 4 {
                2 => f64::from(u8::from(*value < 0.5)) - f64::from(u8::from(*value > 0.9)),
                3 => 0.5,
                _ => *value,
            };
        }
        let columns = all.chunks(rows).map(<[f64]>::to_vec).collect();
        let mut draws = draws_of(columns, size(&case["draws"]));
        same(deviation(&draws).unwrap(), &case["deviation"], case);
        ends(percentile(&mut draws, 0.95).unwrap(), case);
    }
}

#[test]
fn each_draw_computes_an_expression_anew() {
    for (number, case) in cases("expressions").iter().enumerate() {
        let seeds = size(&case["seeds"]);
        let populations = [0, 1].map(|k| {
            let rows = size(&case["rows"][k]);
            let all = values(1000 + 2 * number as u64 + k as u64, rows * seeds);
            let column = |chunk: &[f64]| chunk.iter().map(|value| value + 0.5).collect();
            Population { rows, columns: all.chunks(rows).map(column).collect() }
        });
        let mut draws = two_way(&populations, seeds, size(&case["draws"]), |draw| {
            let [a, b] = [&draw.means[0], &draw.means[1]];
            let of_seeds: Vec<f64> =
                draw.seeds.iter().map(|seed| 100.0 * (a[*seed] / b[*seed] - 1.0)).collect();
            Ok::<f64, Infallible>(mean(&of_seeds))
        })
        .unwrap();
        ends(percentile(&mut draws, 0.95).unwrap(), case);
    }
}

/// Prints the time of the draws; `cargo test --release -p refrain-engine --test statistics --
/// --nocapture draws`.
#[test]
fn draws_have_the_same_bits_at_any_number_of_threads() {
    let columns: Vec<Vec<f64>> = (0..5).map(|seed| values(seed, 400)).collect();
    let count = if cfg!(debug_assertions) { 500 } else { 10_000 };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let begin = Instant::now();
        let draws = pool.install(|| draws_of(columns.clone(), count));
        println!("{count} draws of 5 seeds and 400 rows, {threads} threads: {:?}", begin.elapsed());
        draws.iter().map(|draw| draw.to_bits()).collect::<Vec<u64>>()
    };
    let one = with(1);
    assert!([2, 3, 8].into_iter().all(|threads| with(threads) == one));
}

#[test]
fn the_first_error_of_a_draw_is_told() {
    let population = Population { rows: 1, columns: vec![vec![1.0]] };
    let counter = std::sync::atomic::AtomicUsize::new(0);
    let failed = two_way(&[population], 3, 50, |draw| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match draw.seeds {
            [0, ..] => Err(draw.seeds.to_vec()),
            _ => Ok(0.0),
        }
    });
    let stream = Draws::new("compare seeds", 0, &[]);
    let first = (0..50).map(|d| [0, 1, 2].map(|i| stream.below(3 * d + i, 3) as usize));
    assert_eq!(failed.unwrap_err(), first.into_iter().find(|seeds| seeds[0] == 0).unwrap());
}
