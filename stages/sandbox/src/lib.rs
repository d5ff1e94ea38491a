//! Runs Python that a model wrote, confined by the kernel, and decides outside of it whether its tests passed.
//!
//! [`Judge`] judges programs, each in a process of its own, forked from a warmed interpreter that
//! [`Sandbox`] confines. The confining process is the caller's own program, started anew: it must
//! call [`supervise`] when its argument is [`SUPERVISE`]. `docs/sandbox.md` describes
//! the layers, and what an attacker could still do.

mod channel;
mod inside;
mod interpreter;
mod judge;
mod layers;
mod limits;
mod sandbox;

pub use inside::supervise;
pub use interpreter::{Interpreter, InterpreterError};
pub use judge::{Judge, JudgeError, Verdict};
pub use layers::{Layer, LayerState, Strictness};
pub use limits::Limits;
pub use sandbox::{Launch, SUPERVISE, Sandbox, SandboxError};
