//! Python's random numbers, as far as samples of documents need them: MT19937 and `Random.sample`.
//!
//! lm-evaluation-harness draws the examples of each document with one generator for all, so that the
//! same examples need the same generator.

/// Words of the state.
const WORDS: usize = 624;
const SHIFT: usize = 397;

/// A generator, as `random.Random(seed)` is one.
pub(super) struct PythonRandom {
    state: [u32; WORDS],
    next: usize,
}

impl PythonRandom {
    pub fn new(seed: u32) -> PythonRandom {
        // `init_by_array` with the one word of the seed.
        let mut state = [0u32; WORDS];
        state[0] = 19_650_218;
        for i in 1..WORDS {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..WORDS {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ before.wrapping_mul(1_664_525)).wrapping_add(seed);
            i = following(&mut state, i);
        }
        for _ in 0..WORDS - 1 {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = following(&mut state, i);
        }
        state[0] = 0x8000_0000;
        PythonRandom { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let both =
                    (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
                let odd = if both & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + SHIFT) % WORDS] ^ (both >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `limit`, which is above 0.
    fn below(&mut self, limit: u32) -> u32 {
        let bits = u32::BITS - limit.leading_zeros();
        loop {
            let number = self.word() >> (u32::BITS - bits);
            if number < limit {
                return number;
            }
        }
    }

    /// `count` different numbers below `all`, which is no less.
    pub fn sample(&mut self, all: usize, count: usize) -> Vec<usize> {
        let mut limit = 21;
        if count > 5 {
            let mut power = 4;
            while power < 3 * count {
                power *= 4;
            }
            limit += power;
        }
        if all <= limit {
            let mut pool: Vec<usize> = (0..all).collect();
            let mut taken = Vec::with_capacity(count);
            for i in 0..count {
                let at = self.below((all - i) as u32) as usize;
                taken.push(pool[at]);
                pool[at] = pool[all - i - 1];
            }
            return taken;
        }
        let mut taken: Vec<usize> = Vec::with_capacity(count);
        while taken.len() < count {
            let number = self.below(all as u32) as usize;
            if !taken.contains(&number) {
                taken.push(number);
            }
        }
        taken
    }
}

/// The next place of the state; the first word takes the last one's value when the end is reached.
fn following(state: &mut [u32; WORDS], i: usize) -> usize {
    if i + 1 < WORDS {
        return i + 1;
    }
    state[0] = state[WORDS - 1];
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `random.Random(1234).sample(range(n), k)` of Python 3.11 gives them one after the other.
    #[test]
    fn samples_are_those_of_python() {
        let mut random = PythonRandom::new(1234);
        for expected in [[7, 1, 0], [1, 9, 0], [10, 1, 11], [5, 3, 0]] {
            assert_eq!(random.sample(12, 3), expected);
        }
        assert_eq!(random.sample(100, 7), [3, 2, 44, 82, 79, 61, 78]);
        assert_eq!(random.sample(100, 7), [59, 19, 11, 23, 91, 14, 1]);
        assert_eq!(random.sample(40, 3), [32, 31, 15]);
        assert_eq!(random.sample(5000, 1), [528]);
    }
}
