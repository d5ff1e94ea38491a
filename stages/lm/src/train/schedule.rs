//! The learning rate of each step.

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Half a cosine, down to zero.
    Cosine,
    /// A straight line, down to zero.
    Linear,
    /// It stays.
    Constant,
}

impl Schedule {
    /// The rate of a step: a rise from zero over `warmup` steps, then the schedule over the rest of
    /// `total`.
    pub fn rate(self, highest: f64, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return highest * step as f64 / warmup as f64;
        }
        let share = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        match self {
            Schedule::Cosine => highest * (1.0 + libm::cos(std::f64::consts::PI * share)) / 2.0,
            Schedule::Linear => highest * (1.0 - share),
            Schedule::Constant => highest,
        }
    }
}
