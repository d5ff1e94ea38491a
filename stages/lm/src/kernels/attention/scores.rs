//! Scores of a tile of queries against the blocks of keys that they see, and their softmax weights.

use std::ops::Range;

use pulp::Simd;

use super::keys::{BLOCK, Keys};
use super::{Attention, add_product};
use crate::kernels::tile::{Columns, DEPTH, WIDTH};
use crate::kernels::{exp, max, sum, tanh};

/// Blocks of keys that the queries of a tile see.
#[derive(Debug, Clone)]
pub(super) struct Span {
    /// Numbers of the blocks.
    pub blocks: Range<usize>,
}

impl Span {
    /// That of the queries at `first..=last`.
    #[inline(always)]
    pub fn of(attention: &Attention, keys: &Keys, first: usize, last: usize) -> Span {
        let begin = seen(attention, keys, first).start;
        let end = seen(attention, keys, last).end;
        Span { blocks: begin / BLOCK..end.div_ceil(BLOCK) }
    }

    /// The keys that the query at `position` sees, counted from the span's begin.
    #[inline(always)]
    pub fn seen(&self, attention: &Attention, keys: &Keys, position: usize) -> Range<usize> {
        let seen = seen(attention, keys, position);
        let begin = self.blocks.start * BLOCK;
        seen.start - begin..seen.end - begin
    }

    /// Counts the keys, those included that nobody sees.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.blocks.len() * BLOCK
    }
}

/// The keys that the query at `position` sees.
#[inline(always)]
fn seen(attention: &Attention, keys: &Keys, position: usize) -> Range<usize> {
    let first = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
    first..if attention.causal { position + 1 } else { keys.positions() }
}

/// Room for the scores of a tile of queries.
pub(super) struct Scores {
    /// Rows of a tile.
    pub tile: usize,
    dim: usize,
    /// The queries, `[dim, tile]`.
    queries: Vec<f32>,
    /// `[groups of sixteen keys, tile, 16]`.
    panels: Vec<Columns>,
    /// The scores of one row, `[keys]`; later what they weigh.
    pub line: Vec<f32>,
    /// Softmax weights of the rows, `[keys, tile]`.
    left: Vec<f32>,
    /// Keys or values of half precision, widened.
    wide: Vec<Columns>,
}

impl Scores {
    /// Room for tiles of that many rows.
    pub fn new(tile: usize, dim: usize) -> Scores {
        Scores {
            tile,
            dim,
            queries: vec![0.0; dim * tile],
            panels: Vec::new(),
            line: Vec::new(),
            left: Vec::new(),
            wide: Vec::new(),
        }
    }

    /// Multiplies the queries of a tile with all keys of a span.
    #[inline(always)]
    pub fn multiply<'q, S: Simd, const V: usize>(
        &mut self,
        simd: S,
        queries: impl Iterator<Item = &'q [f32]>,
        keys: &Keys,
        span: &Span,
    ) {
        let (tile, dim) = (self.tile, self.dim);
        for (r, query) in queries.enumerate() {
            let left = self.queries[r..].iter_mut().step_by(tile);
            left.zip(query).for_each(|(left, q)| *left = *q);
        }
        self.panels.resize(span.len() / WIDTH * tile, [0.0; WIDTH]);
        self.line.resize(span.len(), 0.0);
        self.left.resize(span.len() * tile, 0.0);

        let mut panels = self.panels.chunks_exact_mut(tile);
        for block in span.blocks.clone() {
            for (group, sums) in (0..BLOCK / WIDTH).zip(&mut panels) {
                let right = keys.block(block).keys(group, dim, &mut self.wide).as_flattened();
                for from in (0..dim).step_by(DEPTH) {
                    let to = dim.min(from + DEPTH);
                    let left = &self.queries[from * tile..to * tile];
                    let right = &right[from * WIDTH..to * WIDTH];
                    add_product::<S, V>(simd, left, right, sums, from == 0);
                }
            }
        }
    }

    /// Brings the products of one row into `line`.
    #[inline(always)]
    pub fn read_line(&mut self, row: usize) {
        let panels = self.panels[row..].iter().step_by(self.tile);
        for (line, panel) in self.line.as_chunks_mut::<WIDTH>().0.iter_mut().zip(panels) {
            *line = *panel;
        }
    }

    /// Replaces the products of one row by scores, scaled and capped, in `line`.
    #[inline(always)]
    pub fn scale(&mut self, row: usize, attention: &Attention) {
        self.read_line(row);
        self.line.iter_mut().for_each(|score| *score *= attention.scale);
        if let Some(cap) = attention.cap {
            self.line.iter_mut().for_each(|score| *score = cap * tanh(*score / cap));
        }
    }

    /// Replaces the products of one row by the exponentials of its scores above the largest one, in
    /// `line`; zero for keys that are not seen. Gives their sum.
    #[inline(always)]
    pub fn exponentials(&mut self, row: usize, attention: &Attention, seen: Range<usize>) -> f32 {
        self.scale(row, attention);
        let top = max(&self.line[seen.clone()]);
        self.line[..seen.start].fill(0.0);
        self.line[seen.end..].fill(0.0);
        self.line[seen].iter_mut().for_each(|score| *score = exp(*score - top));
        sum(&self.line)
    }

    /// Packs `line` as one row of the left operand.
    #[inline(always)]
    pub fn put_left(&mut self, row: usize) {
        let left = self.left[row..].iter_mut().step_by(self.tile);
        left.zip(&self.line).for_each(|(left, weight)| *left = *weight);
    }

    /// Sums sixteen columns of the values by what the tile's rows weigh.
    #[inline(always)]
    pub fn weigh<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        keys: &Keys,
        group: usize,
        span: &Span,
        sums: &mut [Columns],
    ) {
        let blocks = span.blocks.clone().zip(self.left.chunks_exact(BLOCK * self.tile));
        for (block, left) in blocks {
            let right = keys.block(block).values(group, &mut self.wide).as_flattened();
            let first = block == span.blocks.start;
            add_product::<S, V>(simd, left, right, sums, first);
        }
    }
}
