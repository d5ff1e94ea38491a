//! The configuration of the machine: which file holds it, who may write it, and what it says.
//!
//! It names programs. So it is read from the user's own folder or from where the user says, never
//! from beside a workflow or a cache, and not where others can change it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use refrain_engine::kind::machine::Machine;
use refrain_engine::language::diagnostic::{Diagnostic, Diagnostics, SourceText};
use refrain_engine::language::explain::ErrorClass;

use crate::command_error::CommandError;

/// Limit of the bytes of a configuration.
const MAX_BYTES: u64 = 1 << 20;
/// Permission of the group or of others to write.
const WRITABLE: u32 = 0o022;
/// In such a folder nobody removes or renames the files of others.
const STICKY: u32 = 0o1000;

/// A configuration, and where it was looked for.
pub struct Config {
    /// Its content; empty where there is none.
    pub machine: Machine,
    /// Its file; `None` where the system names no folder for it.
    pub path: Option<PathBuf>,
    /// The origin of that path.
    pub origin: Origin,
    /// Whether the file is there.
    pub is_there: bool,
}

/// The origin of the path of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--config`.
    Argument,
    /// `REFRAIN_CONFIG`.
    Variable,
    /// The user's folder of configurations.
    User,
}

impl Origin {
    /// Formats it for people.
    pub fn words(self) -> &'static str {
        match self {
            Origin::Argument => "--config",
            Origin::Variable => "REFRAIN_CONFIG",
            Origin::User => "the user's folder",
        }
    }
}

impl Config {
    /// Reads the configuration. The user's own file may be absent, a named one may not.
    pub fn read(named: Option<&Path>) -> Result<Config, CommandError> {
        let (path, origin) = find(named);
        let Some(path) = path else {
            return Ok(Config { machine: Machine::default(), path: None, origin, is_there: false });
        };
        let text = match read_private(&path) {
            Ok(text) => text,
            Err(ReadError::Io(error))
                if error.kind() == io::ErrorKind::NotFound && origin == Origin::User =>
            {
                let machine = Machine::default();
                return Ok(Config { machine, path: Some(path), origin, is_there: false });
            }
            Err(error) => return Err(error.of(&path, origin)),
        };
        let mut machine = parse(&path, text)?;
        let folder = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let folder = folder.parent().unwrap_or(Path::new("/")).to_owned();
        if let Some(path) = &mut machine.python.path {
            // A bare name is left for `PATH`.
            if path.components().count() > 1 {
                *path = located(path, &folder);
            }
        }
        for model in machine.servers.iter_mut().filter_map(|server| server.model.as_mut()) {
            *model = located(model, &folder);
        }
        for executor in machine.executors.values_mut() {
            for file in [&mut executor.environment_file, &mut executor.program] {
                *file = file.take().map(|file| located(&file, &folder));
            }
        }
        Ok(Config { machine, path: Some(path), origin, is_there: true })
    }
}

/// Finds the file: as named, or `REFRAIN_CONFIG`, or in the user's folder.
fn find(named: Option<&Path>) -> (Option<PathBuf>, Origin) {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = named {
        return (Some(path.to_owned()), Origin::Argument);
    }
    if let Some(path) = variable("REFRAIN_CONFIG") {
        return (Some(path.into()), Origin::Variable);
    }
    // A relative folder there is invalid by the specification of these folders.
    let configs = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = configs.or_else(|| Some(home()?.join(".config")));
    (folder.map(|folder| folder.join("refrain/config.toml")), Origin::User)
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Why a configuration was not read.
enum ReadError {
    Io(io::Error),
    /// Others can write this file, or the folder that it lies in.
    Writable(PathBuf),
    /// It belongs to another user.
    Foreign(u32),
}

impl ReadError {
    fn of(self, path: &Path, origin: Origin) -> CommandError {
        let shown = path.display();
        match self {
            ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("there is no configuration `{shown}`");
                let hint = format!("`{}` names it", origin.words());
                CommandError::with_hint(ErrorClass::Input, message, hint)
            }
            ReadError::Io(error) => CommandError::new(
                ErrorClass::Environment,
                format!("cannot read the configuration `{shown}`: {error}"),
            ),
            ReadError::Writable(writable) => CommandError::with_hint(
                ErrorClass::Environment,
                format!(
                    "the configuration `{shown}` names programs, and others can write `{}`",
                    writable.display()
                ),
                format!("`chmod go-w {}` takes that right away", writable.display()),
            ),
            ReadError::Foreign(owner) => CommandError::with_hint(
                ErrorClass::Environment,
                format!("the configuration `{shown}` names programs, and user {owner} owns it"),
                "it must be yours or root's: copy it",
            ),
        }
    }
}

/// Reads a file that nobody but this user and root can change.
fn read_private(path: &Path) -> Result<String, ReadError> {
    // The file that a link leads to is what others must not change.
    let real = path.canonicalize().map_err(ReadError::Io)?;
    let file = refrain_cache::open_plain(&real).map_err(ReadError::Io)?;
    let metadata = file.metadata().map_err(ReadError::Io)?;
    if metadata.mode() & WRITABLE != 0 {
        return Err(ReadError::Writable(real));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(ReadError::Foreign(metadata.uid()));
    }
    for folder in [real.as_path(), path].into_iter().filter_map(Path::parent) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mode = fs::metadata(folder).map_err(ReadError::Io)?.mode();
        if mode & WRITABLE != 0 && mode & STICKY == 0 {
            return Err(ReadError::Writable(folder.to_owned()));
        }
    }

    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(ReadError::Io)?;
    if text.len() as u64 > MAX_BYTES {
        let reason = "it is larger than 1 MB, the limit";
        return Err(ReadError::Io(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(text)
}

/// Parses a configuration; a fault is shown with its place.
fn parse(path: &Path, text: String) -> Result<Machine, CommandError> {
    toml::from_str(&text).map_err(|error| {
        let message = error.message().trim_end_matches('.').to_owned();
        let problem = match error.span() {
            Some(span) => Diagnostic::at(span, message),
            None => Diagnostic::general(message),
        };
        let problem = problem.hint("docs/machine.md lists what a configuration holds");
        Diagnostics::new(SourceText::new(path, text.as_str()), vec![problem]).into()
    })
}

/// Returns the place of a path as the configuration means it: from `~` or from its own folder.
fn located(path: &Path, folder: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => folder.join(path),
    }
}
