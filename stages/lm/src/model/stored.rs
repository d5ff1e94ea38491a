//! The tensors of a model as its folder holds them: matrices that its family fuses are joined again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{LanguageModel, Layer, Linear};

/// A tensor of a model folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<'a> {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its values, row-major; borrowed unless they were joined.
    pub values: Cow<'a, [f32]>,
}

impl Linear {
    /// The name of one of its tensors, such as `weight`: with the rows where it is a part of a
    /// module's.
    pub(crate) fn tensor_name(&self, of: &str) -> String {
        let Linear { name, first, outputs, .. } = self;
        if self.is_part() {
            format!("{name}.{of}[{first}..{}]", first + outputs)
        } else {
            format!("{name}.{of}")
        }
    }

    /// Whether other layers share its module.
    pub(crate) fn is_part(&self) -> bool {
        self.outputs != self.of
    }

    /// The last part of its module's name, such as `q_proj`.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// Its part of values that a module has for each of its rows, `width` for one.
    pub(crate) fn rows<'a>(&self, of_module: &'a [f32], width: usize) -> &'a [f32] {
        &of_module[self.first * width..(self.first + self.outputs) * width]
    }

    /// Returns the same part, mutably.
    pub(crate) fn rows_mut<'a>(&self, of_module: &'a mut [f32], width: usize) -> &'a mut [f32] {
        &mut of_module[self.first * width..(self.first + self.outputs) * width]
    }
}

impl LanguageModel {
    /// Linear layers that share their module with others.
    fn parts(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linears).filter(|linear| linear.is_part())
    }

    /// The names of the tensors of [`LanguageModel::stored`].
    pub(super) fn stored_names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = (self.tensors.iter())
            .map(|tensor| tensor.name.clone())
            .filter(|name| !is_of_adapter(name))
            .collect();
        for linear in self.parts() {
            names.remove(&linear.tensor_name("weight"));
            names.insert(format!("{}.weight", linear.name));
        }
        names
    }

    /// Returns the tensors of the model's folder by name, without those of adapters.
    pub fn stored(&self) -> BTreeMap<String, Stored<'_>> {
        let mut stored: BTreeMap<String, Stored<'_>> = (self.tensors.iter())
            .filter(|tensor| !is_of_adapter(&tensor.name))
            .map(|tensor| {
                let values = Cow::Borrowed(tensor.values.as_slice());
                (tensor.name.clone(), Stored { shape: tensor.shape.clone(), values })
            })
            .collect();
        for linear in self.parts() {
            stored.remove(&linear.tensor_name("weight"));
            let module = stored.entry(format!("{}.weight", linear.name));
            let module = module.or_insert_with(|| Stored {
                shape: vec![linear.of, linear.inputs],
                values: vec![0.0; linear.of * linear.inputs].into(),
            });
            let rows = linear.rows_mut(module.values.to_mut(), linear.inputs);
            rows.copy_from_slice(self.values(linear.weight));
        }
        stored
    }
}

fn is_of_adapter(tensor: &str) -> bool {
    tensor.contains(".lora_")
}
