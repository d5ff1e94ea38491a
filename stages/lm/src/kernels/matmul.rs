//! Matrix products in one order of summation, whatever the shapes, the threads and the machine.
//!
//! A library of matrix products chooses its path by shape and cuts its sums by cache size: with
//! `gemm` a row got other bits as soon as rows times outputs passed 256, and others again on
//! another processor. The kernels here read both operands as they lie, and each sum is cut in fixed
//! places, with one fused multiply-add a term. So the bits of a result are the same on every
//! processor that has such an instruction; without one they are still the same, but slow.

use rayon::prelude::*;

/// Independent sums of a dot product: one AVX register.
const LANES: usize = 8;
/// Terms of a dot product that are summed in registers, before the sums of these blocks are added
/// in order.
const DEPTH: usize = 1024;
/// Rows of `x` that one task multiplies.
const ROWS: usize = 32;
/// Multiplications from which on a product of few rows is worth several threads.
const WORTH: usize = 1 << 20;
/// Outputs that one task computes where the rows are few.
const OUTPUTS: usize = 64;

/// Rows and columns of a tile of an outer product: twelve AVX registers.
const TILE: (usize, usize) = (6, 16);
/// Terms of an outer product that are summed in registers.
const TERMS: usize = 256;
/// Rows of the result that one task adds to; a multiple of the tile's.
const RESULTS: usize = 48;

/// `y = x wᵀ`: x `[rows, inputs]`, w `[outputs, inputs]`, y `[rows, outputs]`.
///
/// A row of `y` depends on its row of `x` alone, to the bit.
pub fn forward(x: &[f32], w: &[f32], y: &mut [f32], inputs: usize, outputs: usize) {
    let rows = y.len() / outputs;
    if rows > ROWS {
        let blocks = y.par_chunks_mut(ROWS * outputs).zip(x.par_chunks(ROWS * inputs));
        blocks.for_each(|(y, x)| dots(x, w, y, inputs, (outputs, 1)));
    } else if rows * inputs * outputs < WORTH {
        dots(x, w, y, inputs, (outputs, 1));
    } else {
        let mut turned = vec![0.0; y.len()];
        let blocks = turned.par_chunks_mut(OUTPUTS * rows).zip(w.par_chunks(OUTPUTS * inputs));
        blocks.for_each(|(turned, w)| dots(x, w, turned, inputs, (1, rows)));
        for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
            y.iter_mut()
                .zip(turned[row..].iter().step_by(rows))
                .for_each(|(y, turned)| *y = *turned);
        }
    }
}

/// `dx += dy w`, the gradient of the input: dy `[rows, outputs]`, w `[outputs, inputs]`, dx `[rows,
/// inputs]`.
///
/// A row of `dx` depends on its rows of `dx` and `dy` alone, to the bit.
pub fn backward_input(dy: &[f32], w: &[f32], dx: &mut [f32], inputs: usize, outputs: usize) {
    let blocks = dx.par_chunks_mut(RESULTS * inputs).zip(dy.par_chunks(RESULTS * outputs));
    blocks.for_each(|(dx, dy)| outer(dy, (outputs, 1), w, dx, inputs));
}

/// `dw += dyᵀ x`, the gradient of the weights: dy `[rows, outputs]`, x `[rows, inputs]`, dw
/// `[outputs, inputs]`.
pub fn backward_weight(dy: &[f32], x: &[f32], dw: &mut [f32], inputs: usize, outputs: usize) {
    let blocks = dw.par_chunks_mut(RESULTS * inputs).enumerate();
    blocks.for_each(|(block, dw)| {
        let from = (block * RESULTS).min(dy.len());
        outer(&dy[from..], (1, outputs), x, dw, inputs);
    });
}

vectorized! {
    /// The dot products of all rows of `x` with all rows of `w`, each `inputs` long. That of row r
    /// and output o goes to `y` at `r * strides.0 + o * strides.1`.
    fn dots<'a>(x: &'a [f32], w: &'a [f32], y: &'a mut [f32], inputs: usize, strides: (usize, usize)) -> () = dots_body
}

#[inline(always)]
fn dots_body(x: &[f32], w: &[f32], y: &mut [f32], inputs: usize, strides: (usize, usize)) {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    for from in (0..inputs).step_by(DEPTH) {
        let to = (from + DEPTH).min(inputs);
        for output in (0..outputs).step_by(4) {
            // Past the end the last row stands in; its results are not kept.
            let w: [&[f32]; 4] =
                std::array::from_fn(|i| part(w, (output + i).min(outputs - 1), inputs, from, to));
            let wanted = 4.min(outputs - output);
            let mut keep = |row: usize, sums: [f32; 4]| {
                for (i, sum) in sums.iter().enumerate().take(wanted) {
                    let y = &mut y[row * strides.0 + (output + i) * strides.1];
                    *y = if from == 0 { *sum } else { *y + sum };
                }
            };
            let mut row = 0;
            while row + 1 < rows {
                let [one, two] =
                    tile([part(x, row, inputs, from, to), part(x, row + 1, inputs, from, to)], w);
                keep(row, one);
                keep(row + 1, two);
                row += 2;
            }
            if row < rows {
                let [one] = tile([part(x, row, inputs, from, to)], w);
                keep(row, one);
            }
        }
    }
}

/// Terms `from..to` of a row.
#[inline(always)]
fn part(matrix: &[f32], row: usize, width: usize, from: usize, to: usize) -> &[f32] {
    &matrix[row * width + from..row * width + to]
}

/// Dot products of M rows with four; each has its own lanes, so none depends on what else is in the
/// tile.
#[inline(always)]
fn tile<const M: usize>(x: [&[f32]; M], w: [&[f32]; 4]) -> [[f32; 4]; M] {
    let length = x[0].len();
    // Equal lengths that the compiler can see, so that no bound is checked in the loop.
    let (x, w) = (x.map(|x| &x[..length]), w.map(|w| &w[..length]));
    let mut sums = [[[0.0f32; LANES]; 4]; M];
    let whole = length / LANES * LANES;
    let mut at = 0;
    while at < whole {
        step(&mut sums, x.map(|x| lanes(&x[at..at + LANES])), w.map(|w| lanes(&w[at..at + LANES])));
        at += LANES;
    }
    if whole < length {
        step(&mut sums, x.map(|x| lanes(&x[whole..])), w.map(|w| lanes(&w[whole..])));
    }
    sums.map(|row| row.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))))
}

#[inline(always)]
fn step<const M: usize>(
    sums: &mut [[[f32; LANES]; 4]; M],
    x: [[f32; LANES]; M],
    w: [[f32; LANES]; 4],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        for (sums, w) in sums.iter_mut().zip(w) {
            for i in 0..LANES {
                sums[i] = x[i].mul_add(w[i], sums[i]);
            }
        }
    }
}

/// Up to eight values, zeros after them.
#[inline(always)]
fn lanes(values: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

vectorized! {
    /// `out[r] += sum over t of factors[r, t] * w[t]`: w `[terms, width]`, out `[rows, width]`; the
    /// factor of row r and term t lies at `r * strides.0 + t * strides.1`.
    fn outer<'a>(factors: &'a [f32], strides: (usize, usize), w: &'a [f32], out: &'a mut [f32], width: usize) -> () =
        outer_body
}

#[inline(always)]
fn outer_body(factors: &[f32], strides: (usize, usize), w: &[f32], out: &mut [f32], width: usize) {
    let (rows, terms) = (out.len() / width, w.len() / width);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for from in (0..terms).step_by(TERMS) {
        let to = (from + TERMS).min(terms);
        left.clear();
        for top in (0..rows).step_by(TILE.0) {
            let factor = |row: usize, t: usize| {
                if row < rows { factors[row * strides.0 + t * strides.1] } else { 0.0 }
            };
            left.extend((from..to).flat_map(|t| (0..TILE.0).map(move |i| factor(top + i, t))));
        }
        for column in (0..width).step_by(TILE.1) {
            let wanted = TILE.1.min(width - column);
            right.clear();
            right.resize((to - from) * TILE.1, 0.0);
            for (right, t) in right.chunks_exact_mut(TILE.1).zip(from..to) {
                right[..wanted].copy_from_slice(&w[t * width + column..][..wanted]);
            }
            for (left, out) in
                left.chunks_exact((to - from) * TILE.0).zip(out.chunks_mut(TILE.0 * width))
            {
                let sums = outer_tile(left, &right);
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(width)) {
                    out[column..column + wanted]
                        .iter_mut()
                        .zip(sums)
                        .for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}

/// The sum of outer products of packed columns, six by sixteen.
#[inline(always)]
fn outer_tile(left: &[f32], right: &[f32]) -> [[f32; TILE.1]; TILE.0] {
    let mut sums = [[0.0f32; TILE.1]; TILE.0];
    let (left, right) = (left.as_chunks::<{ TILE.0 }>().0, right.as_chunks::<{ TILE.1 }>().0);
    for (left, right) in left.iter().zip(right) {
        for (sums, factor) in sums.iter_mut().zip(left) {
            for (sum, value) in sums.iter_mut().zip(right) {
                *sum = factor.mul_add(*value, *sum);
            }
        }
    }
    sums
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
        /// The bits of a row: the same with all rows, alone, with a neighbour, on one thread and on
        /// two.
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
                    let truth: f32 =
                        (0..inputs).map(|i| x[r * inputs + i] * w[o * inputs + i]).sum();
                    assert!((y[r * outputs + o] - truth).abs() < 1e-4);
                }
                for i in 0..inputs {
                    let truth: f32 =
                        (0..outputs).map(|o| y[r * outputs + o] * w[o * inputs + i]).sum();
                    assert!((dx[r * inputs + i] - 1.0 - truth).abs() < 1e-2);
                }
            }
            for o in 0..outputs {
                for i in 0..inputs {
                    let truth: f32 =
                        (0..rows).map(|r| y[r * outputs + o] * x[r * inputs + i]).sum();
                    assert!((dw[o * inputs + i] - 1.0 - truth).abs() < 1e-2);
                }
            }
        }
    }
}
