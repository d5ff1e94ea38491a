//! The choice of the next token from logits: greedy, or a draw that depends on seed, stream and
//! position alone.

use crate::kernels::{INVERSE_FACTORIALS, LAST_FACTORIAL};
use crate::random::Stream;

/// Settings of sampling. The steps come in the order of the fields, `repetition_penalty` first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; at least 0. 0 takes the largest logit, the lowest id where several
    /// are equal.
    pub temperature: f64,
    /// Only the so many largest logits stay; at least 1.
    pub top_k: Option<usize>,
    /// Only the smallest set of the most probable tokens with at least this mass stays; in (0, 1].
    pub top_p: Option<f64>,
    /// Only tokens at least this fraction as probable as the most probable one stay; in [0, 1].
    pub min_p: Option<f64>,
    /// Logits of tokens that the context holds are divided by it where positive, else multiplied;
    /// above 0.
    pub repetition_penalty: Option<f64>,
}

impl Default for SamplingParams {
    /// Greedy, without a penalty.
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
        }
    }
}

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{name}` is {value}, but it must be {range}")]
pub struct SamplingError {
    /// The parameter's name.
    pub name: &'static str,
    /// The value given.
    pub value: f64,
    /// The values allowed, in words.
    pub range: &'static str,
}

/// Draws tokens. It holds no state: the same arguments give the same token.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
}

/// Buffers that a sampler fills anew for each token; kept by the caller so that no token allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    seen: Vec<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    id: u32,
    /// exp((logit - largest logit) / temperature): the probability but for a common factor.
    weight: f64,
}

impl Sampler {
    /// A sampler for checked parameters.
    ///
    /// # Errors
    /// The first parameter that is out of its range.
    pub fn new(params: SamplingParams, seed: u64) -> Result<Sampler, SamplingError> {
        let SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty } = params;
        let fail = |name, value, range| Err(SamplingError { name, value, range });
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return fail("temperature", temperature, "a number of at least 0");
        }
        if top_k == Some(0) {
            return fail("top_k", 0.0, "at least 1");
        }
        if let Some(p) = top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return fail("top_p", p, "above 0 and at most 1");
        }
        if let Some(p) = min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return fail("min_p", p, "from 0 to 1");
        }
        if let Some(p) = repetition_penalty.filter(|&p| !(p > 0.0 && p.is_finite())) {
            return fail("repetition_penalty", p, "a number above 0");
        }
        Ok(Sampler { params, seed })
    }

    /// The random numbers of one row: `row` holds the words of p, then k and the sample's number.
    pub fn stream(&self, row: &[u64]) -> Stream {
        Stream::named(self.seed, "sample", row)
    }

    /// The token that follows `context` (prompt and what was generated so far), given its `logits`
    /// `[vocab]`. `position` counts the generated tokens of this row from 0.
    ///
    /// The draw inverts the cumulative distribution over ascending ids, with sums in f64. Without a
    /// finite logit the answer is some id of the vocabulary; empty logits give 0.
    pub fn next(
        &self,
        logits: &[f32],
        context: &[u32],
        stream: &Stream,
        position: u64,
        scratch: &mut Scratch,
    ) -> u32 {
        let penalty = self.params.repetition_penalty.unwrap_or(1.0);
        if self.params.temperature == 0.0 && penalty == 1.0 {
            return argmax(
                logits.iter().copied().enumerate().map(|(id, logit)| (id as u32, logit)),
            );
        }
        self.penalised(logits, context, scratch);
        if self.params.temperature == 0.0 {
            return argmax(
                scratch.candidates.iter().map(|candidate| (candidate.id, candidate.logit)),
            );
        }
        self.filter(&mut scratch.candidates);
        draw(&scratch.candidates, stream.uniform(position))
    }

    /// The distribution that [`Sampler::next`] draws from: the ids kept, ascending, and their
    /// probabilities.
    pub fn distribution(&self, logits: &[f32], context: &[u32]) -> (Vec<u32>, Vec<f64>) {
        let mut scratch = Scratch::default();
        self.penalised(logits, context, &mut scratch);
        let candidates = &mut scratch.candidates;
        if self.params.temperature == 0.0 {
            return (
                vec![argmax(candidates.iter().map(|candidate| (candidate.id, candidate.logit)))],
                vec![1.0],
            );
        }
        self.filter(candidates);
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        candidates.iter().map(|candidate| (candidate.id, candidate.weight / total)).unzip()
    }

    /// Fills the candidates, in ascending order of their ids, with the penalised logits.
    fn penalised(&self, logits: &[f32], context: &[u32], scratch: &mut Scratch) {
        let Scratch { candidates, seen } = scratch;
        candidates.clear();
        // Adding 0 turns -0 into 0, which the total order of floats would tell apart.
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| Candidate {
            logit: logit + 0.0,
            id,
            weight: 0.0,
        }));
        let Some(penalty) = self.params.repetition_penalty.filter(|&penalty| penalty != 1.0) else {
            return;
        };
        seen.clear();
        seen.resize(logits.len(), false);
        for &id in context {
            let id = id as usize;
            if id < seen.len() && !std::mem::replace(&mut seen[id], true) {
                let logit = &mut candidates[id].logit;
                *logit =
                    if *logit > 0.0 { *logit / penalty as f32 } else { *logit * penalty as f32 };
            }
        }
    }

    /// Keeps what top_k, top_p and min_p leave, with weights, in ascending order of the ids.
    fn filter(&self, candidates: &mut Vec<Candidate>) {
        if let Some(k) = self.params.top_k.filter(|&k| k < candidates.len()) {
            candidates.select_nth_unstable_by(k, descending);
            candidates.truncate(k);
            candidates.sort_unstable_by_key(|candidate| candidate.id);
        }
        let largest =
            candidates.iter().fold(f32::NEG_INFINITY, |largest, one| largest.max(one.logit));
        for candidate in candidates.iter_mut() {
            let distance = f64::from(candidate.logit) - f64::from(largest);
            candidate.weight = exp_of_distance(distance / self.params.temperature);
        }
        if let Some(p) = self.params.top_p.filter(|&p| p < 1.0) {
            let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
            keep_mass(candidates, p * total);
        }
        if let Some(p) = self.params.min_p {
            // The largest weight is exp(0), exactly 1.
            candidates.retain(|candidate| candidate.weight >= p);
        }
    }
}

/// Keeps the shortest run of the heaviest candidates whose weights sum to at least `mass`.
fn keep_mass(candidates: &mut Vec<Candidate>, mass: f64) {
    let (mut sorted, mut sum) = (0, 0.0);
    // The heaviest are split off and sorted in growing pieces: most often a few of a large
    // vocabulary suffice.
    let mut piece = 64;
    let kept = 'kept: loop {
        let rest = &mut candidates[sorted..];
        if rest.is_empty() {
            break sorted;
        }
        if piece < rest.len() {
            rest.select_nth_unstable_by(piece, descending);
        }
        let length = piece.min(rest.len());
        rest[..length].sort_unstable_by(descending);
        for (at, candidate) in rest[..length].iter().enumerate() {
            sum += candidate.weight;
            if sum >= mass {
                break 'kept sorted + at + 1;
            }
        }
        sorted += length;
        piece *= 4;
    };
    candidates.truncate(kept);
    candidates.sort_unstable_by_key(|candidate| candidate.id);
}

fn descending(one: &Candidate, other: &Candidate) -> std::cmp::Ordering {
    other.logit.total_cmp(&one.logit).then(one.id.cmp(&other.id))
}

fn argmax(logits: impl Iterator<Item = (u32, f32)>) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in logits {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

/// exp(x) for x of at most 0, within two units in the last place, from sums and products alone: the
/// same bits on every machine, and several times as fast as a library's. Below -708, and for NaN,
/// it is 0.
///
/// x = k ln 2 + r with |r| <= ln 2 / 2; the Taylor series of exp(r) is cut where its terms pass
/// below rounding.
fn exp_of_distance(x: f64) -> f64 {
    // Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let inside = x.max(-708.0);
    let shifted = inside * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (inside - k * LN_2_HIGH) - k * LN_2_LOW;
    let series = INVERSE_FACTORIALS.iter().fold(LAST_FACTORIAL, |sum, term| sum * r + term);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x >= -708.0 { (series * r + 1.0) * power } else { 0.0 }
}

/// The first candidate at which the cumulative weight passes `uniform` of the total.
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let target = uniform * total;
    let mut sum = 0.0;
    for candidate in candidates {
        sum += candidate.weight;
        if sum > target {
            return candidate.id;
        }
    }
    candidates.last().map_or(0, |candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_enough_everywhere() {
        assert_eq!(exp_of_distance(0.0), 1.0);
        assert_eq!(exp_of_distance(-0.0), 1.0);
        for x in [-708.1, -1e300, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(exp_of_distance(x), 0.0);
        }
        let (mut largest, mut before) = (0f64, 0.0);
        for step in 0..708_000 {
            let x = f64::from(step).mul_add(1e-3, -708.0);
            let (ours, right) = (exp_of_distance(x), libm::exp(x));
            largest = largest.max((ours / right - 1.0).abs());
            assert!(ours > before, "{x}");
            before = ours;
        }
        assert!(largest < 2.0 * f64::EPSILON, "{largest}");
    }
}
