//! The examples that stand before each question, chosen as lm-evaluation-harness chooses them.

use serde_json::Value;

use refrain_cache::TableReader;
use refrain_engine::kind::{Context, StageError};

use super::document::{Document, documents};
use super::python_random::PythonRandom;
use crate::lm_eval::{Sampler, TaskFile};
use crate::tables::BATCH_ROWS;

/// The documents that examples are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// The table `fewshot`.
    Table,
    /// The table `data`.
    Data,
    /// Those in the task file.
    Samples,
}

impl Pool {
    /// Finds where the examples of a task are; an error is the name of a split that `data` is not.
    pub fn of(task: &TaskFile, has_table: bool) -> Result<Pool, String> {
        let asked = task.test_split.as_ref().or(task.validation_split.as_ref());
        let split = split(task);
        if split.is_none() && samples(task).is_some() {
            return Ok(Pool::Samples);
        }
        if has_table {
            return Ok(Pool::Table);
        }
        let preset = task.training_split.as_ref().or(task.validation_split.as_ref());
        match split.or(preset) {
            Some(split) if Some(split) != asked => Err(split.clone()),
            _ => Ok(Pool::Data),
        }
    }
}

fn split(task: &TaskFile) -> Option<&String> {
    let own = task.fewshot_config.as_ref().and_then(|config| config.split.as_ref());
    own.or(task.fewshot_split.as_ref())
}

/// The examples in the task file.
pub(super) fn samples(task: &TaskFile) -> Option<&Vec<Value>> {
    task.fewshot_config.as_ref()?.samples.as_ref()
}

/// Chooses the examples of one document after the other.
pub(super) struct Examples {
    documents: Vec<Document>,
    count: usize,
    /// Draws them; `None` takes the first.
    random: Option<PythonRandom>,
    /// Whether the document that is asked is left out.
    leaves_out: bool,
}

impl Examples {
    /// The examples of a task with `count` of them.
    pub fn new(
        context: &Context<'_>,
        task: &TaskFile,
        count: usize,
        seed: u32,
    ) -> Result<Examples, StageError> {
        let has_table = context.inputs.contains_key("fewshot");
        let pool = Pool::of(task, has_table).map_err(StageError::bug)?;
        let documents = match pool {
            Pool::Table => all(context, "fewshot")?,
            Pool::Data => all(context, "data")?,
            Pool::Samples => {
                let maps = samples(task).into_iter().flatten();
                maps.filter_map(Value::as_object).cloned().collect()
            }
        };
        let sampler = task.fewshot_config.as_ref().map(|config| config.sampler);
        let draws = sampler != Some(Sampler::FirstN);
        Ok(Examples {
            documents,
            count,
            random: draws.then(|| PythonRandom::new(seed)),
            leaves_out: split(task) == task.test_split.as_ref(),
        })
    }

    /// The examples of the next document.
    ///
    /// # Errors
    /// Too few documents, as a fragment.
    pub fn of(&mut self, document: &Document) -> Result<Vec<&Document>, String> {
        let others = |at: &usize| !self.leaves_out || !same(&self.documents[*at], document);
        let all = self.documents.len();
        let fewer = |left: usize| {
            format!("{} examples are wanted, and there are {left} to choose from", self.count)
        };
        let chosen: Vec<usize> = match &mut self.random {
            None => (0..all).filter(others).take(self.count).collect(),
            Some(random) => {
                // One more than wanted, of which the document itself may be one.
                let wanted = self.count + usize::from(self.leaves_out);
                if wanted > all {
                    return Err(fewer(all - usize::from(self.leaves_out && all > 0)));
                }
                let mut chosen = random.sample(all, wanted);
                chosen.retain(others);
                chosen.truncate(self.count);
                if chosen.len() < self.count {
                    let pool: Vec<usize> = (0..all).filter(others).collect();
                    if pool.len() < self.count {
                        return Err(fewer(pool.len()));
                    }
                    chosen =
                        random.sample(pool.len(), self.count).iter().map(|at| pool[*at]).collect();
                }
                chosen
            }
        };
        if chosen.len() < self.count {
            return Err(fewer(chosen.len()));
        }
        Ok(chosen.into_iter().map(|at| &self.documents[at]).collect())
    }
}

/// Whether two documents are the same but for their ids, which may have been made.
fn same(one: &Document, other: &Document) -> bool {
    let content = |document: &Document| document.iter().filter(|(name, _)| *name != "id").count();
    let equal = |(name, value): (&String, &Value)| name == "id" || other.get(name) == Some(value);
    content(one) == content(other) && one.iter().all(equal)
}

fn all(context: &Context<'_>, input: &str) -> Result<Vec<Document>, StageError> {
    let mut found = Vec::new();
    for batch in TableReader::open(context.table(input)?)?.batches(None, BATCH_ROWS)? {
        context.cancel.check()?;
        found.extend(documents(&batch?)?);
    }
    Ok(found)
}
