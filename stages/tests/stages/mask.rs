//! `mask`: the published masks, shares of a table, controls, and what is refused.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Float32Type, Int32Type};
use refrain_cache::TableReader;
use refrain_cache::columns::{column, list_column};
use refrain_engine::kind::{Cancel, StageError};
use sha2::{Digest, Sha256};

use crate::bench::{Bench, array, batch, message, reference, reference_json};

/// A scored table with one row a list of log-probabilities, the first `prompt` of which are the prompt's.
fn scored(rows: &[&[Option<f32>]], prompt: i32) -> RecordBatch {
    let ids = rows.iter().map(|row| Some(row.iter().map(|_| Some(7)).collect::<Vec<_>>()));
    let logprobs = rows.iter().map(|row| Some(row.to_vec()));
    batch([
        ("id", array(StringArray::from_iter_values((0..rows.len()).map(|i| format!("r{i}"))))),
        ("token_ids", array(ListArray::from_iter_primitive::<Int32Type, _, _>(ids))),
        ("prompt_tokens", array(Int32Array::from(vec![prompt; rows.len()]))),
        ("logprobs", array(ListArray::from_iter_primitive::<Float32Type, _, _>(logprobs))),
    ])
}

/// The mask of each row as a text: `+` is trained on.
fn masks(table: &RecordBatch) -> Vec<String> {
    let lists = column::<ListArray>(table, "loss_mask").unwrap();
    let row = |i: usize| {
        lists.value(i).as_boolean().iter().map(|b| if b.unwrap() { '+' } else { '-' }).collect()
    };
    (0..lists.len()).map(row).collect()
}

/// The published table under our names: `perplexities` from another program, with the placeholder of the first token.
fn published() -> Option<RecordBatch> {
    let input =
        TableReader::open(&reference("stm-mask/input.parquet")?).unwrap().read_all(None).unwrap();
    let renamed =
        [("task_id", "id"), ("text", "text"), ("input_ids", "token_ids"), ("ppl", "perplexities")];
    let mut columns: Vec<(&str, ArrayRef)> = renamed
        .iter()
        .map(|(theirs, ours)| (*ours, input.column_by_name(theirs).unwrap().clone()))
        .collect();
    columns[0].1 = arrow::compute::cast(&columns[0].1, &arrow::datatypes::DataType::Utf8).unwrap();
    let prompts =
        arrow::compute::cast(&input["prompt_len"], &arrow::datatypes::DataType::Int32).unwrap();
    columns.push(("prompt_tokens", prompts));
    Some(refrain_cache::normal_batch(&RecordBatch::try_from_iter(columns).unwrap()).unwrap())
}

/// SHA-256 of all labels as little-endian int32: a token's id where it is trained on, else -100.
fn labels_sha256(table: &RecordBatch) -> String {
    let (_, ids) = list_column::<Int32Array>(table, "token_ids").unwrap();
    let mask = column::<ListArray>(table, "loss_mask").unwrap().values().as_boolean().clone();
    let labels = ids
        .iter()
        .zip(mask.iter())
        .map(|(id, kept)| if kept.unwrap() { id.unwrap() } else { -100 });
    let bytes: Vec<u8> = labels.flat_map(i32::to_le_bytes).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_published_masks_are_reproduced() {
    let (Some(table), Some(expected)) = (published(), reference_json("stm-mask/expected.json"))
    else {
        return;
    };
    let bench = Bench::new("mask");
    let mut compared = 0;
    for (mode, parameter) in [("highest", "above"), ("lowest", "below")] {
        // `below` has no word for "off".
        for (threshold, expected) in expected[mode]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(t, _)| parameter == "above" || *t != "-1")
        {
            let made = bench.run(&format!("{parameter}: {threshold}"), &table).unwrap();
            assert_eq!(labels_sha256(&made.table), expected["labels_sha256"], "{mode} {threshold}");
            let same = |figure: &str, theirs: &str| {
                let (found, expected) = (made.figure(figure), expected[theirs].as_f64().unwrap());
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{mode} {threshold}: {figure} is {found}, not {expected}"
                );
            };
            same("response_tokens", "completion_tokens");
            same("masked", "masked_tokens");
            same("masked_share", "masked_fraction");
            same("mean_row_masked_share", "mean_row_masked_fraction");
            same("rows_without_kept_token", "rows_with_no_kept_token");
            let kept: Vec<usize> =
                masks(&made.table).iter().map(|m| m.matches('+').count()).collect();
            assert_eq!(serde_json::to_value(kept).unwrap(), expected["kept_per_row"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
}

#[test]
fn log_probabilities_and_perplexities_are_one_scale() {
    // exp(-logprob) is 1, 2.718… and 20.08…
    let table = scored(&[&[None, Some(-5.0), Some(0.0), Some(-1.0), Some(-3.0), None]], 2);
    let bench = Bench::new("mask");
    let made = bench.run("above: 2.7182818284590455", &table).unwrap();
    // Strictly above e, the prompt is never trained on, and what has no prediction always is.
    assert_eq!(masks(&made.table), ["--++-+"]);
    assert_eq!(masks(&bench.run("above: 2.71828182845904", &table).unwrap().table), ["--+--+"]);
    assert_eq!(masks(&bench.run("below: 2.0", &table).unwrap().table), ["---+++"]);
    let figures = [
        "response_tokens",
        "masked",
        "masked_share",
        "mean_row_masked_share",
        "rows_without_kept_token",
    ];
    assert_eq!(made.figures(), figures);
    assert_eq!((made.figure("masked"), made.figure("response_tokens")), (1.0, 4.0));
}

/// Log-probabilities of perplexities 1 to 8 in an order without pattern, over three rows; the first is a prompt's.
fn eight() -> RecordBatch {
    let row = |values: &[f32]| {
        let scores = values.iter().map(|v| if v.is_nan() { None } else { Some(-libm::logf(*v)) });
        std::iter::once(None).chain(scores).collect::<Vec<_>>()
    };
    let rows = [row(&[5.0, 1.0, 8.0]), row(&[]), row(&[3.0, 7.0, 2.0, f32::NAN, 6.0, 4.0])];
    scored(&[&rows[0], &rows[1], &rows[2]], 1)
}

#[test]
fn a_quantile_is_one_of_the_predicted_response_tokens_of_the_table() {
    let bench = Bench::new("mask");
    let made = bench.run("quantile: 0.75", &eight()).unwrap();
    // numpy.quantile([1, …, 8], 0.75); the log-probabilities are f32.
    assert!((made.figure("threshold") - 6.25).abs() < 1e-5);
    assert_eq!(masks(&made.table), ["-++-", "-", "-+-++++"]);
    assert_eq!(made.figure("masked"), 2.0);
    assert_eq!(masks(&bench.run("quantile: 1", &eight()).unwrap().table), ["-+++", "-", "-++++++"]);
}

#[test]
fn a_budget_is_a_share_of_all_response_tokens() {
    let bench = Bench::new("mask");
    // A third of the nine response tokens, one of which has no prediction.
    let made = bench.run("budget: 0.34", &eight()).unwrap();
    assert_eq!(masks(&made.table), ["-++-", "-", "-+-++-+"]);
    assert_eq!((made.figure("masked"), made.figure("response_tokens")), (3.0, 9.0));
    let all = bench.run("budget: 1", &eight()).unwrap();
    assert_eq!(masks(&all.table), ["----", "-", "----+--"]);
    assert_eq!(all.figure("rows_without_kept_token"), 2.0);
    let none = bench.run("budget: 0", &eight()).unwrap();
    assert_eq!((none.figure("masked"), none.figures().contains(&"threshold")), (0.0, false));
    // Of equal ones the first in the table.
    let equal = scored(&[&[Some(-1.0); 3], &[Some(-1.0); 3]], 0);
    assert_eq!(masks(&bench.run("budget: 0.67", &equal).unwrap().table), ["---", "-++"]);
}

#[test]
fn controls_mask_as_many_tokens_of_each_published_row() {
    let Some(table) = published() else { return };
    let bench = Bench::new("mask");
    let counts = |parameters: &str| -> (Vec<usize>, String) {
        let made = bench.run(parameters, &table).unwrap();
        (masks(&made.table).iter().map(|m| m.matches('-').count()).collect(), made.digest)
    };
    let (above, above_digest) = counts("above: 2.5");
    let (lowest, lowest_digest) = counts("above: 2.5, control: lowest");
    let (random, random_digest) = counts("above: 2.5, control: random");
    let (other, other_digest) = counts("above: 2.5, control: random, seed: 1");
    assert!(above == lowest && above == random && above == other);
    let mut digests = [above_digest, lowest_digest, random_digest.clone(), other_digest];
    digests.sort();
    assert!(digests.windows(2).all(|pair| pair[0] != pair[1]), "{digests:?}");
    assert_eq!(counts("above: 2.5, control: random").1, random_digest);
}

/// A row's draw depends on its id, and on nothing around it.
#[test]
fn a_random_mask_follows_its_row() {
    let scores: Vec<Option<f32>> =
        (0..40).map(|i| Some(if i % 2 == 0 { -3.0 } else { -0.1 })).collect();
    let table = scored(&[&scores, &scores, &scores], 0);
    let bench = Bench::new("mask");
    let all = masks(&bench.run("above: 2.5, control: random", &table).unwrap().table);
    let last = masks(&bench.run("above: 2.5, control: random", &table.slice(2, 1)).unwrap().table);
    assert_eq!(all[2], last[0]);
    assert_ne!(all[0], all[1]);
}

/// Behind the prompt of a conversation stand turns of others, which are neither trained on nor counted.
#[test]
fn tokens_of_others_are_no_part_of_the_response() {
    let table = scored(&[&[None, Some(-3.0), None, Some(-1.0)]], 1);
    let turns = [vec![Some(false), Some(true), Some(false), Some(true)]];
    let mut lists = arrow::array::ListBuilder::new(arrow::array::BooleanBuilder::new());
    turns.iter().for_each(|row| lists.append_value(row.iter().copied()));
    let table = refrain_cache::columns::with_column(&table, "response_mask", array(lists.finish()))
        .unwrap();
    let bench = Bench::new("mask");
    for way in ["above: 5", "budget: 0.5"] {
        let made = bench.run(way, &table).unwrap();
        assert_eq!(masks(&made.table), ["---+"], "{way}");
        assert_eq!((made.figure("response_tokens"), made.figure("masked")), (2.0, 1.0), "{way}");
    }

    let short = scored(&[&[None, Some(-3.0)]], 1);
    let table = refrain_cache::columns::with_column(
        &short,
        "response_mask",
        table["response_mask"].clone(),
    );
    let said = message(bench.run("above: 5", &table.unwrap()));
    assert_eq!(
        said,
        "the `response_mask` of row 0 (`r0`) does not hold a truth for each of its 2 tokens"
    );
}

/// Who changes these bytes raises the version of the component `mask`, so that no old result is taken for a new one.
#[test]
fn the_bytes_are_those_of_version_1() {
    let bench = Bench::new("mask");
    let digest =
        |parameters: &str| bench.run(parameters, &eight()).unwrap().digest[..16].to_owned();
    let digests = [
        "above: 2.5",
        "below: 2.5",
        "quantile: 0.4",
        "budget: 0.5",
        "above: 2.5, control: random, seed: 4",
    ];
    let expected = [
        "3233c76bb635b0db",
        "09837e90f99bd89b",
        "6ba75053bc05beb8",
        "1dfbee93d275d5f6",
        "a51d4268863cdff6",
    ];
    assert_eq!(digests.map(digest), expected);
}

#[test]
fn other_columns_pass_and_an_old_mask_is_replaced_in_place() {
    let table = scored(&[&[Some(-1.0), Some(-9.0)]], 1);
    let bench = Bench::new("mask");
    let first = bench.run("above: 3", &table).unwrap().table;
    let names = |table: &RecordBatch| {
        table.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["id", "token_ids", "prompt_tokens", "logprobs", "loss_mask"]);
    let order = first.project(&[4, 0, 1, 2, 3]).unwrap();
    let second = bench.run("below: 3", &order).unwrap().table;
    assert_eq!(names(&second)[0], "loss_mask");
    assert_eq!((masks(&first), masks(&second)), (vec!["--".to_owned()], vec!["-+".to_owned()]));
    let empty = bench.run("quantile: 0.5", &table.slice(0, 0)).unwrap();
    assert_eq!((empty.table.num_rows(), empty.figure("masked")), (0, 0.0));
    assert!(
        empty.figure("masked_share").is_nan() && empty.figure("mean_row_masked_share").is_nan()
    );
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    let bench = Bench::new("mask");
    let table = scored(&[&[Some(-1.0)]], 0);
    let check = |parameters: &str| bench.check(parameters, &table.schema()).0;
    assert_eq!(check("seed: 1"), [": it does not say which tokens to mask"]);
    assert_eq!(check("above: 2, budget: 0.5"), ["budget: `budget` cannot stand beside `above`"]);
    assert_eq!(check("below: 2, control: random"), ["control: `control` needs `above`"]);
    assert_eq!(check("quantile: 0.5"), [""; 0]);
    let bare = table.project(&[0]).unwrap();
    let missing = ["token_ids", "prompt_tokens", "logprobs"]
        .map(|c| format!("data: the table has no column `{c}`"));
    assert_eq!(bench.check("above: 2", &bare.schema()).0, missing);
    let wrong = refrain_cache::columns::with_column(
        &table,
        "logprobs",
        array(Float32Array::from(vec![1.0])),
    )
    .unwrap();
    let found = bench.check("above: 2", &wrong.schema()).0;
    assert_eq!(
        found,
        ["data: column `logprobs` is float32, expected list of float32 or list of float64"]
    );
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let bench = Bench::new("mask");
    let table = scored(&[&[Some(-1.0), None], &[Some(-1.0)]], 1);
    let with = |name: &str, column: ArrayRef| {
        refrain_cache::columns::with_column(&table, name, column).unwrap()
    };
    let run = |table: &RecordBatch| message(bench.run("above: 2", table));
    let ids = vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(1), Some(2)])];
    let longer = with("token_ids", array(ListArray::from_iter_primitive::<Int32Type, _, _>(ids)));
    assert_eq!(run(&longer), "row 1 (`r1`) has 2 `token_ids` and 1 `logprobs`");
    let beyond = with("prompt_tokens", array(Int32Array::from(vec![1, 2])));
    assert_eq!(run(&beyond), "row 1 (`r1`) has 1 tokens, but `prompt_tokens` is 2");
    let below = with("prompt_tokens", array(Int32Array::from(vec![-1, 0])));
    assert_eq!(run(&below), "row 0 (`r0`) has 2 tokens, but `prompt_tokens` is -1");
    let without = with("prompt_tokens", array(Int32Array::from(vec![Some(1), None])));
    assert_eq!(run(&without), "row 1 (`r1`) has no `prompt_tokens`");
    let texts = ListArray::new_null(
        Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Utf8, true)),
        2,
    );
    assert_eq!(
        run(&with("logprobs", array(texts))),
        "the column `logprobs` is list<utf8>, expected list<float32>"
    );
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(bench.run_until("above: 2", &table, &cancel), Err(StageError::Cancelled)));
}

/// Scores that another program made are looked at before they are believed.
#[test]
fn scores_out_of_their_range_are_refused_with_their_row() {
    let bench = Bench::new("mask");
    let error = |score: f32| {
        message(bench.run("above: 2", &scored(&[&[Some(-1.0)], &[Some(-1.0), Some(score)]], 0)))
    };
    assert_eq!(error(1.0), "row 1 (`r1`): a log-probability is 1, which is above 0");
    assert_eq!(error(f32::NEG_INFINITY), "row 1 (`r1`): a log-probability is -inf");
    assert_eq!(error(f32::NAN), "row 1 (`r1`): a log-probability is NaN");
}
