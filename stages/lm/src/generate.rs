//! Samples continuations: continuous batching over cached keys and values, one prefill for all
//! samples of a prompt.
//!
//! A slot that a finished row leaves is taken by the next sample at once. What a row becomes
//! depends on its prompt and its stream of random numbers alone: not on the number of slots, not on
//! its neighbours.

mod draft;

use std::ops::ControlFlow;
use std::sync::Arc;

use rayon::prelude::*;
use tracing::trace_span;

use crate::forward::{Packed, RowCache};
use crate::model::{LanguageModel, ModelError};
use crate::random::Stream;
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

pub use crate::kernels::attention::KeyPrecision;

pub use draft::{Draft, Rules};

/// Rows in flight unless the caller says otherwise.
const SLOTS: usize = 32;

/// A prompt and the random numbers of each of its samples.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// One stream a sample.
    pub samples: Vec<Stream>,
}

/// Conditions that end a continuation.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Texts that end it; they and what follows are cut from the text.
    pub stop: Vec<String>,
    /// Tokens that end it, beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Whether the model's end tokens do not end it.
    pub ignore_eos: bool,
}

/// Reason for the end of a continuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop text.
    Stop,
    /// The most tokens, or the end of the context.
    Length,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its tokens, the one that ended it included.
    pub token_ids: Vec<u32>,
    /// The natural-log probability of each under the model's own distribution.
    pub logprobs: Vec<f32>,
    /// Reason for its end.
    pub finish: Finish,
    /// Its text, special tokens and stop texts left out.
    pub text: String,
}

/// A progress event of generation.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// So many tokens were made so far.
    Tokens(u64),
    /// A continuation is complete.
    Finished {
        /// The number of its request.
        request: usize,
        /// Its number among the request's samples.
        sample: usize,
        /// The continuation.
        generated: &'a Generated,
    },
}

/// Callback for progress; decides whether to go on.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

/// An error of generation.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A prompt does not fit the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt has no tokens.
    #[error("the prompt of row {0} has no tokens")]
    EmptyPrompt(usize),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Settings of decoding; `batch` moves no bits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoding {
    /// Rows that are computed together.
    pub batch: Option<usize>,
    /// Precision in which keys and values are kept.
    pub keys: KeyPrecision,
}

impl From<Option<usize>> for Decoding {
    fn from(batch: Option<usize>) -> Decoding {
        Decoding { batch, keys: KeyPrecision::F32 }
    }
}

/// Continues every prompt once for each of its samples.
pub fn generate(
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    requests: &[Request],
    sampler: &Sampler,
    limits: &Limits,
    decoding: impl Into<Decoding>,
    progress: OnProgress<'_>,
) -> Result<Vec<Vec<Generated>>, GenerateError> {
    for (row, request) in requests.iter().enumerate() {
        model.check_ids(row, &request.prompt)?;
        if request.prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt(row));
        }
    }
    let rules = Rules {
        tokenizer,
        sampler,
        limits,
        eos: &model.config.eos,
        context: model.config.max_positions,
    };
    let decoding = decoding.into();
    let mut decoder = Decoder {
        model,
        requests,
        rules,
        slots: decoding.batch.unwrap_or(SLOTS).max(1),
        keys: decoding.keys,
        next: (0, 0),
        prefix: None,
        rows: Vec::new(),
        caches: Vec::new(),
        finished: requests.iter().map(|r| vec![None; r.samples.len()]).collect(),
        tokens: 0,
    };
    decoder.all(progress)?;
    let whole = |samples: Vec<Option<Generated>>| {
        samples.into_iter().map(|g| g.expect("every sample was finished")).collect()
    };
    Ok(decoder.finished.into_iter().map(whole).collect())
}

/// A prompt's keys and values, and the logits after its last token.
#[derive(Clone)]
struct Prefix {
    cache: RowCache,
    logits: Arc<Vec<f32>>,
}

/// A continuation under way.
struct Active {
    request: usize,
    sample: usize,
    draft: Draft,
}

struct Decoder<'a> {
    model: &'a LanguageModel,
    requests: &'a [Request],
    rules: Rules<'a>,
    slots: usize,
    keys: KeyPrecision,
    /// The request and sample that begin next.
    next: (usize, usize),
    /// The prefill of the request that begins next, when it has begun already.
    prefix: Option<(usize, Prefix)>,
    rows: Vec<Active>,
    caches: Vec<RowCache>,
    finished: Vec<Vec<Option<Generated>>>,
    tokens: u64,
}

impl Decoder<'_> {
    fn all(&mut self, progress: OnProgress<'_>) -> Result<(), GenerateError> {
        loop {
            self.fill(progress)?;
            if self.rows.is_empty() {
                return Ok(());
            }
            trace_span!("batch", rows = self.rows.len()).in_scope(|| self.step());
            self.retire(progress)?;
            go_on(progress(Progress::Tokens(self.tokens)))?;
        }
    }

    /// Begins samples until every slot is taken. The prompts that begin together are prefilled
    /// together.
    fn fill(&mut self, progress: OnProgress<'_>) -> Result<(), GenerateError> {
        while self.rows.len() < self.slots && self.next.0 < self.requests.len() {
            let mut begin: Vec<(usize, usize)> = Vec::new();
            while self.rows.len() + begin.len() < self.slots
                && let Some(request) = self.requests.get(self.next.0)
            {
                if self.next.1 < request.samples.len() {
                    begin.push(self.next);
                    self.next.1 += 1;
                } else {
                    self.next = (self.next.0 + 1, 0);
                }
            }
            let mut fresh: Vec<usize> = begin.iter().map(|(request, _)| *request).collect();
            fresh.dedup();
            fresh.retain(|r| self.prefix.as_ref().is_none_or(|(known, _)| known != r));
            let mut prefixes = self.prefill(&fresh);
            prefixes.extend(self.prefix.take());
            for (request, sample) in begin {
                if let Some((_, prefix)) = prefixes.iter().find(|(r, _)| *r == request) {
                    self.begin(request, sample, prefix);
                }
            }
            self.prefix = prefixes.into_iter().max_by_key(|(request, _)| *request);
            self.retire(progress)?;
        }
        Ok(())
    }

    fn prefill(&self, requests: &[usize]) -> Vec<(usize, Prefix)> {
        let packed = Packed::new(requests.iter().map(|r| self.requests[*r].prompt.as_slice()));
        let mut caches = vec![RowCache::new(self.keys); requests.len()];
        let hidden = self.model.forward_cached(&packed, &mut caches);
        let vocab = self.model.config.vocab;
        let logits = self.model.logits(&last_of_rows(&packed, &hidden));
        requests
            .iter()
            .zip(caches)
            .zip(logits.chunks_exact(vocab))
            .map(|((r, cache), l)| (*r, Prefix { cache, logits: Arc::new(l.to_vec()) }))
            .collect()
    }

    /// Begins one sample: its first token comes from the prompt's logits.
    fn begin(&mut self, request: usize, sample: usize, prefix: &Prefix) {
        let mut row = Active { request, sample, draft: Draft::new(&self.requests[request].prompt) };
        self.advance(&mut row, &prefix.logits);
        self.tokens += row.draft.ids().len() as u64;
        self.rows.push(row);
        self.caches.push(prefix.cache.clone());
    }

    /// One more token for every row.
    fn step(&mut self) {
        let packed = self.next_tokens();
        let hidden = self.model.forward_cached(&packed, &mut self.caches);
        let logits = self.model.logits(&last_of_rows(&packed, &hidden));
        let mut rows = std::mem::take(&mut self.rows);
        let this: &Decoder<'_> = self;
        rows.par_iter_mut()
            .zip(logits.par_chunks_exact(this.model.config.vocab))
            .for_each(|(row, logits)| this.advance(row, logits));
        self.rows = rows;
        self.tokens += self.rows.len() as u64;
    }

    /// The last token of every row; of rows whose earlier tokens would now be rotated otherwise all
    /// tokens, and their caches empty.
    fn next_tokens(&mut self) -> Packed {
        let mut packed = Packed::new([]);
        for (row, cache) in self.rows.iter().zip(&mut self.caches) {
            let tokens = row.draft.tokens();
            let anew = self.model.config.switches_at(tokens.len());
            if anew {
                *cache = RowCache::new(self.keys);
            }
            packed.push(tokens, if anew { 0 } else { tokens.len() - 1 });
        }
        packed
    }

    fn advance(&self, row: &mut Active, logits: &[f32]) {
        let stream = &self.requests[row.request].samples[row.sample];
        row.draft.advance(&self.rules, stream, logits);
    }

    /// Takes finished rows out of their slots.
    fn retire(&mut self, progress: OnProgress<'_>) -> Result<(), GenerateError> {
        let mut i = 0;
        while i < self.rows.len() {
            if !self.rows[i].draft.finished() {
                i += 1;
                continue;
            }
            let row = self.rows.swap_remove(i);
            self.caches.swap_remove(i);
            let Active { request, sample, draft } = row;
            let generated = draft.into_generated(&self.rules)?;
            let heard = progress(Progress::Finished { request, sample, generated: &generated });
            self.finished[request][sample] = Some(generated);
            go_on(heard)?;
        }
        Ok(())
    }
}

/// The hidden states of each row's last token.
fn last_of_rows(packed: &Packed, hidden: &[f32]) -> Vec<f32> {
    let width = hidden.len() / packed.ids.len().max(1);
    let last = |end: &usize| &hidden[(end - 1) * width..end * width];
    packed.offsets[1..].iter().flat_map(last).copied().collect()
}

fn go_on(heard: ControlFlow<()>) -> Result<(), GenerateError> {
    if heard.is_break() { Err(GenerateError::Interrupted) } else { Ok(()) }
}
