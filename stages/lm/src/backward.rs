//! The backward pass: gradients of the trainable tensors, layer by layer from the last to the
//! first.

mod loss;

use std::cell::OnceCell;

use crate::forward::{Adapted, Context, Dropout, Packed, Post, Purpose, Saved};
use crate::kernels::attention::Inputs;
use crate::kernels::buffer::Buffer;
use crate::kernels::matmul::{self, Operand, Put};
use crate::kernels::pointwise;
use crate::kernels::tile::WIDTH;
use crate::model::{Dora, LanguageModel, Layer, Linear, Lora, TensorId};

pub(crate) use loss::loss_block;
pub use loss::{Base, Sums, Targets};

/// Gradients by tensor number; `None` for frozen ones, which cost nothing.
pub struct Gradients {
    by_tensor: Vec<Option<Vec<f32>>>,
}

impl Gradients {
    /// Zeros for every trainable tensor.
    pub fn new(model: &LanguageModel) -> Gradients {
        let zeros = |t: &crate::model::Tensor| t.trainable.then(|| vec![0.0; t.values.len()]);
        Gradients { by_tensor: model.tensors.iter().map(zeros).collect() }
    }

    /// The gradient of a trainable tensor.
    pub fn get(&self, id: TensorId) -> Option<&[f32]> {
        self.by_tensor[id].as_deref()
    }

    /// Returns the gradient of a trainable tensor, mutably.
    pub fn get_mut(&mut self, id: TensorId) -> Option<&mut [f32]> {
        self.by_tensor[id].as_deref_mut()
    }

    /// Sets all gradients to zero.
    pub fn clear(&mut self) {
        self.by_tensor.iter_mut().flatten().for_each(|g| g.fill(0.0));
    }
}

/// The input of linear layers, whose columns are packed once for all that share it, when needed.
struct Input<'a> {
    values: &'a [f32],
    width: usize,
    columns: OnceCell<Operand>,
}

impl Input<'_> {
    fn new(values: &[f32], width: usize) -> Input<'_> {
        Input { values, width, columns: OnceCell::new() }
    }

    fn columns(&self) -> &Operand {
        self.columns.get_or_init(|| Operand::of_columns(self.values, self.width))
    }
}

/// The gradient of an output, as it lies and packed.
#[derive(Clone, Copy)]
struct Slope<'a> {
    values: &'a [f32],
    packed: &'a Operand,
}

impl<'a> Slope<'a> {
    /// Packs it unless it is packed already.
    fn of(packed: &'a mut Option<Operand>, values: &'a [f32], width: usize) -> Slope<'a> {
        Slope { values, packed: packed.get_or_insert_with(|| Operand::in_lanes(values, width)) }
    }
}

/// Options of a backward pass. `recompute` changes time and memory, never bits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// Dropout of adapters.
    pub dropout: Option<Dropout>,
    /// Whether activations are computed again instead of kept.
    pub recompute: bool,
}

impl LanguageModel {
    /// Adds the gradient of `factor * (loss + weight * kl)` to `gradients` and gives the two sums.
    pub fn loss_and_gradients(
        &self,
        packed: &Packed,
        targets: &Targets<'_>,
        pass: Pass,
        gradients: &mut Gradients,
    ) -> Sums {
        let training = Purpose::Training(pass.dropout);
        let mut x = self.embed(packed);
        let mut saved: Vec<Result<Saved, Buffer>> = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (out, all) = self.layer(index, layer, x, packed, &mut Context::Packed, training);
            saved.push(if pass.recompute { Err(all.x) } else { Ok(all) });
            x = out;
        }
        let (hidden, inverse) = self.norm(self.final_norm, &x);
        let mut dhidden = Buffer::zeros(hidden.len());
        let sums = self.head_loss(&hidden, targets, &mut dhidden, gradients);
        let mut dx = Buffer::zeros(x.len());
        self.norm_backward(self.final_norm, &x, &inverse, &dhidden, &mut dx, gradients);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let saved = match saved.pop().expect("one entry was kept for each layer") {
                Ok(saved) => saved,
                Err(x) => self.layer(index, layer, x, packed, &mut Context::Packed, training).1,
            };
            self.layer_backward(layer, packed, saved, &mut dx, gradients);
        }
        self.embedding_backward(packed, &dx, gradients);
        sums
    }

    fn embedding_backward(&self, packed: &Packed, dx: &[f32], gradients: &mut Gradients) {
        let Some(gradient) = gradients.get_mut(self.embedding) else { return };
        let (width, scale) = (self.config.hidden, self.config.embedding_scale);
        let in_panels = self.tensors[self.embedding].in_panels;
        for (id, dx) in packed.ids.iter().zip(dx.chunks_exact(width)) {
            let id = *id as usize;
            // A tied embedding lies in the panels of the head.
            let (start, step) = match in_panels {
                true => (id / WIDTH * WIDTH * width + id % WIDTH, WIDTH),
                false => (id * width, 1),
            };
            let places = gradient[start..].iter_mut().step_by(step);
            places.zip(dx).for_each(|(g, d)| *g += d * scale);
        }
    }

    fn norm_backward(
        &self,
        weight: TensorId,
        x: &[f32],
        inverse: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let plus = self.config.norm_offset;
        pointwise::rms_norm_backward(
            x,
            self.values(weight),
            plus,
            inverse,
            dy,
            dx,
            gradients.get_mut(weight),
        );
    }

    /// Replaces `dx`, the gradient of the layer's output, by that of its input.
    fn layer_backward(
        &self,
        layer: &Layer,
        packed: &Packed,
        saved: Saved,
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let Saved {
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
            mut gate,
            mut up,
            act,
            post2,
            adapted: [of_down, of_gate, of_up, of_k, of_o, of_q, of_v],
        } = saved;
        let ddown = self.post_backward(layer.mlp_post_norm, post2, dx, gradients);
        let mut dact = Buffer::any(act.len());
        let ddown = ddown.as_deref().unwrap_or(dx);
        let act = Input::new(&act, layer.down.inputs);
        let to = (&mut dact[..], Put::Set);
        self.linear_backward(&layer.down, &act, ddown, of_down, to, gradients);
        pointwise::gated_backward(self.config.activation, &dact, &mut gate, &mut up);
        let (dgate, dup) = (gate, up);
        let mut dn2 = Buffer::any(n2.len());
        let input = Input::new(&n2, layer.gate.inputs);
        let to = (&mut dn2[..], Put::Set);
        self.linear_backward(&layer.gate, &input, &dgate, of_gate, to, gradients);
        let to = (&mut dn2[..], Put::Add);
        self.linear_backward(&layer.up, &input, &dup, of_up, to, gradients);
        self.pre_backward(layer.mlp_norm, &middle, &inverse2, &dn2, dx, gradients);

        let dout = self.post_backward(layer.attention_post_norm, post1, dx, gradients);
        let dout = dout.as_deref().unwrap_or(dx);
        let mut dattended = Buffer::any(attended.len());
        let attended = Input::new(&attended, layer.o.inputs);
        let to = (&mut dattended[..], Put::Set);
        self.linear_backward(&layer.o, &attended, dout, of_o, to, gradients);
        let inputs = Inputs { q: &q, k: &k, v: &v, dout: &dattended };
        let [mut dq, mut dk, dv] = layer.attention.backward(&packed.offsets, inputs);
        layer.rope.rotate(&mut dq, &packed.positions, &packed.offsets, true);
        layer.rope.rotate(&mut dk, &packed.positions, &packed.offsets, true);
        let dq = self.post_backward(layer.q_norm, q_norm, &dq, gradients).unwrap_or(dq);
        let dk = self.post_backward(layer.k_norm, k_norm, &dk, gradients).unwrap_or(dk);
        let mut dn1 = Buffer::any(n1.len());
        let input = Input::new(&n1, layer.q.inputs);
        let to = (&mut dn1[..], Put::Set);
        self.linear_backward(&layer.q, &input, &dq, of_q, to, gradients);
        let to = (&mut dn1[..], Put::Add);
        self.linear_backward(&layer.k, &input, &dk, of_k, to, gradients);
        let to = (&mut dn1[..], Put::Add);
        self.linear_backward(&layer.v, &input, &dv, of_v, to, gradients);
        self.pre_backward(layer.attention_norm, &x, &inverse1, &dn1, dx, gradients);
    }

    /// Adds the gradient before a norm in front of a block to `dx`; `dy` itself where there is no
    /// such norm.
    fn pre_backward(
        &self,
        weight: Option<TensorId>,
        x: &[f32],
        inverse: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) {
        match weight {
            Some(weight) => self.norm_backward(weight, x, inverse, dy, dx, gradients),
            None => pointwise::add(dy, dx),
        }
    }

    /// The gradient before a norm after a block; `None` where there is no such norm.
    fn post_backward(
        &self,
        weight: Option<TensorId>,
        post: Option<Post>,
        dy: &[f32],
        gradients: &mut Gradients,
    ) -> Option<Buffer> {
        let (weight, Post { input, inverse }) = (weight?, post?);
        let mut dinput = Buffer::zeros(input.len());
        self.norm_backward(weight, &input, &inverse, dy, &mut dinput, gradients);
        Some(dinput)
    }

    /// Puts the gradient of a linear layer's input where `to` says and adds those of its trainable
    /// tensors to `gradients`.
    fn linear_backward(
        &self,
        linear: &Linear,
        x: &Input<'_>,
        dy: &[f32],
        adapted: Adapted,
        to: (&mut [f32], Put),
        gradients: &mut Gradients,
    ) {
        if let Some(gradient) = linear.bias.and_then(|bias| gradients.get_mut(bias)) {
            pointwise::add_rows(dy, gradient);
        }
        let (dx, mut put) = to;
        let (mut packed, mut downs) = (None, Vec::new());
        // The gradient before DoRA's factors, outermost adapter first.
        let mut scaled: Option<Buffer> = None;
        for lora in linear.adapters.iter().rev() {
            if let Some(dora) = &lora.dora {
                let outer = scaled.as_deref().unwrap_or(dy);
                // The norms count as constants, as in PEFT.
                self.magnitude_backward(dora, outer, &adapted, gradients);
                scaled = Some(pointwise::scaled_rows(outer, &self.factors(dora)));
                packed = None;
            }
            let dy = scaled.as_deref().unwrap_or(dy);
            let slope = Slope::of(&mut packed, dy, linear.outputs);
            let to = (&mut *dx, &mut put);
            downs.push(self.adapter_backward(linear, lora, (x, slope), &adapted, to, gradients));
        }
        let dy = scaled.as_deref().unwrap_or(dy);
        let slope = Slope::of(&mut packed, dy, linear.outputs);
        let mut products = vec![(slope.packed, self.panels(linear.weight))];
        let adapters = linear.adapters.iter().rev().zip(&downs);
        products.extend(
            adapters.filter_map(|(lora, down)| Some((down.as_ref()?, self.panels(lora.a)))),
        );
        matmul::backward_input(&products, dx, put);
        if let Some(gradient) = gradients.get_mut(linear.weight) {
            matmul::backward_weight(dy, x.columns(), gradient, linear.outputs, 1.0);
        }
    }

    /// Adds the gradient of DoRA's magnitudes, `dy * before / norm` summed over the positions.
    fn magnitude_backward(
        &self,
        dora: &Dora,
        dy: &[f32],
        adapted: &Adapted,
        gradients: &mut Gradients,
    ) {
        let (Some(gradient), Some(before)) = (gradients.get_mut(dora.magnitude), &adapted.before)
        else {
            return;
        };
        let mut sums = vec![0.0f32; gradient.len()];
        pointwise::add_products_of_rows(dy, before, &mut sums);
        for ((gradient, sum), norm) in gradient.iter_mut().zip(&sums).zip(&dora.norms) {
            *gradient += sum / norm;
        }
    }

    /// Adds the gradients of an adapter's tensors. Gives the gradient at its rank, which makes its
    /// part of the input's gradient; where dropout stands between, it puts that part itself.
    fn adapter_backward(
        &self,
        linear: &Linear,
        lora: &Lora,
        (x, dy): (&Input<'_>, Slope<'_>),
        adapted: &Adapted,
        (dx, put): (&mut [f32], &mut Put),
        gradients: &mut Gradients,
    ) -> Option<Operand> {
        if let Some(gradient) = gradients.get_mut(lora.b) {
            let down = Operand::of_columns(&adapted.down, lora.rank);
            matmul::backward_weight(dy.values, &down, gradient, linear.outputs, lora.scale);
        }
        let mut ddown = Buffer::any(x.values.len() / linear.inputs * lora.rank);
        matmul::backward_input(&[(dy.packed, self.panels(lora.b))], &mut ddown, Put::Set);
        ddown.iter_mut().for_each(|d| *d *= lora.scale);

        let mask = adapted.mask.as_ref().filter(|_| self.tensors[lora.a].trainable);
        if let Some(gradient) = gradients.get_mut(lora.a) {
            let dropped = mask.map(|mask| mask.apply(x.values));
            let ddown = Operand::of_columns(&ddown, lora.rank);
            let x = dropped.as_deref().unwrap_or(x.values);
            matmul::backward_narrow_weight(&ddown, x, gradient, linear.inputs);
        }
        let packed = Operand::in_lanes(&ddown, lora.rank);
        let Some(mask) = mask else { return Some(packed) };
        let mut dinput = Buffer::any(x.values.len());
        matmul::backward_input(&[(&packed, self.panels(lora.a))], &mut dinput, Put::Set);
        mask.put(&dinput, dx, *put);
        *put = Put::Add;
        None
    }
}
