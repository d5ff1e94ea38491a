//! Attention beside plain loops in double precision, and the same bits whatever lies around a row.

use proptest::prelude::*;
use pulp::{Scalar, Scalar128b, Scalar256b, Scalar512b};

use super::super::tile::run_with;
use super::backward::Inputs;
use super::*;
use crate::random::Stream;

fn values(n: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, &[]);
    (0..n as u64).map(|i| stream.normal(i) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Attention of one row by plain loops: k and v `[positions, kv_heads * head_dim]`.
fn plain(a: &Attention, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (wide, narrow, dim) = (a.query_width(), a.key_width(), a.head_dim);
    let positions = q.len() / wide;
    let mut out = vec![0.0; q.len()];
    for i in 0..positions {
        let end = if a.causal { i + 1 } else { positions };
        let seen = a.window.map_or(0, |w| (i + 1).saturating_sub(w))..end;
        for head in 0..a.heads {
            let (at, column) = (i * wide + head * dim, head / a.group() * dim);
            let score = |j: usize| {
                let product: f64 = (0..dim).map(|d| q[at + d] * k[j * narrow + column + d]).sum();
                let score = product * f64::from(a.scale);
                a.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
            };
            let weights: Vec<f64> = seen.clone().map(score).collect();
            let total: f64 = weights.iter().sum();
            for (weight, j) in weights.iter().zip(seen.clone()) {
                for d in 0..dim {
                    out[at + d] += weight / total * v[j * narrow + column + d];
                }
            }
        }
    }
    out
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn shapes() -> impl Strategy<Value = Attention> {
    (
        1usize..3,
        1usize..4,
        prop::sample::select(vec![2usize, 16, 24]),
        any::<bool>(),
        any::<bool>(),
        0usize..80,
    )
        .prop_map(|(kv_heads, group, head_dim, capped, causal, window)| Attention {
            heads: kv_heads * group,
            kv_heads,
            head_dim,
            scale: 0.3,
            cap: capped.then_some(5.0),
            window: (causal && window > 0).then_some(window),
            causal,
        })
}

fn whole(a: &Attention, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let positions = q.len() / a.query_width();
    let keys = a.keys(&[0, positions], k, v);
    let mut out = vec![0.0; q.len()];
    a.forward(&[Row { queries: q, keys: &keys[0] }], &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn attention_agrees_with_plain_loops(a in shapes(), positions in 1usize..150, seed: u64) {
        let (q, k) = (values(positions * a.query_width(), seed), values(positions * a.key_width(), seed ^ 1));
        let v = values(k.len(), seed ^ 2);
        let truth = plain(&a, &wide(&q), &wide(&k), &wide(&v));
        for (value, truth) in whole(&a, &q, &k, &v).iter().zip(truth) {
            prop_assert!((f64::from(*value) - truth).abs() < 3e-6, "{value} {truth}");
        }
    }

    /// A row continued position by position, after a prefix that another row shares, and beside
    /// other rows on three threads: the same bits.
    #[test]
    fn a_row_has_the_same_bits_however_it_is_computed(a in shapes(), positions in 2usize..150, at in 0.0..1.0f64, seed: u64) {
        let a = Attention { causal: true, ..a };
        let (wide, narrow) = (a.query_width(), a.key_width());
        let (q, k) = (values(positions * wide, seed), values(positions * narrow, seed ^ 1));
        let v = values(k.len(), seed ^ 2);
        let expected = bits(&whole(&a, &q, &k, &v));

        let prefix = ((positions as f64 * at) as usize).max(1);
        let shared = a.keys(&[0, prefix], &k[..prefix * narrow], &v[..prefix * narrow]).remove(0);
        let mut keys = shared.clone();
        for i in prefix..positions {
            for (head, keys) in keys.iter_mut().enumerate() {
                let here = i * narrow..(i + 1) * narrow;
                keys.push(&k[here.clone()], &v[here], narrow, head * a.head_dim);
            }
            let mut out = vec![0.0; wide];
            a.forward(&[Row { queries: &q[i * wide..(i + 1) * wide], keys: &keys }], &mut out);
            prop_assert_eq!(bits(&out), &expected[i * wide..(i + 1) * wide]);
        }
        prop_assert_eq!(shared[0].positions(), prefix);

        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let both = a.keys(&[0, positions, positions + prefix], &[&k[..], &k[..prefix * narrow]].concat(), &[&v[..], &v[..prefix * narrow]].concat());
        let mut out = vec![0.0; (positions + prefix) * wide];
        let rows = [Row { queries: &q, keys: &both[0] }, Row { queries: &q[..prefix * wide], keys: &both[1] }];
        pool.install(|| a.forward(&rows, &mut out));
        prop_assert_eq!(bits(&out[..positions * wide]), expected);
    }

    /// Keys and values of half precision give the bits of their rounded copies, position by
    /// position.
    #[test]
    fn half_keys_are_their_rounded_copies(a in shapes(), positions in 1usize..100, seed: u64) {
        let a = Attention { causal: true, ..a };
        let (wide, narrow) = (a.query_width(), a.key_width());
        let (q, k) = (values(positions * wide, seed), values(positions * narrow, seed ^ 1));
        let v = values(k.len(), seed ^ 2);
        let rounded = |values: &[f32]| -> Vec<f32> {
            values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
        };
        let expected = bits(&whole(&a, &q, &rounded(&k), &rounded(&v)));

        let mut keys = vec![Keys::new(a.head_dim, KeyPrecision::Bf16); a.kv_heads];
        for i in 0..positions {
            for (head, keys) in keys.iter_mut().enumerate() {
                let here = i * narrow..(i + 1) * narrow;
                keys.push(&k[here.clone()], &v[here], narrow, head * a.head_dim);
            }
            let mut out = vec![0.0; wide];
            a.forward(&[Row { queries: &q[i * wide..(i + 1) * wide], keys: &keys }], &mut out);
            prop_assert_eq!(bits(&out), &expected[i * wide..(i + 1) * wide]);
        }
    }

    /// Gradients against differences of the plain loops.
    #[test]
    fn gradients_follow_the_plain_loops(a in shapes(), positions in 1usize..120, seed: u64) {
        let a = Attention { causal: true, ..a };
        let (q, k) = (values(positions * a.query_width(), seed), values(positions * a.key_width(), seed ^ 1));
        let (v, dout) = (values(k.len(), seed ^ 2), values(q.len(), seed ^ 3));
        let gradients = a.backward(&[0, positions], Inputs { q: &q, k: &k, v: &v, dout: &dout });
        let all = [wide(&q), wide(&k), wide(&v)];
        let loss = |all: &[Vec<f64>; 3]| {
            let out = plain(&a, &all[0], &all[1], &all[2]);
            out.iter().zip(&dout).map(|(out, d)| out * f64::from(*d)).sum::<f64>()
        };
        for which in 0..3 {
            for at in [0, all[which].len() / 2, all[which].len() - 1] {
                let at_step = |step: f64| {
                    let mut moved = all.clone();
                    moved[which][at] += step;
                    loss(&moved)
                };
                let truth = (at_step(1e-5) - at_step(-1e-5)) / 2e-5;
                let gradient = f64::from(gradients[which][at]);
                prop_assert!((gradient - truth).abs() < 2e-5 * (1.0 + truth.abs()), "{which} {at}: {gradient} {truth}");
            }
        }
    }
}

/// The scalar paths stand for processors that are not here.
#[test]
fn every_width_has_the_same_bits() {
    let a = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        scale: 0.2,
        cap: Some(9.0),
        window: Some(50),
        causal: true,
    };
    let positions = 90;
    let (q, k) = (values(positions * a.query_width(), 1), values(positions * a.key_width(), 2));
    let v = values(k.len(), 3);
    let keys = a.keys(&[0, positions], &k, &v).remove(0);
    let attend = || Attend { attention: &a, queries: &q, head: 1, keys: &keys[1], position: 0 };
    let here = bits(&run(attend()));
    assert_eq!(here, bits(&run_with(Scalar::new(), attend())));
    assert_eq!(here, bits(&run_with(Scalar128b, attend())));
    assert_eq!(here, bits(&run_with(Scalar256b, attend())));
    assert_eq!(here, bits(&run_with(Scalar512b, attend())));
}
