//! The forward pass over packed rows, with what the backward pass needs of each layer.
//!
//! The tokens of all rows of a batch stand one after another, `[N, width]`, without padding: linear
//! layers and norms see N rows, attention works inside each row. So a row's bits do not depend on
//! the rows beside it.

use rayon::prelude::*;

use crate::kernels::attention::{Attention, KeyPrecision, Keys, Row};
use crate::kernels::buffer::Buffer;
use crate::kernels::dropout::Mask;
use crate::kernels::matmul::{self, Operand, Put};
use crate::kernels::pointwise;
use crate::model::{LanguageModel, Layer, Linear, Lora, TensorId};
use crate::random::Stream;

/// Rows of tokens, one after another.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    /// The tokens of all rows.
    pub ids: Vec<u32>,
    /// The position of each token in its row.
    pub positions: Vec<u32>,
    /// Starts of the rows, and the end of the last.
    pub offsets: Vec<usize>,
}

impl Packed {
    /// Packs whole rows.
    pub fn new<'r>(rows: impl IntoIterator<Item = &'r [u32]>) -> Packed {
        let mut packed = Packed { offsets: vec![0], ..Packed::default() };
        rows.into_iter().for_each(|row| packed.push(row, 0));
        packed
    }

    /// Appends the tokens of a row from a position on.
    pub fn push(&mut self, row: &[u32], from: usize) {
        self.ids.extend_from_slice(&row[from..]);
        self.positions.extend(from as u32..row.len() as u32);
        self.offsets.push(self.ids.len());
    }
}

/// The keys and values that a row under generation sees, for each layer and key-value head. A clone
/// shares what is there so far.
#[derive(Debug, Clone, Default)]
pub struct RowCache {
    layers: Vec<Vec<Keys>>,
    precision: KeyPrecision,
}

impl RowCache {
    /// An empty one that keeps its keys and values in that precision.
    pub fn new(precision: KeyPrecision) -> RowCache {
        RowCache { layers: Vec::new(), precision }
    }

    /// Adds keys and values `[positions, kv_heads * head_dim]` of a layer.
    fn push(&mut self, layer: usize, attention: &Attention, keys: &[f32], values: &[f32]) {
        let Attention { kv_heads, head_dim, .. } = *attention;
        if self.layers.len() <= layer {
            let none = || vec![Keys::new(head_dim, self.precision); kv_heads];
            self.layers.resize_with(layer + 1, none);
        }
        for (head, cache) in self.layers[layer].iter_mut().enumerate() {
            cache.push(keys, values, kv_heads * head_dim, head * head_dim);
        }
    }
}

/// The dropout of one training step; a value's fate depends on seed, step, module and place.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The seed.
    pub seed: u64,
    /// Counts the micro-batches of the training.
    pub step: u64,
}

impl Dropout {
    /// Draws which inputs of an adapter are kept.
    fn mask(&self, linear: &Linear, share: f64, values: usize) -> Mask {
        Mask::draw(&Stream::named(self.seed, &linear.name, &[self.step]), share, values)
    }
}

/// The purpose of a forward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// The result alone.
    Result,
    /// A backward pass follows.
    Training(Option<Dropout>),
}

impl Purpose {
    fn is_training(self) -> bool {
        matches!(self, Purpose::Training(_))
    }
}

/// Activations that a layer's backward pass needs, [N, …] each.
pub(crate) struct Saved {
    pub x: Buffer,
    pub n1: Buffer,
    pub inverse1: Vec<f32>,
    pub q_norm: Option<Post>,
    pub k_norm: Option<Post>,
    pub q: Buffer,
    pub k: Buffer,
    pub v: Buffer,
    pub attended: Buffer,
    pub post1: Option<Post>,
    pub middle: Buffer,
    pub n2: Buffer,
    pub inverse2: Vec<f32>,
    pub gate: Buffer,
    pub up: Buffer,
    pub act: Buffer,
    pub post2: Option<Post>,
    /// Of the linear layers, in the order of [`Layer::linears`].
    pub adapted: [Adapted; 7],
}

/// Values of the forward pass that the gradients of a trained adapter need.
#[derive(Default)]
pub(crate) struct Adapted {
    /// Inputs that dropout kept.
    pub mask: Option<Mask>,
    /// The adapter's input brought to its rank, `[N, rank]`.
    pub down: Buffer,
    /// The output before DoRA's factors, `[N, outputs]`.
    pub before: Option<Buffer>,
}

/// The input and the inverse root mean square of a norm after a block, or of queries or keys.
pub(crate) struct Post {
    pub input: Buffer,
    pub inverse: Vec<f32>,
}

/// The input of linear layers, packed once for all that share it.
struct Input<'a> {
    values: &'a [f32],
    packed: Operand,
}

impl Input<'_> {
    fn new(values: &[f32], width: usize) -> Input<'_> {
        Input { values, packed: Operand::of_rows(values, width) }
    }
}

/// Source of attention's keys.
pub(crate) enum Context<'c> {
    /// In the packed rows themselves.
    Packed,
    /// In caches, which the packed rows are appended to.
    Cached(&'c mut [RowCache]),
}

impl LanguageModel {
    /// Hidden states after the final norm, `[N, hidden]`.
    pub fn forward(&self, packed: &Packed) -> Buffer {
        self.run(packed, &mut Context::Packed)
    }

    /// Returns hidden states of rows whose earlier positions are in caches, and appends to these.
    pub fn forward_cached(&self, packed: &Packed, caches: &mut [RowCache]) -> Buffer {
        self.run(packed, &mut Context::Cached(caches))
    }

    fn run(&self, packed: &Packed, context: &mut Context<'_>) -> Buffer {
        let mut x = self.embed(packed);
        for (index, layer) in self.layers.iter().enumerate() {
            x = self.layer(index, layer, x, packed, context, Purpose::Result).0;
        }
        self.norm(self.final_norm, &x).0
    }

    /// Embeddings of the tokens, `[N, hidden]`.
    pub(crate) fn embed(&self, packed: &Packed) -> Buffer {
        let (hidden, scale) = (self.config.hidden, self.config.embedding_scale);
        let table = &self.tensors[self.embedding];
        let mut x = Buffer::any(packed.ids.len() * hidden);
        x.par_chunks_exact_mut(hidden).zip(&packed.ids).for_each(|(x, id)| {
            let id = *id as usize;
            match table.in_panels {
                true => table.panels().row(id, x),
                false => table.values.widen(id * hidden..(id + 1) * hidden, x),
            }
            x.iter_mut().for_each(|x| *x *= scale);
        });
        x
    }

    /// A norm of each row, and each row's inverse root mean square.
    pub(crate) fn norm(&self, weight: TensorId, x: &[f32]) -> (Buffer, Vec<f32>) {
        let weight = self.values(weight);
        let (mut y, mut inverse) = (Buffer::any(x.len()), vec![0.0; x.len() / weight.len()]);
        let (offset, eps) = (self.config.norm_offset, self.config.norm_eps);
        pointwise::rms_norm(x, weight, offset, eps, &mut y, &mut inverse);
        (y, inverse)
    }

    /// Logits of hidden states: h `[n, hidden]`, result `[n, vocab]`.
    pub fn logits(&self, hidden: &[f32]) -> Buffer {
        let (width, vocab) = (self.config.hidden, self.config.vocab);
        let mut logits = Buffer::any(hidden.len() / width * vocab);
        let hidden = Operand::of_rows(hidden, width);
        matmul::forward(&[(&hidden, self.panels(self.head))], &mut logits, Put::Set);
        if let Some(cap) = self.config.logit_cap {
            logits.par_chunks_mut(vocab).for_each(|row| pointwise::soft_cap(row, cap));
        }
        logits
    }

    /// One layer: its output, `[N, hidden]`, and what its backward pass needs.
    pub(crate) fn layer(
        &self,
        index: usize,
        layer: &Layer,
        x: Buffer,
        packed: &Packed,
        context: &mut Context<'_>,
        purpose: Purpose,
    ) -> (Buffer, Saved) {
        let (n1, inverse1) = self.pre_norm(layer.attention_norm, &x);
        let input = Input::new(&n1, layer.q.inputs);
        let (q, of_q) = self.linear(&layer.q, &input, purpose);
        let (k, of_k) = self.linear(&layer.k, &input, purpose);
        let (v, of_v) = self.linear(&layer.v, &input, purpose);
        drop(input);
        let (mut q, q_norm) = self.post_norm(layer.q_norm, q);
        let (mut k, k_norm) = self.post_norm(layer.k_norm, k);
        layer.rope.rotate(&mut q, &packed.positions, &packed.offsets, false);
        layer.rope.rotate(&mut k, &packed.positions, &packed.offsets, false);
        let attended = attend(index, layer, packed, &q, &k, &v, context);
        let (o, of_o) = self.linear(&layer.o, &Input::new(&attended, layer.o.inputs), purpose);
        let (o, post1) = self.post_norm(layer.attention_post_norm, o);
        let middle = pointwise::sum(&x, &o);

        let (n2, inverse2) = self.pre_norm(layer.mlp_norm, &middle);
        let input = Input::new(&n2, layer.gate.inputs);
        let (gate, of_gate) = self.linear(&layer.gate, &input, purpose);
        let (up, of_up) = self.linear(&layer.up, &input, purpose);
        drop(input);
        let mut act = Buffer::any(gate.len());
        pointwise::gated(self.config.activation, &gate, &up, &mut act);
        let (down, of_down) =
            self.linear(&layer.down, &Input::new(&act, layer.down.inputs), purpose);
        let (down, post2) = self.post_norm(layer.mlp_post_norm, down);
        let out = pointwise::sum(&middle, &down);

        let saved = Saved {
            x,
            n1,
            inverse1,
            q_norm,
            k_norm,
            q,
            k,
            v,
            attended,
            post1,
            middle,
            n2,
            inverse2,
            gate,
            up,
            act,
            post2,
            adapted: [of_down, of_gate, of_up, of_k, of_o, of_q, of_v],
        };
        (out, saved)
    }

    /// The input of a block, and the inverse root mean squares of its norm, where there is one.
    fn pre_norm(&self, weight: Option<TensorId>, x: &[f32]) -> (Buffer, Vec<f32>) {
        weight.map_or_else(|| (Buffer::of(x), Vec::new()), |weight| self.norm(weight, x))
    }

    fn post_norm(&self, weight: Option<TensorId>, x: Buffer) -> (Buffer, Option<Post>) {
        match weight {
            None => (x, None),
            Some(weight) => {
                let (y, inverse) = self.norm(weight, &x);
                (y, Some(Post { input: x, inverse }))
            }
        }
    }

    /// A linear layer with its adapters, `[N, outputs]`.
    fn linear(&self, linear: &Linear, x: &Input<'_>, purpose: Purpose) -> (Buffer, Adapted) {
        let rows = x.values.len() / linear.inputs;
        let mut y = Buffer::any(rows * linear.outputs);
        let (weight, mut put) = (self.panels(linear.weight), Put::Set);
        let mut products = vec![(&x.packed, weight)];
        let mut adapted = Adapted::default();
        for lora in &linear.adapters {
            adapted = self.down(linear, lora, x, purpose);
            let mut scaled = Buffer::of(&adapted.down);
            scaled.iter_mut().for_each(|value| *value *= lora.scale);
            let up = Operand::of_rows(&scaled, lora.rank);
            let mut all = std::mem::take(&mut products);
            all.push((&up, self.panels(lora.b)));
            matmul::forward(&all, &mut y, put);
            put = Put::Add;
            if let Some(dora) = &lora.dora {
                let scaled = pointwise::scaled_rows(&y, &self.factors(dora));
                let before = std::mem::replace(&mut y, scaled);
                let training = self.tensors[lora.b].trainable && purpose.is_training();
                adapted.before = training.then_some(before);
            }
        }
        if !products.is_empty() {
            matmul::forward(&products, &mut y, put);
        }
        if let Some(bias) = linear.bias {
            pointwise::add_to_rows(&mut y, self.values(bias));
        }
        (y, adapted)
    }

    /// Brings the input of an adapter to its rank.
    fn down(&self, linear: &Linear, lora: &Lora, x: &Input<'_>, purpose: Purpose) -> Adapted {
        let mask = match purpose {
            Purpose::Training(Some(dropout))
                if self.tensors[lora.b].trainable && lora.dropout > 0.0 =>
            {
                Some(dropout.mask(linear, lora.dropout, x.values.len()))
            }
            _ => None,
        };
        let dropped =
            mask.as_ref().map(|mask| Operand::of_rows(&mask.apply(x.values), linear.inputs));
        let input = dropped.as_ref().unwrap_or(&x.packed);
        let mut down = Buffer::any(x.values.len() / linear.inputs * lora.rank);
        matmul::forward(&[(input, self.panels(lora.a))], &mut down, Put::Set);
        Adapted { mask, down, before: None }
    }
}

/// Attention of all packed rows.
fn attend(
    index: usize,
    layer: &Layer,
    packed: &Packed,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    context: &mut Context<'_>,
) -> Buffer {
    let (wide, narrow) = (layer.q.outputs, layer.k.outputs);
    let mut out = Buffer::any(q.len());
    let own;
    let keys: Vec<&[Keys]> = match context {
        Context::Packed => {
            own = layer.attention.keys(&packed.offsets, k, v);
            own.iter().map(Vec::as_slice).collect()
        }
        Context::Cached(caches) => {
            caches.par_iter_mut().zip(packed.offsets.par_windows(2)).for_each(|(cache, span)| {
                let span = span[0] * narrow..span[1] * narrow;
                cache.push(index, &layer.attention, &k[span.clone()], &v[span]);
            });
            caches.iter().map(|cache| cache.layers[index].as_slice()).collect()
        }
    };
    let spans = packed.offsets.windows(2).zip(keys);
    let rows: Vec<Row<'_>> = spans
        .map(|(span, keys)| Row { queries: &q[span[0] * wide..span[1] * wide], keys })
        .collect();
    layer.attention.forward(&rows, &mut out);
    out
}
