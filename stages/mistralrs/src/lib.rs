//! mistralrs as the second backend of `generate` and `score`: GGUF files, and the architectures
//! that our module lacks.
//!
//! Prompts are rendered and tokenised by the code that serves the native backend, tokens are drawn
//! by its sampler through mistralrs's logits hook, and its rules end a continuation. mistralrs
//! computes logits. It is given paths, never names, so that it has nothing to ask a hub for.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod compared;
mod device;
mod engine;
mod files;
mod gguf;
mod load;
mod panics;
mod spelling;

use std::path::Path;

use refrain_engine::kind::StageError;
use refrain_lm::generate::{Draft, Generated, Limits, OnProgress, Progress, Request, Rules};
use refrain_lm::model::ModelError;
use refrain_lm::sampling::Sampler;
use refrain_lm::score::logprob;
use refrain_lm::tokenizer::Tokenizer;
use refrain_stages::backend::{Backend, BackendModel};

pub use engine::EngineError;
pub use files::FilesError;
pub use load::{LoadError, Model};

/// The backend.
#[derive(Debug, Clone, Copy)]
pub struct Mistralrs;

impl Backend for Mistralrs {
    fn profile(&self) -> String {
        format!("mistralrs 0.8.1 {}", device::name())
    }

    fn load(&self, path: &Path) -> Result<Box<dyn BackendModel>, StageError> {
        match Model::load(path) {
            Ok(model) => Ok(Box::new(model)),
            Err(error) => Err(StageError::failed(error.to_string())),
        }
    }
}

impl BackendModel for Model {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn context(&self) -> usize {
        self.context
    }

    fn generate(
        &self,
        requests: &[Request],
        sampler: &Sampler,
        limits: &Limits,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Vec<Generated>>, StageError> {
        let rules = Rules {
            tokenizer: &self.tokenizer,
            sampler,
            limits,
            eos: &self.eos,
            context: self.context,
        };
        let mut tokens = 0;
        let mut one = |request: usize, sample: usize| {
            let Request { prompt, samples } = &requests[request];
            let mut draft = Draft::new(prompt);
            let mut stopped = false;
            self.engine.run(prompt, &mut |logits| {
                draft.advance(&rules, &samples[sample], logits);
                tokens += 1;
                stopped = progress(Progress::Tokens(tokens)).is_break();
                if stopped || draft.finished() { None } else { draft.ids().last().copied() }
            })?;
            if stopped {
                return Err(Stop::Cancelled);
            }
            let generated = draft.into_generated(&rules)?;
            match progress(Progress::Finished { request, sample, generated: &generated }).is_break()
            {
                true => Err(Stop::Cancelled),
                false => Ok(generated),
            }
        };
        let samples = requests.iter().map(|request| request.samples.len()).enumerate();
        let all: Result<_, Stop> = samples
            .map(|(request, n)| (0..n).map(|sample| one(request, sample)).collect())
            .collect();
        all.map_err(StageError::from)
    }

    fn score(&self, ids: &[u32]) -> Result<Vec<f32>, StageError> {
        let logits = self.engine.logits(ids).map_err(Stop::Engine)?;
        let rows = logits.chunks_exact(logits.len() / ids.len());
        Ok(rows.zip(&ids[1..]).map(|(row, next)| logprob(row, *next)).collect())
    }
}

/// An error of generation or scoring, before it becomes a stage's.
enum Stop {
    Engine(EngineError),
    Model(ModelError),
    Cancelled,
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Stop {
        Stop::Engine(error)
    }
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Stop {
        Stop::Model(error)
    }
}

impl From<Stop> for StageError {
    fn from(stop: Stop) -> StageError {
        match stop {
            Stop::Engine(error) => StageError::failed(error.to_string()),
            Stop::Model(error) => StageError::failed(error.to_string()),
            Stop::Cancelled => StageError::Cancelled,
        }
    }
}
