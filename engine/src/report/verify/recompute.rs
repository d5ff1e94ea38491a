//! Recomputes a sample of the nodes in an empty cache and compares the results with the lock.

use std::collections::BTreeSet;
use std::str::FromStr;

use tracing::info_span;

use refrain_cache::{Artifact, Cache, Digest};

use crate::graph::{Graph, Node, NodeId, Work};
use crate::kind::{Cancel, MAIN, StageError};
use crate::ledger::lock::{Lock, LockEntry};
use crate::plan::node_manifest::{base_edge, passed_edge};
use crate::plan::state::{NodeState, State, StateError};
use crate::report::artifact_difference::{self, Strictness, first_difference};
use crate::run::{self, NodeError, RunOptions};
use crate::source::seen::{SeenSource, SourcePlace};
use crate::store::{Store, StoreError};

use super::mismatch::{Mismatch, Remedy};

/// The nodes that are recomputed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// Every one.
    All,
    /// A share of them, rounded up; above 0, at most 1.
    Share(f64),
    /// So many, or all where they are fewer; at least 1.
    Count(usize),
}

impl FromStr for Sample {
    type Err = String;

    /// Reads `all`, `5%` or `3`.
    fn from_str(text: &str) -> Result<Sample, String> {
        let share = text.strip_suffix('%').map(|number| number.trim().parse::<f64>());
        match (share, text.parse::<usize>()) {
            _ if text == "all" => Ok(Sample::All),
            (Some(Ok(percent)), _) if percent > 0.0 && percent <= 100.0 => {
                Ok(Sample::Share(percent / 100.0))
            }
            (None, Ok(count)) if count > 0 => Ok(Sample::Count(count)),
            _ => Err("write `all`, a share such as `5%`, or a number of nodes".into()),
        }
    }
}

/// The comparison of a recomputed node with the lock.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparison {
    /// The same bytes.
    Equal,
    /// Another profile, and numbers within the tolerance.
    Close,
    /// Another profile, under which the kind's outputs may be any others.
    NotComparable(String),
    /// Something differs, or it could not be made.
    Different,
}

/// The outcome of a recomputation.
#[derive(Debug, Default)]
pub struct Recomputed {
    /// Nodes that could have been chosen.
    pub of: usize,
    /// The nodes that were chosen, in the order of the workflow, with what became of each.
    pub nodes: Vec<(String, Comparison)>,
    /// The differences.
    pub mismatches: Vec<Mismatch>,
    /// Whether it was interrupted.
    pub interrupted: bool,
}

/// Recomputes a sample of the nodes; `seed` and their names decide which.
///
/// Inputs come from the cache; those that it lacks are made there first.
///
/// # Errors
/// [`StateError`] where the cache fails.
pub fn recompute(
    graph: &Graph,
    lock: &Lock,
    store: &Store,
    sample: Sample,
    seed: &str,
    options: &RunOptions<'_>,
    cancel: &Cancel,
) -> Result<Recomputed, StateError> {
    let mut state = State::new(graph, store);
    for id in graph.ids() {
        if let Some(line) = lock.entries.get(&graph.node(id).name) {
            state.set(id, line.to_done());
        }
    }
    let mut again =
        Recomputation { graph, lock, store, state, options, cancel, found: Recomputed::default() };
    let candidates: Vec<NodeId> = graph.ids().filter(|id| again.is_as_locked(*id)).collect();
    again.found.of = candidates.len();
    let chosen = choose(graph, candidates, sample, seed);
    again.make_inputs(&chosen)?;
    let _run = info_span!("run", nodes = chosen.len()).entered();
    for id in chosen {
        if cancel.is_cancelled() {
            break;
        }
        again.node(id)?;
    }
    again.found.interrupted = cancel.is_cancelled();
    Ok(again.found)
}

/// The nodes whose names have the smallest digests with the seed before them.
fn choose(graph: &Graph, candidates: Vec<NodeId>, sample: Sample, seed: &str) -> Vec<NodeId> {
    let count = match sample {
        Sample::All => candidates.len(),
        Sample::Share(share) => (share * candidates.len() as f64).ceil() as usize,
        Sample::Count(count) => count,
    };
    let mut ranked: Vec<(Digest, NodeId)> = candidates
        .into_iter()
        .map(|id| (Digest::of_bytes(format!("{seed}\n{}", graph.node(id).name).as_bytes()), id))
        .collect();
    ranked.sort();
    ranked.truncate(count);
    let mut chosen: Vec<NodeId> = ranked.into_iter().map(|(_, id)| id).collect();
    chosen.sort();
    chosen
}

struct Recomputation<'a, 'o> {
    graph: &'a Graph,
    lock: &'a Lock,
    store: &'a Store,
    /// The lock's results of every node.
    state: State<'a>,
    options: &'o RunOptions<'o>,
    cancel: &'o Cancel,
    found: Recomputed,
}

impl Recomputation<'_, '_> {
    fn line(&self, id: NodeId) -> Option<&LockEntry> {
        self.lock.entries.get(&self.graph.node(id).name)
    }

    /// Whether a node is computed, and has the key that the lock gives it.
    fn is_as_locked(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let manifest = if node.is_source() { None } else { self.state.manifest(node, None) };
        matches!((manifest, self.line(id)), (Some(manifest), Some(line)) if manifest.key() == line.key)
    }

    /// The nodes that a node reads, with the outputs of each, and what adapters among them are based on.
    fn reads(&self, id: NodeId) -> Vec<(NodeId, Artifact)> {
        let output =
            |id: NodeId, name: &str| self.state.done(id)?.result.artifacts.get(name).cloned();
        let inputs = self.graph.node(id).inputs.iter();
        let mut reads: Vec<(NodeId, Artifact)> =
            inputs.filter_map(|e| Some((e.node, output(e.node, &e.output)?))).collect();
        let mut next = 0;
        let outputs = |id: NodeId| Some(&self.state.done(id)?.result.artifacts);
        while let Some((id, artifact)) = reads.get(next) {
            next += 1;
            let node = self.graph.node(*id);
            let base = || base_edge(node, &artifact.base?, &outputs);
            let edge = passed_edge(node, artifact, &outputs).or_else(base);
            reads.extend(edge.and_then(|e| Some((e.node, output(e.node, &e.output)?))));
        }
        reads
    }

    /// Whether an artifact is there with the bytes that the lock names.
    fn is_there(&self, id: NodeId, artifact: &Artifact) -> Result<bool, StoreError> {
        let node = self.graph.node(id);
        match &node.work {
            // An artifact that is passed on lies where the node that made it put it.
            Work::Stage { .. } if self.is_passed_on(node, artifact) => Ok(true),
            Work::Model(path) | Work::File(path) | Work::Folder(path) => {
                // Hashed once however many nodes read it.
                let place = SourcePlace::new(path, artifact.kind);
                let seen = SeenSource::hash(&place, self.store.digests(), &|_| Ok(()));
                Ok(seen.is_ok_and(|seen| seen.digest() == artifact.digest))
            }
            _ => Ok(self.store.check(artifact)?.is_none()),
        }
    }

    fn is_passed_on(&self, node: &Node, artifact: &Artifact) -> bool {
        let outputs = |id: NodeId| Some(&self.state.done(id)?.result.artifacts);
        passed_edge(node, artifact, &outputs).is_some()
    }

    /// Makes what the cache lacks of what the nodes read.
    fn make_inputs(&mut self, chosen: &[NodeId]) -> Result<(), StateError> {
        let mut lacking = BTreeSet::new();
        for id in chosen {
            for (input, artifact) in self.reads(*id) {
                if !lacking.contains(&input) && !self.is_there(input, &artifact)? {
                    lacking.insert(input);
                }
            }
        }
        if !lacking.is_empty() {
            let only = Some(lacking.into_iter().collect());
            let options = RunOptions {
                only,
                force: Default::default(),
                keep_going: true,
                pins: self.options.pins.clone(),
                executors: &[],
                budget: None,
                ..*self.options
            };
            run::run(self.graph, self.store, &options, self.cancel)?;
        }
        Ok(())
    }

    fn differs(
        &mut self,
        id: NodeId,
        message: String,
        before: Option<Digest>,
        now: Option<Digest>,
    ) {
        let mismatch = Mismatch {
            before: before.map(|d| d.to_string()),
            now: now.map(|d| d.to_string()),
            ..Mismatch::new(
                &self.graph.node(id).name,
                "recompute",
                message,
                Remedy::Recompute.words(self.graph),
            )
        };
        self.found.mismatches.push(mismatch);
    }

    fn node(&mut self, id: NodeId) -> Result<(), StateError> {
        let before = self.found.mismatches.len();
        let comparison = self.compute(id)?;
        let comparison = match comparison {
            Some(_) if self.found.mismatches.len() > before => Comparison::Different,
            Some(comparison) => comparison,
            // It was interrupted.
            None => return Ok(()),
        };
        self.found.nodes.push((self.graph.node(id).name.clone(), comparison));
        Ok(())
    }

    fn compute(&mut self, id: NodeId) -> Result<Option<Comparison>, StateError> {
        for (input, artifact) in self.reads(id) {
            if !self.is_there(input, &artifact)? {
                let name = &self.graph.node(input).name;
                let message = format!(
                    "the cache lacks its input `{name}` in the version that the lock names"
                );
                self.differs(id, message, Some(artifact.digest), None);
                return Ok(Some(Comparison::Different));
            }
        }
        let scratch = self.store.cache().scratch_dir().map_err(StoreError::from)?;
        let cache = Cache::open(&scratch.path().join("cache")).map_err(StoreError::from)?;
        match run::recompute_node(self.graph, id, &self.state, &cache, self.options, self.cancel) {
            Ok(done) => self.compare(id, &done, &cache).map(Some),
            Err(NodeError::Stage(StageError::Cancelled)) => Ok(None),
            Err(failure) => {
                self.differs(id, format!("it failed: {failure}"), None, None);
                Ok(Some(Comparison::Different))
            }
        }
    }

    fn compare(
        &mut self,
        id: NodeId,
        done: &NodeState,
        cache: &Cache,
    ) -> Result<Comparison, StateError> {
        let Some(line) = self.line(id).cloned() else { return Ok(Comparison::Different) };
        let close = match &self.graph.node(id).work {
            Work::Stage { kind, .. } => kind.close_elsewhere,
            _ => true,
        };
        let is_exact = self.graph.workflow.kinds.is_exact(&line.profile);
        let is_same = line.profile == done.result.profile;
        let strictness = if is_same && is_exact { Strictness::Bytes } else { Strictness::Close };
        if strictness == Strictness::Close && !close {
            let message = match is_same {
                true => format!("`{}` does not compute the same bits each time", line.profile),
                false => format!(
                    "made under `{}`, computed again under `{}`",
                    line.profile, done.result.profile
                ),
            };
            return Ok(Comparison::NotComparable(message));
        }
        if strictness == Strictness::Close {
            for (name, locked) in &line.outputs {
                if self.store.check(locked)?.is_some() {
                    let why = if is_exact { "another profile" } else { "bits may differ" };
                    let message = format!("{why}, and the cache does not hold the output `{name}`");
                    return Ok(Comparison::NotComparable(message));
                }
            }
        }
        let mut outputs: Vec<(&String, &Artifact)> = line.outputs.iter().collect();
        outputs.sort_by_key(|(name, _)| (*name != MAIN, *name));
        // An only output of a command is its main one too.
        outputs.dedup_by_key(|(_, artifact)| artifact.digest);
        for (name, locked) in outputs {
            let Some(made) = done.result.artifacts.get(name) else {
                self.differs(
                    id,
                    format!("output `{name}` was not made"),
                    Some(locked.digest),
                    None,
                );
                continue;
            };
            if made.digest != locked.digest
                && let Some(place) = self.place(locked, made, cache, strictness)?
            {
                let message = format!("output `{name}`: {place}");
                self.differs(id, message, Some(locked.digest), Some(made.digest));
            }
        }
        if strictness == Strictness::Close {
            self.figures(id, &line, done);
            return Ok(Comparison::Close);
        }
        Ok(Comparison::Equal)
    }

    /// Where an output that has another digest differs; `None` where it does not by that measure.
    fn place(
        &self,
        locked: &Artifact,
        made: &Artifact,
        cache: &Cache,
        strictness: Strictness,
    ) -> Result<Option<String>, StateError> {
        if self.store.check(locked)?.is_some() {
            return Ok(Some(
                "the cache does not hold the one that the lock names, so where is not known".into(),
            ));
        }
        let (before, now) =
            (self.store.object_path(&locked.digest), cache.object_path(&made.digest));
        Ok(match first_difference(locked.kind, &before, &now, strictness) {
            Ok(None) if strictness == Strictness::Bytes => {
                Some("the values are the same, the bytes of the file are not".into())
            }
            Ok(place) => place,
            Err(error) => Some(error.to_string()),
        })
    }

    /// Compares the figures of a node with those of the lock, within the tolerance.
    fn figures(&mut self, id: NodeId, line: &LockEntry, done: &NodeState) {
        for metric in &line.metrics {
            let value =
                done.result.metrics.iter().find(|m| m.metric == metric.metric).map(|m| m.value);
            if !value.is_some_and(|value| artifact_difference::is_close(metric.value, value)) {
                let is = value.map_or("absent".into(), |value| value.to_string());
                let message = format!("figure `{}` was {}, is {is}", metric.metric, metric.value);
                self.differs(id, message, None, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read() {
        let read = |text: &str| text.parse::<Sample>().ok();
        assert_eq!(read("all"), Some(Sample::All));
        assert_eq!(read("5%"), Some(Sample::Share(0.05)));
        assert_eq!(read("0.5 %"), Some(Sample::Share(0.005)));
        assert_eq!(read("3"), Some(Sample::Count(3)));
        for wrong in ["", "0", "0%", "101%", "-1", "1.5", "NaN%", "inf%", "some"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
