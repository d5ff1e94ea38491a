//! Keys and values of one row and head, in blocks as the kernels read them.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use crate::kernels::panels::widen_bf16;
use crate::kernels::tile::{Columns, WIDTH};

/// Positions of a block. Blocks begin at the multiples of it, so the sums over keys are cut in the
/// same places for a whole row, for its continuation and for a prefix that rows share.
pub const BLOCK: usize = 64;

/// Precision in which keys and values are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyPrecision {
    /// 32-bit floats.
    #[default]
    F32,
    /// The upper half of a 32-bit float, to which a value is rounded when it enters.
    Bf16,
}

/// Keys and values of the first positions of a row, of one key-value head.
///
/// A clone shares its blocks; the last one is copied when a position is added to it. So samples of
/// one prompt hold its keys once.
#[derive(Debug, Clone)]
pub struct Keys {
    dim: usize,
    precision: KeyPrecision,
    positions: usize,
    blocks: Vec<Arc<Block>>,
}

/// Keys and values of sixty-four positions; zero behind the last one.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// `[4, dim, 16]`: sixteen positions side by side.
    keys: Sixteens,
    /// `[dim / 16, 64, 16]`: sixteen values of a position side by side.
    values: Sixteens,
}

/// Values, sixteen by sixteen, as they are kept.
#[derive(Debug, Clone)]
enum Sixteens {
    F32(Box<[Columns]>),
    Bf16(Box<[[bf16; WIDTH]]>),
}

impl Sixteens {
    fn zeros(len: usize, precision: KeyPrecision) -> Sixteens {
        match precision {
            KeyPrecision::F32 => Sixteens::F32(vec![[0.0; WIDTH]; len].into()),
            KeyPrecision::Bf16 => Sixteens::Bf16(vec![[bf16::ZERO; WIDTH]; len].into()),
        }
    }

    fn set(&mut self, at: usize, lane: usize, value: f32) {
        match self {
            Sixteens::F32(all) => all[at][lane] = value,
            Sixteens::Bf16(all) => all[at][lane] = bf16::from_f32(value),
        }
    }

    /// A part, as it lies or widened in `scratch`.
    #[inline(always)]
    fn get<'s>(&'s self, range: Range<usize>, scratch: &'s mut Vec<Columns>) -> &'s [Columns] {
        match self {
            Sixteens::F32(all) => &all[range],
            Sixteens::Bf16(all) => {
                scratch.resize(range.len(), [0.0; WIDTH]);
                let pairs = scratch.as_flattened_mut().iter_mut().zip(all[range].as_flattened());
                pairs.for_each(|(wide, half)| *wide = widen_bf16(*half));
                scratch
            }
        }
    }
}

impl Keys {
    /// None yet, of heads of that size.
    pub fn new(dim: usize, precision: KeyPrecision) -> Keys {
        Keys { dim, precision, positions: 0, blocks: Vec::new() }
    }

    /// Those of a head of packed rows: k and v `[positions, width]`, the head's values from `column`
    /// on.
    pub(super) fn of(k: &[f32], v: &[f32], width: usize, column: usize, dim: usize) -> Keys {
        let mut keys = Keys::new(dim, KeyPrecision::F32);
        keys.push(k, v, width, column);
        keys
    }

    /// Adds positions: k and v `[positions, width]`, the head's values from `column` on.
    pub fn push(&mut self, k: &[f32], v: &[f32], width: usize, column: usize) {
        for (k, v) in k.chunks_exact(width).zip(v.chunks_exact(width)) {
            let at = self.positions % BLOCK;
            if at == 0 {
                self.blocks.push(Arc::new(Block::new(self.dim, self.precision)));
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
    fn new(dim: usize, precision: KeyPrecision) -> Block {
        Block {
            keys: Sixteens::zeros(BLOCK / WIDTH * dim, precision),
            values: Sixteens::zeros(dim.div_ceil(WIDTH) * BLOCK, precision),
        }
    }

    fn set(&mut self, at: usize, key: &[f32], value: &[f32]) {
        let first = at / WIDTH * key.len();
        for (number, key) in key.iter().enumerate() {
            self.keys.set(first + number, at % WIDTH, *key);
        }
        for (number, value) in value.iter().enumerate() {
            self.values.set(number / WIDTH * BLOCK + at, number % WIDTH, *value);
        }
    }

    /// `[dim, 16]`: one group of sixteen positions.
    #[inline(always)]
    pub(super) fn keys<'s>(
        &'s self,
        group: usize,
        dim: usize,
        scratch: &'s mut Vec<Columns>,
    ) -> &'s [Columns] {
        self.keys.get(group * dim..(group + 1) * dim, scratch)
    }

    /// `[64, 16]`: sixteen values of each position.
    #[inline(always)]
    pub(super) fn values<'s>(
        &'s self,
        group: usize,
        scratch: &'s mut Vec<Columns>,
    ) -> &'s [Columns] {
        self.values.get(group * BLOCK..(group + 1) * BLOCK, scratch)
    }
}
