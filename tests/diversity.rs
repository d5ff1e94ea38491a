//! Measures of diversity against their references.

mod chosen;
mod edges;
mod masks;

use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Int32Type};
use serde_json::{Value, json};

use crate::artifacts::{column, figures, floats, lines, table, texts, whole};
use crate::space::{Space, shared};

/// Vectors, and figures of them by NumPy and SciPy: `diversity/reference.py`.
const EMBEDDINGS: &str = include_str!("diversity/embeddings.json");

/// The measures of texts by their names in the reference.
const OF_WORDS: [(&str, &str); 11] = [
    ("distinct_1", "distinct_1"),
    ("distinct_2", "distinct_2"),
    ("distinct_3", "distinct_3"),
    ("distinct_4", "distinct_4"),
    ("self_bleu_4", "self_bleu_4"),
    ("vendi_ngram", "vendi_ngram"),
    ("vendi_ngram_q2", "vendi_ngram_q2"),
    ("vendi_ngram_qinf", "vendi_ngram_qinf"),
    ("vendi_unigram", "vendi_unigram"),
    ("ngram_distance", "mean_pairwise_ngram_distance"),
    ("jaccard_distance", "mean_pairwise_jaccard_distance"),
];

fn close(found: f64, expected: f64, relative: f64) -> bool {
    (found - expected).abs() <= relative * expected.abs() + 1e-12
}

/// A stage over each set as one group, for each way to split words.
#[test]
fn texts_have_their_published_figures() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/diversity-lexical");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let sets = lines("diversity-lexical/sets.jsonl");
    let space = Space::new();
    let mut rows = String::new();
    for set in &sets {
        for text in set["texts"].as_array().unwrap() {
            writeln!(rows, "{}", json!({ "set": set["set"], "response": text })).unwrap();
        }
    }
    space.write("rows.jsonl", &rows);
    let names: Vec<&str> = OF_WORDS.iter().map(|(name, _)| *name).collect();
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nsweep: {{ words: [whitespace, \
             lower_words] }}\nstages:\n  m: {{ diversify: {{ data: rows, per: [set], words: \
             \"${{words}}\", measure: [{}] }} }}\n  whole: {{ diversify: {{ data: rows, per: [set], \
             measure: [self_bleu_4_exp, ngram_diversity, compression_ratio] }} }}\n",
            names.join(", ")
        ),
    );
    space.report("w.yaml", &[]);

    for words in ["whitespace", "lower_words"] {
        let node = format!("m[words={words}].groups");
        let labels = texts(&table(&space, &node), "set");
        assert_eq!(labels.len(), sets.len());
        for (ours, theirs) in OF_WORDS {
            for (row, found) in floats(&space, &node, ours).into_iter().enumerate() {
                let set = labels[row].as_deref().unwrap();
                let expected = expected["sets"][set][words][theirs].as_f64().unwrap();
                assert!(close(found, expected, 1e-6), "{set} {words} {ours}: {found}, {expected}");
            }
        }
    }
    for (ours, theirs, relative) in [
        ("self_bleu_4_exp", "self_bleu_4_sacrebleu_exp", 1e-6),
        ("ngram_diversity", "ngram_diversity_package", 0.0),
        ("compression_ratio", "compression_ratio", 0.03),
    ] {
        let found = floats(&space, "whole.groups", ours);
        for (set, found) in texts(&table(&space, "whole.groups"), "set").iter().zip(found) {
            let expected = expected["sets"][set.as_deref().unwrap()][theirs].as_f64().unwrap();
            assert!(close(found, expected, relative), "{set:?} {ours}: {found}, not {expected}");
        }
    }
}

/// The sets one by one, so that each is a whole.
#[test]
fn a_whole_and_its_only_group_agree() {
    let Some(_) = shared() else { return };
    let sets = lines("diversity-lexical/sets.jsonl");
    let space = Space::new();
    let rows = sets[2]["texts"].as_array().unwrap().iter();
    let rows: Vec<String> =
        rows.map(|text| json!({ "g": 1, "response": text }).to_string()).collect();
    space.write("rows.jsonl", &rows.join("\n"));
    let names: Vec<&str> = OF_WORDS.iter().map(|(name, _)| *name).collect();
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n  m: {{ diversify: {{ \
             data: rows, per: [g], measure: [{}, ngram_diversity] }} }}\n",
            names.join(", ")
        ),
    );
    space.report("w.yaml", &[]);
    let whole = figures(&space, "m.metrics");
    for name in names.iter().chain(&["ngram_diversity"]) {
        assert_eq!(floats(&space, "m.groups", name), [whole(name)], "{name}");
    }
}

/// The stored embeddings of real texts, as a column of the source.
#[test]
fn stored_embeddings_have_their_published_figures() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/diversity-embedding");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let space = Space::new();
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ cases: {{ path: {}/cases.parquet, columns: {{ response: text }} }} \
             }}\nstages:\n  m: {{ diversify: {{ data: cases, neighbours: 1, measure: [vendi, \
             vendi_q2, cosine_distance] }} }}\n",
            folder.display()
        ),
    );
    space.report("w.yaml", &[]);
    let found = figures(&space, "m.metrics");
    for (ours, theirs) in [
        ("vendi", "vendi_cosine"),
        ("vendi_q2", "vendi_cosine_q2"),
        ("cosine_distance", "mean_pairwise_cosine_distance"),
    ] {
        let (found, expected) = (found(ours), expected[theirs].as_f64().unwrap());
        assert!(close(found, expected, 1e-6), "{ours}: {found}, not {expected}");
    }
    let neighbours: Vec<i64> =
        whole(&space, "m.neighbours", "neighbour_row").into_iter().flatten().collect();
    assert_eq!(json!(neighbours), expected["nearest_neighbour"]);
    let cosine = floats(&space, "m.neighbours", "cosine")[0];
    assert!(close(cosine, expected["similarity_0_1"].as_f64().unwrap(), 1e-6), "{cosine}");
}

fn rows_of(vectors: &Value) -> String {
    let vectors = vectors.as_array().unwrap().iter().enumerate();
    vectors
        .map(|(i, vector)| {
            format!("{}\n", json!({ "id": format!("r{i:02}"), "embedding": vector }))
        })
        .collect()
}

#[test]
fn figures_of_embeddings_are_those_of_numpy() {
    let cases: Value = serde_json::from_str(EMBEDDINGS).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let (name, expected) = (&case["name"], &case["figures"]);
        let space = Space::new();
        space.write("a.jsonl", &rows_of(&case["data"]));
        space.write("b.jsonl", &rows_of(&case["against"]));
        let mut stages = String::new();
        for (i, settings) in expected["dcscore"].as_object().unwrap().keys().enumerate() {
            writeln!(
                stages,
                "  d{i}: {{ diversify: {{ data: a, measure: [dcscore], dcscore: {settings} }} }}"
            )
            .unwrap();
        }
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\ndata: {{ a: {{ path: a.jsonl }}, b: {{ path: b.jsonl }} }}\nstages:\n  \
                 m: {{ diversify: {{ data: a, against: b, neighbours: 1, measure: [vendi, vendi_q2, \
                 vendi_qinf, cosine_distance, frechet, mmd, neighbour_precision, neighbour_recall] \
                 }} }}\n  one: {{ diversify: {{ data: a, against: b, neighbourhood: 1, measure: \
                 [neighbour_precision] }} }}\n{stages}"
            ),
        );
        space.report("w.yaml", &[]);
        let found = figures(&space, "m.metrics");
        for measure in [
            "vendi",
            "vendi_q2",
            "vendi_qinf",
            "cosine_distance",
            "frechet",
            "mmd",
            "neighbour_precision",
            "neighbour_recall",
        ] {
            let (found, expected) = (found(measure), expected[measure].as_f64().unwrap());
            assert!(close(found, expected, 1e-6), "{name}: {measure} is {found}, not {expected}");
        }
        let one = figures(&space, "one.metrics")("neighbour_precision");
        assert_eq!(Some(one), expected["neighbour_precision_1"].as_f64());
        for (i, (settings, expected)) in expected["dcscore"].as_object().unwrap().iter().enumerate()
        {
            let found = figures(&space, &format!("d{i}.metrics"))("dcscore");
            let expected = expected.as_f64().unwrap();
            assert!(close(found, expected, 1e-6), "{name} {settings}: {found}, not {expected}");
        }
        let nearest: Vec<i64> =
            whole(&space, "m.neighbours", "neighbour_row").into_iter().flatten().collect();
        assert_eq!(json!(nearest), expected["nearest"]);
    }
}

#[test]
fn threads_move_no_bit() {
    let cases: Value = serde_json::from_str(EMBEDDINGS).unwrap();
    let case = &cases["cases"][0];
    let space = Space::new();
    space.write("a.jsonl", &rows_of(&case["data"]));
    space.write("b.jsonl", &rows_of(&case["against"]));
    let text = "refrain: 1\ndata: { a: { path: a.jsonl }, b: { path: b.jsonl } }\nstages:\n  m: { \
                diversify: { data: a, against: b, measure: [vendi, dcscore, frechet, mmd, \
                neighbour_recall] }, resources: { threads: 1 } }\n  s: { diversify: { data: a, \
                select: { method: dpp, count: 5 } }, resources: { threads: 1 } }\n";
    space.write("w.yaml", text);
    let one = space.digests("w.yaml", &[]);
    space.write("w.yaml", &text.replace("threads: 1", "threads: 3"));
    assert_eq!(one, space.digests("w.yaml", &["--force", "m", "--force", "s"]));
}

#[test]
fn words_that_shift_are_counted() {
    let space = Space::new();
    space.write("a.jsonl", "{\"response\": \"a a b c\"}\n{\"response\": \"c d e e\"}\n");
    space.write("b.jsonl", "{\"response\": \"a b\"}\n{\"response\": \"b a\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { a: { path: a.jsonl }, b: { path: b.jsonl } }\nstages:\n  m: { diversify: \
         { data: a, against: b, measure: [vocabulary_shift, new_words] } }\n  same: { diversify: { \
         data: a, against: a, measure: [vocabulary_shift, new_words] } }\n",
    );
    space.report("w.yaml", &[]);
    let found = figures(&space, "m.metrics");
    assert_eq!(found("new_words"), 5.0 / 8.0);
    // p = (2, 1, 2, 1, 2) / 8 of a to e, q = (4, 4, 0, 0, 0) / 8.
    let bits = |p: f64, q: f64| {
        let m = (p + q) / 2.0;
        let part = |x: f64| if x > 0.0 { x * (x / m).log2() } else { 0.0 };
        (part(p) + part(q)) / 2.0
    };
    let expected: f64 = [(2, 4), (1, 4), (2, 0), (1, 0), (2, 0)]
        .map(|(p, q)| bits(p as f64 / 8.0, q as f64 / 8.0))
        .iter()
        .sum();
    assert!(close(found("vocabulary_shift"), expected, 1e-12));
    let same = figures(&space, "same.metrics");
    assert_eq!((same("vocabulary_shift"), same("new_words")), (0.0, 0.0));
}

#[test]
fn a_sample_is_told_and_belongs_to_its_seed() {
    let space = Space::new();
    let rows: String = (0..300)
        .map(|i| format!("{{\"id\": \"{i}\", \"response\": \"a{} b{} c\"}}\n", i % 7, i % 13))
        .collect();
    space.write("d.jsonl", &rows);
    let text = "refrain: 1\ndata: { d: { path: d.jsonl } }\nstages:\n  m: { diversify: { data: d, \
                sample: 50, measure: [vendi_ngram, jaccard_distance, self_bleu_4] } }\n";
    space.write("w.yaml", text);
    let said = space.run(&["run", "w.yaml"]);
    assert!(
        said.stderr.contains("`jaccard_distance` is of 50 rows, drawn by `seed` from 300"),
        "{}",
        said.stderr
    );
    let metrics = |name: &str| {
        let metrics = table(&space, "m.metrics");
        let names = texts(&metrics, "metric");
        let row = names.iter().position(|known| known.as_deref() == Some(name)).unwrap();
        let value = floats(&space, "m.metrics", "value")[row];
        (value, whole(&space, "m.metrics", "n")[row])
    };
    let (drawn, n) = metrics("vendi_ngram");
    assert_eq!((n, metrics("self_bleu_4").1), (Some(50), Some(300)));
    space.edit("w.yaml", "sample: 50", "sample: 50, seed: 1");
    space.report("w.yaml", &[]);
    assert_ne!(metrics("vendi_ngram").0, drawn);
    space.edit("w.yaml", "sample: 50, seed: 1", "sample: 300");
    space.report("w.yaml", &[]);
    let (all, n) = metrics("vendi_ngram");
    space.edit("w.yaml", "sample: 300, ", "");
    space.report("w.yaml", &[]);
    assert_eq!((metrics("vendi_ngram").0, n), (all, Some(300)));
}

/// Embeddings of a tiny decoder: as a column, from the memo, and as the measures take them.
#[test]
fn vectors_become_a_column_and_are_computed_once() {
    let Some(shared) = shared() else { return };
    let space = Space::new();
    space.write(
        "d.jsonl",
        "{\"id\": \"a\", \"response\": \"one two\"}\n{\"id\": \"b\", \"response\": null}\n{\"id\": \
         \"c\", \"response\": \"a bird sings\"}\n",
    );
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nmodels: {{ m: {{ path: {}/parity/llama/model }} }}\ndata: {{ d: {{ path: \
             d.jsonl }} }}\nstages:\n  v: {{ diversify: {{ data: d, embeddings: m, embed: true, \
             measure: [vendi] }} }}\n  again: {{ diversify: {{ data: v, measure: [vendi] }} }}\n",
            shared.display()
        ),
    );
    space.report("w.yaml", &[]);
    let vectors = column(&space, "v", "embedding");
    let vectors = vectors.as_list::<i32>();
    assert!(vectors.is_valid(0) && vectors.is_null(1) && vectors.is_valid(2));
    let first = vectors.value(0);
    let length: f32 = first.as_primitive::<Float32Type>().values().iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-6, "{length}");
    let vendi = figures(&space, "v.metrics")("vendi");
    assert_eq!(figures(&space, "again.metrics")("vendi"), vendi);

    // The rows that were there before come from the memo, and give the same bytes.
    let before = space.digests("w.yaml", &["--force", "v"]);
    let rows = space.read("d.jsonl");
    space.write("d.jsonl", &format!("{{\"id\": \"0\", \"response\": \"new\"}}\n{rows}"));
    space.report("w.yaml", &[]);
    let more = column(&space, "v", "embedding");
    assert_eq!(more.as_list::<i32>().value(1).to_data(), first.to_data());
    space.write("d.jsonl", &rows);
    assert_eq!(space.digests("w.yaml", &["--force", "v"]), before);
    let ranks = {
        space.edit("w.yaml", "embed: true", "neighbours: 1");
        space.edit("w.yaml", "  again: { diversify: { data: v, measure: [vendi] } }\n", "");
        space.report("w.yaml", &[]);
        column(&space, "v.neighbours", "rank")
    };
    assert_eq!(ranks.as_primitive::<Int32Type>().values().to_vec(), [0, 0]);
    assert_eq!(
        texts(&table(&space, "v.neighbours"), "neighbour_id"),
        [Some("c".into()), Some("a".into())]
    );
}
