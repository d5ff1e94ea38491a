//! Sampling distributions against Hugging Face's, and the laws of the draw.

use proptest::prelude::*;
use refrain_lm::sampling::{Sampler, SamplingParams, Scratch};

use crate::{ids, parity_folders, read_json};

fn params(value: &serde_json::Value) -> SamplingParams {
    let number = |name: &str| value.get(name).and_then(serde_json::Value::as_f64);
    SamplingParams {
        temperature: number("temperature").unwrap_or(1.0),
        top_k: number("top_k").map(|k| k as usize),
        top_p: number("top_p"),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
    }
}

#[test]
fn distributions_equal_the_references() {
    let mut cases = 0;
    for folder in parity_folders() {
        let reference = read_json(&folder.join("reference.json"));
        let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor("logits_f32").unwrap();
        let row = view.data().len() / view.shape()[0];
        let logits: Vec<f32> = view.data()[view.data().len() - row..]
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let text = reference["logits_text"].as_u64().unwrap() as usize;
        let context = ids(&reference["texts"][text]["input_ids"]);
        for case in reference["sampling"].as_array().unwrap() {
            let sampler = Sampler::new(params(&case["params"]), 0).unwrap();
            let (kept, probabilities) = sampler.distribution(&logits, &context);
            assert_eq!(
                kept.len() as u64,
                case["n_kept"].as_u64().unwrap(),
                "{} {}",
                folder.display(),
                case["params"]
            );
            assert!(kept.is_sorted());
            let mut largest_difference = 0f64;
            for pair in case["top"].as_array().unwrap() {
                let id = pair[0].as_u64().unwrap() as u32;
                let at = kept.binary_search(&id).expect("a token that the reference keeps is kept");
                largest_difference =
                    largest_difference.max((probabilities[at] - pair[1].as_f64().unwrap()).abs());
            }
            assert!(
                largest_difference < 1e-6,
                "{} {}: {largest_difference}",
                folder.display(),
                case["params"]
            );
            cases += 1;
        }
    }
    eprintln!("{cases} sampling cases");
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..40).map(|i| ((i * 7919) % 41) as f32 / 10.0).collect();
    let context = [3, 3, 17];
    let sampler = Sampler::new(
        SamplingParams {
            temperature: 0.8,
            top_k: Some(20),
            top_p: Some(0.9),
            min_p: Some(0.02),
            repetition_penalty: Some(1.3),
        },
        5,
    )
    .unwrap();
    let (kept, probabilities) = sampler.distribution(&logits, &context);
    let stream = sampler.stream(&[1, 2]);
    let mut scratch = Scratch::default();
    let n = 50_000;
    let mut counts = vec![0u32; logits.len()];
    for position in 0..n {
        counts[sampler.next(&logits, &context, &stream, position, &mut scratch) as usize] += 1;
    }
    for (id, probability) in kept.iter().zip(&probabilities) {
        let share = f64::from(counts[*id as usize]) / n as f64;
        assert!((share - probability).abs() < 0.01, "{id}: {share} {probability}");
        counts[*id as usize] = 0;
    }
    assert!(counts.iter().all(|&count| count == 0), "a token outside the kept set was drawn");
}

#[test]
fn greedy_takes_the_first_maximum_and_heeds_the_penalty() {
    let greedy = Sampler::new(SamplingParams::default(), 0).unwrap();
    let stream = greedy.stream(&[]);
    let mut scratch = Scratch::default();
    assert_eq!(greedy.next(&[0.0, 2.0, 2.0], &[], &stream, 0, &mut scratch), 1);
    assert_eq!(greedy.next(&[f32::NAN, -1.0], &[], &stream, 0, &mut scratch), 1);
    assert_eq!(greedy.next(&[], &[], &stream, 0, &mut scratch), 0);
    let penalty = SamplingParams { repetition_penalty: Some(2.0), ..SamplingParams::default() };
    let penalised = Sampler::new(penalty, 0).unwrap();
    // Token 1 comes twice and is penalised once: 2.0 / 2.0 = 1.0 stays above 0.9.
    assert_eq!(penalised.next(&[0.9, 2.0, -3.0], &[1, 1, 99], &stream, 0, &mut scratch), 1);
    assert_eq!(penalised.next(&[1.1, 2.0, -3.0], &[1], &stream, 0, &mut scratch), 0);
    assert_eq!(penalised.next(&[-1.0, -0.6], &[1], &stream, 0, &mut scratch), 0);
}

#[test]
fn ties_at_the_edge_go_to_the_lower_id() {
    let params = SamplingParams { temperature: 1.0, top_k: Some(2), ..SamplingParams::default() };
    let (kept, _) = Sampler::new(params, 0).unwrap().distribution(&[1.0, 1.0, 5.0, 1.0], &[]);
    assert_eq!(kept, [0, 2]);
    let params = SamplingParams { temperature: 1.0, top_p: Some(0.5), ..SamplingParams::default() };
    let (kept, _) = Sampler::new(params, 0).unwrap().distribution(&[0.0, -0.0, 0.0, 0.0], &[]);
    assert_eq!(kept, [0, 1]);
}

#[test]
fn parameters_out_of_range_are_named() {
    let fail = |params: SamplingParams| Sampler::new(params, 0).unwrap_err().to_string();
    let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    assert_eq!(
        fail(SamplingParams { temperature: -0.1, ..base }),
        "`temperature` is -0.1, but it must be a number of at least 0"
    );
    assert_eq!(
        fail(SamplingParams { top_k: Some(0), ..base }),
        "`top_k` is 0, but it must be at least 1"
    );
    for wrong in [0.0, 1.1, f64::NAN] {
        assert!(fail(SamplingParams { top_p: Some(wrong), ..base }).starts_with("`top_p`"));
    }
    assert!(fail(SamplingParams { min_p: Some(1.5), ..base }).starts_with("`min_p`"));
    assert!(
        fail(SamplingParams { repetition_penalty: Some(0.0), ..base })
            .starts_with("`repetition_penalty`")
    );
}

proptest! {
    /// The pieces in which the heaviest tokens are split off leave the same set as one sort of
    /// everything.
    #[test]
    fn top_p_is_the_shortest_prefix_of_a_full_sort(
        logits in prop::collection::vec(-4f32..4.0, 1..700), p in 0.01f64..1.0,
    ) {
        let params = SamplingParams { temperature: 1.0, top_p: Some(p), ..SamplingParams::default() };
        let (kept, probabilities) = Sampler::new(params, 0).unwrap().distribution(&logits, &[]);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let weights: Vec<f64> = logits.iter().map(|&z| f64::from(z).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let count = order.iter().take_while(|&&i| { let more = sum < p * total - 1e-9; sum += weights[i]; more }).count();
        let mut expected: Vec<u32> = order[..count].iter().map(|&i| i as u32).collect();
        expected.sort_unstable();
        prop_assert_eq!(kept, expected);
        prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
