//! The line of a comparison in a lock: its result, and the digest of what it was computed from.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use refrain_cache::Digest;

/// The entry of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a mapping with `compare`")]
pub struct ComparisonEntry {
    /// The comparison's name.
    pub compare: String,
    /// The digest of the definition, and of the tables and metrics that it was computed from.
    pub inputs: Digest,
    /// The result.
    pub result: Compared,
    /// Fields of a later version, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The result of a comparison. All numbers are finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The mean over seeds of the difference, first arm minus second.
    pub estimate: f64,
    /// Its intervals, by confidence.
    pub intervals: Vec<ComparedInterval>,
    /// Its tests.
    pub tests: Vec<ComparedTest>,
    /// Both arms.
    pub arms: [ComparedArm; 2],
    /// The difference at each seed.
    pub differences: Vec<f64>,
    /// The number of ids that are compared; 0 where only seeds are.
    pub ids: usize,
    /// The number of ids that a table lacks and that are left out.
    pub dropped: usize,
    /// McNemar's test at each seed, of right and wrong.
    pub mcnemar: Vec<McNemar>,
    /// Wilcoxon's test of the ids' mean differences, of real values.
    pub wilcoxon: Option<SignedRank>,
    /// The mean over the standard deviation of the ids' differences.
    pub effect: Option<f64>,
    /// The difference that such an experiment would find in 80 % of cases.
    pub detectable: f64,
}

/// A two-sided interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedInterval {
    /// Its confidence.
    pub confidence: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Its method.
    pub by: IntervalMethod,
}

/// The way an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// Rows and seeds were drawn.
    Bootstrap,
    /// By Student's t over seeds, which was wider.
    Student,
    /// From both arms' score intervals, since no draw differed from another.
    Newcombe,
}

/// A test of the difference against a number, two-sided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedTest {
    /// The number.
    pub above: f64,
    /// The p-value, not corrected.
    pub p: f64,
    /// Its method.
    pub by: TestMethod,
}

/// The way a test was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestMethod {
    /// By flipping the signs of the ids' mean differences.
    SignFlip,
    /// By Student's t over seeds.
    Student,
    /// By the share of draws beyond the number.
    Bootstrap,
}

/// An arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedArm {
    /// The mean over seeds.
    pub value: f64,
    /// The lower end of the score interval of a share.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// McNemar's test at a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Rows in which the first arm alone is right.
    pub first: u64,
    /// Rows in which the second arm alone is right.
    pub second: u64,
    /// The p-value.
    pub p: f64,
}

/// Wilcoxon's test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignedRank {
    /// The smaller sum of ranks.
    pub statistic: f64,
    /// The p-value.
    pub p: f64,
    /// Whether it is exact, not by the normal approximation.
    pub exact: bool,
}

impl Compared {
    /// Whether all numbers are finite: others have no place in JSON.
    pub fn is_finite(&self) -> bool {
        let intervals = self.intervals.iter().flat_map(|interval| [interval.low, interval.high]);
        let arms = self.arms.iter().map(|arm| arm.value);
        let alone = [self.estimate, self.detectable, self.effect.unwrap_or(0.0)];
        let mut all = intervals.chain(arms).chain(alone).chain(self.differences.iter().copied());
        all.all(f64::is_finite)
    }

    /// Returns the interval of a confidence.
    pub fn interval(&self, confidence: f64) -> Option<&ComparedInterval> {
        self.intervals.iter().find(|interval| interval.confidence == confidence)
    }

    /// Returns the test against a number.
    pub fn test(&self, above: f64) -> Option<&ComparedTest> {
        self.tests.iter().find(|test| test.above == above)
    }
}
