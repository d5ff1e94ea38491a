//! Sandboxes for tests, as strict as this machine allows.

use std::time::Duration;

use refrain_sandbox::{
    Interpreter, Judge, Launch, LayerState, Limits, SandboxError, Strictness, Verdict,
};

/// Limits for programs that are to run into them.
pub fn tight() -> Limits {
    Limits { time: Duration::from_secs(2), memory: 512 << 20, ..Limits::default() }
}

/// The settings of sandboxes here; `None`, with a printed reason, where there is no interpreter.
pub fn launch(limits: Limits) -> Option<Launch> {
    let path = std::env::var_os("PATH");
    let interpreter = match Interpreter::on_path(path.as_deref()) {
        Ok(interpreter) => interpreter,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let supervisor = env!("CARGO_BIN_EXE_refrain-sandbox-supervisor").into();
    let strictness = Strictness::Strict;
    Some(Launch { supervisor, interpreter, limits, strictness })
}

/// A judge; where this machine lacks layers, the weaker one, and a printed reason.
pub fn judge(limits: Limits) -> Option<Judge> {
    let mut launch = launch(limits)?;
    match Judge::start(&launch) {
        Ok(judge) => Some(judge),
        Err(error @ SandboxError::Refused(_)) => {
            println!("not with every layer: {error}");
            launch.strictness = Strictness::Weaker;
            match Judge::start(&launch) {
                Ok(judge) => Some(judge),
                Err(error) => {
                    println!("skipped: {error}");
                    None
                }
            }
        }
        Err(error) => panic!("{error}"),
    }
}

/// The verdict on a program.
pub fn verdict(judge: &mut Judge, program: &str, tests: &str) -> Verdict {
    judge.judge(program, tests, &|| false).unwrap()
}

/// The layers that are there, and those that are not, in one line.
pub fn describe(layers: &[LayerState]) -> String {
    let there = layers.iter().filter(|state| state.missing.is_none());
    let missing = layers.iter().filter(|state| state.missing.is_some());
    let names = |states: Vec<&LayerState>| {
        let names: Vec<&str> = states.iter().map(|state| state.layer.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!("layers: {}; missing: {}", names(there.collect()), names(missing.collect()))
}
