//! Reads the values of one tensor, whatever their type, as rows or straight into panels.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::{Shard, WeightsError};
use crate::kernels::panels::fill_panel;
use crate::kernels::tile::WIDTH;

/// Values that one task reads at once.
const CHUNK: usize = 1 << 16;

/// A tensor's place in its file.
pub(super) struct Place<'w> {
    pub shard: &'w Shard,
    pub name: &'w str,
    pub info: &'w TensorInfo,
}

/// A type of stored values.
pub(super) trait Value: Copy + Default + Send + Sync {
    /// Bytes of a value.
    const SIZE: usize;

    /// Reads a value, little-endian.
    fn read(bytes: &[u8]) -> Self;

    /// The value in 32 bits.
    fn wide(self) -> f32;
}

impl Value for f32 {
    const SIZE: usize = 4;
    #[inline(always)]
    fn read(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Value for f16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn read(bytes: &[u8]) -> f16 {
        f16::from_le_bytes([bytes[0], bytes[1]])
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

impl Value for bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn read(bytes: &[u8]) -> bf16 {
        bf16::from_le_bytes([bytes[0], bytes[1]])
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

impl Place<'_> {
    pub fn rows<T: Value>(&self, values: usize) -> Result<Vec<T>, WeightsError> {
        let mut rows = vec![T::default(); values];
        let chunks = rows.par_chunks_mut(CHUNK).enumerate();
        first_error(chunks.map(|(n, rows)| self.read(n * CHUNK, rows)).collect())?;
        Ok(rows)
    }

    pub fn panels<T: Value>(
        &self,
        rows: Range<usize>,
        inputs: usize,
    ) -> Result<Vec<T>, WeightsError> {
        let panel = WIDTH * inputs;
        let mut panels = vec![T::default(); rows.len().div_ceil(WIDTH) * panel];
        let read = |(n, panel): (usize, &mut [T])| {
            let first = rows.start + n * WIDTH;
            let mut values = vec![T::default(); WIDTH.min(rows.end - first) * inputs];
            self.read(first * inputs, &mut values)?;
            fill_panel(&values, inputs, panel);
            Ok(())
        };
        first_error(panels.par_chunks_mut(panel).enumerate().map(read).collect())?;
        Ok(panels)
    }

    /// Reads values from number `first` on; all must be finite.
    fn read<T: Value>(&self, first: usize, values: &mut [T]) -> Result<(), WeightsError> {
        let path = &self.shard.path;
        let mut bytes = vec![0; values.len() * T::SIZE];
        let offset = self.shard.start + (self.info.data_offsets.0 + first * T::SIZE) as u64;
        let read = self.shard.file.read_exact_at(&mut bytes, offset);
        read.map_err(|error| WeightsError::Io { path: path.clone(), error })?;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(T::SIZE)) {
            *value = T::read(bytes);
        }
        match values.iter().position(|value| !value.wide().is_finite()) {
            None => Ok(()),
            Some(at) => Err(WeightsError::NotFinite {
                path: path.clone(),
                name: self.name.to_owned(),
                value: values[at].wide(),
                index: first + at,
            }),
        }
    }

    pub fn wrong_type(&self, dtype: Dtype) -> WeightsError {
        let dtype = format!("{dtype:?}").to_lowercase();
        WeightsError::Type { path: self.shard.path.clone(), name: self.name.to_owned(), dtype }
    }
}

/// The error of the first part that has one, whichever was read first.
fn first_error(parts: Vec<Result<(), WeightsError>>) -> Result<(), WeightsError> {
    parts.into_iter().collect()
}
