//! The BERT encoder (Devlin et al. 2019): embeddings with positions, attention over the whole row,
//! norms after blocks.

use std::path::Path;

use serde_json::Value;

use crate::fields::{ConfigError, Fields, read_json};
use crate::forward::Packed;
use crate::kernels::attention::{Attention, Row};
use crate::kernels::matmul::{self, Operand, Put};
use crate::kernels::panels::{Panels, Stored};
use crate::kernels::tile::WIDTH;
use crate::kernels::{encoder, pointwise, rows};
use crate::model::ModelError;
use crate::weights::{Weights, WeightsError};

/// A BERT encoder in memory.
pub(super) struct Bert {
    vocab: usize,
    eps: f64,
    /// `[vocab, width]`.
    words: Vec<f32>,
    /// `[positions, width]`, with the embedding of the first token type, the only one that a single
    /// text has.
    places: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

/// Weight and bias of a layer norm.
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// w `[outputs, inputs]` in panels and b `[outputs]`.
struct Linear {
    weight: Stored,
    bias: Vec<f32>,
}

struct Layer {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
    attention: Attention,
}

/// Whether the folder's `config.json` is of a BERT model.
pub(super) fn is_bert(folder: &Path) -> Result<bool, ConfigError> {
    Ok(read_json(&folder.join("config.json"))?.get("model_type") == Some(&Value::from("bert")))
}

/// Fields that matter in training, or to heads that an embedding does not have.
const UNUSED: [&str; 12] = [
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "directionality",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "model_type",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "use_cache",
];

/// The sizes that `config.json` gives.
struct Shape {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    vocab: usize,
    positions: usize,
    types: usize,
    eps: f64,
}

impl Shape {
    fn load(folder: &Path) -> Result<Shape, ConfigError> {
        let json = read_json(&folder.join("config.json"))?;
        let fields = Fields::new(&json)?;
        let wrong = |message: String| Err(ConfigError::Value(message));
        UNUSED.iter().for_each(|name| fields.ignore(name));
        if let Some(other) = fields.text("hidden_act")?.filter(|name| *name != "gelu") {
            return wrong(format!("the activation `{other}` is not native for BERT, only `gelu`"));
        }
        if let Some(other) =
            fields.text("position_embedding_type")?.filter(|name| *name != "absolute")
        {
            return wrong(format!(
                "the positions `{other}` are not native for BERT, only `absolute`"
            ));
        }
        if fields.flag("is_decoder", false)? {
            return wrong("`is_decoder` is not native for BERT".into());
        }
        let shape = Shape {
            hidden: fields.size("hidden_size")?,
            layers: fields.size("num_hidden_layers")?,
            heads: fields.size("num_attention_heads")?,
            intermediate: fields.size("intermediate_size")?,
            vocab: fields.size("vocab_size")?,
            positions: fields.size("max_position_embeddings")?,
            types: fields.size("type_vocab_size")?,
            eps: fields.positive("layer_norm_eps", 1e-12)?,
        };
        fields.finish()?;
        if !shape.hidden.is_multiple_of(shape.heads) {
            let Shape { hidden, heads, .. } = shape;
            return wrong(format!("`hidden_size` {hidden} is not a multiple of {heads} heads"));
        }
        if shape.layers > 4096 {
            return wrong(format!("{} layers are too many", shape.layers));
        }
        Ok(shape)
    }
}

/// Reads tensors by their names in `BertModel`; a model saved with a head has `bert.` before each.
struct Reader<'a> {
    weights: &'a Weights,
    prefix: &'static str,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, WeightsError> {
        Ok(Norm {
            weight: self.tensor(&format!("{name}.LayerNorm.weight"), &[width])?,
            bias: self.tensor(&format!("{name}.LayerNorm.bias"), &[width])?,
        })
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, WeightsError> {
        Ok(Linear {
            weight: self.weights.panels(
                &format!("{}{name}.weight", self.prefix),
                [outputs, inputs],
                0..outputs,
            )?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn layer(&self, index: usize, shape: &Shape) -> Result<Layer, WeightsError> {
        let Shape { hidden, heads, intermediate, .. } = *shape;
        let at = format!("encoder.layer.{index}");
        let square = |name: &str| self.linear(&format!("{at}.attention.{name}"), hidden, hidden);
        let head_dim = hidden / heads;
        Ok(Layer {
            q: square("self.query")?,
            k: square("self.key")?,
            v: square("self.value")?,
            o: square("output.dense")?,
            attention_norm: self.norm(&format!("{at}.attention.output"), hidden)?,
            up: self.linear(&format!("{at}.intermediate.dense"), hidden, intermediate)?,
            down: self.linear(&format!("{at}.output.dense"), intermediate, hidden)?,
            norm: self.norm(&format!("{at}.output"), hidden)?,
            attention: Attention {
                heads,
                kv_heads: heads,
                head_dim,
                scale: (1.0 / libm::sqrt(head_dim as f64)) as f32,
                cap: None,
                window: None,
                causal: false,
            },
        })
    }
}

impl Bert {
    /// Reads configuration and weights of a folder.
    pub(super) fn load(folder: &Path) -> Result<Bert, super::EmbedError> {
        let shape = Shape::load(folder)?;
        let weights = Weights::open(folder)?;
        let prefix =
            if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let reader = Reader { weights: &weights, prefix };
        let Shape { hidden, vocab, positions, types, eps, .. } = shape;
        let table =
            |name: &str, rows| reader.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden]);
        let words = table("word_embeddings", vocab)?;
        let mut places = table("position_embeddings", positions)?;
        let kinds = table("token_type_embeddings", types)?;
        for place in places.chunks_exact_mut(hidden) {
            place.iter_mut().zip(&kinds).for_each(|(place, kind)| *place += kind);
        }
        let norm = reader.norm("embeddings", hidden)?;
        let layers =
            (0..shape.layers).map(|index| reader.layer(index, &shape)).collect::<Result<_, _>>()?;
        Ok(Bert { vocab, eps, words, places, norm, layers })
    }

    /// Size of the hidden state.
    pub(super) fn width(&self) -> usize {
        self.norm.weight.len()
    }

    /// Most tokens of a text.
    pub(super) fn positions(&self) -> usize {
        self.places.len() / self.width()
    }

    /// Whether a text's tokens are of the vocabulary, and have positions.
    pub(super) fn check(&self, row: usize, ids: &[u32]) -> Result<(), ModelError> {
        if ids.len() > self.positions() {
            return Err(ModelError::TooLong { row, tokens: ids.len(), limit: self.positions() });
        }
        match ids.iter().find(|id| **id as usize >= self.vocab) {
            Some(id) => Err(ModelError::Token { row, token: *id, vocab: self.vocab }),
            None => Ok(()),
        }
    }

    /// Hidden states after the last layer, `[N, width]`.
    pub(super) fn forward(&self, packed: &Packed) -> Vec<f32> {
        let width = self.width();
        let mut x = Vec::with_capacity(packed.ids.len() * width);
        for (id, position) in packed.ids.iter().zip(&packed.positions) {
            let word = &self.words[*id as usize * width..][..width];
            let place = &self.places[*position as usize * width..][..width];
            x.extend(word.iter().zip(place).map(|(word, place)| word + place));
        }
        self.norm.apply(&mut x, self.eps);
        for layer in &self.layers {
            layer.forward(&mut x, packed, self.eps);
        }
        x
    }
}

impl Norm {
    fn apply(&self, x: &mut [f32], eps: f64) {
        encoder::layer_norm(x, &self.weight, &self.bias, eps);
    }
}

impl Linear {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs.next_multiple_of(WIDTH);
        let weight = Panels { outputs, inputs, values: &self.weight };
        let mut y = vec![0.0; x.len() / inputs * outputs];
        matmul::forward(&[(&Operand::of_rows(x, inputs), weight)], &mut y, Put::Set);
        rows::add_to_rows(&mut y, &self.bias);
        y
    }
}

impl Layer {
    fn forward(&self, x: &mut [f32], packed: &Packed, eps: f64) {
        let attended = self.attend(x, packed);
        add(x, &self.o.forward(&attended));
        self.attention_norm.apply(x, eps);
        let mut inner = self.up.forward(x);
        pointwise::gelu(&mut inner);
        add(x, &self.down.forward(&inner));
        self.norm.apply(x, eps);
    }

    fn attend(&self, x: &[f32], packed: &Packed) -> Vec<f32> {
        let (q, k, v) = (self.q.forward(x), self.k.forward(x), self.v.forward(x));
        let width = self.q.bias.len();
        let mut out = vec![0.0; q.len()];
        let keys = self.attention.keys(&packed.offsets, &k, &v);
        let spans = packed.offsets.windows(2).zip(&keys);
        let rows: Vec<Row<'_>> = spans
            .map(|(span, keys)| Row { queries: &q[span[0] * width..span[1] * width], keys })
            .collect();
        self.attention.forward(&rows, &mut out);
        out
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
