//! The forward pass over packed rows, with what the backward pass needs of each layer.
//!
//! The tokens of all rows of a batch stand one after another, `[N, width]`, without padding: linear
//! layers and norms see N rows, attention works inside each row. So a row's bits do not depend on
//! the rows beside it.

use std::sync::Arc;

use crate::kernels::attention::{KvSegment, Row, split};
use crate::kernels::{matmul, pointwise};
use crate::model::{LanguageModel, Layer, Linear, TensorId};
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

/// Keys and values of the positions so far, for each layer.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

/// The keys and values that a row under generation sees: a prefix, which samples may share, and its
/// own.
#[derive(Debug, Clone, Default)]
pub struct RowCache {
    /// Shared and finished.
    pub prefix: Option<Arc<KeyValues>>,
    /// The row's own.
    pub tail: KeyValues,
}

impl RowCache {
    /// Hands the row's keys and values over as a prefix for others; it must have none itself.
    pub fn into_prefix(self) -> Arc<KeyValues> {
        debug_assert!(self.prefix.is_none(), "a prefix has no prefix");
        Arc::new(self.tail)
    }

    fn push(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        if self.tail.layers.len() <= layer {
            self.tail.layers.resize_with(layer + 1, Default::default);
        }
        let (k, v) = &mut self.tail.layers[layer];
        k.extend_from_slice(keys);
        v.extend_from_slice(values);
    }

    fn segments(&self, layer: usize) -> [KvSegment<'_>; 2] {
        let none = KvSegment { keys: &[], values: &[] };
        let prefix = self
            .prefix
            .as_ref()
            .map_or(none, |p| KvSegment { keys: &p.layers[layer].0, values: &p.layers[layer].1 });
        let tail = &self.tail.layers[layer];
        [prefix, KvSegment { keys: &tail.0, values: &tail.1 }]
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
    /// The input of an adapter with dropped values zero and the others scaled up.
    pub(crate) fn apply(&self, linear: &Linear, share: f64, x: &[f32]) -> Vec<f32> {
        let stream = Stream::named(self.seed, &linear.name, &[self.step]);
        let keep = (1.0 / (1.0 - share)) as f32;
        x.iter()
            .enumerate()
            .map(|(i, x)| if stream.uniform(i as u64) < share { 0.0 } else { x * keep })
            .collect()
    }
}

/// Activations that a layer's backward pass needs, [N, …] each.
pub(crate) struct Saved {
    pub x: Vec<f32>,
    pub n1: Vec<f32>,
    pub inverse1: Vec<f32>,
    pub q_norm: Option<Post>,
    pub k_norm: Option<Post>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attended: Vec<f32>,
    pub post1: Option<Post>,
    pub middle: Vec<f32>,
    pub n2: Vec<f32>,
    pub inverse2: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub act: Vec<f32>,
    pub post2: Option<Post>,
}

/// The input and the inverse root mean square of a norm after a block, or of queries or keys.
pub(crate) struct Post {
    pub input: Vec<f32>,
    pub inverse: Vec<f32>,
}

/// Source of attention's keys.
pub(crate) enum Keys<'c> {
    /// In the packed rows themselves.
    Packed,
    /// In caches, which the packed rows are appended to.
    Cached(&'c mut [RowCache]),
}

impl LanguageModel {
    /// Hidden states after the final norm, `[N, hidden]`.
    pub fn forward(&self, packed: &Packed) -> Vec<f32> {
        self.run(packed, &mut Keys::Packed)
    }

    /// Returns hidden states of rows whose earlier positions are in caches, and appends to these.
    pub fn forward_cached(&self, packed: &Packed, caches: &mut [RowCache]) -> Vec<f32> {
        self.run(packed, &mut Keys::Cached(caches))
    }

    fn run(&self, packed: &Packed, keys: &mut Keys<'_>) -> Vec<f32> {
        let mut x = self.embed(packed);
        for (index, layer) in self.layers.iter().enumerate() {
            x = self.layer(index, layer, x, packed, keys, None).0;
        }
        self.norm(self.final_norm, &x).0
    }

    /// Embeddings of the tokens, `[N, hidden]`.
    pub(crate) fn embed(&self, packed: &Packed) -> Vec<f32> {
        let (hidden, table, scale) =
            (self.config.hidden, self.values(self.embedding), self.config.embedding_scale);
        let mut x = Vec::with_capacity(packed.ids.len() * hidden);
        for id in &packed.ids {
            let at = *id as usize * hidden;
            x.extend(table[at..at + hidden].iter().map(|v| v * scale));
        }
        x
    }

    /// A norm of each row, and each row's inverse root mean square.
    pub(crate) fn norm(&self, weight: TensorId, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let weight = self.values(weight);
        let (mut y, mut inverse) = (vec![0.0; x.len()], vec![0.0; x.len() / weight.len()]);
        let (offset, eps) = (self.config.norm_offset, self.config.norm_eps);
        pointwise::rms_norm(x, weight, offset, eps, &mut y, &mut inverse);
        (y, inverse)
    }

    /// Logits of hidden states: h `[n, hidden]`, result `[n, vocab]`.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let (width, vocab) = (self.config.hidden, self.config.vocab);
        let mut logits = vec![0.0; hidden.len() / width * vocab];
        matmul::forward(hidden, self.values(self.head), &mut logits, width, vocab);
        if let Some(cap) = self.config.logit_cap {
            pointwise::soft_cap(&mut logits, cap);
        }
        logits
    }

    /// One layer: its output, `[N, hidden]`, and what its backward pass needs.
    pub(crate) fn layer(
        &self,
        index: usize,
        layer: &Layer,
        x: Vec<f32>,
        packed: &Packed,
        keys: &mut Keys<'_>,
        dropout: Option<Dropout>,
    ) -> (Vec<f32>, Saved) {
        let (n1, inverse1) = self.pre_norm(layer.attention_norm, &x);
        let q = self.linear(&layer.q, &n1, dropout);
        let k = self.linear(&layer.k, &n1, dropout);
        let v = self.linear(&layer.v, &n1, dropout);
        let (mut q, q_norm) = self.post_norm(layer.q_norm, q);
        let (mut k, k_norm) = self.post_norm(layer.k_norm, k);
        layer.rope.rotate(&mut q, &packed.positions, &packed.offsets, false);
        layer.rope.rotate(&mut k, &packed.positions, &packed.offsets, false);
        let attended = attend(index, layer, packed, &q, &k, &v, keys);
        let o = self.linear(&layer.o, &attended, dropout);
        let (o, post1) = self.post_norm(layer.attention_post_norm, o);
        let middle = add(&x, &o);
        let (n2, inverse2) = self.pre_norm(layer.mlp_norm, &middle);
        let gate = self.linear(&layer.gate, &n2, dropout);
        let up = self.linear(&layer.up, &n2, dropout);
        let mut act = vec![0.0; gate.len()];
        pointwise::gated(self.config.activation, &gate, &up, &mut act);
        let down = self.linear(&layer.down, &act, dropout);
        let (down, post2) = self.post_norm(layer.mlp_post_norm, down);
        let out = add(&middle, &down);
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
        };
        (out, saved)
    }

    /// The input of a block, and the inverse root mean squares of its norm, where there is one.
    fn pre_norm(&self, weight: Option<TensorId>, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        weight.map_or_else(|| (x.to_vec(), Vec::new()), |weight| self.norm(weight, x))
    }

    fn post_norm(&self, weight: Option<TensorId>, x: Vec<f32>) -> (Vec<f32>, Option<Post>) {
        match weight {
            None => (x, None),
            Some(weight) => {
                let (y, inverse) = self.norm(weight, &x);
                (y, Some(Post { input: x, inverse }))
            }
        }
    }

    /// A linear layer with its adapter.
    pub(crate) fn linear(&self, linear: &Linear, x: &[f32], dropout: Option<Dropout>) -> Vec<f32> {
        let mut y = self.linear_without_bias(linear, x, dropout);
        if let Some(bias) = linear.bias {
            for row in y.chunks_exact_mut(linear.outputs) {
                row.iter_mut().zip(self.values(bias)).for_each(|(y, b)| *y += b);
            }
        }
        y
    }

    fn linear_without_bias(
        &self,
        linear: &Linear,
        x: &[f32],
        dropout: Option<Dropout>,
    ) -> Vec<f32> {
        let mut y = self.linear_unscaled(linear, x, dropout);
        if let Some(factors) = self.dora_factors(linear) {
            for row in y.chunks_exact_mut(linear.outputs) {
                row.iter_mut().zip(&factors).for_each(|(y, f)| *y *= f);
            }
        }
        y
    }

    /// `x wᵀ + scale (x aᵀ) bᵀ`, before DoRA's factors and the bias.
    pub(crate) fn linear_unscaled(
        &self,
        linear: &Linear,
        x: &[f32],
        dropout: Option<Dropout>,
    ) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / linear.inputs * linear.outputs];
        matmul::forward(x, self.values(linear.weight), &mut y, linear.inputs, linear.outputs);
        if let Some(lora) = &linear.lora {
            let down = self.lora_down(linear, x, dropout);
            let mut up = vec![0.0; y.len()];
            matmul::forward(&down, self.values(lora.b), &mut up, lora.rank, linear.outputs);
            y.iter_mut().zip(&up).for_each(|(y, u)| *y += lora.scale * u);
        }
        y
    }

    /// The adapter's input brought to its rank, `[N, rank]`.
    pub(crate) fn lora_down(
        &self,
        linear: &Linear,
        x: &[f32],
        dropout: Option<Dropout>,
    ) -> Vec<f32> {
        let Some(lora) = &linear.lora else { return Vec::new() };
        let mut down = vec![0.0; x.len() / linear.inputs * lora.rank];
        match dropout.filter(|_| lora.dropout > 0.0) {
            Some(dropout) => {
                let x = dropout.apply(linear, lora.dropout, x);
                matmul::forward(&x, self.values(lora.a), &mut down, linear.inputs, lora.rank);
            }
            None => matmul::forward(x, self.values(lora.a), &mut down, linear.inputs, lora.rank),
        }
        down
    }

    /// DoRA's magnitude over the norm of each row of the adapted weight, `[outputs]`.
    pub(crate) fn dora_factors(&self, linear: &Linear) -> Option<Vec<f32>> {
        let lora = linear.lora.as_ref()?;
        let magnitude = self.values(lora.magnitude?);
        let mut weight = self.values(linear.weight).to_vec();
        let scaled: Vec<f32> = self.values(lora.b).iter().map(|b| b * lora.scale).collect();
        matmul::backward_input(&scaled, self.values(lora.a), &mut weight, linear.inputs, lora.rank);
        let norm = |row: &[f32]| crate::kernels::dot(row, row).sqrt();
        Some(
            weight
                .chunks_exact(linear.inputs)
                .zip(magnitude)
                .map(|(row, m)| m / norm(row))
                .collect(),
        )
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
    keys: &mut Keys<'_>,
) -> Vec<f32> {
    let (wide, narrow) = (layer.q.outputs, layer.k.outputs);
    let mut out = vec![0.0; q.len()];
    let spans = packed.offsets.windows(2).map(|o| (o[0], o[1]));
    if let Keys::Cached(caches) = keys {
        for ((from, to), cache) in spans.clone().zip(caches.iter_mut()) {
            cache.push(index, &k[from * narrow..to * narrow], &v[from * narrow..to * narrow]);
        }
    }
    let none = KvSegment { keys: &[], values: &[] };
    let keys: &Keys<'_> = keys;
    let mut rows: Vec<Row<'_>> = spans
        .zip(split(&mut out, &packed.offsets, wide))
        .enumerate()
        .map(|(r, ((from, to), out))| {
            let segments = match keys {
                Keys::Packed => {
                    let span = from * narrow..to * narrow;
                    [none, KvSegment { keys: &k[span.clone()], values: &v[span] }]
                }
                Keys::Cached(caches) => caches[r].segments(index),
            };
            Row { queries: &q[from * wide..to * wide], segments, out }
        })
        .collect();
    layer.attention.forward(&mut rows);
    drop(rows);
    out
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
