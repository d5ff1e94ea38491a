//! Keys and values of one row and head, in blocks as the kernels read them.

use std::sync::Arc;

use crate::kernels::tile::{Columns, WIDTH};

/// Positions of a block. Blocks begin at the multiples of it, so the sums over keys are cut in the
/// same places for a whole row, for its continuation and for a prefix that rows share.
pub const BLOCK: usize = 64;

/// Keys and values of the first positions of a row, of one key-value head.
///
/// A clone shares its blocks; the last one is copied when a position is added to it. So samples of
/// one prompt hold its keys once.
#[derive(Debug, Clone)]
pub struct Keys {
    dim: usize,
    positions: usize,
    blocks: Vec<Arc<Block>>,
}

/// Keys and values of sixty-four positions; zero behind the last one.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// `[4, dim, 16]`: sixteen positions side by side.
    keys: Box<[Columns]>,
    /// `[dim / 16, 64, 16]`: sixteen values of a position side by side.
    values: Box<[Columns]>,
}

impl Keys {
    /// None yet, of heads of that size.
    pub fn new(dim: usize) -> Keys {
        Keys { dim, positions: 0, blocks: Vec::new() }
    }

    /// Those of a head of packed rows: k and v `[positions, width]`, the head's values from `column`
    /// on.
    pub(super) fn of(k: &[f32], v: &[f32], width: usize, column: usize, dim: usize) -> Keys {
        let mut keys = Keys::new(dim);
        keys.push(k, v, width, column);
        keys
    }

    /// Adds positions: k and v `[positions, width]`, the head's values from `column` on.
    pub fn push(&mut self, k: &[f32], v: &[f32], width: usize, column: usize) {
        for (k, v) in k.chunks_exact(width).zip(v.chunks_exact(width)) {
            let at = self.positions % BLOCK;
            if at == 0 {
                self.blocks.push(Arc::new(Block::new(self.dim)));
            }
            if let Some(block) = self.blocks.last_mut() {
                let (key, value) = (&k[column..][..self.dim], &v[column..][..self.dim]);
                Arc::make_mut(block).set(at, key, value);
            }
            self.positions += 1;
        }
    }

    /// Counts the positions.
    pub fn positions(&self) -> usize {
        self.positions
    }

    #[inline(always)]
    pub(super) fn block(&self, number: usize) -> &Block {
        &self.blocks[number]
    }
}

impl Block {
    fn new(dim: usize) -> Block {
        Block {
            keys: vec![[0.0; WIDTH]; BLOCK / WIDTH * dim].into(),
            values: vec![[0.0; WIDTH]; dim.div_ceil(WIDTH) * BLOCK].into(),
        }
    }

    fn set(&mut self, at: usize, key: &[f32], value: &[f32]) {
        let first = at / WIDTH * key.len();
        for (columns, key) in self.keys[first..].iter_mut().zip(key) {
            columns[at % WIDTH] = *key;
        }
        for (group, value) in value.chunks(WIDTH).enumerate() {
            self.values[group * BLOCK + at][..value.len()].copy_from_slice(value);
        }
    }

    /// `[dim, 16]`: one group of sixteen positions.
    #[inline(always)]
    pub(super) fn keys(&self, group: usize, dim: usize) -> &[Columns] {
        &self.keys[group * dim..][..dim]
    }

    /// `[64, 16]`: sixteen values of each position.
    #[inline(always)]
    pub(super) fn values(&self, group: usize) -> &[Columns] {
        &self.values[group * BLOCK..][..BLOCK]
    }
}
