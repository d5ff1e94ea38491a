//! The trainer's checkpoints, kept under the node's key for the next run.
//!
//! The files of one lie beside each other, and an index names them. Two generations take turns, so
//! that a process killed while it writes leaves the earlier one whole.

use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refrain_cache::Unfinished;
use refrain_cache::write::{PlainFile, create_dir_all, remove_file};
use refrain_engine::kind::StageError;
use refrain_lm::train::StepLog;

use super::events::wrong;

const INDEX: &str = "trainer";
/// The version of the index's format.
const FORMAT: u32 = 1;
/// The folder in which the trainer finds an earlier checkpoint.
pub(super) const RESUME: &str = "resume";

/// The work that an earlier run left.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    format: u32,
    generation: u64,
    files: Vec<String>,
    log: Vec<StepLog>,
}

/// The checkpoints of one training.
pub(super) struct Checkpoints<'a> {
    unfinished: &'a Unfinished<'a>,
    folder: &'a Path,
    generation: u64,
    /// Whether it was said that they cannot be kept.
    refused: bool,
}

impl<'a> Checkpoints<'a> {
    pub fn new(unfinished: &'a Unfinished<'a>, folder: &'a Path) -> Checkpoints<'a> {
        Checkpoints { unfinished, folder, generation: 0, refused: false }
    }

    /// Puts the last checkpoint where the trainer finds it; the log of its steps. What cannot be
    /// used costs the time of the steps alone.
    pub fn restore(&mut self, note: &dyn Fn(String)) -> Option<Vec<StepLog>> {
        match self.copy_back() {
            Ok(log) => log,
            Err(reason) => {
                note(format!("begins anew, for an earlier state cannot be used: {reason}"));
                None
            }
        }
    }

    fn copy_back(&mut self) -> Result<Option<Vec<StepLog>>, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        let Some(index) = self.unfinished.read(INDEX).map_err(|e| words(&e))? else {
            return Ok(None);
        };
        let index: Index = serde_json::from_reader(index).map_err(|e| words(&e))?;
        if index.format != FORMAT {
            return Err("its format is another version's".into());
        }
        let resume = self.folder.join(RESUME);
        create_dir_all(&resume).map_err(|e| words(&e))?;
        for name in index.files.iter().filter(|name| is_plain(name)) {
            let from = self.unfinished.read(&place(index.generation, name));
            let mut from = from.map_err(|e| words(&e))?.ok_or("a file of it is gone")?;
            let mut to = PlainFile::create(&resume.join(name)).map_err(|e| words(&e))?;
            io::copy(&mut from, &mut to).map_err(|e| words(&e))?;
        }
        self.generation = index.generation;
        Ok(Some(index.log))
    }

    /// Keeps the files of a folder that the trainer wrote, and removes them there. A disk that
    /// refuses costs the checkpoint alone.
    pub fn keep(
        &mut self,
        folder: &str,
        log: &[StepLog],
        note: &dyn Fn(String),
    ) -> Result<(), StageError> {
        if !is_plain(folder) {
            return Err(wrong(format!(
                "the trainer's checkpoint `{folder}` is not a folder's name"
            )));
        }
        let files = files_of(&self.folder.join(folder))?;
        let generation = self.generation + 1;
        let kept = files.iter().try_for_each(|(name, path)| {
            self.unfinished.write(&place(generation, name), |out| {
                io::copy(&mut File::open(path)?, out).map(drop)
            })
        });
        let names = files.iter().map(|(name, _)| name.clone()).collect();
        let index = Index { format: FORMAT, generation, files: names, log: log.to_vec() };
        let index =
            serde_json::to_vec(&index).map_err(|error| StageError::bug(error.to_string()))?;
        let kept = kept.and_then(|()| self.unfinished.write(INDEX, |out| out.write_all(&index)));
        match kept {
            Ok(()) => self.generation = generation,
            Err(error) if !self.refused => {
                note(format!("the state of the training could not be kept: {error}"));
                self.refused = true;
            }
            Err(_) => {}
        }
        for (_, path) in files {
            remove_file(&path).map_err(|error| unreadable(&path, &error))?;
        }
        Ok(())
    }
}

/// The name of a file among those of its key.
fn place(generation: u64, name: &str) -> String {
    format!("trainer.{}.{name}", generation % 2)
}

/// Whether a name cannot leave its folder.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.len() <= 200 && name.chars().all(allowed)
}

/// The files of a folder, which may hold nothing else, sorted by name.
fn files_of(folder: &Path) -> Result<Vec<(String, PathBuf)>, StageError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !is_plain(&name) || !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Err(wrong(format!("`{name}` in the trainer's checkpoint is not a plain file")));
        }
        files.push((name, path));
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: &io::Error) -> StageError {
    StageError::Environment {
        message: format!("cannot read `{}`: {error}", path.display()),
        hint: None,
    }
}
