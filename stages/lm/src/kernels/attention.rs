//! Attention: grouped heads, sliding windows, soft caps.
//!
//! Each row is computed at its own length, so nothing of a batch and no padding can reach its bits.
//! Sums over keys are cut at fixed positions of the row ([`BLOCK`]); a key that a query does not see
//! counts exactly zero. So a row has the same bits whole, continued position by position, and after
//! a prefix that it shares.

mod backward;
mod keys;
mod scores;
#[cfg(test)]
mod tests;

use pulp::Simd;
use rayon::prelude::*;

use super::tile::{Columns, Kernel, MOST_ROWS, WIDTH, add_product, run, tile_rows};

pub use backward::Inputs;
pub use keys::{BLOCK, KeyPrecision, Keys};

use scores::{Scores, Span};

/// Queries that one task computes.
const QUERIES: usize = 96;

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

/// One row's queries and all keys that they may see.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// `[queries, heads * head_dim]`.
    pub queries: &'a [f32],
    /// The keys of each key-value head, those of the queries themselves last.
    pub keys: &'a [Keys],
}

impl Attention {
    fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads of a key-value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Keys and values of packed rows, for each row and key-value head: k and v `[N, kv_heads *
    /// head_dim]`, row r holds the positions `offsets[r]..offsets[r + 1]`.
    pub fn keys(&self, offsets: &[usize], k: &[f32], v: &[f32]) -> Vec<Vec<Keys>> {
        let width = self.key_width();
        let row = |span: &[usize]| {
            let span = span[0] * width..span[1] * width;
            let (k, v) = (&k[span.clone()], &v[span]);
            let head = |head| Keys::of(k, v, width, head * self.head_dim, self.head_dim);
            (0..self.kv_heads).into_par_iter().map(head).collect()
        };
        offsets.par_windows(2).map(row).collect()
    }

    /// Attention of all rows: out `[N, heads * head_dim]`, the rows' queries one after another.
    pub fn forward(&self, rows: &[Row<'_>], out: &mut [f32]) {
        let wide = self.query_width();
        let mut tasks = Vec::new();
        let mut rest = &mut *out;
        for row in rows {
            let queries = row.queries.len() / wide;
            let position = row.keys.first().map_or(0, Keys::positions) - queries;
            for (number, queries) in row.queries.chunks(QUERIES * wide).enumerate() {
                let (out, behind) = rest.split_at_mut(queries.len());
                rest = behind;
                tasks.push((queries, row.keys, position + number * QUERIES, out));
            }
        }
        tasks.into_par_iter().for_each(|(queries, keys, position, out)| {
            let head = |head: usize| {
                run(Attend { attention: self, queries, head, keys: &keys[head], position })
            };
            let heads: Vec<Vec<f32>> = (0..self.kv_heads).into_par_iter().map(head).collect();
            let width = self.group() * self.head_dim;
            for (i, out) in out.chunks_exact_mut(wide).enumerate() {
                for (out, head) in out.chunks_exact_mut(width).zip(&heads) {
                    out.copy_from_slice(&head[i * width..][..width]);
                }
            }
        });
    }
}

/// Attention of some queries of one row to one key-value head; gives `[queries, heads of the group *
/// head_dim]`.
struct Attend<'a> {
    attention: &'a Attention,
    /// `[queries, heads * head_dim]`.
    queries: &'a [f32],
    head: usize,
    keys: &'a Keys,
    /// That of the first query.
    position: usize,
}

impl Kernel for Attend<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) -> Vec<f32> {
        let Attend { attention, queries, head, keys, position } = self;
        let (dim, group, wide) = (attention.head_dim, attention.group(), attention.query_width());
        let rows = queries.len() / wide * group;
        let query =
            |row: usize| &queries[row / group * wide + (head * group + row % group) * dim..][..dim];
        let mut out = vec![0.0; rows * dim];
        let mut scores = Scores::new(tile_rows(rows), dim);
        let mut inverse = vec![0.0; rows];

        for first in (0..rows).step_by(scores.tile) {
            let tile = first..rows.min(first + scores.tile);
            let span = Span::of(
                attention,
                keys,
                position + first / group,
                position + (tile.end - 1) / group,
            );
            scores.multiply::<S, V>(simd, tile.clone().map(query), keys, &span);
            for (r, row) in tile.clone().enumerate() {
                let seen = span.seen(attention, keys, position + row / group);
                let total = scores.exponentials(r, attention, seen);
                inverse[row] = 1.0 / total;
                scores.put_left(r);
            }
            for column in (0..dim).step_by(WIDTH) {
                let mut sums = [[0.0; WIDTH]; MOST_ROWS];
                let sums = &mut sums[..scores.tile];
                scores.weigh::<S, V>(simd, keys, column / WIDTH, &span, sums);
                put(sums, tile.clone(), &inverse, column, dim, &mut out);
            }
        }
        out
    }
}

/// Puts sixteen columns of a tile's rows times their factors into `out`, `[rows, dim]`.
#[inline(always)]
fn put(
    sums: &[Columns],
    rows: std::ops::Range<usize>,
    factors: &[f32],
    column: usize,
    dim: usize,
    out: &mut [f32],
) {
    let wanted = WIDTH.min(dim - column);
    for (sums, row) in sums.iter().zip(rows) {
        let out = &mut out[row * dim + column..][..wanted];
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factors[row]);
    }
}
