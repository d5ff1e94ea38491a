//! Assigns rows to steps: a function of seed, epoch and row.

use crate::random::{Stream, permutation};

use super::TrainOptions;

/// The order of the rows within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A new random one each epoch.
    Shuffled,
    /// By length, the longest first; rows of one length as given.
    Length,
    /// As given.
    Given,
}

/// Steps of an epoch; the last may be smaller.
pub(super) fn windows_per_epoch(rows: usize, options: &TrainOptions) -> u64 {
    rows.div_ceil(options.batch_size * options.accumulate) as u64
}

/// Deals out the rows.
pub(super) struct BatchPlan<'a> {
    lengths: &'a [usize],
    options: &'a TrainOptions,
    epoch: u64,
    order: Vec<usize>,
    at: usize,
}

impl<'a> BatchPlan<'a> {
    /// The rows of the step with number `step`, and of those after it.
    pub fn at(lengths: &'a [usize], options: &'a TrainOptions, step: u64) -> BatchPlan<'a> {
        let windows = windows_per_epoch(lengths.len(), options);
        let (epoch, window) = (step / windows, (step % windows) as usize);
        let at = window * options.batch_size * options.accumulate;
        let mut plan = BatchPlan { lengths, options, epoch, order: Vec::new(), at };
        plan.order = plan.order_of(epoch);
        plan
    }

    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let n = self.lengths.len();
        match self.options.order {
            Order::Given => (0..n).collect(),
            Order::Length => {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by_key(|row| std::cmp::Reverse(self.lengths[*row]));
                order
            }
            Order::Shuffled => permutation(&Stream::named(self.options.seed, "order", &[epoch]), n),
        }
    }

    /// The epoch, and the micro-batches of the next step. No step crosses the end of an epoch.
    pub fn next_window(&mut self) -> (u64, Vec<Vec<usize>>) {
        if self.at >= self.order.len() {
            self.epoch += 1;
            self.at = 0;
            self.order = self.order_of(self.epoch);
        }
        let size = self.options.batch_size * self.options.accumulate;
        let end = (self.at + size).min(self.order.len());
        let window = self.order[self.at..end]
            .chunks(self.options.batch_size)
            .map(<[usize]>::to_vec)
            .collect();
        self.at = end;
        (self.epoch, window)
    }
}
