//! Rotates queries and keys by the positions of their tokens.

use crate::kernels::pointwise::RopeTable;

use super::{Rope, RopeScaling};

/// Tables of a model's rotary positions.
#[derive(Debug, Clone)]
pub struct Rotary {
    rope: Rope,
    head_dim: usize,
    /// Of rows within the first context, or of all.
    first: RopeTable,
    /// Of longer rows, where all of them have the same frequencies.
    long: Option<RopeTable>,
}

impl Rotary {
    /// Makes the tables.
    pub fn new(rope: &Rope, head_dim: usize) -> Rotary {
        let table = |length: usize, positions: usize| {
            RopeTable::new(&rope.frequencies(length), rope.amplitude(), head_dim, positions)
        };
        let (context, positions) = (rope.first_context(), rope.positions);
        let is_long = matches!(rope.scaling, RopeScaling::LongRope { .. });
        let long = context.filter(|_| is_long);
        Rotary {
            first: table(0, context.unwrap_or(positions).min(positions)),
            long: long.map(|first| table(first.saturating_add(1), positions)),
            rope: rope.clone(),
            head_dim,
        }
    }

    /// Rotates every head of each token by its position, in place; `back` turns the other way,
    /// which is the gradient.
    ///
    /// x `[tokens, heads * head_dim]`, `positions` `[tokens]`, `offsets` the starts of the rows and
    /// the end of the last. A row's length is that up to its last token here.
    pub fn rotate(&self, x: &mut [f32], positions: &[u32], offsets: &[usize], back: bool) {
        let Some(context) = self.rope.first_context() else {
            return self.first.rotate(x, positions, back);
        };
        let Some(width) = x.len().checked_div(positions.len()) else { return };
        for row in offsets.windows(2) {
            let span = row[0]..row[1];
            let Some(last) = positions[span.clone()].last() else { continue };
            let (length, positions) = (*last as usize + 1, &positions[span]);
            let x = &mut x[row[0] * width..row[1] * width];
            match &self.long {
                _ if length <= context => self.first.rotate(x, positions, back),
                Some(long) => long.rotate(x, positions, back),
                None => self.of_length(length).rotate(x, positions, back),
            }
        }
    }

    /// The table of rows of one length, whose values are made when they are needed.
    fn of_length(&self, length: usize) -> RopeTable {
        let frequencies = self.rope.frequencies(length);
        RopeTable::new(&frequencies, self.rope.amplitude(), self.head_dim, 0)
    }
}
