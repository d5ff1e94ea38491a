//! Adapters on a model's linear layers: merged into the weights, added for training, taken out for
//! saving.

use std::collections::{BTreeMap, BTreeSet};

use crate::adapter::{Adapter, AdapterConfig, LoraTensors};
use crate::kernels::{dot, matmul};
use crate::random::Stream;

use super::{LanguageModel, Linear, Lora, ModelError, Tensor, TensorId};

/// Settings of a new adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Rank.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of inputs that are dropped while training.
    pub dropout: f64,
    /// Names of linear layers, for example `q_proj`; all of them when empty.
    pub targets: Vec<String>,
    /// Whether magnitudes are trained too (DoRA).
    pub dora: bool,
    /// Whether the scale is alpha / sqrt(rank) (rsLoRA).
    pub rslora: bool,
}

impl LanguageModel {
    /// Adds an adapter's product to the weights.
    pub fn merge(&mut self, adapter: &Adapter) -> Result<(), ModelError> {
        let scale = adapter.scale() as f32;
        let mut merged = BTreeSet::new();
        for linear in self.layers.iter().flat_map(|layer| layer.linears()) {
            let Some(lora) = adapter.tensors.get(&linear.name) else { continue };
            check(linear, lora)?;
            let weight = &mut self.tensors[linear.weight].values;
            merge_one(weight, linear, lora, adapter.config.r, scale);
            merged.insert(&linear.name);
        }
        match adapter.tensors.keys().find(|name| !merged.contains(name)) {
            Some(name) => {
                Err(ModelError::Misfit(format!("the model has no linear layer `{name}`")))
            }
            None => Ok(()),
        }
    }

    /// Puts a new adapter on every target: `a` uniform as PEFT draws it, `b` zero, so that the
    /// model computes what it did before. Only the adapter is trainable from then on.
    pub fn add_lora(&mut self, settings: &LoraSettings, seed: u64) -> Result<(), ModelError> {
        let rank = settings.rank;
        self.put_adapters(settings, |linear, _| {
            // Kaiming's uniform initialisation with a = sqrt(5), as PEFT draws it: bounds ±1 /
            // sqrt(inputs).
            let stream = Stream::named(seed, &linear.name, &[]);
            let bound = 1.0 / (linear.inputs as f64).sqrt();
            let a = (0..(rank * linear.inputs) as u64)
                .map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32);
            Ok(Some((a.collect(), vec![0.0; linear.of * rank], None)))
        })
    }

    /// Puts a given adapter on the model, to be trained further.
    pub fn continue_lora(&mut self, adapter: &Adapter, dropout: f64) -> Result<(), ModelError> {
        let settings = LoraSettings {
            rank: adapter.config.r,
            alpha: adapter.config.lora_alpha,
            dropout,
            targets: Vec::new(),
            dora: adapter.config.use_dora,
            rslora: adapter.config.use_rslora,
        };
        self.put_adapters(&settings, |linear, _| {
            let Some(lora) = adapter.tensors.get(&linear.name) else { return Ok(None) };
            check(linear, lora)?;
            Ok(Some((lora.a.clone(), lora.b.clone(), lora.magnitude.clone())))
        })
    }

    fn put_adapters(
        &mut self,
        settings: &LoraSettings,
        mut values: impl FnMut(&Linear, &[f32]) -> Result<Option<AdapterValues>, ModelError>,
    ) -> Result<(), ModelError> {
        let alpha = settings.alpha;
        let scale = if settings.rslora {
            alpha / (settings.rank as f64).sqrt()
        } else {
            alpha / settings.rank as f64
        };
        self.check_targets(&settings.targets)?;
        self.tensors.iter_mut().for_each(|t| t.trainable = false);
        let tensors = &mut self.tensors;
        let mut put = 0;
        // Layers that share a module share a: the rows of b are theirs.
        let mut shared: BTreeMap<String, TensorId> = BTreeMap::new();
        for linear in self.layers.iter_mut().flat_map(|l| l.linears_mut()) {
            if !settings.targets.is_empty()
                && !settings.targets.iter().any(|target| target == linear.short_name())
            {
                continue;
            }
            let Some((a, b, magnitude)) = values(linear, &tensors[linear.weight].values)? else {
                continue;
            };
            let mut push = |name: String, shape: Vec<usize>, values: Vec<f32>| {
                tensors.push(Tensor { name, shape, values, trainable: true, decays: true });
                tensors.len() - 1
            };
            let a = *shared.entry(linear.name.clone()).or_insert_with_key(|name| {
                push(format!("{name}.lora_A.weight"), vec![settings.rank, linear.inputs], a)
            });
            let b = linear.rows(&b, settings.rank).to_vec();
            let b =
                push(linear.tensor_name("lora_B.weight"), vec![linear.outputs, settings.rank], b);
            let magnitude = settings.dora.then(|| {
                let norms = magnitude.map(|norms| linear.rows(&norms, 1).to_vec());
                let name = linear.tensor_name("lora_magnitude_vector");
                push(name, vec![linear.outputs], norms.unwrap_or_default())
            });
            if let Some(id) = magnitude
                && tensors[id].values.is_empty()
            {
                let weight = &tensors[linear.weight].values;
                tensors[id].values =
                    weight.chunks_exact(linear.inputs).map(|w| dot(w, w).sqrt()).collect();
            }
            let (rank, dropout) = (settings.rank, settings.dropout);
            linear.lora = Some(Lora { rank, a, b, magnitude, scale: scale as f32, dropout });
            put += 1;
        }
        if put == 0 {
            let message = format!("no linear layer is called {}", settings.targets.join(" or "));
            return Err(ModelError::Misfit(message));
        }
        Ok(())
    }

    /// Refuses names of linear layers that the model has not.
    fn check_targets(&self, targets: &[String]) -> Result<(), ModelError> {
        let linears = self.layers.first().map(|layer| layer.linears());
        let names: BTreeSet<&str> =
            linears.iter().flatten().map(|linear| linear.short_name()).collect();
        match targets.iter().find(|target| !names.contains(target.as_str())) {
            None => Ok(()),
            Some(target) => {
                let names: Vec<&str> = names.into_iter().collect();
                Err(ModelError::Misfit(format!(
                    "no linear layer is called `{target}`; the model's are {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// Makes every weight trainable.
    pub fn train_all(&mut self) {
        self.tensors.iter_mut().for_each(|t| t.trainable = true);
    }

    /// The adapter on the model, to be saved.
    pub fn adapter(&self, settings: &LoraSettings, base: &str) -> Adapter {
        let mut tensors: BTreeMap<String, LoraTensors> = BTreeMap::new();
        let mut targets: Vec<String> = Vec::new();
        for linear in self.layers.iter().flat_map(|l| l.linears()) {
            let Some(lora) = &linear.lora else { continue };
            targets.push(linear.short_name().to_owned());
            let module = tensors.entry(linear.name.clone()).or_insert_with(|| LoraTensors {
                inputs: linear.inputs,
                outputs: linear.of,
                a: self.values(lora.a).to_vec(),
                b: vec![0.0; linear.of * lora.rank],
                magnitude: lora.magnitude.map(|_| vec![0.0; linear.of]),
            });
            linear.rows_mut(&mut module.b, lora.rank).copy_from_slice(self.values(lora.b));
            if let (Some(of_module), Some(own)) = (&mut module.magnitude, lora.magnitude) {
                linear.rows_mut(of_module, 1).copy_from_slice(self.values(own));
            }
        }
        targets.sort();
        targets.dedup();
        Adapter {
            config: AdapterConfig {
                r: settings.rank,
                lora_alpha: settings.alpha,
                lora_dropout: settings.dropout,
                target_modules: targets,
                use_dora: settings.dora,
                use_rslora: settings.rslora,
                base_model_name_or_path: Some(base.to_string()),
            },
            tensors,
        }
    }

    /// Runs `work` on the model without its adapter.
    pub fn without_lora<T>(&mut self, work: impl FnOnce(&LanguageModel) -> T) -> T {
        let taken: Vec<Option<Lora>> = self
            .layers
            .iter_mut()
            .flat_map(|l| l.linears_mut())
            .map(|linear| linear.lora.take())
            .collect();
        let done = work(self);
        for (linear, lora) in self.layers.iter_mut().flat_map(|l| l.linears_mut()).zip(taken) {
            linear.lora = lora;
        }
        done
    }

    /// Merges the adapter on the model into its weights and takes it off.
    pub fn fold_lora(&mut self, settings: &LoraSettings) -> Result<(), ModelError> {
        let adapter = self.adapter(settings, "");
        for linear in self.layers.iter_mut().flat_map(|l| l.linears_mut()) {
            linear.lora = None;
        }
        self.merge(&adapter)
    }
}

/// a, b, and DoRA's magnitudes.
type AdapterValues = (Vec<f32>, Vec<f32>, Option<Vec<f32>>);

fn check(linear: &Linear, lora: &LoraTensors) -> Result<(), ModelError> {
    if (lora.inputs, lora.outputs) == (linear.inputs, linear.of) {
        return Ok(());
    }
    Err(ModelError::Misfit(format!(
        "`{}` maps {} to {}, its adapter {} to {}",
        linear.name, linear.inputs, linear.of, lora.inputs, lora.outputs
    )))
}

/// `w += scale * b a`, and with DoRA each row brought to its magnitude.
fn merge_one(weight: &mut [f32], linear: &Linear, lora: &LoraTensors, rank: usize, scale: f32) {
    let scaled: Vec<f32> = linear.rows(&lora.b, rank).iter().map(|b| b * scale).collect();
    matmul::backward_input(&scaled, &lora.a, weight, linear.inputs, rank);
    if let Some(magnitude) = &lora.magnitude {
        let magnitude = linear.rows(magnitude, 1);
        for (row, m) in weight.chunks_exact_mut(linear.inputs).zip(magnitude) {
            let factor = m / dot(row, row).sqrt();
            row.iter_mut().for_each(|w| *w *= factor);
        }
    }
}
