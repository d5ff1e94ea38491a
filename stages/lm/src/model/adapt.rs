//! Adapters on a model's linear layers: merged into the weights, added for training, taken out for
//! saving.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::adapter::{Adapter, AdapterConfig, LoraTensors};
use crate::kernels::matmul::{self, Change};
use crate::kernels::panels::Stored;
use crate::kernels::tile::{Columns, WIDTH};

use super::{Dora, LanguageModel, Linear, Lora, ModelError, Tensor, TensorId};

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
    /// Puts a given adapter beside the weights, on top of those that are there.
    pub fn put_frozen(&mut self, adapter: &Adapter) -> Result<(), ModelError> {
        self.put_given(adapter, 0.0, false)?;
        let known: BTreeSet<&String> =
            self.layers.iter().flat_map(|l| l.linears()).map(|linear| &linear.name).collect();
        match adapter.tensors.keys().find(|name| !known.contains(name)) {
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
        self.put_adapters(settings, true, |linear| {
            let LoraTensors { a, b, .. } =
                LoraTensors::drawn(&linear.name, [linear.of, linear.inputs], rank, seed);
            Ok(Some((a, b, None)))
        })
    }

    /// Puts a given adapter on the model, to be trained further.
    pub fn continue_lora(&mut self, adapter: &Adapter, dropout: f64) -> Result<(), ModelError> {
        self.put_given(adapter, dropout, true)
    }

    fn put_given(
        &mut self,
        adapter: &Adapter,
        dropout: f64,
        trainable: bool,
    ) -> Result<(), ModelError> {
        let settings = LoraSettings {
            rank: adapter.config.r,
            alpha: adapter.config.lora_alpha,
            dropout,
            targets: Vec::new(),
            dora: adapter.config.use_dora,
            rslora: adapter.config.use_rslora,
        };
        self.put_adapters(&settings, trainable, |linear| {
            let Some(lora) = adapter.tensors.get(&linear.name) else { return Ok(None) };
            check(linear, lora)?;
            Ok(Some((lora.a.clone(), lora.b.clone(), lora.magnitude.clone())))
        })
    }

    fn put_adapters(
        &mut self,
        settings: &LoraSettings,
        trainable: bool,
        mut values: impl FnMut(&Linear) -> Result<Option<AdapterValues>, ModelError>,
    ) -> Result<(), ModelError> {
        let LoraSettings { rank, alpha, dropout, dora, rslora, .. } = *settings;
        let scale = if rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 } as f32;
        self.check_targets(&settings.targets)?;
        self.tensors.iter_mut().for_each(|t| t.trainable = false);
        let mut put = 0;
        // Layers that share a module share a: the rows of b are theirs.
        let mut shared: BTreeMap<String, TensorId> = BTreeMap::new();
        for place in self.places() {
            let linear = self.linear_at(place);
            let chosen = |target: &String| target == linear.short_name();
            if !settings.targets.is_empty() && !settings.targets.iter().any(chosen) {
                continue;
            }
            let Some((a, b, magnitude)) = values(linear)? else { continue };
            let (inputs, outputs) = (linear.inputs, linear.outputs);
            let module = linear.name.clone();
            let magnitude_name = linear.tensor_name("lora_magnitude_vector");
            let magnitude = magnitude.map(|norms| linear.rows(&norms, 1).to_vec());
            let (b_name, b) = (linear.tensor_name("lora_B.weight"), linear.rows(&b, rank).to_vec());
            let b = Tensor::matrix(b_name, [outputs, rank], Stored::F32(b));
            let a = *shared.entry(module).or_insert_with_key(|module| {
                let name = format!("{module}.lora_A.weight");
                let tensor = Tensor::matrix(name, [rank, inputs], Stored::F32(a));
                push(&mut self.tensors, Tensor { trainable, ..tensor })
            });
            let b = push(&mut self.tensors, Tensor { trainable, ..b });
            let lora = Lora { rank, a, b, dora: None, scale, dropout };
            self.linear_at_mut(place).adapters.push(lora);
            put += 1;
            if dora {
                let norms = self.adapted_norms(self.linear_at(place));
                // Begins as PEFT's: the norms of what the model computed before.
                let values = Stored::F32(magnitude.unwrap_or_else(|| norms.clone()));
                // A vector, but weight decay applies to it as to the adapter's matrices.
                let tensor = Tensor::rows(magnitude_name, vec![outputs], values);
                let tensor = Tensor { trainable, decays: true, ..tensor };
                let magnitude = push(&mut self.tensors, tensor);
                if let Some(lora) = self.linear_at_mut(place).adapters.last_mut() {
                    lora.dora = Some(Dora { magnitude, norms });
                }
            }
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

    /// The numbers of all linear layers: of the layer, and within it.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        (0..self.layers.len()).flat_map(|layer| (0..7).map(move |linear| (layer, linear)))
    }

    fn linear_at(&self, (layer, linear): (usize, usize)) -> &Linear {
        self.layers[layer].linears()[linear]
    }

    fn linear_at_mut(&mut self, (layer, linear): (usize, usize)) -> &mut Linear {
        let [a, b, c, d, e, f, g] = self.layers[layer].linears_mut();
        [a, b, c, d, e, f, g].into_iter().nth(linear).expect("a layer has seven linear layers")
    }

    /// Norms of the rows of a weight with all its adapters, before the last one's factors,
    /// `[outputs]`.
    fn adapted_norms(&self, linear: &Linear) -> Vec<f32> {
        let mut changes = self.changes(linear);
        if let Some(last) = changes.last_mut() {
            last.factors = None;
        }
        let norms = |_, panel: &mut [Columns]| {
            let mut squares = [0.0f32; WIDTH];
            for columns in panel {
                for (square, value) in squares.iter_mut().zip(columns) {
                    *square += *value * *value;
                }
            }
            squares.map(f32::sqrt)
        };
        let mut norms =
            matmul::adapted(self.panels(linear.weight), &changes, norms).into_flattened();
        norms.truncate(linear.outputs);
        norms
    }

    /// Adapters of a linear layer as changes of its weight.
    fn changes(&self, linear: &Linear) -> Vec<Change<'_>> {
        let change = |lora: &Lora| Change {
            a: self.panels(lora.a),
            b: self.panels(lora.b),
            scale: lora.scale,
            factors: lora.dora.as_ref().map(|dora| self.factors(dora)),
        };
        linear.adapters.iter().map(change).collect()
    }

    /// DoRA's magnitude over the norm of each row of the adapted weight, `[outputs]`.
    pub(crate) fn factors(&self, dora: &Dora) -> Vec<f32> {
        let magnitudes = self.values(dora.magnitude).iter();
        magnitudes.zip(&dora.norms).map(|(magnitude, norm)| magnitude / norm).collect()
    }

    /// Computes anew what follows from the trained tensors; to be called after every change of them.
    pub fn refresh(&mut self) {
        for place in self.places() {
            let linear = self.linear_at(place);
            let Some(lora) = linear.adapters.last() else { continue };
            if lora.dora.is_some() && self.tensors[lora.b].trainable {
                let norms = self.adapted_norms(linear);
                if let Some(Lora { dora: Some(dora), .. }) =
                    self.linear_at_mut(place).adapters.last_mut()
                {
                    dora.norms = norms;
                }
            }
        }
    }

    /// Makes every weight trainable; adapters are merged into the weights first.
    pub fn train_all(&mut self) {
        self.merge_adapters();
        for tensor in &mut self.tensors {
            tensor.trainable = true;
            tensor.values_mut();
        }
    }

    /// The adapter on the model, to be saved.
    pub fn adapter(&self, settings: &LoraSettings, base: &str) -> Adapter {
        let mut tensors: BTreeMap<String, LoraTensors> = BTreeMap::new();
        let mut targets: Vec<String> = Vec::new();
        for linear in self.layers.iter().flat_map(|l| l.linears()) {
            let Some(lora) = linear.adapters.last().filter(|lora| self.is_trained(lora)) else {
                continue;
            };
            targets.push(linear.short_name().to_owned());
            let rows = |id: usize| self.tensors[id].to_rows();
            let module = tensors.entry(linear.name.clone()).or_insert_with(|| LoraTensors {
                inputs: linear.inputs,
                outputs: linear.of,
                a: rows(lora.a),
                b: vec![0.0; linear.of * lora.rank],
                magnitude: lora.dora.as_ref().map(|_| vec![0.0; linear.of]),
            });
            linear.rows_mut(&mut module.b, lora.rank).copy_from_slice(&rows(lora.b));
            if let (Some(of_module), Some(dora)) = (&mut module.magnitude, &lora.dora) {
                linear.rows_mut(of_module, 1).copy_from_slice(&rows(dora.magnitude));
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

    fn is_trained(&self, lora: &Lora) -> bool {
        self.tensors[lora.b].trainable
    }

    /// Runs `work` on the model without the adapter that is trained.
    pub fn without_trained<T>(&mut self, work: impl FnOnce(&LanguageModel) -> T) -> T {
        let mut taken = Vec::new();
        for place in self.places() {
            if self.linear_at(place).adapters.last().is_some_and(|lora| self.is_trained(lora)) {
                taken.push((place, self.linear_at_mut(place).adapters.pop()));
            }
        }
        let done = work(self);
        for (place, lora) in taken {
            self.linear_at_mut(place).adapters.extend(lora);
        }
        done
    }

    /// Merges all adapters into the weights, in 32 bits, and takes them off.
    pub fn merge_adapters(&mut self) {
        for place in self.places() {
            let linear = self.linear_at(place);
            if linear.adapters.is_empty() {
                continue;
            }
            let (weight, w) = (linear.weight, self.panels(linear.weight));
            let merged = matmul::adapted(w, &self.changes(linear), |_, panel| panel.to_vec());
            let values = merged.concat().into_flattened();
            self.tensors[weight].values = Arc::new(Stored::F32(values));
            self.linear_at_mut(place).adapters.clear();
        }
        self.tensors.retain(|tensor| !tensor.name.contains(".lora_"));
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

fn push(tensors: &mut Vec<Tensor>, tensor: Tensor) -> TensorId {
    tensors.push(tensor);
    tensors.len() - 1
}
