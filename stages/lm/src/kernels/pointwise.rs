//! Kernels on single rows and values: norms, rotary positions, activations, log-probabilities.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::{LANES, dot, erfc, exp, max, sum_lanes, tanh};

/// Rows that one task computes; the same whatever the number of threads.
const BLOCK: usize = 16;
/// Values that one task computes where there are no rows.
const VALUES: usize = 1 << 13;
/// Columns that one task sums over all rows.
const COLUMNS: usize = 64;

/// Root-mean-square norm of each row: `y = x / rms(x) * (weight + plus)`; `inverse` keeps 1 / rms
/// of each row.
///
/// x and y `[rows, width]`; `plus` is 1 for Gemma, whose weights are stored less one.
pub fn rms_norm(
    x: &[f32],
    weight: &[f32],
    plus: f32,
    eps: f64,
    y: &mut [f32],
    inverse: &mut [f32],
) {
    let width = weight.len();
    let blocks = x
        .par_chunks(BLOCK * width)
        .zip(y.par_chunks_mut(BLOCK * width))
        .zip(inverse.par_chunks_mut(BLOCK));
    blocks.for_each(|((x, y), inverse)| norm_rows(x, weight, plus, eps, y, inverse));
}

vectorized! {
    fn norm_rows<'a>(x: &'a [f32], weight: &'a [f32], plus: f32, eps: f64, y: &'a mut [f32], inverse: &'a mut [f32])
        -> () = norm_rows_body
}

#[inline(always)]
fn norm_rows_body(
    x: &[f32],
    weight: &[f32],
    plus: f32,
    eps: f64,
    y: &mut [f32],
    inverse: &mut [f32],
) {
    let width = weight.len();
    for ((x, y), inverse) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(inverse) {
        let mean = f64::from(dot(x, x)) / width as f64;
        *inverse = (1.0 / (mean + eps).sqrt()) as f32;
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * *inverse * (w + plus);
        }
    }
}

/// Adds the gradient of [`rms_norm`] to `dx` and, where it is wanted, to `dweight`.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    plus: f32,
    inverse: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    let blocks = dx
        .par_chunks_mut(BLOCK * width)
        .zip(x.par_chunks(BLOCK * width))
        .zip(dy.par_chunks(BLOCK * width))
        .zip(inverse.par_chunks(BLOCK));
    blocks
        .for_each(|(((dx, x), dy), inverse)| norm_rows_backward(x, weight, plus, inverse, dy, dx));
    if let Some(dweight) = dweight {
        each_columns(dweight, |columns, dweight| {
            let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(inverse);
            for ((x, dy), inverse) in rows {
                let pairs = x[columns.clone()].iter().zip(&dy[columns.clone()]);
                dweight.iter_mut().zip(pairs).for_each(|(dw, (x, dy))| *dw += x * inverse * dy);
            }
        });
    }
}

vectorized! {
    fn norm_rows_backward<'a>(
        x: &'a [f32], weight: &'a [f32], plus: f32, inverse: &'a [f32], dy: &'a [f32], dx: &'a mut [f32],
    ) -> () = norm_rows_backward_body
}

#[inline(always)]
fn norm_rows_backward_body(
    x: &[f32],
    weight: &[f32],
    plus: f32,
    inverse: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let width = weight.len();
    let rows = dx
        .chunks_exact_mut(width)
        .zip(x.chunks_exact(width))
        .zip(dy.chunks_exact(width))
        .zip(inverse);
    for (((dx, x), dy), inverse) in rows {
        let pull = weighted_dot(x, dy, weight, plus) * inverse * inverse * inverse / width as f32;
        for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += dy * (w + plus) * inverse - x * pull;
        }
    }
}

/// The sum of `x * dy * (weight + plus)`.
#[inline(always)]
fn weighted_dot(x: &[f32], dy: &[f32], weight: &[f32], plus: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((x, x_rest), (dy, dy_rest), (w, w_rest)) =
        (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
    for ((x, dy), w) in x.iter().zip(dy).zip(w) {
        for i in 0..LANES {
            lanes[i] += x[i] * dy[i] * (w[i] + plus);
        }
    }
    for (((lane, x), dy), w) in lanes.iter_mut().zip(x_rest).zip(dy_rest).zip(w_rest) {
        *lane += x * dy * (w + plus);
    }
    sum_lanes(lanes)
}

/// Most values of each half of a [`RopeTable`], 64 MB: a configuration may promise millions of
/// positions.
const ROPE_VALUES: usize = 1 << 24;

/// Cosines and sines of the rotary positions, `[positions, half]` each; of positions beyond them
/// made when needed.
#[derive(Debug, Clone)]
pub struct RopeTable {
    head_dim: usize,
    /// Half of a head's rotated entries.
    half: usize,
    frequencies: Box<[f64]>,
    amplitude: f64,
    cos: Box<[f32]>,
    sin: Box<[f32]>,
}

impl RopeTable {
    /// Makes the table of the first `positions`; frequencies in radians per position, cosines and
    /// sines times `amplitude`. There is one frequency for each two of the first entries of a head;
    /// the others stay as they are.
    pub fn new(
        frequencies: &[f64],
        amplitude: f64,
        head_dim: usize,
        positions: usize,
    ) -> RopeTable {
        let (half, frequencies) = (frequencies.len(), frequencies.into());
        let (cos, sin) = ([].into(), [].into());
        let mut table = RopeTable { head_dim, half, frequencies, amplitude, cos, sin };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..positions.min(ROPE_VALUES / half) {
            table.push(position as u32, &mut cos, &mut sin);
        }
        (table.cos, table.sin) = (cos.into(), sin.into());
        table
    }

    /// Appends the values of a position.
    fn push(&self, position: u32, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        let angles = self.frequencies.iter().map(|frequency| f64::from(position) * frequency);
        cos.extend(angles.clone().map(|angle| (libm::cos(angle) * self.amplitude) as f32));
        sin.extend(angles.map(|angle| (libm::sin(angle) * self.amplitude) as f32));
    }

    /// Rotates every head of each row by its position, in place; `back` turns the other way, which
    /// is the gradient.
    ///
    /// x `[rows, heads * head_dim]`, `positions` `[rows]`. The first half of a head's rotated
    /// entries pairs with the second.
    pub fn rotate(&self, x: &mut [f32], positions: &[u32], back: bool) {
        let Some(width) = x.len().checked_div(positions.len()) else { return };
        let blocks = x.par_chunks_mut(BLOCK * width.max(1)).zip(positions.par_chunks(BLOCK));
        blocks.for_each(|(x, positions)| rotate_rows(self, x, width, positions, back));
    }

    #[inline(always)]
    fn rotate_rows(&self, x: &mut [f32], width: usize, positions: &[u32], back: bool) {
        let half = self.half;
        let sign = if back { -1.0 } else { 1.0 };
        for (row, position) in x.chunks_exact_mut(width).zip(positions) {
            let at = *position as usize * half;
            let mut far;
            let (cos, sin) = match self.cos.get(at..at + half) {
                Some(cos) => (cos, &self.sin[at..at + half]),
                None => {
                    far = (Vec::new(), Vec::new());
                    self.push(*position, &mut far.0, &mut far.1);
                    (&far.0[..], &far.1[..])
                }
            };
            for head in row.chunks_exact_mut(self.head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let s = s * sign;
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    }
}

vectorized! {
    fn rotate_rows<'a>(table: &'a RopeTable, x: &'a mut [f32], width: usize, positions: &'a [u32], back: bool)
        -> () = RopeTable::rotate_rows
}

/// The activation of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU in the form with tanh.
    GeluTanh,
    /// GELU in its exact form, with erf.
    Gelu,
}

const GELU_A: f32 = 0.797_884_6;
const GELU_B: f32 = 0.044_715;

#[inline(always)]
fn activate(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Silu => x / (1.0 + exp(-x)),
        Activation::GeluTanh => 0.5 * x * (1.0 + tanh(GELU_A * (x + GELU_B * x * x * x))),
        Activation::Gelu => x * normal(x),
    }
}

/// One over the square root of two pi.
const DENSITY: f32 = 0.398_942_3;

/// The distribution function of the standard normal.
#[inline(always)]
fn normal(x: f32) -> f32 {
    let tail = 0.5 * erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
fn slope(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Silu => {
            let s = 1.0 / (1.0 + exp(-x));
            s * (1.0 + x * (1.0 - s))
        }
        Activation::GeluTanh => {
            let t = tanh(GELU_A * (x + GELU_B * x * x * x));
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_A * (1.0 + 3.0 * GELU_B * x * x)
        }
        Activation::Gelu => normal(x) + x * exp(-0.5 * x * x) * DENSITY,
    }
}

/// GELU in its exact form of each value in place.
pub fn gelu(x: &mut [f32]) {
    x.par_chunks_mut(VALUES).for_each(gelu_values);
}

vectorized! {
    fn gelu_values<'a>(x: &'a mut [f32]) -> () = gelu_body
}

#[inline(always)]
fn gelu_body(x: &mut [f32]) {
    for x in x {
        *x *= normal(*x);
    }
}

/// `out = activation(gate) * up`, value by value.
pub fn gated(kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let blocks = gate.par_chunks(VALUES).zip(up.par_chunks(VALUES)).zip(out.par_chunks_mut(VALUES));
    blocks.for_each(|((gate, up), out)| gate_values(kind, gate, up, out));
}

vectorized! {
    fn gate_values<'a>(kind: Activation, gate: &'a [f32], up: &'a [f32], out: &'a mut [f32]) -> () = gate_values_body
}

#[inline(always)]
fn gate_values_body(kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((g, u), o) in gate.iter().zip(up).zip(out) {
        *o = activate(kind, *g) * u;
    }
}

/// The gradient of [`gated`]: replaces `gate` and `up` by their gradients.
pub fn gated_backward(kind: Activation, dout: &[f32], gate: &mut [f32], up: &mut [f32]) {
    let blocks =
        gate.par_chunks_mut(VALUES).zip(up.par_chunks_mut(VALUES)).zip(dout.par_chunks(VALUES));
    blocks.for_each(|((gate, up), dout)| gate_values_backward(kind, dout, gate, up));
}

vectorized! {
    fn gate_values_backward<'a>(kind: Activation, dout: &'a [f32], gate: &'a mut [f32], up: &'a mut [f32]) -> () =
        gate_values_backward_body
}

#[inline(always)]
fn gate_values_backward_body(kind: Activation, dout: &[f32], gate: &mut [f32], up: &mut [f32]) {
    for ((g, u), d) in gate.iter_mut().zip(up).zip(dout) {
        (*g, *u) = (d * *u * slope(kind, *g), d * activate(kind, *g));
    }
}

/// The sum of two matrices, value by value.
pub fn sum(a: &[f32], b: &[f32]) -> Buffer {
    let mut sums = Buffer::any(a.len());
    let chunks = sums.par_chunks_mut(VALUES).zip(a.par_chunks(VALUES)).zip(b.par_chunks(VALUES));
    chunks.for_each(|((sums, a), b)| {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = a + b);
    });
    sums
}

/// Some rows of a matrix, in the order in which they are named: x `[rows, width]`.
pub fn chosen_rows(x: &[f32], width: usize, rows: &[usize]) -> Buffer {
    let mut chosen = Buffer::any(rows.len() * width);
    chosen.par_chunks_exact_mut(width).zip(rows).with_min_len(BLOCK).for_each(|(chosen, row)| {
        chosen.copy_from_slice(&x[row * width..(row + 1) * width]);
    });
    chosen
}

/// Adds values to others.
pub fn add(values: &[f32], sums: &mut [f32]) {
    let chunks = sums.par_chunks_mut(VALUES).zip(values.par_chunks(VALUES));
    chunks.for_each(|(sums, values)| {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    });
}

/// Adds a vector to each row: y `[rows, width]`.
pub fn add_to_rows(y: &mut [f32], vector: &[f32]) {
    y.par_chunks_mut(BLOCK * vector.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(vector.len()) {
            row.iter_mut().zip(vector).for_each(|(y, v)| *y += v);
        }
    });
}

/// Each row times a vector, value by value: x and the result `[rows, width]`.
pub fn scaled_rows(x: &[f32], vector: &[f32]) -> Buffer {
    let mut y = Buffer::any(x.len());
    let block = BLOCK * vector.len();
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(vector.len()).zip(x.chunks_exact(vector.len())) {
            y.iter_mut().zip(x).zip(vector).for_each(|((y, x), v)| *y = x * v);
        }
    });
    y
}

/// Adds the rows to `sums`, in their order: x `[rows, width]`, sums `[width]`.
pub fn add_rows(x: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    each_columns(sums, |columns, sums| {
        for x in x.chunks_exact(width) {
            sums.iter_mut().zip(&x[columns.clone()]).for_each(|(sum, x)| *sum += x);
        }
    });
}

/// Adds the products of the values of two matrices to `sums`, row by row: a and b `[rows, width]`,
/// sums `[width]`.
pub fn add_products_of_rows(a: &[f32], b: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    each_columns(sums, |columns, sums| {
        for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
            let pairs = a[columns.clone()].iter().zip(&b[columns.clone()]);
            sums.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum += a * b);
        }
    });
}

/// Calls `add` for some columns after others, with their sums over all rows.
fn each_columns(sums: &mut [f32], add: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(number, sums)| {
        let first = number * COLUMNS;
        add(first..first + sums.len(), sums);
    });
}

vectorized! {
    /// Soft cap of values in place: `cap * tanh(x / cap)`.
    pub fn soft_cap<'a>(x: &'a mut [f32], cap: f32) -> () = soft_cap_body
}

#[inline(always)]
fn soft_cap_body(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}

vectorized! {
    /// Largest logit and log of the sum of exponentials above it, for one row of logits.
    ///
    /// The log-probability of token t is `logits[t] - max - log_sum`.
    pub fn log_sum_exp<'a>(logits: &'a [f32]) -> (f32, f64) = log_sum_exp_body
}

#[inline(always)]
fn log_sum_exp_body(logits: &[f32]) -> (f32, f64) {
    let top = max(logits);
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(exp(chunk[i] - top));
        }
    }
    for (lane, z) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(z - top));
    }
    (top, libm::log(lanes.iter().sum()))
}

/// Replaces logits by `(softmax - one-hot of target) * factor`, the gradient of `-factor * log
/// p(target)`.
pub fn cross_entropy_gradient(
    logits: &mut [f32],
    target: usize,
    top: f32,
    log_sum: f64,
    factor: f32,
) {
    scaled_exp(logits, top + log_sum as f32, factor);
    logits[target] -= factor;
}

vectorized! {
    fn scaled_exp<'a>(values: &'a mut [f32], shift: f32, factor: f32) -> () = scaled_exp_body
}

#[inline(always)]
fn scaled_exp_body(values: &mut [f32], shift: f32, factor: f32) {
    for z in values {
        *z = exp(*z - shift) * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_close_to_the_library() {
        let inputs: Vec<f32> = (-1200..1200).map(|i| i as f32 * 0.01 + 0.003).collect();
        let mut values = inputs.clone();
        gelu(&mut values);
        for (x, y) in inputs.into_iter().zip(values) {
            let wide = f64::from(x);
            let truth = 0.5 * wide * (1.0 + libm::erf(wide / 2f64.sqrt()));
            assert!((f64::from(y) - truth).abs() < 4e-7 * (1.0 + wide.abs()), "gelu({x}) is {y}");
        }
    }

    /// The gradient of each activation against the difference of its values.
    #[test]
    fn slopes_follow_their_activations() {
        for kind in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
            for i in -60..60 {
                let (x, h) = (i as f32 * 0.1 + 0.03, 1e-2);
                let (up, down) = (activate(kind, x + h), activate(kind, x - h));
                let slope = slope(kind, x);
                assert!((slope - (up - down) / (2.0 * h)).abs() < 2e-4, "{kind:?} {x}: {slope}");
            }
        }
    }
}
