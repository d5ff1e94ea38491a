//! Counter-based random numbers: a draw is a pure function of what it is for, never of the order of
//! drawing.

/// A stream of random numbers in which each has its own number.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// The stream for a purpose, a seed and the texts that tell it from others, such as a row's
    /// `id` and `sample`.
    pub fn new(purpose: &str, seed: u64, parts: &[&[u8]]) -> Draws {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(purpose.as_bytes());
        field(&seed.to_le_bytes());
        parts.iter().for_each(|part| field(part));
        let mut state = [0; 8];
        state.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Draws { state: u64::from_le_bytes(state) }
    }

    /// The number `index` of the stream, uniform over all 64 bits.
    ///
    /// This is the output function of SplitMix64 (Steele, Lea and Flood 2014), whose state is a
    /// plain counter.
    pub fn at(&self, index: u64) -> u64 {
        let mut z =
            self.state.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The number `index` of the stream, uniform over `0..n` up to a bias of `n / 2^64`.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((u128::from(self.at(index)) * u128::from(n)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_seeds_give_other_streams() {
        let of = |seed, parts: &[&[u8]]| Draws::new("test", seed, parts).at(0);
        assert_eq!(of(1, &[b"ab"]), of(1, &[b"ab"]));
        assert_ne!(of(1, &[b"ab"]), of(2, &[b"ab"]));
        assert_ne!(of(1, &[b"ab", b"c"]), of(1, &[b"a", b"bc"]));
        assert_ne!(of(1, &[b"ab"]), Draws::new("other", 1, &[b"ab"]).at(0));
    }

    /// Results are kept under keys that hold the seed: the stream must never change.
    #[test]
    fn the_stream_is_fixed() {
        let draws = Draws::new("test", 17, &[b"row"]);
        assert_eq!(draws.at(0), 6_466_777_744_569_788_542);
        assert_eq!(draws.at(1), 7_464_739_681_266_511_025);
        assert_eq!(draws.below(2, 1000), 339);
    }

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The first outputs of the published generator from the state 0.
        let draws = Draws { state: 0 };
        let outputs = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        assert_eq!([draws.at(0), draws.at(1), draws.at(2)], outputs);
    }

    #[test]
    fn draws_below_are_even() {
        let draws = Draws::new("test", 3, &[]);
        let mut counts = [0_u32; 10];
        (0..100_000).for_each(|i| counts[draws.below(i, 10) as usize] += 1);
        // Five standard deviations of a binomial count with p = 0.1.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 475), "{counts:?}");
    }
}
