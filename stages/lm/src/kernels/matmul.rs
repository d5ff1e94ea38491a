//! Matrix products, through the `gemm` crate with one invocation for each of the three shapes that a layer needs.
//!
//! `gemm` picks another path for a single row or column (a matrix-vector product), whose sums run in another
//! order. So a product never has one row or column here: the operand is padded to two. Beyond that the order of
//! summation depends on the shared dimension alone, which the tests below assert over random shapes.

use gemm::Parallelism;

/// `y = x wᵀ`: x `[rows, inputs]`, w `[outputs, inputs]`, y `[rows, outputs]`.
///
/// A row of `y` depends on its row of `x` alone, to the bit.
pub fn forward(x: &[f32], w: &[f32], y: &mut [f32], inputs: usize, outputs: usize) {
    product(y, (outputs, 1), x, (inputs, 1), w, (1, inputs), [y_rows(y, outputs), outputs, inputs], false);
}

/// `dx += dy w`, the gradient of the input: dy `[rows, outputs]`, w `[outputs, inputs]`, dx `[rows, inputs]`.
pub fn backward_input(dy: &[f32], w: &[f32], dx: &mut [f32], inputs: usize, outputs: usize) {
    product(dx, (inputs, 1), dy, (outputs, 1), w, (inputs, 1), [y_rows(dx, inputs), inputs, outputs], true);
}

/// `dw += dyᵀ x`, the gradient of the weights: dy `[rows, outputs]`, x `[rows, inputs]`, dw `[outputs, inputs]`.
pub fn backward_weight(dy: &[f32], x: &[f32], dw: &mut [f32], inputs: usize, outputs: usize) {
    product(dw, (inputs, 1), dy, (1, outputs), x, (inputs, 1), [outputs, inputs, y_rows(x, inputs)], true);
}

fn y_rows(y: &[f32], width: usize) -> usize {
    y.len() / width
}

/// Strides of a matrix: between rows and between columns.
type Strides = (usize, usize);

/// `out (+)= a b` for `[m, k]` × `[k, n]`, all with strides.
#[expect(clippy::too_many_arguments, reason = "three matrices with strides and their sizes, once")]
fn product(
    out: &mut [f32],
    out_strides: Strides,
    a: &[f32],
    a_strides: Strides,
    b: &[f32],
    b_strides: Strides,
    [m, n, k]: [usize; 3],
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    if m == 1 {
        // Two equal rows in place of one; only the first result is kept.
        let row: Vec<f32> = (0..k).map(|i| a[i * a_strides.1]).collect();
        let twice: Vec<f32> = row.iter().chain(&row).copied().collect();
        let mut both = vec![0.0; 2 * n];
        product(&mut both, (n, 1), &twice, (k, 1), b, b_strides, [2, n, k], false);
        for (j, value) in both[..n].iter().enumerate() {
            let place = &mut out[j * out_strides.1];
            *place = if add { *place + value } else { *value };
        }
        return;
    }
    if n == 1 {
        let column: Vec<f32> = (0..k).flat_map(|i| [b[i * b_strides.0]; 2]).collect();
        let mut both = vec![0.0; 2 * m];
        product(&mut both, (2, 1), a, a_strides, &column, (2, 1), [m, 2, k], false);
        for i in 0..m {
            let place = &mut out[i * out_strides.0];
            *place = if add { *place + both[2 * i] } else { both[2 * i] };
        }
        return;
    }
    let last = |(rs, cs): Strides, rows: usize, columns: usize| (rows - 1) * rs + (columns - 1) * cs;
    assert!(last(out_strides, m, n) < out.len(), "the product fits its output");
    assert!(k > 0 && last(a_strides, m, k) < a.len(), "the left matrix has all its values");
    assert!(last(b_strides, k, n) < b.len(), "the right matrix has all its values");
    let stride = |s: usize| s as isize;
    // SAFETY: the asserts above hold every index that the strides reach inside the three slices, the output is
    // borrowed mutably and so overlaps neither operand, and f32 has no invalid bits. `gemm` offers no safe call.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            stride(out_strides.1),
            stride(out_strides.0),
            add,
            a.as_ptr(),
            stride(a_strides.1),
            stride(a_strides.0),
            b.as_ptr(),
            stride(b_strides.1),
            stride(b_strides.0),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism(),
        );
    }
}

/// The threads of the pool that the caller runs in.
fn parallelism() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Stream;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        let stream = Stream::new(seed, &[]);
        (0..n as u64).map(|i| stream.normal(i) as f32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// The bits of a row: the same with all rows, alone, with a neighbour, on one thread and on two.
        #[test]
        fn a_row_does_not_see_its_neighbours(rows in 1usize..70, outputs in 1usize..200, inputs in 1usize..700, seed: u64) {
            let (x, w) = (values(rows * inputs, seed), values(outputs * inputs, seed ^ 1));
            let run = |x: &[f32], threads: usize| {
                let mut y = vec![0.0; x.len() / inputs * outputs];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| forward(x, &w, &mut y, inputs, outputs));
                y.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
            };
            let all = run(&x, 1);
            prop_assert_eq!(&all, &run(&x, 2));
            for row in [0, rows / 2, rows - 1] {
                let expected = &all[row * outputs..(row + 1) * outputs];
                let alone = run(&x[row * inputs..(row + 1) * inputs], 1);
                prop_assert_eq!(expected, &alone[..]);
                let from = row.saturating_sub(2);
                let few = run(&x[from * inputs..(row + 1) * inputs], 2);
                prop_assert_eq!(expected, &few[(row - from) * outputs..]);
            }
        }
    }

    #[test]
    fn the_three_products_agree_with_plain_loops() {
        for (rows, inputs, outputs) in [(1, 3, 5), (4, 1, 1), (7, 33, 2), (5, 16, 40)] {
            let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            let mut y = vec![0.0; rows * outputs];
            forward(&x, &w, &mut y, inputs, outputs);
            let (mut dx, mut dw) = (vec![1.0; rows * inputs], vec![1.0; outputs * inputs]);
            backward_input(&y, &w, &mut dx, inputs, outputs);
            backward_weight(&y, &x, &mut dw, inputs, outputs);
            for r in 0..rows {
                for o in 0..outputs {
                    let truth: f32 = (0..inputs).map(|i| x[r * inputs + i] * w[o * inputs + i]).sum();
                    assert!((y[r * outputs + o] - truth).abs() < 1e-4);
                }
                for i in 0..inputs {
                    let truth: f32 = (0..outputs).map(|o| y[r * outputs + o] * w[o * inputs + i]).sum();
                    assert!((dx[r * inputs + i] - 1.0 - truth).abs() < 1e-2);
                }
            }
            for o in 0..outputs {
                for i in 0..inputs {
                    let truth: f32 = (0..rows).map(|r| y[r * outputs + o] * x[r * inputs + i]).sum();
                    assert!((dw[o * inputs + i] - 1.0 - truth).abs() < 1e-2);
                }
            }
        }
    }
}
