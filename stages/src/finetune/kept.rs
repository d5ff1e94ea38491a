//! `keep`: the model as it was after some steps, each an output of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::Value;

use refrain_cache::{Artifact, CacheError, Unfinished};
use refrain_engine::kind::{Context, StageError};
use refrain_lm::model::LanguageModel;

use super::finish::Storing;
use super::params::Keep;

/// The file of the models that an interrupted training has stored.
const FILE: &str = "kept";

impl Keep {
    /// Reads the parameter among typed ones.
    pub fn of(params: &serde_json::Map<String, Value>) -> Option<Keep> {
        serde_json::from_value(params.get("keep")?.clone()).ok()
    }

    /// Names the outputs, given the number of epochs.
    pub fn outputs(&self, epochs: u64) -> Vec<String> {
        match self {
            Keep::Epochs(_) => (1..=epochs).map(|epoch| format!("epoch_{epoch}")).collect(),
            Keep::Steps(steps) => steps.iter().map(|step| format!("step_{step}")).collect(),
        }
    }

    /// The steps after which the model is kept, each with the name of its output, given the steps
    /// of an epoch.
    pub fn steps(&self, epochs: u64, steps_per_epoch: u64) -> Vec<(u64, String)> {
        let names = self.outputs(epochs);
        match self {
            Keep::Epochs(_) => (1..=epochs).map(|e| e * steps_per_epoch).zip(names).collect(),
            Keep::Steps(steps) => steps.iter().copied().zip(names).collect(),
        }
    }
}

/// The models that were stored on the way, those of an interrupted run among them.
pub(super) struct KeptModels<'a> {
    context: &'a Context<'a>,
    /// By step.
    stored: RefCell<BTreeMap<u64, Artifact>>,
}

impl<'a> KeptModels<'a> {
    /// Takes up what an interrupted run has stored. Where some of it is gone, the training begins
    /// anew; one that was interrupted before it stored any has said so.
    pub fn new(context: &'a Context<'a>) -> Result<KeptModels<'a>, StageError> {
        let whole = |stored: &BTreeMap<u64, Artifact>| {
            stored.values().all(|artifact| context.cache.verify(artifact).is_ok())
        };
        let found = read(&context.unfinished).filter(whole);
        let is_new = found.is_none();
        let kept = KeptModels { context, stored: RefCell::new(found.unwrap_or_default()) };
        if is_new {
            context.unfinished.remove()?;
            kept.write()?;
        }
        Ok(kept)
    }

    /// Adds the model after a step.
    pub fn put(&self, step: u64, artifact: Artifact) -> Result<(), StageError> {
        self.stored.borrow_mut().insert(step, artifact);
        self.write()
    }

    fn write(&self) -> Result<(), StageError> {
        let json = serde_json::to_vec(&*self.stored.borrow());
        let json = json.map_err(|error| StageError::bug(error.to_string()))?;
        Ok(self.context.unfinished.write(FILE, |out| out.write_all(&json))?)
    }

    /// The model of a step.
    pub fn artifact(&self, step: u64) -> Result<Artifact, StageError> {
        let stored = self.stored.borrow().get(&step).cloned();
        stored.ok_or_else(|| StageError::bug(format!("the model after step {step} was not kept")))
    }
}

/// Stores models on the way.
pub(super) struct Keeper<'a> {
    storing: &'a Storing<'a>,
    kept: KeptModels<'a>,
    failed: Cell<Option<StageError>>,
}

impl<'a> Keeper<'a> {
    pub fn new(
        context: &'a Context<'a>,
        storing: &'a Storing<'a>,
    ) -> Result<Keeper<'a>, StageError> {
        Ok(Keeper { storing, kept: KeptModels::new(context)?, failed: Cell::new(None) })
    }

    /// Stores the model as it is after a step.
    pub fn take(&self, step: u64, model: &LanguageModel) -> ControlFlow<()> {
        match self.storing.copy(model).and_then(|artifact| self.kept.put(step, artifact)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed.set(Some(error));
                ControlFlow::Break(())
            }
        }
    }

    /// The error that ended the training, if one of a model's did. What the training kept to go on
    /// from would lack the model, and is removed.
    pub fn failure(&self) -> Option<StageError> {
        let failed = self.failed.take()?;
        let _removed = self.kept.context.unfinished.remove();
        Some(failed)
    }

    /// The model of a step.
    pub fn artifact(&self, step: u64) -> Result<Artifact, StageError> {
        self.kept.artifact(step)
    }
}

/// Reads what an interrupted run has stored; `None` where its file does not tell.
fn read(unfinished: &Unfinished<'_>) -> Option<BTreeMap<u64, Artifact>> {
    let file: Result<_, CacheError> = unfinished.read(FILE);
    match file.ok()? {
        Some(file) => serde_json::from_reader(file).ok(),
        None => None,
    }
}
