//! Gradients of causal attention.

use pulp::Simd;
use rayon::prelude::*;

use super::Attention;
use super::keys::Keys;
use super::scores::{Scores, Span};
use crate::kernels::buffer::Buffer;
use crate::kernels::dot;
use crate::kernels::tile::{Columns, Kernel, WIDTH, add_product, run};

/// Queries whose weights are held at once, and terms of the sums over queries.
const QUERIES: usize = 48;
/// Rows of a tile.
const TILE: usize = 6;

/// Inputs of packed rows and the gradient of their output: q and dout `[N, heads * head_dim]`, k and
/// v `[N, kv_heads * head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Gradient of the output.
    pub dout: &'a [f32],
}

impl Attention {
    /// The gradients of q, k and v; row r holds the positions `offsets[r]..offsets[r + 1]`.
    pub fn backward(&self, offsets: &[usize], inputs: Inputs<'_>) -> [Buffer; 3] {
        let (wide, narrow) = (self.query_width(), self.key_width());
        let heads = offsets.len().saturating_sub(1) * self.kv_heads;
        let one = |task: usize| {
            let (row, head) = (task / self.kv_heads, task % self.kv_heads);
            let (from, to) = (offsets[row], offsets[row + 1]);
            let (q, k) = (from * wide..to * wide, from * narrow..to * narrow);
            run(Gradient {
                attention: self,
                head,
                q: &inputs.q[q.clone()],
                k: &inputs.k[k.clone()],
                v: &inputs.v[k],
                dout: &inputs.dout[q],
            })
        };
        let all: Vec<HeadGradient> = (0..heads).into_par_iter().map(one).collect();

        let whole = |width: usize, of: &(dyn Fn(&HeadGradient) -> &[f32] + Sync)| {
            let mut whole = Buffer::any(offsets.last().copied().unwrap_or(0) * width);
            let part = width / self.kv_heads;
            let heads = all.par_chunks_exact(self.kv_heads).zip(split(&mut whole, offsets, width));
            heads.for_each(|(heads, rows)| {
                for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                    for (head, out) in heads.iter().zip(row.chunks_exact_mut(part)) {
                        out.copy_from_slice(&of(head)[i * part..][..part]);
                    }
                }
            });
            whole
        };
        [whole(wide, &|h| &h.dq), whole(narrow, &|h| &h.dk), whole(narrow, &|h| &h.dv)]
    }
}

/// Packed rows as slices of their own: `x` is `[N, width]`.
fn split<'x>(mut x: &'x mut [f32], offsets: &[usize], width: usize) -> Vec<&'x mut [f32]> {
    let mut parts = Vec::with_capacity(offsets.len().saturating_sub(1));
    for pair in offsets.windows(2) {
        let (part, rest) = x.split_at_mut((pair[1] - pair[0]) * width);
        parts.push(part);
        x = rest;
    }
    parts
}

/// Gradients of one row and key-value head.
struct HeadGradient {
    /// `[positions, heads of the group * head_dim]`.
    dq: Vec<f32>,
    /// `[positions, head_dim]`.
    dk: Vec<f32>,
    /// `[positions, head_dim]`.
    dv: Vec<f32>,
}

/// The work on one row and key-value head.
struct Gradient<'a> {
    attention: &'a Attention,
    head: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    dout: &'a [f32],
}

impl Kernel for Gradient<'_> {
    type Output = HeadGradient;

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) -> HeadGradient {
        let Gradient { attention, head, q, k, v, dout } = self;
        let (dim, group) = (attention.head_dim, attention.group());
        let (wide, narrow) = (attention.query_width(), attention.key_width());
        let positions = q.len() / wide;
        // The second pair has keys and values in each other's places, as the gradients read them.
        let keys = Keys::of(k, v, narrow, head * dim, dim);
        let turned = Keys::of(v, k, narrow, head * dim, dim);
        let mut gradient = HeadGradient {
            dq: vec![0.0; positions * group * dim],
            dk: vec![0.0; positions * dim],
            dv: vec![0.0; positions * dim],
        };
        let mut room = Room::new(dim);
        for of_group in 0..group {
            let column = (head * group + of_group) * dim;
            for first in (0..positions).step_by(QUERIES) {
                let block = QueryBlock {
                    attention,
                    keys: &keys,
                    turned: &turned,
                    queries: Part { values: q, width: wide, column, dim },
                    slopes: Part { values: dout, width: wide, column, dim },
                    first,
                    count: QUERIES.min(positions - first),
                };
                let span = Span::of(attention, &keys, first, first + block.count - 1);
                block.weights::<S, V>(simd, &span, &mut room, |row, column, columns| {
                    let at = (row * group + of_group) * dim + column;
                    let wanted = WIDTH.min(dim - column);
                    gradient.dq[at..at + wanted].copy_from_slice(&columns[..wanted]);
                });
                let keys = span.blocks.start * super::BLOCK;
                block.add::<S, V>(simd, &room.slopes, &block.queries, keys, &mut gradient.dk);
                block.add::<S, V>(simd, &room.weights, &block.slopes, keys, &mut gradient.dv);
            }
        }
        gradient
    }
}

/// The columns of one head in rows `[positions, width]`.
struct Part<'a> {
    values: &'a [f32],
    width: usize,
    column: usize,
    dim: usize,
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn row(&self, position: usize) -> &'a [f32] {
        &self.values[position * self.width + self.column..][..self.dim]
    }
}

/// Room for the weights of a block of queries.
struct Room {
    scores: Scores,
    gradients: Scores,
    /// Softmax weights, `[queries, keys]`.
    weights: Vec<f32>,
    /// Gradients of the products of queries and keys, `[queries, keys]`.
    slopes: Vec<f32>,
}

impl Room {
    fn new(dim: usize) -> Room {
        let scores = || Scores::new(TILE, dim);
        Room { scores: scores(), gradients: scores(), weights: Vec::new(), slopes: Vec::new() }
    }
}

/// Some queries of one head.
struct QueryBlock<'a> {
    attention: &'a Attention,
    keys: &'a Keys,
    turned: &'a Keys,
    queries: Part<'a>,
    /// Gradient of the output.
    slopes: Part<'a>,
    first: usize,
    count: usize,
}

impl QueryBlock<'_> {
    /// Computes the weights and their gradients again, and hands over the queries' gradients:
    /// position, first column, sixteen columns.
    #[inline(always)]
    fn weights<S: Simd, const V: usize>(
        &self,
        simd: S,
        span: &Span,
        room: &mut Room,
        mut dq: impl FnMut(usize, usize, &Columns),
    ) {
        let (attention, keys) = (self.attention, span.len());
        let Room { scores, gradients, weights, slopes } = room;
        weights.resize(QUERIES * keys, 0.0);
        slopes.resize(QUERIES * keys, 0.0);
        for first in (0..self.count).step_by(TILE) {
            let tile = first..self.count.min(first + TILE);
            let positions = tile.clone().map(|row| self.first + row);
            scores.multiply::<S, V>(
                simd,
                positions.clone().map(|p| self.queries.row(p)),
                self.keys,
                span,
            );
            gradients.multiply::<S, V>(
                simd,
                positions.map(|p| self.slopes.row(p)),
                self.turned,
                span,
            );
            for (r, row) in tile.clone().enumerate() {
                let seen = span.seen(attention, self.keys, self.first + row);
                let weights = &mut weights[row * keys..(row + 1) * keys];
                let slopes = &mut slopes[row * keys..(row + 1) * keys];
                let total = scores.exponentials(r, attention, seen);
                weights.iter_mut().zip(&scores.line).for_each(|(w, e)| *w = e * (1.0 / total));

                gradients.read_line(r);
                let mean = dot(weights, &gradients.line);
                let line = gradients.line.iter_mut().zip(&*weights);
                line.for_each(|(slope, weight)| {
                    *slope = weight * (*slope - mean) * attention.scale
                });
                if let Some(cap) = attention.cap {
                    scores.scale(r, attention);
                    let capped = gradients.line.iter_mut().zip(&scores.line);
                    capped.for_each(|(slope, z)| *slope *= 1.0 - (z / cap) * (z / cap));
                }
                slopes.copy_from_slice(&gradients.line);
                gradients.put_left(r);
            }
            for column in (0..attention.head_dim).step_by(WIDTH) {
                let mut sums = [[0.0; WIDTH]; TILE];
                gradients.weigh::<S, V>(simd, self.turned, column / WIDTH, span, &mut sums);
                for (row, sums) in tile.clone().zip(&sums) {
                    dq(self.first + row, column, sums);
                }
            }
        }
    }

    /// Adds, for each key, the sum over the queries of `factors` `[queries, keys]` times `rows`, to
    /// `out` `[positions, dim]`; the first key stands at the position `from`.
    #[inline(always)]
    fn add<S: Simd, const V: usize>(
        &self,
        simd: S,
        factors: &[f32],
        rows: &Part<'_>,
        from: usize,
        out: &mut [f32],
    ) {
        let dim = rows.dim;
        let keys = factors.len() / QUERIES;
        let mut right = vec![[0.0; WIDTH]; dim.div_ceil(WIDTH) * self.count];
        for row in 0..self.count {
            for (group, values) in rows.row(self.first + row).chunks(WIDTH).enumerate() {
                right[group * self.count + row][..values.len()].copy_from_slice(values);
            }
        }

        let mut left = [[0.0; TILE]; QUERIES];
        let positions = out.len() / dim;
        for first in (0..keys.min(positions - from)).step_by(TILE) {
            let wanted = TILE.min(keys - first).min(positions - from - first);
            for (left, factors) in left.iter_mut().zip(factors.chunks_exact(keys)) {
                left[..wanted].copy_from_slice(&factors[first..first + wanted]);
            }
            for (group, right) in right.chunks_exact(self.count).enumerate() {
                let mut sums = [[0.0; WIDTH]; TILE];
                let left = left[..self.count].as_flattened();
                add_product::<S, V>(simd, left, right.as_flattened(), &mut sums, true);
                let columns = group * WIDTH..dim.min((group + 1) * WIDTH);
                for (key, sums) in sums.iter().enumerate().take(wanted) {
                    let out = &mut out[(from + first + key) * dim..][columns.clone()];
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}
