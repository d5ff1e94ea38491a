//! Dropout: which values of a matrix are kept, one bit each.

use rayon::prelude::*;

use super::buffer::Buffer;
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
            for (word, kept) in kept.iter_mut().enumerate() {
                let first = (chunk * VALUES + word * 64) as u64 / 4;
                for block in 0..16 {
                    for (n, bits) in stream.words(first + block).into_iter().enumerate() {
                        *kept |= u64::from(bits >= threshold) << (4 * block + n as u64);
                    }
                }
            }
        });
        Mask { kept, factor: (1.0 / (1.0 - share)) as f32 }
    }

    /// The kept values times their factor, zero for the others.
    pub fn apply(&self, x: &[f32]) -> Buffer {
        let mut y = Buffer::any(x.len());
        self.each(x, &mut y, |y, x| *y = x);
        y
    }

    /// Adds the kept values times their factor.
    pub fn add(&self, x: &[f32], y: &mut [f32]) {
        self.each(x, y, |y, x| *y += x);
    }

    fn each(&self, x: &[f32], y: &mut [f32], put: impl Fn(&mut f32, f32) + Sync) {
        let chunks = y.par_chunks_mut(VALUES).zip(x.par_chunks(VALUES));
        chunks.zip(self.kept.par_chunks(VALUES / 64)).for_each(|((y, x), kept)| {
            for ((y, x), kept) in y.chunks_mut(64).zip(x.chunks(64)).zip(kept) {
                for (n, (y, x)) in y.iter_mut().zip(x).enumerate() {
                    put(y, if kept >> n & 1 == 1 { x * self.factor } else { 0.0 });
                }
            }
        });
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
        mask.add(&dropped, &mut sums);
        assert!(sums.iter().zip(dropped.iter()).all(|(sum, x)| *sum == 1.0 + x * (1.0 / 0.95f32)));
    }
}
