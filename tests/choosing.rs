//! Rows that are kept, ranked, joined and measured.

use arrow::array::{Array, AsArray};
use serde_json::{Value, json};

use crate::artifacts::{column, figures, floats, table, texts, whole};
use crate::space::{Space, shared};

#[test]
fn the_published_perplexities_are_summed_up_by_group() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/ppl-summary");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let space = Space::new();
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ scores: {{ path: {}/scores.parquet }} }}\nstages:\n  summary:\n    \
             diversify:\n      data: scores\n      per: [set, split, source]\n      measure: [{{ \
             column: ppl, of: [mean, median, population_std, min, max, geometric_mean] }}]\n  \
             lowest:\n    diversify:\n      data: scores\n      keep: {{ per: row_id, where: {{ \
             source: model }}, lowest: ppl }}\n      measure: [{{ column: ppl, of: [mean] }}]\n  \
             surprising: {{ diversify: {{ data: scores, keep: {{ where: {{ source: model, ppl: {{ \">\": 2.5 }} }} }} }} }}\n  \
             first: {{ diversify: {{ data: scores, keep: {{ per: row_id, lowest: ppl }} }} }}\n  \
             ahead: {{ diversify: {{ data: first, keep: {{ where: {{ source: model }} }} }} }}\n",
            folder.display()
        ),
    );
    space.report("w.yaml", &[]);

    let groups = "summary.groups";
    let labels = ["set", "split", "source"].map(|name| texts(&table(&space, groups), name));
    let groups_expected = expected["by_set_split_source"].as_object().unwrap();
    assert_eq!(labels[0].len(), groups_expected.len());
    for row in 0..labels[0].len() {
        let name = labels.each_ref().map(|column| column[row].clone().unwrap()).join("/");
        let expected = &groups_expected[&name];
        assert_eq!(json!(whole(&space, groups, "rows")[row]), expected["n"]);
        for (ours, theirs) in [
            ("ppl_mean", "mean"),
            ("ppl_median", "median"),
            ("ppl_population_std", "std_population"),
            ("ppl_min", "min"),
            ("ppl_max", "max"),
            ("ppl_geometric_mean", "geometric_mean"),
        ] {
            let (found, expected) =
                (floats(&space, groups, ours)[row], expected[theirs].as_f64().unwrap());
            assert!((found / expected - 1.0).abs() < 1e-9, "{name}: {ours} is {found}");
        }
    }
    let mean = figures(&space, "lowest.metrics")("ppl_mean");
    let lowest = expected["mean_of_lowest_per_prompt"]["validation"].as_f64().unwrap();
    assert!((mean / lowest - 1.0).abs() < 1e-9, "{mean}");
    let above = figures(&space, "surprising.metrics")("rows_out");
    let model = &groups_expected["self-output/validation/model"];
    assert_eq!(Some(above), model["above_2_5"].as_f64());
    let ahead = figures(&space, "ahead.metrics")("rows_out");
    let below = &expected["prompts_where_lowest_model_ppl_is_below_reference"]["validation"];
    assert_eq!(Some(ahead), below.as_f64());
}

/// Three prompts: one with two right samples, one with none and a reference, one with neither.
const SAMPLES: &str = "\
{\"id\": \"a\", \"sample\": 0, \"prompt\": \"p\", \"response\": \"x\", \"reference\": \"A\", \"correct\": true, \"perplexity\": 3.0}
{\"id\": \"a\", \"sample\": 1, \"prompt\": \"p\", \"response\": \"y\", \"reference\": \"A\", \"correct\": true, \"perplexity\": 2.0}
{\"id\": \"a\", \"sample\": 2, \"prompt\": \"p\", \"response\": \"z\", \"reference\": \"A\", \"correct\": false, \"perplexity\": 1.0}
{\"id\": \"b\", \"sample\": 0, \"prompt\": \"q\", \"response\": \"x\", \"reference\": \"B\", \"correct\": false, \"perplexity\": 5.0}
{\"id\": \"c\", \"sample\": 0, \"prompt\": \"r\", \"response\": \"x\", \"reference\": null, \"correct\": false, \"perplexity\": 4.0}
";

#[test]
fn ranks_are_told_and_a_prompt_without_a_right_sample_falls_back() {
    let space = Space::new();
    space.write("d.jsonl", SAMPLES);
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { d: { path: d.jsonl } }\nstages:\n  k: { diversify: { data: d, keep: { \
         per: id, where: correct, lowest: perplexity, ranks: true, fallback: reference } } }\n  all: \
         { diversify: { data: d, keep: { per: id, highest: perplexity, count: 9, ranks: true } } }\n",
    );
    let said = space.run(&["run", "w.yaml"]);
    assert!(
        said.stderr.contains("1 groups have neither a candidate nor a reference"),
        "{}",
        said.stderr
    );
    let some = |values: &[&str]| values.iter().map(|v| Some((*v).to_owned())).collect::<Vec<_>>();
    assert_eq!(texts(&table(&space, "k"), "response"), some(&["y", "B"]));
    assert_eq!(texts(&table(&space, "k"), "reference"), some(&["A", "B"]));
    let perplexities = column(&space, "k", "perplexity");
    assert!(perplexities.is_valid(0) && perplexities.is_null(1), "the reference was not scored");
    let fell = column(&space, "k", "from_reference");
    assert_eq!((fell.as_boolean().value(0), fell.as_boolean().value(1)), (false, true));
    let numbers = |node: &str, name: &str| -> Vec<i32> {
        let column = column(&space, node, name);
        column.as_primitive::<arrow::datatypes::Int32Type>().values().to_vec()
    };
    assert_eq!((numbers("k", "rank"), numbers("k", "candidates")), (vec![0, 0], vec![2, 0]));
    assert_eq!(figures(&space, "k.metrics")("from_reference"), 1.0);
    assert_eq!(numbers("all", "rank"), [0, 1, 2, 0, 0]);
    assert_eq!(numbers("all", "candidates"), [3, 3, 3, 1, 1]);

    space.edit("w.yaml", "where: correct, ", "");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("`fallback` needs `per` and `where`"), "{said}");
}

#[test]
fn two_tables_are_joined_by_their_keys() {
    let space = Space::new();
    space.write(
        "a.jsonl",
        "{\"id\": \"x\", \"n\": 1}\n{\"id\": \"y\", \"n\": 2}\n{\"id\": \"z\", \"n\": 3}\n",
    );
    space.write("b.jsonl", "{\"id\": \"z\", \"m\": 30}\n{\"id\": \"x\", \"m\": 10}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { a: { path: a.jsonl }, b: { path: b.jsonl } }\nstages:\n  inner: { \
         diversify: { data: a, join: { with: b } } }\n  left: { diversify: { data: a, join: { with: \
         b, missing: keep, suffix: _2 } } }\n  self: { diversify: { data: a, join: { with: a, \
         suffix: _2 } } }\n",
    );
    space.report("w.yaml", &[]);
    assert_eq!(whole(&space, "inner", "n"), [Some(1), Some(3)]);
    assert_eq!(whole(&space, "inner", "m"), [Some(10), Some(30)]);
    assert_eq!(whole(&space, "left", "m_2"), [Some(10), None, Some(30)]);
    assert_eq!(whole(&space, "self", "n_2"), [Some(1), Some(2), Some(3)]);
    assert_eq!(figures(&space, "left.metrics")("unmatched"), 1.0);

    space.write("b.jsonl", "{\"id\": \"z\", \"n\": 30}\n{\"id\": \"x\", \"n\": 10}\n");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("both tables have a column `n`"), "{said}");
    space.write("b.jsonl", "{\"id\": \"z\", \"n\": \"3\", \"m\": 1}\n");
    space.edit("w.yaml", "join: { with: b } ", "join: { with: b, on: [n] } ");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("column `n` is int64 here and text in the second table"), "{said}");
}

#[test]
fn a_statistic_that_is_unknown_or_of_texts_is_refused() {
    let space = Space::new();
    space.write("d.jsonl", SAMPLES);
    let refused = |measure: &str| {
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\ndata: {{ d: {{ path: d.jsonl }} }}\nstages: {{ m: {{ diversify: {{ \
                 data: d, measure: [{measure}] }} }} }}\n"
            ),
        );
        space.refuses(&["check", "w.yaml"])
    };
    let said = refused("{ column: perplexity, of: [avg] }");
    assert!(said.contains("unknown statistic `avg`") && said.contains("`mean`"), "{said}");
    let said = refused("{ column: response, of: [mean] }");
    assert!(said.contains("column `response` is text"), "{said}");
    let said = refused("{ column: perplexity, of: [] }");
    assert!(said.contains("names no statistic"), "{said}");
}
