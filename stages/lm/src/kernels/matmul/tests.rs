//! The products beside plain loops in the same order, at every width of registers.

use half::{bf16, f16};
use proptest::prelude::*;
use pulp::{Scalar, Scalar128b, Scalar256b, Scalar512b};

use super::super::panels::Stored;
use super::super::tile::{DEPTH, run_with};
use super::*;
use crate::random::Stream;

fn values(n: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, &[]);
    (0..n as u64).map(|i| stream.normal(i) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(work)
}

/// A sum in the one order: chains of fused terms, block by block.
fn sum(terms: usize, term: impl Fn(usize) -> (f32, f32)) -> f32 {
    let mut sum = 0.0;
    for from in (0..terms).step_by(DEPTH) {
        let chain = |chain: f32, t| term(t).0.mul_add(term(t).1, chain);
        sum += (from..terms.min(from + DEPTH)).fold(0.0, chain);
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// The bits of the three products, on one thread and on three, are those of plain loops.
    #[test]
    fn products_have_one_order(rows in 1usize..120, outputs in 1usize..90, inputs in 1usize..600, seed: u64) {
        let (x, rows_of_w) = (values(rows * inputs, seed), values(outputs * inputs, seed ^ 1));
        let stored = Stored::F32(rows_of_w.clone()).into_panels(outputs, inputs);
        let w = Panels { outputs, inputs, values: &stored };
        let dy = values(rows * outputs, seed ^ 2);
        let run = |threads| on(threads, || {
            let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
            let mut dw = vec![0.0; stored.len()];
            forward(&[(&Operand::of_rows(&x, inputs), w)], &mut y, Put::Set);
            backward_input(&[(&Operand::in_lanes(&dy, outputs), w)], &mut dx, Put::Add);
            backward_weight(&dy, &Operand::of_columns(&x, inputs), &mut dw, outputs, 1.0);
            (bits(&y), bits(&dx), bits(&Panels { outputs, inputs, values: &Stored::F32(dw) }.to_rows()))
        });
        let (y, dx, dw) = run(1);
        prop_assert_eq!(&(y.clone(), dx.clone(), dw.clone()), &run(3));
        for r in [0, rows / 2, rows - 1] {
            for o in [0, outputs / 2, outputs - 1] {
                let truth = sum(inputs, |t| (x[r * inputs + t], rows_of_w[o * inputs + t]));
                prop_assert_eq!(y[r * outputs + o], truth.to_bits());
            }
            for i in [0, inputs / 2, inputs - 1] {
                let truth = sum(outputs, |t| (dy[r * outputs + t], rows_of_w[t * inputs + i]));
                prop_assert_eq!(dx[r * inputs + i], truth.to_bits());
            }
        }
        for o in [0, outputs / 2, outputs - 1] {
            for i in [0, inputs / 2, inputs - 1] {
                let truth = sum(rows, |t| (x[t * inputs + i], dy[t * outputs + o]));
                prop_assert_eq!(dw[o * inputs + i], truth.to_bits());
            }
        }
    }

    /// A row alone, as in decoding, has the bits that it has among others.
    #[test]
    fn a_row_does_not_see_its_neighbours(rows in 2usize..900, outputs in 1usize..70, inputs in 1usize..300, seed: u64) {
        let x = values(rows * inputs, seed);
        let stored = Stored::F32(values(outputs * inputs, seed ^ 1)).into_panels(outputs, inputs);
        let w = Panels { outputs, inputs, values: &stored };
        let run = |x: &[f32]| {
            let mut y = vec![0.0; x.len() / inputs * outputs];
            forward(&[(&Operand::of_rows(x, inputs), w)], &mut y, Put::Set);
            bits(&y)
        };
        let all = run(&x);
        for row in [0, rows / 2, rows - 1] {
            let expected = &all[row * outputs..(row + 1) * outputs];
            prop_assert_eq!(expected, &run(&x[row * inputs..(row + 1) * inputs])[..]);
            let from = row.saturating_sub(6);
            prop_assert_eq!(expected, &run(&x[from * inputs..(row + 1) * inputs])[(row - from) * outputs..]);
        }
    }
}

/// Weights of half precision give the bits of their widened copy.
#[test]
fn halves_compute_as_their_widened_copy() {
    let (rows, outputs, inputs) = (9, 37, 530);
    let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
    let brain: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
    let half: Vec<f16> = w.iter().map(|w| f16::from_f32(*w)).collect();
    let product = |stored: Stored| {
        let stored = stored.into_panels(outputs, inputs);
        let w = Panels { outputs, inputs, values: &stored };
        let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
        forward(&[(&Operand::of_rows(&x, inputs), w)], &mut y, Put::Set);
        backward_input(&[(&Operand::in_lanes(&y, outputs), w)], &mut dx, Put::Set);
        (bits(&y), bits(&dx))
    };
    let wide = |values: Vec<f32>| product(Stored::F32(values));
    assert_eq!(wide(brain.iter().map(|w| w.to_f32()).collect()), product(Stored::Bf16(brain)));
    assert_eq!(wide(half.iter().map(|w| w.to_f32()).collect()), product(Stored::F16(half)));
}

/// Every width of registers gives the same bits: the scalar paths stand for processors that are not
/// here.
#[test]
fn every_width_has_the_same_bits() {
    let (rows, terms) = (7, 515);
    let stored = Stored::F32(values(16 * terms, 2)).into_panels(16, terms);
    let w = Panels { outputs: 16, inputs: terms, values: &stored };
    let left = Operand::of_rows(&values(rows * terms, 1), terms);
    let product = |run: &dyn Fn(Task<'_, &Operand, Panels<'_>>)| {
        let mut sums = vec![[0.0; WIDTH]; left.padded_rows()];
        let products = &[(&left, w)];
        run(Task { products, tiles: 0..left.tiles(), panels: 0..1, sums: &mut sums });
        bits(sums[..rows].as_flattened())
    };
    let here = product(&|task| run(task));
    assert_eq!(here, product(&|task| run_with(Scalar::new(), task)));
    assert_eq!(here, product(&|task| run_with(Scalar128b, task)));
    assert_eq!(here, product(&|task| run_with(Scalar256b, task)));
    assert_eq!(here, product(&|task| run_with(Scalar512b, task)));
}

/// `w + scale * b a`, twice, then times the factors.
#[test]
fn an_adapter_is_added_to_each_panel() {
    let (outputs, inputs, rank) = (35, 20, 3);
    let [w, a, b] = [(outputs, inputs), (rank, inputs), (outputs, rank)]
        .map(|(rows, width)| (values(rows * width, rows as u64), rows, width));
    let stored =
        [&w, &a, &b].map(|(v, rows, width)| Stored::F32(v.clone()).into_panels(*rows, *width));
    let panels = |n: usize, outputs, inputs| Panels { outputs, inputs, values: &stored[n] };
    let (a_panels, b_panels) = (panels(1, rank, inputs), panels(2, outputs, rank));
    let change = Change { a: a_panels, b: b_panels, scale: 0.5, factors: None };
    let factors = (0..outputs).map(|o| o as f32).collect();
    let all = adapted(
        panels(0, outputs, inputs),
        &[change.clone(), Change { factors: Some(factors), ..change }],
        |_, values| values.to_vec(),
    );
    for o in 0..outputs {
        for (i, columns) in all[o / 16].iter().enumerate() {
            let product: f32 = (0..rank).map(|r| b.0[o * rank + r] * a.0[r * inputs + i]).sum();
            let truth = (w.0[o * inputs + i] + product) * o as f32;
            assert!((columns[o % 16] - truth).abs() < 2e-4);
        }
    }
}

/// A second product is one more block of terms.
#[test]
fn a_sum_of_products_is_their_blocks_in_order() {
    let (rows, outputs, inputs, rank) = (20, 35, 300, 5);
    let [x, w, down, b] = [rows * inputs, outputs * inputs, rows * rank, outputs * rank]
        .map(|size| values(size, size as u64));
    let stored = [(&w, inputs), (&b, rank)]
        .map(|(rows, width)| Stored::F32(rows.clone()).into_panels(outputs, width));
    let panels = |n: usize, inputs| Panels { outputs, inputs, values: &stored[n] };
    let mut y = vec![0.0; rows * outputs];
    let (left, second) = (Operand::of_rows(&x, inputs), Operand::of_rows(&down, rank));
    forward(&[(&left, panels(0, inputs)), (&second, panels(1, rank))], &mut y, Put::Set);
    for r in 0..rows {
        for o in 0..outputs {
            let first = sum(inputs, |t| (x[r * inputs + t], w[o * inputs + t]));
            let truth = first + sum(rank, |t| (down[r * rank + t], b[o * rank + t]));
            assert_eq!(y[r * outputs + o].to_bits(), truth.to_bits());
        }
    }
}
