//! A running mistralrs engine: logits of a growing text, or of a whole one, for one caller at a
//! time.

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use mistralrs::core::{DefaultSchedulerMethod, MistralRsBuilder, Pipeline, SchedulerConfig};
use mistralrs::{
    CustomLogitsProcessor, MistralRs, NormalRequest, Request, RequestMessage, Response,
    SamplingParams,
};

use crate::panics;

/// Starts of an engine before a lock that is held is believed.
const STARTS: usize = 8;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine refused it or failed at it.
    #[error("mistralrs failed: {0}")]
    Failed(String),
    /// The engine's thread has ended.
    #[error("mistralrs stopped by itself: {0}")]
    Died(String),
}

/// An engine with its model.
pub(crate) struct Engine {
    runner: Arc<MistralRs>,
    /// Held for the length of a request. Two requests at once would be computed as one batch, in
    /// which mistralrs 0.8.1 gives every row the attention of the last one on a CPU; and no setting
    /// of it keeps them apart.
    turn: Mutex<()>,
}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(
        pipeline: &Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>,
    ) -> Result<Engine, EngineError> {
        let runner = outlive_the_race(|| build(pipeline))?;
        Ok(Engine { runner, turn: Mutex::new(()) })
    }

    /// Calls `next` with the logits that follow the prompt, `[vocab]`, then with those that follow
    /// each token that it gives, until it gives none.
    pub fn run(
        &self,
        prompt: &[u32],
        next: &mut dyn FnMut(&[f32]) -> Option<u32>,
    ) -> Result<(), EngineError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (logits_in, logits_out) = mpsc::channel();
        let (token_in, token_out) = mpsc::channel();
        let hook: Arc<dyn CustomLogitsProcessor> =
            Arc::new(Hook { logits: logits_in, token: Mutex::new(token_out) });
        let responses =
            self.send(prompt, |request| request.logits_processors = Some(vec![hook]))?;
        let mut ended = false;
        // The engine may come back once more after the end, with nothing to be had. It drops the
        // hook when it is done.
        while let Ok(logits) = logits_out.recv() {
            let token = if ended { None } else { next(&logits) };
            ended |= token.is_none();
            if token_in.send(token).is_err() {
                break;
            }
        }
        match answer(responses) {
            _ if ended => Ok(()),
            Ok(_) => Err(EngineError::Failed("it ended a text by itself".into())),
            Err(error) => Err(error),
        }
    }

    /// The logits at every position of a text, `[tokens, vocab]`.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let responses = self.send(ids, |request| request.return_raw_logits = true)?;
        let chunks = answer(responses)?;
        let values = |chunk: &Tensor| chunk.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let chunks: candle_core::Result<Vec<Vec<f32>>> = chunks.iter().map(values).collect();
        let logits = chunks.map_err(|error| EngineError::Failed(error.to_string()))?.concat();
        if logits.is_empty() || logits.len() % ids.len() != 0 {
            let message = format!("it gave {} logits for {} tokens", logits.len(), ids.len());
            return Err(EngineError::Failed(message));
        }
        Ok(logits)
    }

    fn send(
        &self,
        prompt: &[u32],
        change: impl FnOnce(&mut NormalRequest),
    ) -> Result<tokio::sync::mpsc::Receiver<Response>, EngineError> {
        // The largest logit wins; the hook leaves one.
        let params = SamplingParams { temperature: Some(0.0), ..SamplingParams::neutral() };
        let (responder, responses) = tokio::sync::mpsc::channel(16);
        let message = RequestMessage::CompletionTokens(prompt.to_vec());
        let mut request = NormalRequest::new_simple(message, params, responder, 0, None, None);
        change(&mut request);
        let sender =
            self.runner.get_sender(None).map_err(|error| EngineError::Died(error.to_string()))?;
        let sent = sender.blocking_send(Request::Normal(Box::new(request)));
        sent.map_err(|_| EngineError::Died(panics::last()))?;
        Ok(responses)
    }
}

/// Builds a runner of mistralrs, whose engine waits for requests on a thread of its own.
fn build(
    pipeline: &Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>,
) -> Result<Arc<MistralRs>, EngineError> {
    // On a runtime of several threads it would begin with a request of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| EngineError::Failed(error.to_string()))?;
    let method = DefaultSchedulerMethod::Fixed(NonZeroUsize::MIN);
    let scheduler = SchedulerConfig::DefaultScheduler { method };
    let builder = MistralRsBuilder::new(pipeline.clone(), scheduler, false, None)
        // With it only what follows a known prefix would be computed, in other shapes and so with
        // other bits.
        .with_no_prefix_cache(true)
        // Our rules say where a text ends.
        .with_disable_eos_stop(true);
    panics::contained(|| runtime.block_on(builder.build())).map_err(EngineError::Died)
}

/// Builds again where mistralrs lost a race with itself: 0.8.1 asks the model for its name with
/// `try_lock().unwrap()` while the engine that it has just started may hold the lock, for
/// microseconds. The engine of a lost race waits for requests that nobody can send; it keeps the
/// model, of which there is no second copy, and one idle thread.
fn outlive_the_race<T>(
    mut build: impl FnMut() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    for _ in 1..STARTS {
        match build() {
            Err(EngineError::Died(message)) if message.contains("TryLockError") => {}
            result => return result,
        }
    }
    build()
}

/// Reads responses until there are no more, as the engine fails when nobody listens; the chunks of
/// raw logits.
fn answer(
    mut responses: tokio::sync::mpsc::Receiver<Response>,
) -> Result<Vec<Tensor>, EngineError> {
    let mut result: Option<Result<Vec<Tensor>, EngineError>> = None;
    while let Some(response) = responses.blocking_recv() {
        let failure = match response {
            Response::Raw { logits_chunks, .. } => {
                result = Some(Ok(logits_chunks));
                continue;
            }
            Response::InternalError(error) | Response::ValidationError(error) => error.to_string(),
            Response::ModelError(message, _) | Response::CompletionModelError(message, _) => {
                message
            }
            _ => {
                result = Some(Ok(Vec::new()));
                continue;
            }
        };
        // The first failure is the cause of those that follow.
        if !matches!(result, Some(Err(_))) {
            result = Some(Err(EngineError::Failed(failure)));
        }
    }
    result.unwrap_or_else(|| Err(EngineError::Died(panics::last())))
}

/// Replaces mistralrs's sampling: hands the logits over and waits for the token.
struct Hook {
    logits: mpsc::Sender<Vec<f32>>,
    token: Mutex<mpsc::Receiver<Option<u32>>>,
}

impl CustomLogitsProcessor for Hook {
    fn apply(&self, logits: &Tensor, _: &[u32]) -> candle_core::Result<Tensor> {
        // An error is the one way to end a text here whatever its last token is: end tokens cannot
        // be chosen freely.
        let end = || candle_core::Error::Msg("the text ends here".into());
        let values = logits.to_vec1::<f32>()?;
        let size = values.len();
        self.logits.send(values).map_err(|_| end())?;
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let token = token.ok().flatten().ok_or_else(end)? as usize;
        let mut chosen = vec![0.0f32; size];
        chosen[token] = 1.0;
        Tensor::from_vec(chosen, size, logits.device())
    }
}

#[cfg(test)]
mod tests {
    use super::{EngineError, STARTS, outlive_the_race};

    /// Runs a start that fails with `message` the first `failures` times: the starts, the result.
    fn started(failures: usize, message: &str) -> (usize, Result<usize, EngineError>) {
        let mut starts = 0;
        let result = outlive_the_race(|| {
            starts += 1;
            if starts > failures { Ok(starts) } else { Err(EngineError::Died(message.into())) }
        });
        (starts, result)
    }

    #[test]
    fn a_race_lost_at_the_start_is_run_again_and_nothing_else_is() {
        let race = "called `Result::unwrap()` on an `Err` value: TryLockError(())";
        assert!(matches!(started(2, race), (3, Ok(3))));
        assert!(matches!(started(usize::MAX, race), (STARTS, Err(_))), "no start without end");
        assert!(matches!(started(1, "out of memory"), (1, Err(_))));
    }
}
