//! `diversify` by embeddings: its measures, what it drops as alike, and what it refuses.

use refrain_cache::Metric;
use refrain_engine::kind::MAIN;
use refrain_lm::embed::Embedder;
use refrain_lm::model::ModelPath;

use crate::bench::*;

const MEASURES: &str =
    "data: d, embeddings: m, measure: [distinct_1, vendi, dcscore, cosine_distance]";
const RESPONSES: [&str; 6] =
    ["one two three", "a bird sings", "one two three", "", "What is 2 + 2?", "a bird sings."];

fn value(metrics: &[Metric], name: &str) -> f64 {
    metrics.iter().find(|metric| metric.metric == name).unwrap().value
}

/// The cosines of all pairs of texts, in f64.
fn cosines(embedder: &Embedder, texts: &[&str]) -> Vec<Vec<f64>> {
    let width = embedder.width();
    let vectors = embedder.embed(texts, Some(1)).unwrap();
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let row = |a: &[f32]| {
        vectors.chunks(width).map(|b| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect()
    };
    vectors.chunks(width).map(row).collect()
}

#[test]
fn measures_are_functions_of_the_cosines() {
    let Some(folder) = shared("parity/llama/model") else { return };
    let mut bench = Bench::new();
    let (table, model) = (bench.table(&texts(&[("response", &RESPONSES)])), model(&folder));
    let inputs = [("data", &table), ("embeddings", &model)];
    let metrics = bench.run("diversify", MEASURES, &inputs).unwrap().metrics;
    let embedder = Embedder::load(&ModelPath { folder, adapters: Vec::new() }).unwrap();
    let k = cosines(&embedder, &RESPONSES);
    let n = RESPONSES.len();
    let distance: f64 =
        (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| 1.0 - k[i][j]).sum();
    let trace: f64 =
        (0..n).map(|i| k[i][i].exp() / k[i].iter().map(|c| c.exp()).sum::<f64>()).sum();
    assert!(
        (value(&metrics, "cosine_distance") - distance / (n * (n - 1) / 2) as f64).abs() < 1e-6
    );
    assert!((value(&metrics, "dcscore") - trace).abs() < 1e-5);
    let vendi = value(&metrics, "vendi");
    assert!(vendi > 1.0 && vendi < 5.0, "{vendi}: five texts differ");
    assert!(metrics.iter().filter(|m| m.metric == "vendi").all(|m| m.n == 6));

    let bits = |metrics: &[Metric]| metrics.iter().map(|m| m.value.to_bits()).collect::<Vec<_>>();
    for (threads, batch) in [(2, None), (1, Some(1)), (2, Some(4))] {
        (bench.threads, bench.batch) = (threads, batch);
        let again = bench.run("diversify", MEASURES, &inputs).unwrap().metrics;
        assert_eq!(bits(&metrics), bits(&again), "figures depend on batch or threads");
    }
}

#[test]
fn responses_that_mean_the_same_are_dropped() {
    let Some(folder) = shared("parity/llama/model") else { return };
    let bench = Bench::new();
    let (table, model) = (bench.table(&texts(&[("response", &RESPONSES)])), model(&folder));
    let inputs = [("data", &table), ("embeddings", &model)];
    let kept = |threshold: f64| {
        let parameters = format!("data: d, embeddings: m, dedupe: {{ semantic: {threshold} }}");
        let outputs = bench.run("diversify", &parameters, &inputs).unwrap();
        strings(&bench.read(&outputs.artifacts[MAIN]), "response")
    };
    assert_eq!(
        kept(0.99999),
        ["one two three", "a bird sings", "", "What is 2 + 2?", "a bird sings."]
    );
    assert_eq!(kept(-1.0), ["one two three"]);
    let embedder = Embedder::load(&ModelPath { folder, adapters: Vec::new() }).unwrap();
    let k = cosines(&embedder, &RESPONSES);
    let mut expected: Vec<usize> = Vec::new();
    for (row, cosines) in k.iter().enumerate() {
        if expected.iter().all(|other| cosines[*other] < 0.5) {
            expected.push(row);
        }
    }
    assert_eq!(kept(0.5), expected.iter().map(|row| RESPONSES[*row]).collect::<Vec<_>>());
}

#[test]
fn what_needs_embeddings_says_so() {
    let schema = texts(&[("response", &["a"])]).schema();
    let problems = |parameters: &str| check("diversify", parameters, &[("data", schema.clone())]).0;
    assert_eq!(
        problems("data: d, measure: [distinct_1, vendi]"),
        ["measure[1]: it needs a model for `embeddings`"]
    );
    assert_eq!(
        problems("data: d, dedupe: { semantic: 0.9 }"),
        ["dedupe.semantic: it needs a model for `embeddings`"]
    );
    assert_eq!(
        problems("data: d, embeddings: m, measure: [distinct_1]"),
        ["embeddings: nothing here uses embeddings"]
    );
    assert_eq!(
        problems("data: d, embeddings: m, dedupe: { semantic: 0.9, exact: response }"),
        ["dedupe.semantic: `semantic` cannot stand beside `exact`"]
    );
    assert_eq!(problems("data: d, dedupe: {}"), ["dedupe: it does not say what is compared"]);
}

/// The published embeddings and figures of a real model. It is large, so its folder is named by a variable.
#[test]
fn minilm_gives_the_published_embeddings() {
    let (Some(folder), Some(data)) =
        (std::env::var_os("REFRAIN_TEST_MINILM"), shared("data/diversity-embedding"))
    else {
        return eprintln!(
            "skipped: REFRAIN_TEST_MINILM does not name a folder of all-MiniLM-L6-v2"
        );
    };
    let embedder =
        Embedder::load(&ModelPath { folder: folder.clone().into(), adapters: Vec::new() }).unwrap();
    let reader = refrain_cache::TableReader::open(&data.join("cases.parquet")).unwrap();
    let cases = reader.read_all(None).unwrap();
    let cases_text = strings(&cases, "text");
    let all: Vec<&str> = cases_text.iter().map(String::as_str).collect();
    for (text, expected) in all.iter().zip(int_lists(&cases, "token_ids")) {
        let ids: Vec<i64> = embedder.tokens(text).unwrap().into_iter().map(i64::from).collect();
        assert_eq!(ids, expected, "{text}");
    }
    let expected: Vec<f32> =
        float_lists(&cases, "embedding").into_iter().flatten().flatten().collect();
    let got = embedder.embed(&all, None).unwrap();
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == expected.len() && worst < 1e-6, "{worst}");

    let figures = json(&data.join("expected.json"));
    let sets = std::fs::read_to_string(data.join("sample_sets.jsonl")).unwrap();
    let bench = Bench::new();
    let mut tables =
        vec![(all.iter().map(|text| text.to_string()).collect::<Vec<_>>(), figures.clone())];
    for line in sets.lines() {
        let set: serde_json::Value = serde_json::from_str(line).unwrap();
        let of_set =
            set["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        tables
            .push((of_set.collect(), figures["sample_sets"][set["set"].as_str().unwrap()].clone()));
    }
    for (responses, expected) in tables {
        let responses: Vec<&str> = responses.iter().map(String::as_str).collect();
        let table = bench.table(&texts(&[("response", &responses)]));
        let model = model(folder.as_ref());
        let metrics = bench
            .run("diversify", MEASURES, &[("data", &table), ("embeddings", &model)])
            .unwrap()
            .metrics;
        for (ours, theirs) in
            [("vendi", "vendi_cosine"), ("cosine_distance", "mean_pairwise_cosine_distance")]
        {
            let (got, expected) = (value(&metrics, ours), expected[theirs].as_f64().unwrap());
            assert!((got / expected - 1.0).abs() < 1e-5, "{ours}: {got} {expected}");
        }
    }
}
