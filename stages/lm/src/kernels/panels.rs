//! Weights as the kernels read them: panels of sixteen outputs, in the type in which they are
//! stored.
//!
//! A matrix `[outputs, inputs]` lies as `[outputs / 16, inputs, 16]`, the last panel filled up with
//! zeros: one step along a sum reads sixteen outputs that lie together. Half precision stays half
//! precision in memory and is widened block by block, which is exact.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::tile::WIDTH;

/// Values in the type in which they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// The upper half of a 32-bit float.
    Bf16(Vec<bf16>),
    /// IEEE half precision.
    F16(Vec<f16>),
}

impl Stored {
    /// Counts the values.
    pub fn len(&self) -> usize {
        match self {
            Stored::F32(values) => values.len(),
            Stored::Bf16(values) => values.len(),
            Stored::F16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as they lie where they are 32-bit floats.
    pub fn f32(&self) -> Option<&[f32]> {
        match self {
            Stored::F32(values) => Some(values),
            _ => None,
        }
    }

    /// Widens the values to 32 bits, so that they can be trained.
    pub fn widened(&mut self) -> &mut [f32] {
        if !matches!(self, Stored::F32(_)) {
            let mut wide = vec![0.0; self.len()];
            self.widen(0..self.len(), &mut wide);
            *self = Stored::F32(wide);
        }
        match self {
            Stored::F32(values) => values,
            _ => &mut [],
        }
    }

    /// Writes a range of the values as 32-bit floats.
    #[inline(always)]
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Stored::F32(values) => out.copy_from_slice(&values[range]),
            Stored::Bf16(values) => widen_all(&values[range], out, widen_bf16),
            Stored::F16(values) => widen_all(&values[range], out, widen_f16),
        }
    }

    /// One value as a 32-bit float.
    pub fn get(&self, at: usize) -> f32 {
        match self {
            Stored::F32(values) => values[at],
            Stored::Bf16(values) => values[at].to_f32(),
            Stored::F16(values) => values[at].to_f32(),
        }
    }

    /// Rows `[outputs, inputs]` brought into panels.
    pub fn into_panels(self, outputs: usize, inputs: usize) -> Stored {
        match self {
            Stored::F32(rows) => Stored::F32(panels_of(&rows, outputs, inputs)),
            Stored::Bf16(rows) => Stored::Bf16(panels_of(&rows, outputs, inputs)),
            Stored::F16(rows) => Stored::F16(panels_of(&rows, outputs, inputs)),
        }
    }
}

#[inline(always)]
fn widen_all<T: Copy>(values: &[T], out: &mut [f32], widen: impl Fn(T) -> f32) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = widen(*value);
    }
}

#[inline(always)]
pub(super) fn widen_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// The exponent is moved by a product with a power of two, which is exact for subnormal values too;
/// the library's way calls a function for each value. Infinity and NaN do not occur in weights.
#[inline(always)]
fn widen_f16(value: f16) -> f32 {
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(value.to_bits());
    let size = f32::from_bits((bits & 0x7fff) << 13) * SCALE;
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// Panels of the rows of a matrix.
pub fn panels_of<T: Copy + Default + Send + Sync>(
    rows: &[T],
    outputs: usize,
    inputs: usize,
) -> Vec<T> {
    let mut panels = vec![T::default(); outputs.div_ceil(WIDTH) * WIDTH * inputs];
    let pairs = panels.par_chunks_mut(WIDTH * inputs).zip(rows.par_chunks(WIDTH * inputs));
    pairs.for_each(|(panel, rows)| fill_panel(rows, inputs, panel));
    panels
}

/// Brings up to sixteen rows into a panel.
pub fn fill_panel<T: Copy>(rows: &[T], inputs: usize, panel: &mut [T]) {
    for (lane, row) in rows.chunks_exact(inputs).enumerate() {
        for (panel, value) in panel.chunks_exact_mut(WIDTH).zip(row) {
            panel[lane] = *value;
        }
    }
}

/// A matrix in panels.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// Rows of the matrix.
    pub outputs: usize,
    /// Columns of the matrix.
    pub inputs: usize,
    /// `[outputs / 16, inputs, 16]`.
    pub values: &'a Stored,
}

impl Panels<'_> {
    /// Counts the panels.
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(WIDTH)
    }

    /// The matrix as rows of 32-bit floats, `[outputs, inputs]`.
    pub fn to_rows(self) -> Vec<f32> {
        let mut rows = vec![0.0; self.outputs * self.inputs];
        for (output, row) in rows.chunks_exact_mut(self.inputs).enumerate() {
            self.row(output, row);
        }
        rows
    }

    /// One row of the matrix.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        let start = output / WIDTH * WIDTH * self.inputs + output % WIDTH;
        for (input, value) in row.iter_mut().enumerate() {
            *value = self.values.get(start + input * WIDTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            if half.is_finite() {
                assert_eq!(widen_f16(half).to_bits(), half.to_f32().to_bits());
            }
            if brain.is_finite() {
                assert_eq!(widen_bf16(brain).to_bits(), brain.to_f32().to_bits());
            }
        }
    }

    #[test]
    fn panels_give_their_rows_back() {
        for (outputs, inputs) in [(1, 1), (16, 3), (17, 5), (40, 2)] {
            let rows: Vec<f32> = (0..outputs * inputs).map(|i| i as f32).collect();
            let values = Stored::F32(rows.clone()).into_panels(outputs, inputs);
            assert_eq!(values.len(), outputs.next_multiple_of(16) * inputs);
            assert_eq!(Panels { outputs, inputs, values: &values }.to_rows(), rows);
        }
    }
}
