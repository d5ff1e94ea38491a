//! Puts nodes into jobs: a chain of nodes that wait for each other alone stays together, and small
//! nodes share a job.

use std::collections::HashMap;
use std::time::Duration;

use crate::graph::{Graph, Node, NodeId, Work};
use crate::kind::machine::ExecutorConfig;
use crate::kind::{ArtifactKind, Type, placeholders};
use crate::plan::state::{PendingNode, State};

use super::JobResources;
use super::job_file::{InputOrigin, JobInput, JobNode};

/// The limit of nodes of a chain.
const CHAIN: usize = 64;
/// The time that a job of small nodes should take.
const SHARED: Duration = Duration::from_secs(30);
/// Shares of what is ready that each running job leaves for later.
const ROUNDS: usize = 2;
/// The shortest time that a chain is believed to take, in seconds.
const SHORTEST: f64 = 1e-6;
/// The limit of chains of a job.
const CHAINS: usize = 1000;

/// The time that the nodes of a stage took so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StageTime {
    nodes: u32,
    seconds: f64,
}

impl StageTime {
    pub(super) fn add(&mut self, seconds: f64) {
        self.nodes += 1;
        self.seconds += seconds;
    }

    fn mean(&self) -> Option<f64> {
        (self.nodes > 0).then(|| self.seconds / f64::from(self.nodes))
    }
}

/// Whether a node can run elsewhere at all: a stage whose model no server computes, and that needs
/// no value of this process's environment, unless jobs have one of their own.
pub(super) fn can_leave(graph: &Graph, node: &Node, config: &ExecutorConfig) -> bool {
    let Work::Stage { kind, params } = &node.work else { return false };
    let is_served =
        node.inputs.iter().any(|edge| matches!(graph.node(edge.node).work, Work::Served(_)));
    let needs_value = || {
        let secret = kind.params.iter().filter(|param| holds_secrets(&param.ty));
        secret.filter_map(|param| params.get(param.name)).any(needs_environment)
    };
    !is_served && (config.environment_file.is_some() || !needs_value())
}

fn holds_secrets(ty: &Type) -> bool {
    match ty {
        Type::Secret => true,
        Type::List(item) | Type::Map(item) => holds_secrets(item),
        Type::Record(params) => params.iter().any(|param| holds_secrets(&param.ty)),
        Type::OneOf(types) => types.iter().any(holds_secrets),
        _ => false,
    }
}

fn needs_environment(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => placeholders(text).any(|name| name.starts_with("env:")),
        serde_json::Value::Array(values) => values.iter().any(needs_environment),
        serde_json::Value::Object(values) => values.values().any(needs_environment),
        _ => false,
    }
}

/// Returns the chain that begins with a node: each further one is the only reader of the one before
/// that is `free`, and waits for nothing else.
pub(super) fn chain(
    graph: &Graph,
    state: &State<'_>,
    first: NodeId,
    is_free: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let mut chain = vec![first];
    while chain.len() < CHAIN {
        let last = chain[chain.len() - 1];
        let mut readers: Vec<NodeId> = graph.dependents(last).collect();
        readers.dedup();
        let [next] = readers[..] else { break };
        let (node, before) = (graph.node(next), graph.node(last));
        let waits_for_it_alone = node.inputs.iter().all(|edge| {
            state.done(edge.node).is_some() || chain.contains(&edge.node) && !node.passes_on()
        });
        // A model that a chain makes may have a base elsewhere.
        let reads_models = node.inputs.iter().any(|edge| {
            chain.contains(&edge.node)
                && graph.node(edge.node).output_kind(&edge.output) == Some(ArtifactKind::Model)
        });
        let same = |a: &Node, b: &Node| {
            let (a, b) = (&a.settings, &b.settings);
            (a.threads, a.memory, a.gpus) == (b.threads, b.memory, b.gpus)
        };
        // The memory of a node is estimated from its inputs, which the chain has yet to make.
        let is_estimated = node.settings.memory.is_none()
            && matches!(&node.work, Work::Stage { kind, .. } if kind.memory.is_some());
        let fits = same(node, before) && !is_estimated;
        if !waits_for_it_alone || reads_models || !fits || !is_free(next) {
            break;
        }
        chain.push(next);
    }
    chain
}

/// Returns the time that a chain takes, by what such nodes took so far; `None` where one of its
/// stages is new.
pub(super) fn seconds_of(
    graph: &Graph,
    chain: &[NodeId],
    took: &HashMap<String, StageTime>,
) -> Option<f64> {
    chain.iter().map(|id| took.get(&graph.node(*id).stage).and_then(StageTime::mean)).sum()
}

/// Returns how many chains of `seconds` a job takes, of those that are ready, while `at_once` jobs
/// run; one where the time is not known, so that long nodes never wait for each other.
///
/// Each job takes a share of what is ready that leaves others something to do, as in guided
/// self-scheduling (Polychronopoulos and Kuck, 1987): large ones first, small ones at the end.
pub(super) fn chains_of_job(seconds: Option<f64>, ready: usize, at_once: usize) -> usize {
    let Some(seconds) = seconds else { return 1 };
    let within = SHARED.as_secs_f64() / seconds.max(SHORTEST);
    let share = ready / (ROUNDS * at_once.max(1));
    (within as usize).min(share).clamp(1, CHAINS)
}

/// Returns the resources of a job of these nodes, which declare the same: `memory` is the most that
/// one of them takes, the time that of all of them.
pub(super) fn resources_of(
    graph: &Graph,
    nodes: &[NodeId],
    memory: Option<u64>,
    config: &ExecutorConfig,
) -> JobResources {
    let settings = &graph.node(nodes[0]).settings;
    let mut time = Some(Duration::ZERO);
    for id in nodes {
        let settings = &graph.node(*id).settings;
        let attempts = settings.retry.map_or(1, |retry| retry.times + 1);
        let node = settings.timeout.map(|timeout| timeout.saturating_mul(attempts));
        time = time.zip(node).map(|(time, node)| time.saturating_add(node));
    }
    JobResources {
        threads: settings.threads.unwrap_or(config.threads),
        memory: memory.or(config.memory),
        gpus: settings.gpus.unwrap_or(0),
        time: time.or(config.time),
    }
}

/// Writes the nodes of a job, the first nodes of its chains with what is pending of them; `None`
/// where an input is not known, which a chain does not allow.
pub(super) fn job_nodes(
    graph: &Graph,
    state: &State<'_>,
    nodes: &[NodeId],
    pending: &HashMap<NodeId, Box<PendingNode>>,
    is_forced: impl Fn(NodeId) -> bool,
) -> Option<Vec<JobNode>> {
    let places: HashMap<NodeId, usize> =
        nodes.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut written = Vec::with_capacity(nodes.len());
    for id in nodes {
        let node = graph.node(*id);
        let Work::Stage { kind, params } = &node.work else { return None };
        let (mut inputs, mut files) = (Vec::new(), Vec::new());
        for edge in &node.inputs {
            let from = match places.get(&edge.node) {
                Some(place) => InputOrigin::Made { node: *place, output: edge.output.clone() },
                None => {
                    let (input, identity, seen) = state.known_input(edge)?;
                    for seen in seen {
                        files.extend(seen.files().map(|(path, file)| (path.to_path_buf(), file)));
                    }
                    InputOrigin::There { identity, input }
                }
            };
            inputs.push(JobInput { path: edge.path.clone(), from });
        }
        written.push(JobNode {
            id: id.0,
            name: node.name.clone(),
            kind: kind.name.to_owned(),
            params: params.to_map(),
            inputs,
            files,
            outputs: node.outputs.to_vec(),
            settings: (*node.settings).clone(),
            key: pending.get(id).map(|pending| pending.key),
            fresh: is_forced(*id),
        });
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chains_share_a_job_and_leave_work_to_others() {
        assert_eq!(chains_of_job(None, 1000, 4), 1, "nothing is known");
        assert_eq!(chains_of_job(Some(3600.0), 1000, 4), 1, "an hour each");
        assert_eq!(chains_of_job(Some(1.0), 1000, 4), 30, "half a minute together");
        assert_eq!(chains_of_job(Some(0.01), 800, 4), 100, "half a share of what is ready");
        assert_eq!(chains_of_job(Some(0.0), 1_000_000, 1), CHAINS);

        // All that is ready is given away in jobs that grow smaller, never larger.
        let (mut ready, mut last) = (5000, usize::MAX);
        while ready > 0 {
            let taken = chains_of_job(Some(0.01), ready, 6);
            assert!(taken <= last && taken >= 1);
            (ready, last) = (ready.saturating_sub(taken), taken);
        }
        assert_eq!(last, 1);
    }

    #[test]
    fn nodes_take_the_mean_of_those_before() {
        let mut took = StageTime::default();
        assert_eq!(took.mean(), None);
        took.add(1.0);
        took.add(2.0);
        assert_eq!(took.mean(), Some(1.5));
    }
}
