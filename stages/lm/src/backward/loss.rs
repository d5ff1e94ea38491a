//! The loss of the output head and its gradient, in blocks of positions that count.

use rayon::prelude::*;

use super::Gradients;
use crate::kernels::buffer::Buffer;
use crate::kernels::matmul::{self, Operand, Put};
use crate::kernels::pointwise;
use crate::model::LanguageModel;

/// Logits that are held at once, as far as positions go.
const LOGITS: usize = 1 << 22;

/// Positions whose logits are held at once: enough that the head's weights are read for many.
pub(crate) fn loss_block(vocab: usize) -> usize {
    (LOGITS / vocab).clamp(64, 512)
}

/// Targets of a loss.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// For each packed position the token that should follow it, where that counts.
    pub tokens: &'a [Option<u32>],
    /// Reference model of the divergence.
    pub base: Option<Base<'a>>,
    /// Factor of the sum over the positions, usually one over their number.
    pub factor: f32,
}

/// A model whose probabilities count beside the targets.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Its natural-log probability of each target that counts, in order.
    pub logprobs: &'a [f32],
    /// Weight of the divergence, at least 0.
    pub weight: f64,
}

/// Sums over the positions that count, without the factor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Of -log p(target).
    pub loss: f64,
    /// Of the estimate k3 of the divergence from the base (Schulman, "Approximating KL divergence",
    /// 2020): exp(r) - 1 - r with r = log p_base(target) - log p(target); zero without a base.
    pub kl: f64,
}

impl LanguageModel {
    /// Loss and gradient of the output head, in blocks of positions that count.
    pub(super) fn head_loss(
        &self,
        hidden: &[f32],
        targets: &Targets<'_>,
        dhidden: &mut [f32],
        gradients: &mut Gradients,
    ) -> Sums {
        let (width, vocab) = (self.config.hidden, self.config.vocab);
        let active: Vec<(usize, usize)> = targets
            .tokens
            .iter()
            .enumerate()
            .filter_map(|(i, t)| t.map(|t| (i, t as usize)))
            .collect();
        let size = loss_block(vocab);
        let mut sums = Sums::default();
        for (number, block) in active.chunks(size).enumerate() {
            let places: Vec<usize> = block.iter().map(|(i, _)| *i).collect();
            let rows = pointwise::chosen_rows(hidden, width, &places);
            let mut logits = self.logits(&rows);
            let one = |(at, row): (usize, &mut [f32])| {
                let base =
                    targets.base.map(|base| (base.logprobs[number * size + at], base.weight));
                self.position_loss(row, block[at].1, base, targets.factor)
            };
            let each: Vec<Sums> = logits.par_chunks_exact_mut(vocab).enumerate().map(one).collect();
            for Sums { loss, kl } in each {
                sums = Sums { loss: sums.loss + loss, kl: sums.kl + kl };
            }
            let mut drows = Buffer::any(rows.len());
            let dlogits = Operand::in_lanes(&logits, vocab);
            matmul::backward_input(&[(&dlogits, self.panels(self.head))], &mut drows, Put::Set);
            for ((i, _), d) in block.iter().zip(drows.chunks_exact(width)) {
                dhidden[i * width..(i + 1) * width].copy_from_slice(d);
            }
            if let Some(gradient) = gradients.get_mut(self.head) {
                let rows = Operand::of_columns(&rows, width);
                matmul::backward_weight(&logits, &rows, gradient, vocab, 1.0);
            }
        }
        sums
    }

    /// The loss of one position; replaces its logits by their gradient.
    fn position_loss(
        &self,
        row: &mut [f32],
        target: usize,
        base: Option<(f32, f64)>,
        mut factor: f32,
    ) -> Sums {
        let (top, log_sum) = pointwise::log_sum_exp(row);
        let loss = f64::from(top) + log_sum - f64::from(row[target]);
        let mut kl = 0.0;
        if let Some((logprob, weight)) = base {
            // Rounded as the base's are, so that equal models give exactly zero.
            let log_ratio = f64::from(logprob) - f64::from((-loss) as f32);
            let excess = libm::expm1(log_ratio);
            kl = excess - log_ratio;
            // d k3 / d log p = 1 - exp(r), beside the loss's -1.
            factor = (f64::from(factor) * (1.0 + weight * excess)) as f32;
        }
        // The cap's slope is 1 - (z / cap)², from the capped logits, which the gradient then
        // replaces.
        let slopes = self
            .config
            .logit_cap
            .map(|cap| row.iter().map(|z| 1.0 - (z / cap) * (z / cap)).collect::<Vec<f32>>());
        pointwise::cross_entropy_gradient(row, target, top, log_sum, factor);
        if let Some(slopes) = slopes {
            row.iter_mut().zip(&slopes).for_each(|(d, s)| *d *= s);
        }
        Sums { loss, kl }
    }
}
