//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, fused over each tensor's values.

use rayon::prelude::*;

use crate::backward::Gradients;
use crate::model::{LanguageModel, TensorId};

use super::TrainOptions;

/// Values that one task updates; the same whatever the number of threads.
const CHUNK: usize = 1 << 14;

/// The moments of every trainable tensor.
pub(super) struct AdamW {
    /// Tensors in the order of their names, with first and second moments.
    pub moments: Vec<(TensorId, Vec<f32>, Vec<f32>)>,
    /// Updates so far; a step without active tokens makes none.
    pub steps: u64,
}

impl AdamW {
    pub fn new(model: &LanguageModel) -> AdamW {
        let zeros = |id: TensorId| vec![0.0; model.tensors[id].values.len()];
        let moments = model.trainable().into_iter().map(|id| (id, zeros(id), zeros(id))).collect();
        AdamW { moments, steps: 0 }
    }

    /// The 2-norm of all gradients, summed in f64 in the order of the names.
    pub fn norm(&self, model: &LanguageModel, gradients: &Gradients) -> f64 {
        debug_assert!(self.moments.len() <= model.tensors.len());
        let squares =
            self.moments.iter().filter_map(|(id, _, _)| gradients.get(*id)).map(|gradient| {
                let chunks = gradient
                    .par_chunks(CHUNK)
                    .map(|c| c.iter().map(|g| f64::from(*g) * f64::from(*g)).sum());
                chunks.collect::<Vec<f64>>().iter().sum::<f64>()
            });
        squares.sum::<f64>().sqrt()
    }

    /// One update with gradients times `factor`.
    ///
    /// Values and moments are kept in f32 and computed in f64: in f32, `1 - beta2` and `beta2` are each rounded, and all
    /// steps err to the same side.
    pub fn step(
        &mut self,
        model: &mut LanguageModel,
        gradients: &Gradients,
        factor: f64,
        rate: f64,
        options: &TrainOptions,
    ) {
        self.steps += 1;
        let (beta1, beta2) = options.betas;
        let power = |beta: f64| 1.0 - libm::pow(beta, self.steps as f64);
        let (root, pace) = (power(beta2).sqrt(), rate / power(beta1));
        for (id, first, second) in &mut self.moments {
            let Some(gradient) = gradients.get(*id) else { continue };
            let tensor = &mut model.tensors[*id];
            let shrink = if tensor.decays { 1.0 - rate * options.weight_decay } else { 1.0 };
            let chunks = tensor
                .values_mut()
                .par_chunks_mut(CHUNK)
                .zip(first.par_chunks_mut(CHUNK))
                .zip(second.par_chunks_mut(CHUNK))
                .zip(gradient.par_chunks(CHUNK));
            chunks.for_each(|(((values, first), second), gradient)| {
                for (((p, m), v), g) in values.iter_mut().zip(first).zip(second).zip(gradient) {
                    let g = f64::from(*g) * factor;
                    let mean = beta1 * f64::from(*m) + (1.0 - beta1) * g;
                    let square = beta2 * f64::from(*v) + (1.0 - beta2) * g * g;
                    let step = pace * mean / (square.sqrt() / root + options.eps);
                    *p = (f64::from(*p) * shrink - step) as f32;
                    (*m, *v) = (mean as f32, square as f32);
                }
            });
        }
        model.refresh();
    }
}
