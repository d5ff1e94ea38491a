//! The tensors of a model as its folder holds them: matrices that its family fuses are joined again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::{Dtype, View};

use super::{LanguageModel, Layer, Linear, Tensor};

/// A tensor of a model folder: one, or the rows of several one after another.
#[derive(Debug, Clone)]
pub struct Whole<'a> {
    shape: Vec<usize>,
    parts: Vec<&'a Tensor>,
}

/// It is written in 32 bits, row-major, however it lies in memory.
impl View for Whole<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let rows = self.parts.iter().flat_map(|tensor| tensor.to_rows());
        rows.flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
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
    pub fn stored(&self) -> BTreeMap<String, Whole<'_>> {
        let mut stored: BTreeMap<String, Whole<'_>> = (self.tensors.iter())
            .filter(|tensor| !is_of_adapter(&tensor.name))
            .map(|tensor| {
                let whole = Whole { shape: tensor.shape.clone(), parts: vec![tensor] };
                (tensor.name.clone(), whole)
            })
            .collect();
        let mut parts: Vec<&Linear> = self.parts().collect();
        parts.sort_by_key(|linear| linear.first);
        for linear in parts {
            stored.remove(&linear.tensor_name("weight"));
            let shape = vec![linear.of, linear.inputs];
            let module = stored.entry(format!("{}.weight", linear.name));
            let module = module.or_insert_with(|| Whole { shape, parts: Vec::new() });
            module.parts.push(&self.tensors[linear.weight]);
        }
        stored
    }
}

fn is_of_adapter(tensor: &str) -> bool {
    tensor.contains(".lora_")
}
