//! `refrain cache`: what the cache holds, whether it is sound, what of it may go, and what others
//! have of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use refrain_cache::{Cache, Listing, Records};
use refrain_engine::language::explain::ErrorClass;

use crate::cli::{self, CacheFolderArgs, Format};
use crate::command_error::CommandError;
use crate::session;

mod gc;
mod stat;
mod transfer;
mod verify;

/// Runs one of the commands that look after the cache.
pub fn cache(command: &cli::Cache, format: Format) -> Result<ExitCode, CommandError> {
    match command {
        cli::Cache::Stat(folder) => stat::stat(&Opened::new(folder)?, format),
        cli::Cache::Verify(folder) => verify::verify(&Opened::new(folder)?, format),
        cli::Cache::Push(arguments) => transfer::push(arguments, format),
        cli::Cache::Pull(arguments) => transfer::pull(arguments, format),
        cli::Cache::Gc(arguments) => gc::gc(&Opened::new(&arguments.folder)?, arguments, format),
    }
}

/// A cache that is there.
struct Opened {
    cache: Cache,
}

impl Opened {
    /// The cache of the command line: the one that is named, or that of the workflows, or the one in this folder.
    fn new(arguments: &CacheFolderArgs) -> Result<Opened, CommandError> {
        for workflow in &arguments.workflows {
            if !workflow.is_file() {
                return Err(CommandError::new(
                    ErrorClass::Input,
                    format!("there is no workflow `{}`", workflow.display()),
                ));
            }
        }
        let beside =
            |workflow: &PathBuf| workflow.parent().unwrap_or(Path::new("")).join(".refrain");
        let mut folders = Vec::new();
        let folder = |beside: PathBuf| session::cache_folder(arguments.cache.as_deref(), beside);
        for workflow in &arguments.workflows {
            folders.push(folder(beside(workflow))?);
        }
        folders.dedup();
        let root = match folders.as_slice() {
            [] => folder(PathBuf::from(".refrain"))?,
            [one] => one.clone(),
            _ => {
                return Err(CommandError::with_hint(
                    ErrorClass::Input,
                    "these workflows have different caches",
                    "name one cache with `--cache DIR`, or the workflows of one folder",
                ));
            }
        };
        if !root.join("format").exists() {
            return Err(CommandError::with_hint(
                ErrorClass::Input,
                format!("there is no cache in `{}`", root.display()),
                "name a workflow that was run, or a cache with `--cache DIR`",
            ));
        }
        Ok(Opened { cache: Cache::open(&root)? })
    }

    fn list(&self) -> Result<(Records, Listing), CommandError> {
        let records = self.cache.records()?;
        let listing = self.cache.listing(&records)?;
        Ok((records, listing))
    }
}

/// A path as it is in the cache folder.
fn within(cache: &Cache, path: &Path) -> String {
    path.strip_prefix(cache.root()).unwrap_or(path).display().to_string()
}

/// The size of a file of the cache; one that is not there has none.
fn length(path: &Path) -> Result<u64, CommandError> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(CommandError::new(
            ErrorClass::Environment,
            format!("cannot read `{}`: {error}", path.display()),
        )),
    }
}
