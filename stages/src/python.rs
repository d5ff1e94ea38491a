//! The packages and devices that the Python of a machine has for trainers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The packages that a trainer imports.
pub const PACKAGES: [&str; 4] = ["torch", "transformers", "peft", "accelerate"];

/// Time that the interpreter has; the import of torch takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Time between two looks whether it has ended.
const EVERY: Duration = Duration::from_millis(20);

/// A Python with what it has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Python {
    /// Implementation and version, such as `CPython 3.11.7`.
    pub version: String,
    /// Its program.
    pub executable: PathBuf,
    /// The version of each of [`PACKAGES`]; `None` where it is absent.
    pub packages: BTreeMap<String, Option<String>>,
    /// The devices that torch sees, at least `cpu`.
    pub devices: Vec<String>,
    /// Why torch cannot be imported, where it cannot.
    pub fault: Option<String>,
}

/// Why a Python cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// It could not be started.
    #[error("`{}` cannot be started: {error}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// It does not answer as Python does.
    #[error("`{}` is not a usable Python: {reason}", program.display())]
    Unusable {
        /// The program.
        program: PathBuf,
        /// The fault.
        reason: String,
    },
}

impl Python {
    /// Asks an interpreter what it has; a name without `/` is looked up in `PATH`.
    ///
    /// # Errors
    /// [`PythonError`].
    pub fn inspect(program: &Path) -> Result<Python, PythonError> {
        let unusable = |reason: String| PythonError::Unusable { program: program.into(), reason };
        let mut child = Command::new(program)
            .args(["-I", "-B", "-c", include_str!("python.py")])
            .args(PACKAGES)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| PythonError::Start { program: program.into(), error })?;
        let begin = Instant::now();
        // Its answer is far shorter than what a pipe holds.
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() < LIMIT => thread::sleep(EVERY),
                Ok(None) => {
                    let _ended = child.kill().and_then(|()| child.wait());
                    return Err(unusable(format!("it did not answer in {} s", LIMIT.as_secs())));
                }
                Err(error) => return Err(unusable(error.to_string())),
            }
        };
        if !status.success() {
            return Err(unusable(format!("it ended with {status}")));
        }
        let mut printed = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut printed).map_err(|error| unusable(error.to_string()))?;
        }
        serde_json::from_str(&printed).map_err(|error| unusable(error.to_string()))
    }

    /// Returns the line that installs what is absent; `None` where nothing is.
    pub fn remedy(&self) -> Option<String> {
        let absent = |name: &&&str| self.packages.get(**name).is_none_or(Option::is_none);
        let absent: Vec<&str> = PACKAGES.iter().filter(absent).copied().collect();
        let program = self.executable.display();
        (!absent.is_empty()).then(|| format!("{program} -m pip install {}", absent.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_one_line_with_what_is_absent() {
        let python = |absent: &[&str]| Python {
            version: "CPython 3.11.7".into(),
            executable: "/opt/python".into(),
            packages: PACKAGES
                .iter()
                .map(|name| ((*name).to_owned(), (!absent.contains(name)).then(|| "1".to_owned())))
                .collect(),
            devices: vec!["cpu".into()],
            fault: None,
        };
        assert_eq!(python(&[]).remedy(), None);
        let line = python(&["peft", "torch"]).remedy();
        assert_eq!(line.as_deref(), Some("/opt/python -m pip install torch peft"));
    }

    #[test]
    fn a_program_that_is_no_python_is_named() {
        let error = Python::inspect(Path::new("/bin/false")).unwrap_err().to_string();
        assert_eq!(error, "`/bin/false` is not a usable Python: it ended with exit status: 1");
        let error = Python::inspect(Path::new("/no/python")).unwrap_err().to_string();
        assert!(error.starts_with("`/no/python` cannot be started"), "{error}");
    }
}
