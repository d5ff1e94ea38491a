//! The interpreter, and the files that it consists of.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The name of the interpreter's program.
const NAME: &str = "python3";

/// An interpreter, and the files that it consists of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Interpreter {
    /// Its program, links followed.
    pub executable: PathBuf,
    /// Implementation and version, such as `CPython 3.11.7`.
    pub version: String,
    /// The folder of its standard library.
    pub standard: PathBuf,
    /// The folders that it reads: the standard library and shared libraries.
    pub folders: Vec<PathBuf>,
}

/// Why an interpreter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// There is none.
    #[error("there is no `{NAME}` on PATH")]
    Absent,
    /// It could not be started.
    #[error("`{}` could not be started: {source}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not a Python interpreter, or one that is too old.
    #[error("`{}` is not a usable Python interpreter: {reason}", path.display())]
    Unusable {
        /// The program.
        path: PathBuf,
        /// The end of what it printed.
        reason: String,
    },
}

impl Interpreter {
    /// Finds the interpreter in the folders of a search path.
    pub fn on_path(path: Option<&OsStr>) -> Result<Interpreter, InterpreterError> {
        let folders = path.map(std::env::split_paths).into_iter().flatten();
        let mut programs = folders.map(|folder| folder.join(NAME));
        let program = programs.find(|program| program.is_file()).ok_or(InterpreterError::Absent)?;
        Interpreter::inspect(&program)
    }

    /// Asks an interpreter what it consists of. It runs outside the sandbox, and no model's code in it.
    pub fn inspect(path: &Path) -> Result<Interpreter, InterpreterError> {
        let unusable =
            |reason: String| InterpreterError::Unusable { path: path.to_owned(), reason };
        let output = Command::new(path)
            .args(["-I", "-S", "-B", "-c", include_str!("interpreter.py")])
            .stdin(Stdio::null())
            .output()
            .map_err(|source| InterpreterError::Start { path: path.to_owned(), source })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(unusable(text.trim().lines().last().unwrap_or("it failed").to_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| unusable(error.to_string()))
    }
}
