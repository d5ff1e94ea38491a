//! The first paper's masks from its own scores: thresholds, distributions, differences of two models, controls.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int32Type;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::artifacts::{column, figures, floats, whole};
use crate::space::{Space, shared};

/// A space with a workflow over the published scores, and the expected figures of a case.
fn published(case: &str, stages: &str) -> Option<(Space, Value)> {
    let shared = shared()?;
    let space = Space::new();
    let path = shared.join("data/stm-mask/input.parquet");
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata:\n  scored:\n    path: {}\n    columns: {{ id: task_id, token_ids: \
             input_ids, prompt_tokens: prompt_len, perplexities: ppl }}\n{stages}",
            path.display()
        ),
    );
    let expected = std::fs::read(shared.join(format!("data/{case}/expected.json"))).unwrap();
    Some((space, serde_json::from_slice(&expected).unwrap()))
}

/// SHA-256 of all labels as little-endian int32: a token's id where it is trained on, else -100.
fn labels_sha256(space: &Space, node: &str) -> String {
    let (ids, mask) = (column(space, node, "token_ids"), column(space, node, "loss_mask"));
    let (ids, mask) = (ids.as_list::<i32>(), mask.as_list::<i32>());
    let ids = ids.values().as_primitive::<Int32Type>();
    let mask = mask.values().as_boolean();
    let labels = ids.iter().zip(mask.iter());
    let labels = labels.map(|(id, kept)| if kept.unwrap() { id.unwrap() } else { -100 });
    let bytes: Vec<u8> = labels.flat_map(i32::to_le_bytes).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_published_masks_come_out_of_a_workflow() {
    let stages = "stages:\n  highest: { mask: { data: scored, above: \"${above}\" } }\n  lowest: { \
                  mask: { data: scored, below: \"${below}\" } }\n  off: { mask: { data: scored, \
                  above: off } }\nsweep: { above: [-1, 1.0, 2.5, 10, 100, 1000], below: [2.5] }\n";
    let Some((space, expected)) = published("stm-mask", stages) else { return };
    space.report("w.yaml", &[]);
    let mut compared = 0;
    for (mode, axis) in [("highest", "above"), ("lowest", "below")] {
        for (threshold, expected) in expected[mode].as_object().unwrap() {
            if mode == "lowest" && threshold != "2.5" {
                continue;
            }
            let threshold = threshold.strip_suffix(".0").unwrap_or(threshold);
            let node = format!("{mode}[{axis}={threshold}]");
            assert_eq!(labels_sha256(&space, &node), expected["labels_sha256"], "{node}");
            let figure = figures(&space, &format!("{node}.metrics"));
            for (ours, theirs) in [
                ("response_tokens", "completion_tokens"),
                ("masked", "masked_tokens"),
                ("masked_share", "masked_fraction"),
                ("mean_row_masked_share", "mean_row_masked_fraction"),
                ("rows_without_kept_token", "rows_with_no_kept_token"),
            ] {
                let theirs = expected[theirs].as_f64().unwrap();
                assert!((figure(ours) - theirs).abs() < 1e-9, "{node}: {ours}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 7);
    assert_eq!(labels_sha256(&space, "off"), expected["highest"]["-1"]["labels_sha256"]);
}

fn close(ours: f64, theirs: &Value, of: &str) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours - theirs).abs() <= 1e-6 * theirs.abs().max(1e-9), "{of}: {ours}, not {theirs}");
}

#[test]
fn the_published_distributions_come_out_of_a_workflow() {
    let blocks = [
        ("response", "completion"),
        ("prompt", "prompt_without_first_token"),
        ("text", "whole_without_first_token"),
    ];
    let Some((_, expected)) = published("stm-distribution", "") else { return };
    // The last edge is infinity: our last bin is open.
    let edges = expected["completion"]["histogram"]["edges"].as_array().unwrap();
    let edges = json!(edges[..edges.len() - 1]);
    let swept: Vec<&String> = expected["completion"]["sweep"].as_object().unwrap().keys().collect();
    let stages = format!(
        "stages:\n  told: {{ mask: {{ data: scored, above: off, statistics: true, histogram: {{ \
         of: \"${{part}}\", edges: {edges}, quantiles: [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99] }} \
         }} }}\n  above: {{ mask: {{ data: scored, above: off, histogram: {{ of: \"${{part}}\", \
         edges: [{}] }} }} }}\nsweep: {{ part: [response, prompt, text] }}\n",
        swept.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
    );
    let Some((space, _)) = published("stm-distribution", &stages) else { return };
    space.report("w.yaml", &[]);
    for (part, block) in blocks {
        let expected = &expected[block];
        let node = format!("told[part={part}]");
        let figure = figures(&space, &format!("{node}.metrics"));
        close(figure("histogram_tokens"), &expected["tokens"], part);
        close(figure("histogram_mean"), &expected["arithmetic_mean"], part);
        close(figure("histogram_mean_nll"), &expected["mean_nll"], part);
        close(figure("histogram_perplexity"), &expected["pooled_ppl"], part);
        close(figure("histogram_max"), &expected["max"], part);
        for (q, value) in expected["quantiles"].as_object().unwrap() {
            let percent = q.parse::<f64>().unwrap() * 100.0;
            close(figure(&format!("histogram_q{}", percent.round())), value, q);
        }

        let bins = whole(&space, &format!("{node}.histogram"), "tokens");
        let counts = json!(bins[1..]);
        assert_eq!(counts, expected["histogram"]["counts"], "{part}");
        let above = whole(&space, &format!("above[part={part}].histogram"), "above");
        let mut pairs: Vec<(f64, &Value)> = expected["sweep"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(t, found)| (t.parse().unwrap(), &found["above"]))
            .collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let theirs: Vec<Option<i64>> = pairs.iter().map(|(_, above)| above.as_i64()).collect();
        assert_eq!(above[1..], theirs, "{part}");
    }

    let node = "told[part=response]";
    let columns = [
        ("response_nll", "completion_nll_sum"),
        ("response_perplexity", "completion_ppl"),
        ("text_perplexity", "sequence_ppl"),
        ("max_perplexity", "completion_max"),
        ("median_perplexity", "completion_median"),
    ];
    for (ours, theirs) in columns {
        for (row, value) in floats(&space, node, ours).into_iter().enumerate() {
            close(value, &expected["per_row"][row][theirs], &format!("row {row}: {ours}"));
        }
    }
}

/// Two models' scores of two rows; the prompt has one token.
const TWO: [(&str, &str); 2] = [
    (
        "base.jsonl",
        "{\"id\": \"a\", \"token_ids\": [1, 2, 3, 4], \"prompt_tokens\": 1, \"perplexities\": [null, 2.0, 8.0, 4.0]}\n\
         {\"id\": \"b\", \"token_ids\": [1, 5, 6], \"prompt_tokens\": 1, \"perplexities\": [null, 3.0, 1.5]}\n",
    ),
    (
        "tuned.jsonl",
        "{\"id\": \"a\", \"token_ids\": [1, 2, 3, 4], \"prompt_tokens\": 1, \"perplexities\": [null, 3.0, 6.0, 4.0]}\n\
         {\"id\": \"b\", \"token_ids\": [1, 5, 6], \"prompt_tokens\": 1, \"perplexities\": [null, 2.5, 4.5]}\n",
    ),
];

fn masks(space: &Space, node: &str) -> Vec<String> {
    let lists = column(space, node, "loss_mask");
    let lists = lists.as_list::<i32>();
    let row = |i: usize| -> String {
        let row = lists.value(i);
        row.as_boolean().iter().map(|b| if b.unwrap() { '+' } else { '-' }).collect()
    };
    (0..lists.len()).map(row).collect()
}

#[test]
fn differences_of_two_models_are_compared_and_hybrids_keep_the_first() {
    let space = Space::new();
    TWO.iter().for_each(|(name, rows)| space.write(name, rows));
    let types = "data:\n  base: { path: base.jsonl }\n  tuned: { path: tuned.jsonl }\n";
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\n{types}stages:\n  \
             zero: {{ mask: {{ data: base, relative_to: tuned, above: 0 }} }}\n  \
             one: {{ mask: {{ data: base, relative_to: tuned, above: 1 }} }}\n  \
             less: {{ mask: {{ data: base, relative_to: tuned, above: -2 }} }}\n  \
             hybrid: {{ mask: {{ data: base, relative_to: tuned, hybrid: true, above: 5 }} }}\n  \
             off: {{ mask: {{ data: base, relative_to: tuned, hybrid: true, above: 0 }} }}\n"
        ),
    );
    space.report("w.yaml", &[]);
    // Differences: 1, -2, 0 and -0.5, 3.
    assert_eq!(masks(&space, "zero"), ["--++", "-+-"]);
    assert_eq!(masks(&space, "one"), ["-+++", "-+-"]);
    assert_eq!(masks(&space, "less"), ["--+-", "---"]);
    // Above 5, or made harder by the tuning.
    assert_eq!(masks(&space, "hybrid"), ["---+", "-+-"]);
    assert_eq!(masks(&space, "off"), ["-+++", "-++"]);

    space.edit("tuned.jsonl", "\"id\": \"b\"", "\"id\": \"c\"");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.contains("does not hold the rows of `data`"), "{said}");
    space.edit(
        "tuned.jsonl",
        "\"id\": \"c\", \"token_ids\": [1, 5, 6]",
        "\"id\": \"b\", \"token_ids\": [1, 5, 7]",
    );
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.contains("the tokens of row 1 (`b`) differ"), "{said}");
    space.write("tuned.jsonl", TWO[1].1.lines().next().unwrap());
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.contains("it has fewer rows"), "{said}");
}

/// Of n draws with replacement from m tokens a token is missed with probability (1 - 1/m)^n.
#[test]
fn the_papers_random_control_draws_from_the_whole_text_with_replacement() {
    let space = Space::new();
    // A prompt of 20 tokens and a response of 80, every fifth token above the threshold: 20 draws.
    let ids: Vec<usize> = (0..100).collect();
    let perplexities: Vec<f64> = (0..100).map(|i| if i % 5 == 0 { 9.0 } else { 1.5 }).collect();
    let row = |i: usize| {
        let row = json!({
            "id": format!("r{i}"), "token_ids": ids, "prompt_tokens": 20, "perplexities": perplexities,
        });
        format!("{row}\n")
    };
    space.write("d.jsonl", &(0..2000).map(row).collect::<String>());
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { d: { path: d.jsonl } }\nstages: { m: { mask: { data: d, above: 2.5, \
         control: random_paper } } }\n",
    );
    space.report("w.yaml", &[]);
    let masked = figures(&space, "m.metrics")("masked") / 2000.0;
    // 80 × (1 - 0.99^20) is 14.57 of 16; the deviation of the mean over 2,000 rows is 0.04.
    let expected = 80.0 * (1.0 - 0.99f64.powi(20));
    assert!((masked - expected).abs() < 0.16, "{masked}, not {expected}");
}
