//! Attention of one row after another: grouped heads, sliding windows, soft caps; forward, and
//! backward where it is causal.
//!
//! Each row is computed at its own length, so nothing of a batch and no padding can reach its bits.
//! The keys of a row may lie in several segments (a prefix that samples share, and a row's own
//! tail); the segments are visited in order, which gives the same sums as one piece.

use std::ops::Range;

use rayon::prelude::*;

use super::{axpy, dot, exp, max, sum, tanh};

/// Shape and constants of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Soft cap of the scores.
    pub cap: Option<f32>,
    /// Keys that a query sees, itself included.
    pub window: Option<usize>,
    /// Whether a query sees no key behind its own; without it and without a window it sees the
    /// whole row.
    pub causal: bool,
}

/// Keys and values that lie together, `[positions, kv_heads * head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub struct KvSegment<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// One row's queries and all keys that they may see.
pub struct Row<'a> {
    /// `[queries, heads * head_dim]`.
    pub queries: &'a [f32],
    /// The keys, those of the queries themselves last.
    pub segments: [KvSegment<'a>; 2],
    /// `[queries, heads * head_dim]`.
    pub out: &'a mut [f32],
}

impl Attention {
    fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// First key that the query at `position` sees.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }

    /// Attention of all rows.
    pub fn forward(&self, rows: &mut [Row<'_>]) {
        rows.par_iter_mut().for_each_init(Vec::new, |scores, row| attend(self, row, scores));
    }

    #[inline(always)]
    fn row(&self, row: &mut Row<'_>, scores: &mut Vec<f32>) {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let queries = row.queries.len() / self.query_width();
        let keys: usize = row.segments.iter().map(|p| p.keys.len() / self.key_width()).sum();
        for i in 0..queries {
            let position = keys - queries + i;
            for head in 0..self.heads {
                let at = i * self.query_width() + head * dim;
                let query = &row.queries[at..at + dim];
                let column = head / group * dim;
                self.weights(query, &row.segments, column, position, scores);
                let out = &mut row.out[at..at + dim];
                out.fill(0.0);
                let mut weights = scores.as_slice();
                for (piece, span) in self.seen(&row.segments, position) {
                    let (here, rest) = weights.split_at(span.len());
                    weights = rest;
                    for (weight, j) in here.iter().zip(span) {
                        axpy(*weight, &piece.values[j * self.key_width() + column..][..dim], out);
                    }
                }
            }
        }
    }

    /// The keys of each piece that the query at `position` sees.
    #[inline(always)]
    fn seen<'p>(
        &self,
        segments: &[KvSegment<'p>; 2],
        position: usize,
    ) -> [(KvSegment<'p>, Range<usize>); 2] {
        let first = self.first(position);
        let [before, own] = segments.map(|piece| piece.keys.len() / self.key_width());
        let end = if self.causal { position + 1 } else { before + own };
        let one = first.min(before)..end.min(before);
        let other = first.saturating_sub(before)..end.saturating_sub(before);
        [(segments[0], one), (segments[1], other)]
    }

    /// The softmax weights of one query and head.
    #[inline(always)]
    fn weights(
        &self,
        query: &[f32],
        segments: &[KvSegment<'_>; 2],
        column: usize,
        position: usize,
        scores: &mut Vec<f32>,
    ) {
        scores.clear();
        for (piece, span) in self.seen(segments, position) {
            for j in span {
                let key = &piece.keys[j * self.key_width() + column..][..query.len()];
                scores.push(dot(query, key) * self.scale);
            }
        }
        if let Some(cap) = self.cap {
            for score in scores.iter_mut() {
                *score = cap * tanh(*score / cap);
            }
        }
        let top = max(scores);
        for score in scores.iter_mut() {
            *score = exp(*score - top);
        }
        let total = 1.0 / sum(scores);
        for score in scores.iter_mut() {
            *score *= total;
        }
    }

    /// Gradients of one row whose keys lie in one piece: adds to dq, dk and dv.
    #[inline(always)]
    fn row_backward(&self, row: RowGradient<'_>, Buffers { scores, slopes }: &mut Buffers) {
        let RowGradient { q, k, v, dout, dq, dk, dv } = row;
        let (dim, group, wide, narrow) =
            (self.head_dim, self.heads / self.kv_heads, self.query_width(), self.key_width());
        let none = KvSegment { keys: &[], values: &[] };
        let segments = [none, KvSegment { keys: k, values: v }];
        for i in 0..q.len() / wide {
            let first = self.first(i);
            for head in 0..self.heads {
                let at = i * wide + head * dim;
                let (query, dout) = (&q[at..at + dim], &dout[at..at + dim]);
                let column = head / group * dim;
                self.weights(query, &segments, column, i, scores);
                slopes.clear();
                for (j, weight) in (first..=i).zip(scores.iter()) {
                    let place = j * narrow + column;
                    slopes.push(dot(dout, &v[place..place + dim]));
                    axpy(*weight, dout, &mut dv[place..place + dim]);
                }
                let mean = dot(scores, slopes);
                let dquery = &mut dq[at..at + dim];
                for ((j, weight), slope) in (first..=i).zip(scores.iter()).zip(slopes.iter()) {
                    let place = j * narrow + column;
                    let key = &k[place..place + dim];
                    let mut ds = weight * (slope - mean) * self.scale;
                    if let Some(cap) = self.cap {
                        let t = tanh(dot(query, key) * self.scale / cap);
                        ds *= 1.0 - t * t;
                    }
                    axpy(ds, key, dquery);
                    axpy(ds, query, &mut dk[place..place + dim]);
                }
            }
        }
    }

    /// Gradients of packed rows: q, dout, dq `[N, heads * head_dim]`, k, v, dk, dv `[N, kv_heads *
    /// head_dim]`; row r holds the positions `offsets[r]..offsets[r + 1]`. dq, dk and dv are added
    /// to.
    #[expect(
        clippy::too_many_arguments,
        reason = "three inputs, the gradient of the output, three gradients"
    )]
    pub fn backward(
        &self,
        offsets: &[usize],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        dout: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let (wide, narrow) = (self.query_width(), self.key_width());
        let (dq, dk, dv) =
            (split(dq, offsets, wide), split(dk, offsets, narrow), split(dv, offsets, narrow));
        let rows: Vec<RowGradient<'_>> = offsets
            .windows(2)
            .zip(dq.into_iter().zip(dk).zip(dv))
            .map(|(o, ((dq, dk), dv))| {
                let (wide, narrow) = (o[0] * wide..o[1] * wide, o[0] * narrow..o[1] * narrow);
                RowGradient {
                    q: &q[wide.clone()],
                    k: &k[narrow.clone()],
                    v: &v[narrow],
                    dout: &dout[wide],
                    dq,
                    dk,
                    dv,
                }
            })
            .collect();
        rows.into_par_iter()
            .for_each_init(Buffers::default, |buffers, row| attend_backward(self, row, buffers));
    }
}

vectorized! {
    fn attend<'a, 'b>(attention: &'a Attention, row: &'a mut Row<'b>, scores: &'a mut Vec<f32>) -> () = Attention::row
}

vectorized! {
    fn attend_backward<'a, 'b>(attention: &'a Attention, row: RowGradient<'b>, buffers: &'a mut Buffers) -> () =
        Attention::row_backward
}

/// Packed rows as slices of their own: `x` is `[N, width]`.
pub fn split<'x>(mut x: &'x mut [f32], offsets: &[usize], width: usize) -> Vec<&'x mut [f32]> {
    let mut parts = Vec::with_capacity(offsets.len().saturating_sub(1));
    for pair in offsets.windows(2) {
        let (part, rest) = x.split_at_mut((pair[1] - pair[0]) * width);
        parts.push(part);
        x = rest;
    }
    parts
}

struct RowGradient<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    dout: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

#[derive(Default)]
struct Buffers {
    scores: Vec<f32>,
    slopes: Vec<f32>,
}
