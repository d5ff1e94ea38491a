//! Reuses rows that earlier runs computed, so that a changed table costs its changed rows alone.
//!
//! `generate` and `score` are functions of one row, the model and few parameters. The function's
//! part of that names a file of the row memo, the row's part an entry in it. What is finished is
//! written at once, so that a run that is killed loses what was under way and no more.

use std::sync::Arc;

use serde_json::{Map, Value};

use refrain_cache::{Digest, Manifest, RowMemo};
use refrain_engine::kind::{Component, Context, Input, StageError};
use refrain_lm::generate::{Finish, Generated, Limits};
use refrain_lm::tokenizer::Tokenizer;

use crate::backend::LoadedModel;

/// The rows of one function.
pub(crate) struct Memo {
    rows: Arc<RowMemo>,
    /// Whether nothing that is there may be used.
    fresh: bool,
}

impl Memo {
    /// The rows that `model` computed with components of these versions and with `parameters`,
    /// which hold all that a row depends on beside its own part.
    pub fn open(
        context: &Context<'_>,
        network: &LoadedModel,
        components: &[Component],
        parameters: Value,
    ) -> Result<Memo, StageError> {
        Memo::of_model(context, "model", network.memo_profile(), components, parameters)
    }

    /// The rows that the model at an input computed under a profile.
    pub fn of_model(
        context: &Context<'_>,
        input: &str,
        profile: String,
        components: &[Component],
        parameters: Value,
    ) -> Result<Memo, StageError> {
        let versions: Map<String, Value> =
            components.iter().map(|one| (one.name.to_owned(), one.version.into())).collect();
        let Input::Model { artifact, bases, .. } = context.input(input)? else {
            return Err(StageError::bug("an input that should be a model is none"));
        };
        // An adapter is a model only together with its bases.
        let model: Vec<String> =
            [&artifact.digest].into_iter().chain(bases).map(Digest::to_string).collect();
        let function = Manifest::new("rows")
            .section("versions", Value::Object(versions))
            .section("profile", profile.into())
            .section("model", model.into())
            .section("parameters", parameters);
        Ok(Memo { rows: context.cache.rows(&function.key())?, fresh: context.fresh })
    }

    /// Returns the stored result of a row.
    pub fn get(&self, row: &Digest) -> Result<Option<Vec<u8>>, StageError> {
        if self.fresh { Ok(None) } else { Ok(self.rows.get(row)?) }
    }

    /// Keeps what was computed.
    pub fn put(&self, rows: &[(Digest, Vec<u8>)]) -> Result<(), StageError> {
        Ok(self.rows.put(rows)?)
    }
}

/// The digest of tokens: BLAKE3 of their ids, four bytes each, little-endian.
pub(crate) fn digest_of_tokens(ids: &[u32]) -> Digest {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Digest::of_bytes(&bytes)
}

/// Log-probabilities, or the values of a vector, as an entry holds them.
pub(crate) fn floats_to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Values from an entry, when there are as many as expected.
pub(crate) fn floats(bytes: &[u8], expected: usize) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    (rest.is_empty() && values.len() == expected)
        .then(|| values.iter().map(|v| f32::from_le_bytes(*v)).collect())
}

/// A continuation as an entry holds it: 1 where it ended by itself, else 0; its tokens; their
/// log-probabilities.
pub(crate) fn continuation_to_bytes(generated: &Generated) -> Vec<u8> {
    let mut bytes = vec![u8::from(generated.finish == Finish::Stop)];
    bytes.extend(generated.token_ids.iter().flat_map(|id| id.to_le_bytes()));
    bytes.extend(floats_to_bytes(&generated.logprobs));
    bytes
}

/// The continuation of an entry under other limits of length; `None` when it was cut off earlier
/// than they would.
///
/// No token depends on where a continuation is cut, so a longer one begins with each shorter one.
///
/// `room`: the most tokens that the prompt leaves in the model's context.
pub(crate) fn continuation(
    bytes: &[u8],
    limits: &Limits,
    room: usize,
    tokenizer: &Tokenizer,
) -> Option<Generated> {
    let (&stopped, rest) = bytes.split_first()?;
    let (values, rest) = rest.as_chunks::<4>();
    if !rest.is_empty() || values.len() % 2 != 0 {
        return None;
    }
    let (ids, logprobs) = values.split_at(values.len() / 2);
    let most = limits.max_new_tokens.min(room);
    let finish = match (stopped, ids.len()) {
        (1, n) if n <= most => Finish::Stop,
        (0 | 1, n) if n >= most => Finish::Length,
        _ => return None,
    };
    let kept = ids.len().min(most);
    Some(Generated::new(
        ids[..kept].iter().map(|id| u32::from_le_bytes(*id)).collect(),
        logprobs[..kept].iter().map(|value| f32::from_le_bytes(*value)).collect(),
        finish,
        tokenizer,
        &limits.stop,
    ))
}
