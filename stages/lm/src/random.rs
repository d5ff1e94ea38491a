//! Counter-based random numbers: each is a pure function of a seed, a stream and a position.
//!
//! Nothing is drawn "next", so no order, batch or thread count can move a result. The generator is
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
//! 2011). BLAKE3 over seed and stream gives its key and the upper half of its counter; the position
//! is the lower half.

use std::f64::consts::PI;

/// The random numbers of one purpose: one for every position, all independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    upper: [u32; 2],
}

impl Stream {
    /// The stream that `seed` and `words` name. Other words, or another number of them, give an
    /// unrelated stream.
    pub fn new(seed: u64, words: &[u64]) -> Stream {
        Stream::named(seed, "", words)
    }

    /// The same with a name before the words: a tensor's, or that of a purpose such as `dropout`.
    pub fn named(seed: u64, name: &str, words: &[u64]) -> Stream {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        // The length keeps a name's last bytes and the first word apart.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        for word in words {
            hasher.update(&word.to_le_bytes());
        }
        let digest = hasher.finalize();
        let word = |at: usize| {
            let bytes = digest.as_bytes();
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Stream { key: [word(0), word(4)], upper: [word(8), word(12)] }
    }

    /// 64 random bits.
    pub fn bits(&self, position: u64) -> u64 {
        self.block(position).0
    }

    /// Uniform in the open interval (0, 1): an odd multiple of 2^-53.
    pub fn uniform(&self, position: u64) -> f64 {
        unit(self.bits(position))
    }

    /// Standard normal, by Box and Muller (1958).
    pub fn normal(&self, position: u64) -> f64 {
        let (first, second) = self.block(position);
        libm::sqrt(-2.0 * libm::log(unit(first))) * libm::cos(2.0 * PI * unit(second))
    }

    /// Four times 32 random bits of each of N positions from `first` on, a multiple of N: lanes of
    /// a loop that is vectorised.
    #[inline(always)]
    pub fn words<const N: usize>(&self, first: u64) -> [[u32; N]; 4] {
        let low = std::array::from_fn(|lane| first as u32 + lane as u32);
        let [upper0, upper1] = self.upper;
        philox4x32([low, [(first >> 32) as u32; N], [upper0; N], [upper1; N]], self.key)
    }

    fn block(&self, position: u64) -> (u64, u64) {
        let [[a], [b], [c], [d]] = self.words(position);
        (u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32)
    }
}

/// A uniformly random order of 0..n (Fisher and Yates).
pub fn permutation(stream: &Stream, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut position = 0;
    for last in (1..n).rev() {
        order.swap(last, below(stream, &mut position, last as u64 + 1) as usize);
    }
    order
}

/// An unbiased draw from 0..bound (Lemire, "Fast random integer generation in an interval", 2019).
/// It takes as many positions as it needs, more than one in fewer than bound / 2^64 of the cases.
fn below(stream: &Stream, position: &mut u64, bound: u64) -> u64 {
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let wide = u128::from(stream.bits(*position)) * u128::from(bound);
        *position += 1;
        if wide as u64 >= threshold {
            return (wide >> 64) as u64;
        }
    }
}

/// 52 bits, not 53: with 53 the half that keeps the result off 0 would round the largest one up to
/// 1.
fn unit(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

#[inline(always)]
fn philox4x32<const N: usize>(counter: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut key0, mut key1] = key;
    for _ in 0..10 {
        for lane in 0..N {
            let first = u64::from(a[lane]) * 0xD251_1F53;
            let second = u64::from(c[lane]) * 0xCD9E_8D57;
            (a[lane], b[lane], c[lane], d[lane]) = (
                (second >> 32) as u32 ^ b[lane] ^ key0,
                second as u32,
                (first >> 32) as u32 ^ d[lane] ^ key1,
                first as u32,
            );
        }
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        let philox4x32 = |counter: [u32; 4], key| {
            super::philox4x32(counter.map(|word| [word; 3]), key).map(|lanes| lanes[2])
        };
        // The known-answer vectors that the authors publish with Random123.
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn golden_values() {
        // These enter results: a change here is a change of the `lm` and `sample` components.
        let stream = Stream::new(17, &[1, 2, 3]);
        let golden = "f3a361746c8b57af 3b722aa98563326d 3fe6fce6df74e949 3fe080046b4226aa [6, 0, 2, 5, 4, 1, 3, 7]";
        let got = format!(
            "{:016x} {:016x} {:016x} {:016x} {:?}",
            stream.bits(0),
            stream.bits(u64::MAX),
            stream.uniform(5).to_bits(),
            Stream::named(17, "model.norm.weight", &[]).normal(9).to_bits(),
            permutation(&stream, 8),
        );
        assert_eq!(got, golden);
    }

    #[test]
    fn streams_differ_by_seed_name_words_and_their_number() {
        let streams = [
            Stream::new(1, &[]),
            Stream::new(2, &[]),
            Stream::new(1, &[0]),
            Stream::new(1, &[0, 0]),
            Stream::named(1, "a", &[]),
            Stream::named(1, "a", &[0]),
        ];
        for (i, one) in streams.iter().enumerate() {
            for other in &streams[..i] {
                assert_ne!(one.bits(0), other.bits(0));
            }
        }
    }

    #[test]
    fn uniform_stays_inside_and_moments_are_right() {
        assert!(unit(0) > 0.0 && unit(u64::MAX) < 1.0);
        let stream = Stream::new(0, &[7]);
        let n = 200_000;
        let mean = (0..n).map(|i| stream.uniform(i)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 3e-3, "{mean}");
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let x = stream.normal(i);
            sum += x;
            squares += x * x;
        }
        assert!((sum / n as f64).abs() < 0.01);
        assert!((squares / n as f64 - 1.0).abs() < 0.02);
    }

    #[test]
    fn permutations_are_complete_and_even() {
        let mut counts = std::collections::BTreeMap::new();
        for trial in 0..24_000 {
            let order = permutation(&Stream::new(trial, &[]), 4);
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(permutation(&Stream::new(0, &[]), 0), Vec::<usize>::new());
    }
}
