//! Looks nodes up in the cache. Files that must be hashed for it are left to whoever can wait.

use std::path::PathBuf;
use std::sync::Arc;

use refrain_cache::{Artifact, Artifacts, NodeResult, OnHashed};

use crate::graph::{Node, NodeId};
use crate::kind::MAIN;
use crate::source::seen::{HashError, SeenSource, SourcePlace};
use crate::store::{Store, StoreError};

use super::{NodeState, PendingNode, State, StateError};

/// Bytes up to which files are hashed where a node is looked up: handing them on would take longer.
const SMALL: u64 = 1 << 20;

/// The cache lookup of a node whose inputs are known.
#[derive(Debug)]
pub enum Lookup {
    /// Its outputs are there.
    Done(Box<NodeState>),
    /// It must be computed.
    Pending(Box<PendingNode>),
    /// Files must be hashed before the answer is known.
    Unhashed(HashTask),
}

/// The files that must be hashed before a node can be looked up.
#[derive(Debug)]
pub struct HashTask {
    files: Files,
    /// Their size in bytes.
    pub bytes: u64,
}

#[derive(Debug)]
enum Files {
    Source(SourcePlace),
    /// The outputs of a record, by name.
    Outputs(Vec<(String, Artifact)>),
}

/// The results of [`HashTask`]s for one node.
#[derive(Debug, Clone, Default)]
pub struct Hashed {
    source: Option<Arc<SeenSource>>,
    /// What is wrong with the outputs of the node's record, if anything.
    outputs: Option<Result<(), String>>,
}

impl Hashed {
    /// Adds the result of a later task.
    pub(super) fn add(&mut self, other: Hashed) {
        self.source = other.source.or(self.source.take());
        self.outputs = other.outputs.or(self.outputs.take());
    }

    pub(super) fn forget_outputs(&mut self) {
        self.outputs = None;
    }
}

impl HashTask {
    fn of_source(place: SourcePlace) -> Result<HashTask, HashError> {
        let bytes = SeenSource::size(&place)?;
        Ok(HashTask { files: Files::Source(place), bytes })
    }

    fn of_outputs(outputs: Vec<(String, Artifact)>) -> HashTask {
        let bytes = outputs.iter().map(|(_, artifact)| artifact.bytes).sum();
        HashTask { files: Files::Outputs(outputs), bytes }
    }

    /// Returns the file or folder of a source, or the object of a record's first output.
    pub fn path(&self, store: &Store) -> PathBuf {
        match &self.files {
            Files::Source(place) => place.path.clone(),
            Files::Outputs(outputs) => {
                let first = outputs.first().map(|(_, artifact)| &artifact.digest);
                first.map_or_else(PathBuf::new, |digest| store.object_path(digest))
            }
        }
    }

    /// Hashes the files; `on_hashed` is told of progress and can end it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn run(&self, store: &Store, on_hashed: OnHashed<'_>) -> Result<Hashed, StateError> {
        let mut hashed = Hashed::default();
        match &self.files {
            Files::Source(place) => {
                let seen = SeenSource::hash(place, store.digests(), on_hashed)?;
                hashed.source = Some(Arc::new(seen));
            }
            Files::Outputs(outputs) => {
                hashed.outputs = Some(check(store, outputs, on_hashed)?);
            }
        }
        Ok(hashed)
    }
}

/// Checks the outputs of a record, and sets aside the damaged ones; the error describes the first.
fn check(
    store: &Store,
    outputs: &[(String, Artifact)],
    on_hashed: OnHashed<'_>,
) -> Result<Result<(), String>, StoreError> {
    let mut checked = Ok(());
    for (name, artifact) in outputs {
        if let Some(fault) = store.check_watched(artifact, on_hashed)? {
            checked = checked.and(Err(format!("output `{name}`: {fault}")));
        }
    }
    Ok(checked)
}

/// What a lookup needs: there, or to be hashed first.
enum Needed<T> {
    There(T),
    Unhashed(HashTask),
}

impl State<'_> {
    /// Looks up a node whose inputs are all done; `None` when one is not.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn look_up(&self, id: NodeId) -> Result<Option<Lookup>, StateError> {
        self.look_up_with(id, &self.hashed.get(&id).cloned().unwrap_or_default())
    }

    /// Looks up a node as [`State::look_up`] does, and hashes on this thread what must be hashed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn look_up_now(&self, id: NodeId) -> Result<Option<Lookup>, StateError> {
        let mut hashed = Hashed::default();
        loop {
            match self.look_up_with(id, &hashed)? {
                Some(Lookup::Unhashed(task)) => hashed.add(task.run(self.store, &|_| Ok(()))?),
                lookup => return Ok(lookup),
            }
        }
    }

    fn look_up_with(&self, id: NodeId, hashed: &Hashed) -> Result<Option<Lookup>, StateError> {
        let node = self.graph.node(id);
        let seen = match self.see(id, hashed)? {
            Needed::There(seen) => seen,
            Needed::Unhashed(task) => return Ok(Some(Lookup::Unhashed(task))),
        };
        let absent = self.graph.absent.get(&id);
        let file = match absent {
            Some(recorded) => Some(recorded.digest),
            None => seen.as_ref().map(|seen| seen.digest()),
        };
        let Some(manifest) = self.manifest(node, file) else { return Ok(None) };
        let key = manifest.key();
        if node.is_read_in_place() {
            let base = node.inputs.first().and_then(|e| self.outputs(e.node)?.get(&e.output));
            let base = base.map(|base| base.digest);
            let artifact = match (&seen, absent) {
                (Some(seen), _) => seen.artifact(base),
                (None, Some(recorded)) => recorded.artifact.clone(),
                (None, None) => return Ok(None),
            };
            let done = NodeState { key, result: NodeResult::main(artifact), file, seen };
            return Ok(Some(Lookup::Done(Box::new(done))));
        }

        let mut damaged = None;
        if let Some(record) = self.store.made(&key)? {
            match self.checked(node, &record.result.artifacts, hashed)? {
                Needed::Unhashed(task) => return Ok(Some(Lookup::Unhashed(task))),
                Needed::There(Err(damage)) => damaged = Some(damage),
                Needed::There(Ok(())) => {
                    let done = NodeState { key, result: record.result, file, seen };
                    return Ok(Some(Lookup::Done(Box::new(done))));
                }
            }
        }
        Ok(Some(Lookup::Pending(Box::new(PendingNode { key, manifest, seen, damaged }))))
    }

    /// Returns what is seen of a source; `None` for other nodes, and for a source whose files are absent.
    fn see(
        &self,
        id: NodeId,
        hashed: &Hashed,
    ) -> Result<Needed<Option<Arc<SeenSource>>>, StateError> {
        let source = self.graph.node(id).work.source();
        let Some(place) = source.filter(|_| !self.graph.absent.contains_key(&id)) else {
            return Ok(Needed::There(None));
        };
        if hashed.source.is_some() {
            return Ok(Needed::There(hashed.source.clone()));
        }
        let digests = self.store.digests();
        if let Some(seen) = SeenSource::find(&place, digests)? {
            return Ok(Needed::There(Some(Arc::new(seen))));
        }
        if SeenSource::size(&place)? > SMALL {
            return Ok(Needed::Unhashed(HashTask::of_source(place)?));
        }
        let seen = SeenSource::hash(&place, digests, &|_| Ok(()))?;
        Ok(Needed::There(Some(Arc::new(seen))))
    }

    /// Checks the outputs of a record.
    fn checked(
        &self,
        node: &Node,
        outputs: &Artifacts,
        hashed: &Hashed,
    ) -> Result<Needed<Result<(), String>>, StateError> {
        if let Some(checked) = &hashed.outputs {
            return Ok(Needed::There(checked.clone()));
        }
        let mut known: Vec<(String, Artifact)> = Vec::with_capacity(outputs.len());
        for (name, artifact) in outputs {
            // An artifact that is passed on was checked where it was made.
            if node.passes_on() && name == MAIN {
                continue;
            }
            // An only output of `run` is the main one too.
            if !known.iter().any(|(_, before)| before == artifact) {
                known.push((name.clone(), artifact.clone()));
            }
        }

        let large = |(_, artifact): &(String, Artifact)| {
            artifact.bytes > SMALL && self.store.must_hash(artifact)
        };
        if known.iter().any(large) {
            return Ok(Needed::Unhashed(HashTask::of_outputs(known)));
        }
        Ok(Needed::There(check(self.store, &known, &|_| Ok(()))?))
    }
}
