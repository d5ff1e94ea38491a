//! Dropout: which values of a matrix are kept, one bit each.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matmul::Put;
use crate::random::Stream;

/// Values that one task draws; a multiple of 64.
const VALUES: usize = 1 << 14;

/// Values that are kept, and their factor.
#[derive(Debug, Clone)]
pub struct Mask {
    /// One bit a value, the lowest first.
    kept: Vec<u64>,
    factor: f32,
}

impl Mask {
    /// Draws for each of so many values whether it is dropped, which has the probability `share`; a
    /// value's fate depends on the stream and its place alone.
    ///
    /// 32 bits a value, four values a block of random bits. Kept values are scaled by `1 / (1 -
    /// share)`.
    pub fn draw(stream: &Stream, share: f64, values: usize) -> Mask {
        let threshold = (share * 2f64.powi(32)) as u32;
        let mut kept = vec![0u64; values.div_ceil(64)];
        kept.par_chunks_mut(VALUES / 64).enumerate().for_each(|(chunk, kept)| {
            draw_words(stream, (chunk * VALUES / 4) as u64, threshold, kept);
        });
        Mask { kept, factor: (1.0 / (1.0 - share)) as f32 }
    }

    /// The kept values times their factor, zero for the others.
    pub fn apply(&self, x: &[f32]) -> Buffer {
        let mut y = Buffer::any(x.len());
        self.put(x, &mut y, Put::Set);
        y
    }

    /// Puts the kept values times their factor, zero for the others, into `y`.
    pub fn put(&self, x: &[f32], y: &mut [f32], put: Put) {
        let chunks = y.par_chunks_mut(VALUES).zip(x.par_chunks(VALUES));
        chunks.zip(self.kept.par_chunks(VALUES / 64)).for_each(|((y, x), kept)| {
            put_kept(kept, self.factor, x, y, put);
        });
    }
}

vectorized! {
    fn draw_words<'a>(stream: &'a Stream, first: u64, threshold: u32, kept: &'a mut [u64]) -> () = draw_words_body
}

/// Draws 64 values a word, of the blocks of random bits from `first` on.
#[inline(always)]
fn draw_words_body(stream: &Stream, first: u64, threshold: u32, kept: &mut [u64]) {
    const BLOCKS: usize = 16;
    for (first, kept) in (first..).step_by(BLOCKS).zip(kept) {
        let words = stream.words::<BLOCKS>(first);
        let mut of_block = [0u32; BLOCKS];
        for (n, words) in words.iter().enumerate() {
            for (of_block, word) in of_block.iter_mut().zip(words) {
                *of_block |= u32::from(*word >= threshold) << n;
            }
        }
        for (n, of_block) in of_block.iter().enumerate() {
            *kept |= u64::from(*of_block) << (4 * n);
        }
    }
}

vectorized! {
    fn put_kept<'a>(kept: &'a [u64], factor: f32, x: &'a [f32], y: &'a mut [f32], put: Put) -> () = put_kept_body
}

#[inline(always)]
fn put_kept_body(kept: &[u64], factor: f32, x: &[f32], y: &mut [f32], put: Put) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks(), y.as_chunks_mut());
    for ((y, x), kept) in y.iter_mut().zip(x).zip(kept) {
        put_word(*kept, factor, x, y, put);
    }
    if let Some(kept) = kept.get(x.len()) {
        let (mut last_x, mut last_y) = ([0.0; 64], [0.0; 64]);
        last_x[..x_rest.len()].copy_from_slice(x_rest);
        last_y[..y_rest.len()].copy_from_slice(y_rest);
        put_word(*kept, factor, &last_x, &mut last_y, put);
        y_rest.copy_from_slice(&last_y[..y_rest.len()]);
    }
}

#[inline(always)]
fn put_word(kept: u64, factor: f32, x: &[f32; 64], y: &mut [f32; 64], put: Put) {
    let halves = [kept as u32, (kept >> 32) as u32];
    for n in 0..64 {
        let value = if halves[n / 32] >> (n % 32) & 1 == 1 { x[n] * factor } else { 0.0 };
        y[n] = if put == Put::Set { value } else { y[n] + value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_dropped_and_the_rest_scaled() {
        let stream = Stream::new(5, &[]);
        let (n, share) = (100_003, 0.05);
        let mask = Mask::draw(&stream, share, n);
        let dropped = mask.apply(&vec![1.0; n]);
        let kept = dropped.iter().filter(|x| **x != 0.0).count();
        assert!((kept as f64 / n as f64 - 0.95).abs() < 3e-3, "{kept}");
        assert!(dropped.iter().all(|x| *x == 0.0 || (*x - 1.0 / 0.95).abs() < 1e-6));

        // A longer matrix begins with the same values, on any number of threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let longer = pool.install(|| Mask::draw(&stream, share, 2 * n));
        assert_eq!(*longer.apply(&vec![1.0; n]), *dropped);
        let mut sums = vec![1.0; n];
        mask.put(&dropped, &mut sums, Put::Add);
        assert!(sums.iter().zip(dropped.iter()).all(|(sum, x)| *sum == 1.0 + x * (1.0 / 0.95f32)));
    }
}
