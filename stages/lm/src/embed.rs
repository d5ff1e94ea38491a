//! Embeddings of texts: one vector a text, from a BERT encoder or from the hidden states of a
//! decoder.
//!
//! Tokens of a batch stand one after another without padding, each text is pooled on its own, and
//! every sum has one order. So a text's vector depends neither on its neighbours nor on the batch,
//! to the bit.

mod bert;
mod pooling;

use std::path::PathBuf;

use rayon::prelude::*;

use crate::fields::ConfigError;
use crate::forward::Packed;
use crate::kernels::buffer::Buffer;
use crate::kernels::matmul::{self, Operand, Put};
use crate::kernels::panels::{Panels, Stored};
use crate::model::{LanguageModel, ModelError, ModelPath};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::WeightsError;

use bert::Bert;
use pooling::{Pooling, Recipe};

/// Texts that are computed together unless the caller says otherwise.
const TEXTS: usize = 32;
/// Tokens beyond which no further text joins a batch.
const TOKENS: usize = 4096;

/// An error of embedding.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer, or a text that it refuses.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A decoder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file of sentence-transformers asks for something else.
    #[error("`{}` asks for {what}; {known}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// The setting's value.
        what: String,
        /// The values that are supported.
        known: &'static str,
    },
    /// An adapter was given for an encoder.
    #[error("adapters cannot be applied to a BERT encoder")]
    Adapter,
    /// A text has no tokens, so there is nothing to take the mean of.
    #[error("text {0} is empty, and the tokenizer adds no token of its own")]
    Empty(usize),
}

/// A model that turns texts into vectors.
pub struct Embedder {
    network: Network,
    tokenizer: Tokenizer,
    recipe: Recipe,
    /// A longer text is cut.
    max_tokens: usize,
}

enum Network {
    Bert(Bert),
    Decoder(Box<LanguageModel>),
}

impl Embedder {
    /// Loads a BERT model with the pooling that its `modules.json` asks for (without one: mean,
    /// scaled to unit length), or one of the native decoders, of which the mean of the last hidden
    /// states is taken and scaled to unit length.
    ///
    /// A text is cut to the `max_seq_length` of `sentence_bert_config.json`, or to the model's
    /// positions.
    pub fn load(path: &ModelPath) -> Result<Embedder, EmbedError> {
        let folder = &path.folder;
        let tokenizer = Tokenizer::load(folder)?;
        let recipe = Recipe::load(folder)?;
        let (network, positions) = if bert::is_bert(folder)? {
            if !path.adapters.is_empty() {
                return Err(EmbedError::Adapter);
            }
            let bert = Bert::load(folder)?;
            let positions = bert.positions();
            (Network::Bert(bert), positions)
        } else {
            let model = LanguageModel::load(path)?;
            let positions = model.config.max_positions;
            (Network::Decoder(Box::new(model)), positions)
        };
        let max_tokens = recipe.max_tokens.map_or(positions, |most| most.min(positions));
        Ok(Embedder { network, tokenizer, recipe, max_tokens })
    }

    /// Returns the length of a vector.
    pub fn width(&self) -> usize {
        match &self.network {
            Network::Bert(bert) => bert.width(),
            Network::Decoder(model) => model.config.hidden,
        }
    }

    /// The token ids of a text as the network sees them.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        Ok(self.tokenizer.encode_whole(text, self.max_tokens)?)
    }

    /// The vectors of texts, `[texts, width]`. `batch` texts are computed together.
    pub fn embed(&self, texts: &[&str], batch: Option<usize>) -> Result<Vec<f32>, EmbedError> {
        let ids: Result<Vec<_>, _> = texts.par_iter().map(|text| self.tokens(text)).collect();
        self.embed_tokens(&ids?, batch)
    }

    /// The vectors of texts whose tokens are known, as [`Embedder::tokens`] gives them.
    pub fn embed_tokens(
        &self,
        ids: &[Vec<u32>],
        batch: Option<usize>,
    ) -> Result<Vec<f32>, EmbedError> {
        for (text, ids) in ids.iter().enumerate() {
            if ids.is_empty() {
                return Err(EmbedError::Empty(text));
            }
            self.check(text, ids)?;
        }
        let mut vectors = Vec::with_capacity(ids.len() * self.width());
        let most = batch.unwrap_or(TEXTS).max(1);
        let mut rest = ids;
        while !rest.is_empty() {
            let (mut taken, mut tokens) = (0, 0);
            while taken < rest.len() && taken < most && (tokens < TOKENS || batch.is_some()) {
                tokens += rest[taken].len();
                taken += 1;
            }
            self.embed_batch(&rest[..taken], &mut vectors);
            rest = &rest[taken..];
        }
        Ok(vectors)
    }

    fn check(&self, text: usize, ids: &[u32]) -> Result<(), EmbedError> {
        match &self.network {
            Network::Bert(bert) => Ok(bert.check(text, ids)?),
            Network::Decoder(model) => Ok(model.check_ids(text, ids)?),
        }
    }

    fn embed_batch(&self, ids: &[Vec<u32>], vectors: &mut Vec<f32>) {
        let packed = Packed::new(ids.iter().map(Vec::as_slice));
        let hidden = match &self.network {
            Network::Bert(bert) => Buffer::of(&bert.forward(&packed)),
            Network::Decoder(model) => model.forward(&packed),
        };
        let width = self.width();
        for span in packed.offsets.windows(2) {
            let states = &hidden[span[0] * width..span[1] * width];
            let mut vector = match self.recipe.pooling {
                Pooling::First => states[..width].iter().map(|v| f64::from(*v)).collect(),
                Pooling::Mean => mean(states, width),
            };
            if self.recipe.normalize {
                scale_to_unit(&mut vector);
            }
            vectors.extend(vector.iter().map(|v| *v as f32));
        }
    }
}

/// The mean of the rows of `states`, `[positions, width]`.
fn mean(states: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for state in states.chunks_exact(width) {
        sums.iter_mut().zip(state).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    let count = (states.len() / width) as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// Divides by the length; the zero vector stays.
fn scale_to_unit(vector: &mut [f64]) {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v /= length);
    }
}

/// The dot products of all rows of `a` with all rows of `b`, `[rows of a, rows of b]`; both are
/// `width` wide.
///
/// For vectors of unit length these are their cosines. A row of the result depends on its row of
/// `a` and on `b` alone.
pub fn products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let columns = b.len() / width;
    let mut all = vec![0.0; a.len() / width * columns];
    if columns > 0 {
        let values = Stored::F32(b.to_vec()).into_panels(columns, width);
        let b = Panels { outputs: columns, inputs: width, values: &values };
        matmul::forward(&[(&Operand::of_rows(a, width), b)], &mut all, Put::Set);
    }
    all
}
