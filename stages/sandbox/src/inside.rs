//! The supervising process: enters the layers, starts the interpreter in them, and watches over it.
//!
//! Two processes of Refrain and one interpreter: the outer one makes the namespaces and waits; the
//! first process inside builds the file tree and becomes the [`warden`]; its child gives up what is
//! left of its rights and becomes the interpreter. Each has one thread.

mod confine;
mod filter;
mod namespaces;
mod root;
mod warden;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::channel;
use crate::interpreter::Interpreter;
use crate::layers::{Layer, LayerState, Strictness};
use crate::limits::Limits;

/// The folder in which the scratch folder is mounted. Landlock's rule names it, since a rule on a
/// mount's own root ends with that mount.
const BOX: &str = "/box";
/// The scratch folder of a program.
const SCRATCH: &str = "/box/scratch";

/// The first message to the supervising process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub interpreter: Interpreter,
    pub limits: Limits,
    pub strictness: Strictness,
}

/// The first message of the supervising process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entered {
    pub layers: Vec<LayerState>,
    /// Why the interpreter was not started, where it was not.
    pub refused: Option<String>,
}

/// The layers that could not be entered so far.
#[derive(Debug, Default)]
struct Missing(Vec<LayerState>);

impl Missing {
    fn add(&mut self, layer: Layer, why: impl ToString) {
        if self.0.iter().all(|state| state.layer != layer) {
            self.0.push(LayerState { layer, missing: Some(why.to_string()) });
        }
    }

    /// Notes a failure; says whether there was none.
    fn note<T, E: ToString>(&mut self, layer: Layer, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(layer, error.to_string())).ok()
    }

    fn has(&self, layer: Layer) -> bool {
        self.0.iter().any(|state| state.layer == layer)
    }

    /// Every layer with its state.
    fn states(&self) -> Vec<LayerState> {
        let state = |layer: Layer| self.0.iter().find(|state| state.layer == layer).cloned();
        let there = |layer| LayerState { layer, missing: None };
        Layer::ALL.map(|layer| state(layer).unwrap_or_else(|| there(layer))).into()
    }

    /// Why the sandbox must not be used. Without files of its own and without landlock, or without
    /// the list of system calls, it would not be one.
    fn refusal(&self, strictness: Strictness) -> Option<String> {
        let open = self.has(Layer::Files) && self.has(Layer::Landlock)
            || self.has(Layer::SystemCalls)
            || self.has(Layer::OneProcess)
            || self.has(Layer::NoNewPrivileges);
        match strictness {
            Strictness::Probe => Some("nothing is to be run".into()),
            Strictness::Strict if !self.0.is_empty() => Some("layers are missing".into()),
            Strictness::Weaker if open => Some("what is left would not confine a program".into()),
            Strictness::Strict | Strictness::Weaker => None,
        }
    }
}

/// Runs the supervising process, whose standard input is the socket of [`Sandbox`](crate::Sandbox).
///
/// It must be called first in the process, while it has one thread, and the process must end with
/// the returned code.
pub fn supervise() -> ExitCode {
    match outer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn outer() -> io::Result<()> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let Some((text, _)) = channel::receive(&control)? else { return Ok(()) };
    let setup: Setup = serde_json::from_slice(&text)?;
    let mut missing = Missing::default();
    match namespaces::split(&mut missing)? {
        namespaces::Side::Outer(child) => {
            drop(control);
            namespaces::wait_for(child)
        }
        namespaces::Side::Inner(mapped) => inner(&control, &setup, mapped, missing),
    }
}

/// The first process inside.
fn inner(
    control: &OwnedFd,
    setup: &Setup,
    mapped: namespaces::Mapped,
    mut missing: Missing,
) -> io::Result<()> {
    if !missing.has(Layer::Files) {
        missing.note(Layer::Files, root::build(&setup.interpreter));
    }
    missing.note(Layer::UnprivilegedId, namespaces::become_unprivileged(mapped));
    missing.note(Layer::Capabilities, confine::keep_mounting());
    let scratch = (!missing.has(Layer::Files)).then(|| PathBuf::from(SCRATCH));

    let (ours, theirs) = channel::pair()?;
    let Some(zygote) = namespaces::fork()? else {
        drop(ours);
        return Err(confine::become_interpreter(setup, &theirs, scratch.as_deref(), missing));
    };
    drop(theirs);
    let mut warden = warden::Warden::new(control, ours, zygote, scratch, setup.limits);
    warden.run(missing, setup.strictness)
}
