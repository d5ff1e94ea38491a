//! Memory of matrices that come and go with every layer and step.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Values in memory that a thread keeps for its next matrices: the system would clear every page of
/// it anew.
#[derive(Default)]
pub struct Buffer {
    /// At least `len` values.
    values: Vec<f32>,
    len: usize,
}

thread_local! {
    /// Buffers that were given back.
    static FREE: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

impl Buffer {
    /// A matrix of so many values, all of which its first user writes: they are anything before.
    pub fn any(len: usize) -> Buffer {
        let mut free = FREE.take();
        let fitting = (0..free.len()).filter(|at| free[*at].len() >= len);
        let values = match fitting.min_by_key(|at| free[*at].len()) {
            Some(best) => free.swap_remove(best),
            None => {
                // The largest makes room: so no more is kept than was ever in use together. Growing
                // it instead would copy what nobody reads.
                let largest = (0..free.len()).max_by_key(|at| free[*at].len());
                drop(largest.map(|at| free.swap_remove(at)));
                vec![0.0; size_class(len)]
            }
        };
        FREE.set(free);
        Buffer { values, len }
    }

    /// A matrix of zeros.
    pub fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::any(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of values.
    pub fn of(values: &[f32]) -> Buffer {
        let mut buffer = Buffer::any(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

/// Values of the memory for a matrix: up to an eighth more, so that batches of nearly equal size
/// share it.
fn size_class(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 16).max(1))
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = FREE.take();
        if !self.values.is_empty() {
            free.push(std::mem::take(&mut self.values));
        }
        FREE.set(free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_again_and_zeros_are_zeros() {
        let mut first = Buffer::of(&[1.0, 2.0, 3.0]);
        let place = first.as_ptr();
        first[0] = 5.0;
        drop(first);
        let again = Buffer::any(2);
        assert_eq!((again.as_ptr(), again.len()), (place, 2));
        drop(again);
        assert_eq!(*Buffer::zeros(3), [0.0; 3]);
    }
}
