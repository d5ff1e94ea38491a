//! `refrain bundle`: what a reviewer needs to check the figures, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::{Digest, digest_file};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::{self, Lock};
use refrain_engine::report::verify::{self, VerifyOptions};
use refrain_remote::Progress;

use crate::bundle::archive::{self, Content};
use crate::bundle::metadata::{self, FileFacts};
use crate::bundle::{RESULTS, figures};
use crate::cli::{BundleArgs, Format};
use crate::command_error::CommandError;
use crate::session::Session;
use crate::{human, output, remote};

/// Writes the bundle of a workflow whose lock holds.
pub fn bundle(arguments: &BundleArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let lock = Lock::read(&session.lock)?;
    complete(&session)?;
    holds(&session, &lock, arguments.with_sources)?;

    let mut files = Files::of(&session, arguments.with_sources)?;
    let store = session.existing_store()?.ok_or_else(|| {
        CommandError::with_hint(
            ErrorClass::Input,
            "there is no cache with the tables that the figures need",
            "`refrain run` makes them, `refrain cache pull` receives them",
        )
    })?;
    let scratch = store.cache().scratch_dir().map_err(|e| environment(&e))?;
    let remote = remote::open(&scratch.path().display().to_string())?;
    let named = figures(&session, &lock);
    let progress = Progress::default();
    remote.push(store.cache(), store.records(), store.digests(), &named, false, &progress)?;
    files.add_folder(scratch.path(), RESULTS)?;

    let text = metadata::format(
        &session.graph.workflow.name,
        &session.graph.workflow.about,
        &files.workflow,
        &files.facts()?,
    );
    files.contents.insert(metadata::NAME.into(), Content::Text(text));
    archive::write(&arguments.output, &files.contents)
        .map_err(|error| CommandError::cannot_write(&arguments.output, &error))?;
    let (digest, bytes) = digest_file(&arguments.output).map_err(|error| environment(&error))?;
    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "exit_code": 0,
            "bundle": arguments.output,
            "files": files.contents.len(),
            "bytes": bytes,
            "digest": digest.to_string(),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{} in `{}`, {}, BLAKE3 {digest}",
        output::count(files.contents.len(), "file"),
        arguments.output.display(),
        human::size(bytes),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Checks that the workflow says what the metadata must say.
fn complete(session: &Session) -> Result<(), CommandError> {
    let about = &session.graph.workflow.about;
    let missing = match about {
        about if about.license.is_none() => "license",
        about if about.date.is_none() => "date",
        _ => return Ok(()),
    };
    let path = session.graph.workflow.source.path.display();
    Err(CommandError::with_hint(
        ErrorClass::Input,
        format!("`{path}` has no `{missing}`, which a bundle must state"),
        "write `license: CC-BY-4.0`, `authors: [NAME]` and `date: 2026-11-26` at its top",
    ))
}

/// Checks that the lock is that of the workflow, and that every condition holds.
fn holds(session: &Session, lock: &Lock, with_sources: bool) -> Result<(), CommandError> {
    let options = VerifyOptions { no_data: !with_sources, ..VerifyOptions::default() };
    let (expects, comparisons) = (&session.expects, &session.comparisons);
    let found = verify::verify(&session.graph, lock, None, expects, comparisons, options);
    let Some(first) = found.mismatches.first() else { return Ok(()) };
    Err(CommandError::with_hint(
        ErrorClass::Difference,
        format!("the lock does not hold: `{}`: {}", first.node, first.message),
        "`refrain verify` tells all; only what holds is bundled",
    ))
}

/// The files of a bundle, by their names in it.
struct Files {
    contents: BTreeMap<String, Content>,
    /// The name of the workflow.
    workflow: String,
    /// The folder from which names are relative.
    root: PathBuf,
}

impl Files {
    /// The workflow, the files that it includes, its lock, and where asked its sources.
    fn of(session: &Session, with_sources: bool) -> Result<Files, CommandError> {
        let source = &session.graph.workflow.source;
        let own = absolute(&source.path)?;
        let mut paths = vec![own.clone()];
        for included in &source.included {
            paths.push(absolute(&included.path)?);
        }
        if with_sources {
            let graph = &session.graph;
            // Whoever has the lock can fetch what it pins.
            let own = graph.ids().filter(|id| !graph.fetched.contains_key(id));
            for place in own.filter_map(|id| graph.node(id).work.source()) {
                paths.push(absolute(&place.path)?);
            }
        }
        let mut root = own.parent().unwrap_or(&own).to_path_buf();
        while !paths.iter().all(|path| path.starts_with(&root)) {
            root = root.parent().unwrap_or(Path::new("/")).to_path_buf();
        }

        let mut files = Files { contents: BTreeMap::new(), workflow: String::new(), root };
        files.workflow = files.name(&own)?;
        for path in paths.iter().chain([&lock::path_of(&own)]) {
            let name = files.name(path)?;
            match path.is_dir() {
                true => files.add_folder(path, &name)?,
                false => drop(files.contents.insert(name, Content::File(path.clone()))),
            }
        }
        Ok(files)
    }

    fn name(&self, path: &Path) -> Result<String, CommandError> {
        let relative = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        relative.map(str::to_owned).ok_or_else(|| {
            let message = format!("`{}` has a name that is not UTF-8", path.display());
            CommandError::new(ErrorClass::Input, message)
        })
    }

    /// Adds all files of a folder under a name.
    fn add_folder(&mut self, folder: &Path, name: &str) -> Result<(), CommandError> {
        let entries = std::fs::read_dir(folder).map_err(|error| environment(&error))?;
        for entry in entries {
            let path = entry.map_err(|error| environment(&error))?.path();
            let part = path.file_name().and_then(|part| part.to_str()).unwrap_or_default();
            let name = format!("{name}/{part}");
            match path.is_dir() {
                true => self.add_folder(&path, &name)?,
                false => drop(self.contents.insert(name, Content::File(path))),
            }
        }
        Ok(())
    }

    fn facts(&self) -> Result<BTreeMap<String, FileFacts>, CommandError> {
        let mut facts = BTreeMap::new();
        for (name, content) in &self.contents {
            let (digest, bytes) = match content {
                Content::File(path) => digest_file(path).map_err(|error| environment(&error))?,
                Content::Text(text) => (Digest::of_bytes(text.as_bytes()), text.len() as u64),
            };
            facts.insert(name.clone(), FileFacts { digest, bytes });
        }
        Ok(facts)
    }
}

/// A path from the root, without `..` and links.
fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    path.canonicalize().map_err(|error| {
        let message = format!("cannot read `{}`: {error}", path.display());
        CommandError::with_hint(
            ErrorClass::Environment,
            message,
            "a pattern of files cannot be bundled; name the folder, or leave out `--with-sources`",
        )
    })
}

fn environment(error: &dyn std::error::Error) -> CommandError {
    CommandError::new(ErrorClass::Environment, error.to_string())
}
