//! The remote cache of the command line.

use std::collections::{HashMap, HashSet};

use refrain_cache::{Key, Record};
use refrain_engine::graph::NodeId;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::{Lock, LockEntry};
use refrain_engine::plan::elsewhere;
use refrain_engine::plan::state::NodeState;
use refrain_engine::store::Store;
use refrain_remote::{Address, Fault, Named, Progress, Pulled, Remote, RemoteError};

use crate::command_error::CommandError;
use crate::session::Session;
use crate::{output, progress_line};

/// Beginnings of the names of the variables that the services' own programs read.
const VARIABLES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Opens the remote cache that is named.
pub fn open(address: &str) -> Result<Remote, CommandError> {
    let options = std::env::vars()
        .filter(|(name, _)| VARIABLES.iter().any(|variable| name.starts_with(variable)))
        .collect();
    Ok(Remote::open(Address::parse(address, options)?)?)
}

/// Returns the results that a lock names and a cache holds: not those of files and models that are
/// read where they lie.
pub fn named(lock: &Lock) -> Vec<Named> {
    let is_kept = |entry: &&LockEntry| !matches!(&*entry.kind, "model" | "file" | "folder");
    let named = |entry: &LockEntry| Named {
        node: entry.node.clone(),
        key: entry.key,
        result: entry.to_done().result,
    };
    lock.entries.values().filter(is_kept).map(named).collect()
}

/// Receives what the cache lacks for a run and the lock names; of a remote that is trusted, also
/// what other runs pushed.
pub fn pull_for_run(
    session: &Session,
    lock: &Lock,
    store: &Store,
    address: &str,
    wanted: Option<&[bool]>,
    force: &HashSet<NodeId>,
    is_trusted: bool,
) -> Result<(), CommandError> {
    let remote = open(address)?;
    let others = if is_trusted { remote.all_records()? } else { HashMap::new() };
    let graph = &session.graph;
    let locked = |id: NodeId, key: &Key| {
        let entry = lock.entries.get(&graph.node(id).name);
        entry.filter(|entry| entry.key == *key).map(LockEntry::to_done)
    };
    let known = |id: NodeId, key: &Key| locked(id, key).or_else(|| others.get(key).map(done));
    let mut found = elsewhere(graph, store, wanted, &known)?;
    found.retain(|(id, _)| !force.contains(id));
    if found.is_empty() {
        return Ok(());
    }

    let keys: HashSet<Key> =
        found.iter().filter(|(id, key)| locked(*id, key).is_some()).map(|(_, key)| *key).collect();
    let trusted: Vec<(String, Record)> = found
        .iter()
        .filter(|(_, key)| !keys.contains(key))
        .filter_map(|(id, key)| Some((graph.node(*id).name.clone(), others.get(key)?.clone())))
        .collect();
    let progress = Progress::default();
    let so_far = || (progress.done(), progress.total());
    let (cache, records) = (store.cache(), store.records());
    let pulled = progress_line::beside(&so_far, || -> Result<Pulled, RemoteError> {
        let is_wanted = |key: &Key| keys.contains(key);
        let named = named(lock);
        let known = store.digests();
        let mut pulled = remote.pull(cache, records, known, &named, &is_wanted, &progress)?;
        let others = remote.pull_records(cache, records, &trusted, &progress)?;
        pulled.received += others.received;
        pulled.faults.extend(others.faults);
        Ok(pulled)
    })?;
    faults(&pulled.faults);
    let received = output::count(pulled.received, "result");
    output::remark(&format!("{received} from `{}`", remote.address()));
    Ok(())
}

fn done(record: &Record) -> NodeState {
    NodeState { key: record.key, result: record.result.clone(), file: None, seen: None }
}

/// Tells of results that were refused.
pub fn faults(faults: &[Fault]) {
    for Fault { node, reason } in faults {
        output::remark(&format!("warning: `{node}` is not taken from the remote cache: {reason}"));
    }
}

impl From<RemoteError> for CommandError {
    fn from(error: RemoteError) -> CommandError {
        let class = match &error {
            RemoteError::Address { .. } | RemoteError::ReadOnly { .. } => ErrorClass::Input,
            RemoteError::Absent { .. } | RemoteError::Damaged(_) => ErrorClass::Difference,
            _ => ErrorClass::Environment,
        };
        let hint = match &error {
            RemoteError::Address { .. } => {
                "write `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, \
                                            `https://…`, `file:///FOLDER` or a folder that is there"
            }
            RemoteError::ReadOnly { .. } => "push to the bucket or folder that the address shows",
            RemoteError::Absent { .. } => "`refrain run` computes them",
            RemoteError::Damaged(_) => "`refrain cache verify` sets it aside, then run again",
            RemoteError::Failed { .. } => {
                "credentials are read from the variables of the service's own programs, such as \
                 AWS_ACCESS_KEY_ID"
            }
            _ => return CommandError::new(class, error.to_string()),
        };
        CommandError::with_hint(class, error.to_string(), hint)
    }
}
