//! `diversify`: the published choices, ties, missing values, equal rows, n-grams, and what is refused.

use arrow::array::{
    BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use refrain_cache::columns::{column, with_column, without_column};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::bench::{Bench, array, batch, message, reference_json, reference_lines};

/// A text of JSON.
fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The authors' samples as a table of ours: one row an answer of the model, the reference answers left out.
fn samples(lines: &[Value]) -> RecordBatch {
    let (mut id, mut prompt, mut response) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sample, mut correct, mut perplexity) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        for (field, right) in [("accept", true), ("rejection", false)] {
            let answers = line[field].as_array().unwrap().iter();
            for answer in answers.filter(|a| a.is_object() && a["src"] != "ground_truth") {
                id.push(line["row_id"].to_string());
                prompt.push(text(&line["instruction"]));
                response.push(text(&answer["content"]));
                sample.push(answer["order"].as_i64().unwrap() as i32);
                correct.push(right);
                perplexity.push(answer["ppl"].as_f64());
            }
        }
    }
    batch([
        ("id", array(StringArray::from(id))),
        ("prompt", array(StringArray::from(prompt))),
        ("response", array(StringArray::from(response))),
        ("sample", array(Int32Array::from(sample))),
        ("correct", array(BooleanArray::from(correct))),
        ("perplexity", array(Float64Array::from(perplexity))),
    ])
}

fn texts<'a>(table: &'a RecordBatch, name: &str) -> Vec<&'a str> {
    column::<StringArray>(table, name).unwrap().iter().flatten().collect()
}

#[test]
fn the_published_answers_of_lowest_perplexity_are_chosen() {
    let (Some(lines), Some(expected), Some(selected)) = (
        reference_lines("select-lowest-ppl/candidates.jsonl"),
        reference_json("select-lowest-ppl/expected.json"),
        reference_lines("select-lowest-ppl/expected_selected.jsonl"),
    ) else {
        return;
    };
    let (bench, table) = (Bench::new("diversify"), samples(&lines));
    let made = bench.run("keep: { per: id, where: correct, lowest: perplexity }", &table).unwrap();
    let ours: Vec<_> =
        texts(&made.table, "prompt").into_iter().zip(texts(&made.table, "response")).collect();
    let theirs: Vec<_> = selected
        .iter()
        .map(|line| {
            (text(&line["conversations"][0]["content"]), text(&line["conversations"][1]["content"]))
        })
        .collect();
    assert_eq!(theirs.len(), 36);
    assert!(ours == theirs, "other answers are chosen");
    assert_eq!(
        (made.figure("groups"), made.figure("groups_kept"), made.figure("rows_out")),
        (36.0, 36.0, 36.0)
    );

    let prompts = expected["per_prompt"].as_array().unwrap();
    for (way, order, value) in
        [("lowest", "lowest_order", "lowest_ppl"), ("highest", "highest_order", "highest_ppl")]
    {
        let made = bench
            .run(&format!("keep: {{ per: id, where: correct, {way}: perplexity }}"), &table)
            .unwrap();
        let orders = column::<Int32Array>(&made.table, "sample").unwrap();
        let values = column::<Float64Array>(&made.table, "perplexity").unwrap();
        for (i, prompt) in prompts.iter().enumerate() {
            assert_eq!(
                i64::from(orders.value(i)),
                prompt[order].as_i64().unwrap(),
                "{way} of prompt {i}"
            );
            assert!((values.value(i) / prompt[value].as_f64().unwrap() - 1.0).abs() < 1e-9);
        }
    }
    let made = bench.run("keep: { per: id, where: correct, median: perplexity }", &table).unwrap();
    let values = column::<Float64Array>(&made.table, "perplexity").unwrap();
    for (i, prompt) in prompts.iter().enumerate() {
        let candidates =
            lines[i]["accept"].as_array().unwrap().iter().filter(|a| a["src"] != "ground_truth");
        let mut sorted: Vec<f64> =
            candidates.map(|answer| answer["ppl"].as_f64().unwrap()).collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        assert_eq!(values.value(i), low, "median of prompt {i}");
        // Theirs is the mean of the two in the middle; ours the lower one, because it is a row.
        assert!(((low + high) / 2.0 / prompt["median_ppl"].as_f64().unwrap() - 1.0).abs() < 1e-8);
    }
}

#[test]
fn the_published_correct_answers_are_kept() {
    let (Some(lines), Some(expected)) = (
        reference_lines("filter-correct/samples.jsonl"),
        reference_json("filter-correct/expected.json"),
    ) else {
        return;
    };
    let bench = Bench::new("diversify");
    let made = bench.run("keep: { where: correct }", &samples(&lines)).unwrap();
    let kept = made.table;
    let ids: Vec<i64> = texts(&kept, "id").iter().map(|id| id.parse().unwrap()).collect();
    let expected_ids: Vec<i64> = expected["kept_row_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect();
    assert_eq!(ids, expected_ids);
    // The digest is of the rows in the order of the file, not of the users' texts as its description has it.
    let mut hasher = Sha256::new();
    for (user, assistant) in texts(&kept, "prompt").into_iter().zip(texts(&kept, "response")) {
        [user.as_bytes(), b"\0", assistant.as_bytes(), b"\0"]
            .iter()
            .for_each(|part| hasher.update(part));
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, expected["kept_conversations_sha256"]);
}

#[test]
fn distinct_n_is_that_of_the_references() {
    let (Some(sets), Some(expected)) = (
        reference_lines("diversity-lexical/sets.jsonl"),
        reference_json("diversity-lexical/expected.json"),
    ) else {
        return;
    };
    let bench = Bench::new("diversify");
    for set in &sets {
        let name = text(&set["set"]);
        let responses: Vec<&str> = set["texts"].as_array().unwrap().iter().map(text).collect();
        let table = batch([("response", array(StringArray::from(responses)))]);
        let made =
            bench.run("measure: [distinct_1, distinct_2, distinct_3, distinct_4]", &table).unwrap();
        assert_eq!(made.table, table, "the table passes as it is");
        for n in 1..=4 {
            let expected = &expected["sets"][name]["whitespace"];
            let figure = |key: String| expected[key].as_f64().unwrap_or(f64::NAN);
            let (found, all) =
                (made.figure(&format!("distinct_{n}")), figure(format!("total_{n}grams")));
            let exact = figure(format!("unique_{n}grams")) / all;
            assert!(
                found == exact || (found.is_nan() && all == 0.0),
                "distinct_{n} of {name}: {found}, not {exact}"
            );
        }
    }
    assert!(sets.len() > 3);
}

/// Rows named by `sample`: two groups whose rows are mixed, ties, missing values and NaN.
fn mixed() -> RecordBatch {
    batch([
        ("id", array(StringArray::from(vec!["b", "a", "b", "a", "b", "c", "b"]))),
        ("sample", array(Int32Array::from(vec![3, 1, 2, 0, 1, 0, 0]))),
        (
            "value",
            array(Float32Array::from(vec![
                Some(2.0),
                Some(5.0),
                Some(2.0),
                Some(-1.0),
                Some(4.0),
                None,
                Some(f32::NAN),
            ])),
        ),
        (
            "good",
            array(BooleanArray::from(vec![
                Some(true),
                Some(true),
                None,
                Some(false),
                Some(true),
                None,
                None,
            ])),
        ),
        ("arm", array(StringArray::from(vec!["x", "y", "x", "x", "y", "y", "x"]))),
    ])
}

/// Runs and names the rows that come out, as `id` and `sample`.
fn kept(parameters: &str, table: &RecordBatch) -> String {
    let made = Bench::new("diversify").run(parameters, table).unwrap().table;
    let samples = column::<Int32Array>(&made, "sample").unwrap().values().iter();
    let names: Vec<_> = texts(&made, "id")
        .iter()
        .zip(samples)
        .map(|(id, sample)| format!("{id}{sample}"))
        .collect();
    names.join(" ")
}

#[test]
fn groups_come_in_the_order_of_their_first_rows_and_rows_by_rank() {
    let kept = |parameters: &str| kept(parameters, &mixed());
    // The tie of b2 and b3 goes to the lower sample; c has no value, b0 is not a number.
    assert_eq!(kept("keep: { per: id, lowest: value }"), "b2 a0");
    assert_eq!(kept("keep: { per: id, lowest: value, count: 3 }"), "b2 b3 b1 a0 a1");
    assert_eq!(kept("keep: { per: id, highest: value, count: 2 }"), "b1 b2 a1 a0");
    assert_eq!(kept("keep: { per: id, median: value }"), "b3 a0");
    assert_eq!(kept("keep: { lowest: value, count: 2 }"), "a0 b2");
    assert_eq!(kept("keep: { per: id, highest: sample }"), "b3 a1 c0");
    // Without a ranking the first by id and sample.
    assert_eq!(kept("keep: { per: id }"), "b0 a0 c0");
    assert_eq!(kept("keep: { per: arm, count: 2 }"), "a0 b0 a1 b1");
    let made = Bench::new("diversify").run("keep: { per: id, lowest: value }", &mixed()).unwrap();
    let figures = ["rows_in", "rows_out", "groups", "groups_kept"].map(|name| made.figure(name));
    assert_eq!(figures, [7.0, 2.0, 3.0, 2.0]);
    assert_eq!(made.table.schema(), mixed().schema());
}

#[test]
fn conditions_hold_where_values_are_there() {
    let kept = |parameters: &str| kept(parameters, &mixed());
    // A filter alone changes no order.
    assert_eq!(kept("keep: { where: good }"), "b3 a1 b1");
    assert_eq!(kept("keep: { where: good, count: 2 }"), "a1 b1");
    assert_eq!(kept("keep: { where: { good: false } }"), "a0");
    assert_eq!(kept("keep: { where: { arm: x, id: b }, highest: value }"), "b2");
    assert_eq!(kept("keep: { where: { value: 2 } }"), "b3 b2");
    assert_eq!(kept("keep: { where: { sample: 0.0 } }"), "a0 c0 b0");
    assert_eq!(kept("keep: { where: { arm: z } }"), "");
}

#[test]
fn a_random_choice_depends_on_seed_and_row_alone() {
    let ids: Vec<String> = (0..3000).map(|i| format!("p{}", i / 3)).collect();
    let table = batch([
        ("id", array(StringArray::from(ids))),
        ("sample", array(Int32Array::from_iter_values((0..3000).map(|i| i % 3)))),
    ]);
    let chosen = |parameters: &str, table: &RecordBatch| -> Vec<i32> {
        let made = Bench::new("diversify").run(parameters, table).unwrap().table;
        column::<Int32Array>(&made, "sample").unwrap().values().to_vec()
    };
    let all = chosen("keep: { per: id, random: true }", &table);
    assert_eq!(all.len(), 1000);
    for sample in 0..3 {
        let count = all.iter().filter(|s| **s == sample).count();
        // Five standard deviations of a binomial count with p = 1/3.
        assert!(count.abs_diff(333) < 75, "{count}");
    }
    assert_eq!(chosen("keep: { per: id, random: true }", &table.slice(1500, 1500)), all[500..]);
    assert_ne!(chosen("keep: { per: id, random: true }, seed: 1", &table), all);
}

#[test]
fn equal_rows_are_kept_once() {
    let table = batch([
        ("id", array(StringArray::from(vec!["0", "1", "2", "3", "4"]))),
        ("sample", array(Int32Array::from(vec![0; 5]))),
        ("prompt", array(StringArray::from(vec!["p", "p", "p", "q", "p"]))),
        (
            "response",
            array(StringArray::from(vec![Some("x"), Some("x"), None, Some("x"), Some("")])),
        ),
    ]);
    assert_eq!(kept("dedupe: exact", &table), "00 20 30 40");
    assert_eq!(kept("dedupe: { exact: response }", &table), "00 20 40");
    assert_eq!(kept("dedupe: { exact: [prompt] }", &table), "00 30");
    let made = Bench::new("diversify").run("dedupe: exact, measure: [distinct_1]", &table).unwrap();
    assert_eq!(made.figures(), ["rows_in", "rows_out", "distinct_1"]);
    assert_eq!(
        (made.figure("rows_in"), made.figure("rows_out"), made.figure("distinct_1")),
        (5.0, 4.0, 0.5)
    );
}

/// More rows than are read together, and an order that is nearly the reverse of the table's.
#[test]
fn rows_wait_for_their_turn() {
    let n = 5000_i32;
    let table = batch([
        ("id", array(StringArray::from_iter_values((0..n).map(|i| format!("{i:04}"))))),
        ("sample", array(Int32Array::from_iter_values(0..n))),
        ("value", array(Int64Array::from_iter_values((0..n).map(|i| i64::from((n - i) / 2))))),
    ]);
    let made =
        Bench::new("diversify").run("keep: { lowest: value, count: 4000 }", &table).unwrap().table;
    let samples = column::<Int32Array>(&made, "sample").unwrap().values().to_vec();
    let mut expected: Vec<i32> = (0..n).collect();
    expected.sort_by_key(|i| ((n - i) / 2, *i));
    assert_eq!(samples, expected[..4000]);
    let ids: Vec<i32> = texts(&made, "id").iter().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids, samples);
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    let schema = mixed().schema();
    let check = |parameters: &str| Bench::new("diversify").check(parameters, &schema).0;
    assert_eq!(check("seed: 1"), [": it has nothing to do"]);
    assert_eq!(
        check("keep: { per: id }, dedupe: { exact: arm }"),
        ["dedupe: `dedupe` cannot stand beside `keep`"]
    );
    assert_eq!(check("keep: {}"), ["keep: it does not say which rows to keep"]);
    assert_eq!(
        check("keep: { lowest: value, random: true }"),
        ["keep.random: `random` cannot stand beside `lowest`"]
    );
    assert_eq!(
        check("keep: { median: value, count: 2 }"),
        ["keep.count: `median` is one row: `count` cannot be above 1"]
    );
    assert_eq!(check("keep: { per: nothing }"), ["data: the table has no column `nothing`"]);
    assert_eq!(
        check("keep: { lowest: arm }"),
        ["data: column `arm` is text, expected float64 or float32 or int64 or int32"]
    );
    assert_eq!(check("keep: { where: arm }"), ["data: column `arm` is text, expected bool"]);
    assert_eq!(
        check("keep: { where: { good: 1 } }"),
        ["keep.where: `where`: `good` is bool, which cannot be compared with 1"]
    );
    assert_eq!(check("measure: [distinct_1]"), ["data: the table has no column `response`"]);
    assert_eq!(
        check("dedupe: exact"),
        ["data: the table has neither `prompt`, `messages` nor `response`"]
    );
    assert_eq!(check("dedupe: { exact: [] }"), ["dedupe.exact: `exact` names no column"]);
}

/// Who changes these bytes raises the version of the component `diversify`.
#[test]
fn the_bytes_are_those_of_version_2() {
    let bench = Bench::new("diversify");
    let digest =
        |parameters: &str| bench.run(parameters, &mixed()).unwrap().digest[..16].to_owned();
    let digests = [
        "keep: { per: id, lowest: value, count: 2 }",
        "keep: { per: arm, random: true }",
        "dedupe: { exact: arm }",
    ];
    assert_eq!(digests.map(digest), ["c86f808eb89676d3", "6e64a9642e7eeac7", "ce79112ffd7eeea9"]);
}

/// Tables whose columns are not known when the workflow is checked.
#[test]
fn columns_that_do_not_fit_are_named_while_it_runs() {
    let run = |parameters: &str, table: &RecordBatch| {
        message(Bench::new("diversify").run(parameters, table))
    };
    let there = "there are `id`, `sample`, `value`, `good`, `arm`";
    assert_eq!(
        run("keep: { per: nothing }", &mixed()),
        format!("the column `nothing` is missing; {there}")
    );
    assert_eq!(
        run("keep: { lowest: nothing }", &mixed()),
        format!("the column `nothing` is missing; {there}")
    );
    assert_eq!(run("keep: { lowest: arm }", &mixed()), "column `arm` is text, expected numbers");
    assert_eq!(
        run("keep: { where: arm }", &mixed()),
        "`where`: `arm` is text, which cannot be compared with true"
    );
    assert_eq!(
        run("keep: { where: { value: a } }", &mixed()),
        "`where`: `value` is float32, which cannot be compared with \"a\""
    );
    assert_eq!(
        run("dedupe: exact", &mixed()),
        "the table has neither `prompt`, `messages` nor `response`"
    );
    // Rows are told apart by their numbers where there are no ids.
    let bare = without_column(&mixed(), "id").unwrap();
    let made = Bench::new("diversify").run("keep: { per: arm, random: true }", &bare).unwrap();
    assert_eq!(made.table.num_rows(), 2);
    let wide = with_column(&mixed(), "sample", array(Int64Array::from(vec![0; 7]))).unwrap();
    assert_eq!(run("keep: { per: id }", &wide), "the column `sample` is int64, expected int32");
}
