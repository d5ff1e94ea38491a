//! The divergence from the base: its gradient by finite differences, and that weight 0 changes no
//! bits.

use refrain_lm::backward::{Base, Gradients, Pass, Targets};
use refrain_lm::forward::Packed;
use refrain_lm::model::LanguageModel;
use refrain_lm::score::score;
use refrain_lm::train::{TrainOptions, Training};

use crate::*;

/// A batch with targets, and the log-probabilities of the targets under another model.
struct Batch {
    packed: Packed,
    tokens: Vec<Option<u32>>,
    base: Vec<f32>,
}

fn batch(config: &ModelConfig) -> Batch {
    let rows = rows(3, 9);
    let other = LanguageModel::random(config, 4);
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let (mut tokens, mut base) = (Vec::new(), Vec::new());
    score(&other, &ids, None, &mut |row, logprobs| {
        let next = rows[row].ids.iter().zip(&rows[row].active).skip(1);
        for ((id, active), logprob) in next.zip(logprobs) {
            tokens.push(active.then_some(*id));
            base.extend(active.then_some(*logprob));
        }
        tokens.push(None);
    })
    .unwrap();
    Batch { packed: Packed::new(ids), tokens, base }
}

/// The summed loss, the gradient added to `gradients`.
fn loss(model: &LanguageModel, batch: &Batch, weight: f64, gradients: &mut Gradients) -> f64 {
    let base = Some(Base { logprobs: &batch.base, weight });
    let targets = Targets { tokens: &batch.tokens, base, factor: 1.0 };
    let sums = model.loss_and_gradients(&batch.packed, &targets, Pass::default(), gradients);
    assert!(sums.kl > 0.1, "the models are not different enough to test anything: {}", sums.kl);
    sums.loss + weight * sums.kl
}

#[test]
fn the_gradient_is_that_of_the_loss() {
    for (config, lora) in configs().iter().flat_map(|config| [(config, true), (config, false)]) {
        let mut model = LanguageModel::random(config, 3);
        if lora {
            model.add_lora(&settings(false), 5).unwrap();
            // With B zero, nothing would reach A.
            for id in model.trainable() {
                let stream = Stream::named(1, &model.tensors[id].name, &[]);
                let values = model.tensors[id].values_mut();
                values
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, v)| *v += 0.1 * stream.normal(i as u64) as f32);
            }
        } else {
            model.train_all();
        }
        let batch = batch(config);
        for weight in [0.0, 0.5, 4.0] {
            let mut gradients = Gradients::new(&model);
            loss(&model, &batch, weight, &mut gradients);
            for id in model.trainable() {
                check_tensor(&mut model, &batch, weight, id, gradients.get(id).unwrap());
            }
        }
    }
}

/// Goes along a tensor's gradient in both directions: the loss must change at the rate of the
/// gradient's norm.
fn check_tensor(
    model: &mut LanguageModel,
    batch: &Batch,
    weight: f64,
    id: usize,
    gradient: &[f32],
) {
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 1e-3, "`{}` has no gradient", model.tensors[id].name);
    let before = model.values(id).to_vec();
    let mut unused = Gradients::new(model);
    let mut at = |distance: f64| {
        let moved = before
            .iter()
            .zip(gradient)
            .map(|(v, g)| (f64::from(*v) + distance * f64::from(*g) / norm) as f32);
        let moved: Vec<f32> = moved.collect();
        model.tensors[id].values_mut().copy_from_slice(&moved);
        model.refresh();
        loss(model, batch, weight, &mut unused)
    };
    // The fourth-order formula: in f32 the distance cannot be small.
    let h = 4e-3;
    let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
    model.tensors[id].values_mut().copy_from_slice(&before);
    model.refresh();
    let name = &model.tensors[id].name;
    assert!(
        (slope / norm - 1.0).abs() < 5e-3,
        "`{name}`, weight {weight}: slope {slope}, gradient {norm}"
    );
}

#[test]
fn weight_zero_changes_no_bits_and_a_weight_holds_the_model_back() {
    let (data, plain) = (rows(11, 1), options());
    for (config, lora) in configs().iter().flat_map(|config| [(config, true), (config, false)]) {
        let run = |kl_weight: Option<f64>| {
            let options = TrainOptions { kl_weight, ..plain.clone() };
            let mut model = LanguageModel::random(config, 3);
            if lora {
                model.add_lora(&settings(true), 5).unwrap()
            } else {
                model.train_all()
            }
            let training = Training {
                rows: &data,
                options: &options,
                evaluation: None,
                keep: None,
                snapshots: None,
            };
            let log = trained(&mut model, &training).log;
            (model, log)
        };
        let ((without, log), (zero, zero_log), (held, held_log)) =
            (run(None), run(Some(0.0)), run(Some(3.0)));
        assert_eq!(bits(&without), bits(&zero));
        for (step, zero) in log.iter().zip(&zero_log) {
            assert_eq!((step.kl, step.loss, step.grad_norm), (None, zero.loss, zero.grad_norm));
        }
        assert_ne!(bits(&without), bits(&held));
        // Dropout alone lets an adapter without effect diverge by nothing.
        assert_eq!(zero_log[0].kl, Some(0.0));
        let (free, near) =
            (zero_log.last().unwrap().kl.unwrap(), held_log.last().unwrap().kl.unwrap());
        assert!(near < free && near > 0.0, "{near} with a weight, {free} without");
    }
}
