//! `refrain verify BUNDLE`: a bundle checked by itself, without data, models, cache or network.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use refrain_cache::digest_file;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::Lock;
use refrain_engine::report::verify::Mismatch;
use refrain_engine::store::Store;
use refrain_remote::Progress;

use crate::bundle::metadata::{self, Metadata};
use crate::bundle::{RESULTS, archive, figures};
use crate::cli::VerifyArgs;
use crate::command_error::CommandError;
use crate::remote;
use crate::session::Session;

/// The first bytes of an archive.
const MAGIC: [u8; 4] = *b"PK\x03\x04";

/// Whether a path is that of a bundle.
pub fn is_bundle(path: &Path) -> bool {
    let mut first = [0; 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut first).is_ok()) && first == MAGIC
}

/// A bundle, unpacked into a folder that is removed in the end.
pub struct Unpacked {
    folder: tempfile::TempDir,
    metadata: Metadata,
    /// Files that are not as its metadata say.
    pub mismatches: Vec<Mismatch>,
}

impl Unpacked {
    /// Unpacks a bundle and checks every file of it.
    pub fn new(path: &Path) -> Result<Unpacked, CommandError> {
        let refused = |error: &dyn std::fmt::Display| {
            let message = format!("`{}` is no bundle that can be checked: {error}", path.display());
            CommandError::new(ErrorClass::Difference, message)
        };
        let folder = tempfile::Builder::new().prefix("refrain-bundle-").tempdir();
        let folder =
            folder.map_err(|e| CommandError::new(ErrorClass::Environment, e.to_string()))?;
        let names = archive::unpack(path, folder.path()).map_err(|error| refused(&error))?;
        let text = std::fs::read_to_string(folder.path().join(metadata::NAME));
        let text = text.map_err(|error| refused(&format!("`{}`: {error}", metadata::NAME)))?;
        let metadata = metadata::read(&text).map_err(|error| refused(&error))?;

        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut mismatches = Vec::new();
        for (name, facts) in &metadata.files {
            let found = digest_file(&folder.path().join(name)).ok();
            if names.contains(name.as_str()) && found == Some((facts.digest, facts.bytes)) {
                continue;
            }
            let found = found.map(|(digest, _)| digest.to_string());
            mismatches.push(mismatch(name, Some(facts.digest.to_string()), found));
        }
        let known = |name: &&str| **name == *metadata::NAME || metadata.files.contains_key(*name);
        for name in names.into_iter().filter(|name| !known(name)) {
            mismatches.push(mismatch(name, None, None));
        }
        Ok(Unpacked { folder, metadata, mismatches })
    }

    /// The number of files that the metadata name.
    pub fn files(&self) -> usize {
        self.metadata.files.len()
    }

    /// The arguments with the workflow inside, and a cache of its own.
    pub fn arguments(&self, of: &VerifyArgs) -> VerifyArgs {
        let mut inside = of.clone();
        inside.workflow.workflow = self.folder.path().join(&self.metadata.workflow);
        inside.workflow.cache = Some(self.cache());
        inside.no_data = true;
        inside
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join(".refrain")
    }

    /// Opens the cache, with the results that are in the bundle.
    pub fn store(&mut self, session: &Session, lock: &Lock) -> Result<Store, CommandError> {
        let store = Store::open(&self.cache())?;
        let results = self.folder.path().join(RESULTS);
        if !results.is_dir() {
            return Ok(store);
        }
        let remote = remote::open(&results.display().to_string())?;
        let named = figures(session, lock);
        let progress = Progress::default();
        let (cache, records, known) = (store.cache(), store.records(), store.digests());
        let pulled = remote.pull(cache, records, known, &named, &|_| true, &progress)?;
        for node in pulled.absent {
            let message = "its table is not in the bundle".into();
            self.mismatches.push(Mismatch { node, message, ..mismatch("", None, None) });
        }
        for fault in pulled.faults {
            let (node, message) = (fault.node, fault.reason);
            self.mismatches.push(Mismatch { node, message, ..mismatch("", None, None) });
        }
        Ok(store)
    }
}

/// A file that is not as the metadata say.
fn mismatch(name: &str, before: Option<String>, now: Option<String>) -> Mismatch {
    let message = match (&before, &now) {
        (None, _) => "the bundle's metadata do not name it".to_owned(),
        (Some(_), None) => "it is not in the bundle".into(),
        (Some(before), Some(now)) => format!("its digest is {now}, the metadata say {before}"),
    };
    Mismatch {
        node: name.into(),
        what: "bundle",
        message,
        before,
        now,
        differences: Vec::new(),
        hint: "ask for the bundle once more: this one was changed or cut".into(),
    }
}
