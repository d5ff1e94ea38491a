//! Runs a graph: nodes start when their inputs are done, within the given number of jobs.
//!
//! One thread decides, workers compute. The loop:
//! 1. every wanted node whose inputs are done is looked up in the cache; what is there is done at once,
//!    and large files that must be hashed for it are hashed by workers;
//! 2. what is not there is claimed, and starts on a worker while fewer than `jobs` run and the machine
//!    has what its stage declares; what another process has claimed is parked, and looked up again once
//!    that one has recorded it or is gone;
//! 3. a finished node is recorded before anything that reads it starts;
//! 4. a failed one skips what depends on it and, unless `keep_going`, everything that has not started.

pub mod budget;
pub mod event;
pub mod executor;
mod hashing;
mod lookahead;
mod node;
mod parked;
mod pool;
mod recompute;
mod resources;
mod retry;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, debug_span, info, info_span, trace_span};

use refrain_cache::Stored;

use crate::graph::{Graph, Node, NodeId, Work};
use crate::kind::machine::Machine;
use crate::kind::{Cancel, MAIN, MemoryContext, Pinned, Pins, StageError, pin_name};
use crate::plan::state::{Hashed, Lookup, NodeState, PendingNode, State, StateError};
use crate::store::{Store, StoreError};

use executor::Placement;
use executor::dispatch::{Elsewhere, Notice};

use budget::{Budget, OverBudget, Spending};
use hashing::Hashing;
use lookahead::Lookahead;
use parked::{Claim, POLL_EVERY, Parked};
use pool::Pool;
use resources::{ResourceDemand, ResourcePool};

pub use node::NodeError;
pub use recompute::recompute_node;

/// The longest that a finished node stays unsynced.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// The limit of nodes that wait for this machine while others are looked up to be computed
/// elsewhere.
const AHEAD: usize = 4096;

/// How a graph is run. Nothing here can change a result.
pub struct RunOptions<'a> {
    /// The limit of nodes at once, 1 or more.
    pub jobs: usize,
    /// Threads of the machine that nodes share, 1 or more.
    pub threads: usize,
    /// Bytes of memory that running nodes may need together, as declared or estimated.
    pub memory: u64,
    /// Graphics cards that running nodes may declare together.
    pub gpus: usize,
    /// Whether nodes that do not depend on a failed one still run.
    pub keep_going: bool,
    /// The wanted nodes; those that they are made from run too. `None` for all.
    pub only: Option<Vec<NodeId>>,
    /// Nodes that are computed although the cache has them.
    pub force: HashSet<NodeId>,
    /// The limit of what computed nodes take together.
    pub budget: Option<Budget>,
    /// Resolves `${env:NAME}`.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The program of this process, where it can be started anew.
    pub own_program: Option<&'a Path>,
    /// The programs and servers that the machine's configuration names.
    pub machine: &'a Machine,
    /// The facts about models that the lock pins.
    pub pins: Pinned,
    /// Executors, each with the nodes that it gets; the first that takes a node has it.
    pub executors: &'a [Placement],
}

/// The outcome of a node.
#[derive(Debug)]
pub enum Outcome {
    /// Not wanted, or not reached.
    NotRun,
    /// Found in the cache.
    Cached,
    /// Computed.
    Ran(Duration),
    /// It failed.
    Failed(NodeError),
    /// A node that it reads failed.
    Skipped(NodeId),
}

/// The outcome of a run.
pub struct Report<'a> {
    /// The nodes' outputs.
    pub state: State<'a>,
    /// The outcome of each node, by number.
    pub outcomes: Vec<Outcome>,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// How many computed nodes another process had recorded first.
    pub computed_twice: usize,
    /// The pinned facts about models: those that were given, and those that stages found out.
    pub pins: Pinned,
    /// The node before which the budget ended the run.
    pub over_budget: Option<OverBudget>,
}

impl Report<'_> {
    /// The nodes that were computed.
    pub fn ran(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with(|o| matches!(o, Outcome::Ran(_)))
    }

    /// The nodes that failed.
    pub fn failed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with(|o| matches!(o, Outcome::Failed(_)))
    }

    fn with<'r>(
        &'r self,
        wanted: impl Fn(&Outcome) -> bool + 'r,
    ) -> impl Iterator<Item = NodeId> + 'r {
        self.outcomes
            .iter()
            .enumerate()
            .filter(move |(_, o)| wanted(o))
            .map(|(i, _)| NodeId(i as u32))
    }

    /// Whether every wanted node is done.
    pub fn is_complete(&self) -> bool {
        !self.interrupted
            && self.over_budget.is_none()
            && !self.outcomes.iter().any(|o| matches!(o, Outcome::Failed(_) | Outcome::Skipped(_)))
    }
}

/// Runs the graph.
///
/// # Errors
/// [`StateError`] where what was recorded cannot be synced; errors of nodes are in the report.
pub fn run<'a>(
    graph: &'a Graph,
    store: &'a Store,
    options: &RunOptions<'_>,
    cancel: &Cancel,
) -> Result<Report<'a>, StateError> {
    let wanted = match &options.only {
        Some(targets) => graph.upstream(targets),
        None => vec![true; graph.nodes.len()],
    };
    let nodes = wanted.iter().filter(|wanted| **wanted).count();
    let _run = info_span!("run", nodes).entered();
    emit_stages(graph, &wanted);

    let (sender, receiver) = mpsc::channel();
    let pins = Pins::new(options.pins.clone());
    let runner = thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel();
        let syncing = scope.spawn(move || sync_in_groups(store, &stopped));
        // It is dropped in here where it panics, so that the thread which it gives orders ends.
        let mut runner = Runner::new(graph, store, options, (cancel, &pins), wanted);
        runner.elsewhere.watch(scope, store, &sender);
        runner.find_jobs();
        runner.drive(&mut Pool::new(scope), &sender, &receiver);
        runner.elsewhere.end();
        drop(stop);
        let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        synced.map(|()| runner)
    })?;
    let interrupted = cancel.is_cancelled();
    runner.find_kept_pins();
    let Runner { state, outcomes, computed_twice, over_budget, .. } = runner;
    Ok(Report { state, outcomes, interrupted, computed_twice, pins: pins.all(), over_budget })
}

/// Emits how many nodes of each stage are wanted, in the order of the graph.
fn emit_stages(graph: &Graph, wanted: &[bool]) {
    let mut stages: Vec<(&str, u64)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for node in graph.ids().filter(|id| wanted[id.index()]).map(|id| graph.node(id)) {
        let place = *places.entry(&node.stage).or_insert(stages.len());
        match stages.get_mut(place) {
            Some((_, nodes)) => *nodes += 1,
            None => stages.push((&node.stage, 1)),
        }
    }
    for (stage, nodes) in stages {
        debug!(name: "stage", stage, nodes, "stage");
    }
}

/// Syncs results in groups until the run ends, then the rest. A failed sync fails the run but does not
/// stop the nodes that run, which may take hours.
fn sync_in_groups(store: &Store, stopped: &Receiver<()>) -> Result<(), StoreError> {
    let mut synced = Ok(());
    while stopped.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
        synced = synced.and(trace_span!("sync").in_scope(|| store.sync()));
    }
    synced.and(trace_span!("sync").in_scope(|| store.sync()))
}

/// A worker's result, with its node.
enum WorkerMessage {
    /// A node was computed.
    Computed(NodeId, Box<PendingNode>, Duration, Result<NodeState, NodeError>),
    /// Files of a node were hashed.
    Hashed(NodeId, Result<Hashed, StateError>),
    /// Something happened to jobs.
    Elsewhere(Notice),
}

struct Runner<'a, 'o> {
    graph: &'a Graph,
    store: &'a Store,
    options: &'o RunOptions<'o>,
    cancel: &'o Cancel,
    pins: &'o Pins,
    state: State<'a>,
    outcomes: Vec<Outcome>,
    /// For each node how many of its edges wait for an input; `None` when it is not wanted.
    waiting: Vec<Option<usize>>,
    ready: BTreeSet<NodeId>,
    /// The nodes whose key is claimed elsewhere.
    parked: BTreeMap<NodeId, Parked>,
    lookahead: Lookahead,
    hashing: Hashing,
    resources: ResourcePool,
    elsewhere: Elsewhere<'o>,
    running: usize,
    stopped: bool,
    computed_twice: usize,
    spending: Option<Spending<'o>>,
    over_budget: Option<OverBudget>,
}

impl<'a, 'o> Runner<'a, 'o> {
    fn new(
        graph: &'a Graph,
        store: &'a Store,
        options: &'o RunOptions<'o>,
        (cancel, pins): (&'o Cancel, &'o Pins),
        wanted: Vec<bool>,
    ) -> Runner<'a, 'o> {
        let waiting: Vec<Option<usize>> = graph
            .ids()
            .zip(&wanted)
            .map(|(id, wanted)| wanted.then(|| graph.inputs(id).count()))
            .collect();
        let ready = graph.ids().filter(|id| waiting[id.index()] == Some(0)).collect();
        let outcomes = graph.nodes.iter().map(|_| Outcome::NotRun).collect();
        let state = State::new(graph, store);
        Runner {
            graph,
            store,
            options,
            cancel,
            pins,
            state,
            outcomes,
            waiting,
            ready,
            parked: BTreeMap::new(),
            // The record of a forced node is dropped when its turn comes, which a lookahead would not see.
            lookahead: Lookahead::new(options.force.is_empty()),
            hashing: Hashing::default(),
            resources: ResourcePool::new(options),
            elsewhere: Elsewhere::new(options.executors),
            running: 0,
            stopped: false,
            computed_twice: 0,
            spending: options.budget.as_ref().map(Spending::new),
            over_budget: None,
        }
    }

    /// Finds the pinned facts of models whose stages were all cached, so that the lock has them.
    fn find_kept_pins(&self) {
        let served =
            self.graph.ids().filter(|id| matches!(self.graph.node(*id).work, Work::Served(_)));
        for id in served {
            let Some(done) = self.state.done(id) else { continue };
            let model = pin_name(done.result.artifacts.get(MAIN).map(|artifact| &artifact.digest));
            if self.pins.get(&model).is_none()
                && let Some(pin) = self.graph.workflow.kinds.kept_pin(self.store.cache(), &model)
            {
                self.pins.pin(model, pin);
            }
        }
    }

    fn drive<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<WorkerMessage>,
        receiver: &Receiver<WorkerMessage>,
    ) where
        'a: 'scope,
        'o: 'scope,
    {
        loop {
            self.stopped |= self.cancel.is_cancelled();
            if self.stopped {
                self.hashing.stop();
                self.stop_jobs();
            } else {
                self.poll_parked();
            }
            while !self.stopped && self.advance(pool, sender) {}
            self.form_jobs();
            self.start_hashing(pool, sender);
            self.store.cache().flush_claims();
            let busy = self.running + self.hashing.running() + self.elsewhere.running();
            if busy == 0 && (self.stopped || self.parked.is_empty()) {
                return self.find_cached();
            }
            match self.receive(receiver) {
                Some(WorkerMessage::Computed(id, pending, elapsed, result)) => {
                    self.on_result(id, &pending, elapsed, result);
                }
                Some(WorkerMessage::Hashed(id, hashed)) => self.on_hashed(id, hashed),
                Some(WorkerMessage::Elsewhere(notice)) => self.on_notice(notice),
                // It is time to poll the parked nodes.
                None => {}
            }
        }
    }

    /// Finds, after a stop, what the cache has of the rest: a report shows everything that is done.
    fn find_cached(&mut self) {
        while let Some((id, lookup)) = self.lookahead.next(&mut self.ready, &self.state) {
            match lookup {
                Ok(Some(Lookup::Done(done))) if !self.options.force.contains(&id) => {
                    self.cached(id, *done);
                }
                // It is not done, and a fault of it is for the next run to find.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Starts one node, or looks one up; returns whether there may be more to do.
    fn advance<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<WorkerMessage>,
    ) -> bool
    where
        'a: 'scope,
        'o: 'scope,
    {
        let free = self.running < self.options.jobs;
        if let Some((id, pending)) = free.then(|| self.resources.next()).flatten() {
            if let Some(Err(over)) = self.spending.as_mut().map(|spending| spending.admit(id)) {
                // Nodes under way end; nothing further starts.
                self.resources.release(id);
                self.over_budget = Some(over);
                self.stopped = true;
                return false;
            }
            match self.claim(id, pending) {
                Ok(Claim::Start(pending)) => self.start(pool, sender, id, pending),
                Ok(Claim::Settled) => self.give_back(id),
                Err(error) => {
                    self.give_back(id);
                    self.fail(id, error.into());
                }
            }
            return true;
        }
        let waiting = self.resources.waiting();
        let is_full = self.resources.is_full(free);
        if is_full && !(self.elsewhere.wants_more() && waiting < AHEAD) {
            return false;
        }
        let Some((id, lookup)) = self.lookahead.next(&mut self.ready, &self.state) else {
            return false;
        };
        match lookup {
            Ok(Some(lookup)) => self.on_lookup(id, lookup),
            // A ready node's inputs are done.
            Ok(None) => self.fail(id, NodeError::Unfetched),
            Err(error) => self.fail(id, error.into()),
        }
        true
    }

    /// Gives back what a node took that did not start after all.
    fn give_back(&mut self, id: NodeId) {
        self.resources.release(id);
        if let Some(spending) = &mut self.spending {
            spending.forget(id);
        }
    }

    /// Handles the lookup of a ready node; a hit finishes it.
    fn on_lookup(&mut self, id: NodeId, lookup: Lookup) {
        if self.state.done(id).is_some() {
            return;
        }
        let node = self.graph.node(id);
        self.state.forget_outputs(id);
        let pending = match lookup {
            Lookup::Unhashed(task) => return self.hashing.wait(id, task),
            Lookup::Pending(pending) => pending,
            Lookup::Done(done) if self.elsewhere.holds(id) => {
                return self.computed_elsewhere(id, *done);
            }
            Lookup::Done(done) if !self.options.force.contains(&id) => {
                return self.cached(id, *done);
            }
            // There is nothing to compute.
            Lookup::Done(done) if node.is_read_in_place() => {
                return self.finish(id, *done);
            }
            Lookup::Done(done) => {
                let manifest = self.state.manifest(node, done.file);
                let manifest = manifest.expect("a ready node's inputs are done");
                let NodeState { key, seen, .. } = *done;
                Box::new(PendingNode { key, manifest, seen, damaged: None })
            }
        };
        if let Some(pending) = self.send_away(id, pending) {
            self.resources.enqueue(id, self.demand(node), pending);
        }
    }

    /// The resources of a node that is ready: what its stage declares, else what its kind
    /// estimates.
    fn demand(&self, node: &Node) -> ResourceDemand {
        let estimate = || match &node.work {
            Work::Stage { kind, params } => Some(kind.memory?(&MemoryContext {
                params: &params.to_map(),
                inputs: &self.state.inputs(node)?.by_path,
                batch: node.settings.batch,
            })),
            _ => None,
        };
        ResourceDemand::of(&node.settings, estimate)
    }

    fn start<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<WorkerMessage>,
        id: NodeId,
        pending: Box<PendingNode>,
    ) where
        'a: 'scope,
        'o: 'scope,
    {
        let node = self.graph.node(id);
        let inputs = self.state.inputs(node).expect("a started node's inputs are done");
        let ahead = self.lookahead.len() + self.ready.len();
        let share = self.options.threads / self.options.jobs.min(self.running + ahead + 1);
        let job = node::NodeJob {
            node,
            inputs,
            cache: self.store.cache(),
            threads: node.settings.threads.unwrap_or(share).clamp(1, self.options.threads.max(1)),
            memory_limit: self.options.memory,
            fresh: self.options.force.contains(&id),
            cancel: self.cancel,
            environment: self.options.environment,
            own_program: self.options.own_program,
            machine: self.options.machine,
            pins: self.pins,
            span: node::span(id, node, &pending.key),
        };
        let sender = sender.clone();
        pool.run(self.running + self.hashing.running(), move || {
            let begin = Instant::now();
            let result = retry::attempts(&job, &pending);
            // Whoever receives the result may expect the span to be closed.
            drop(job);
            // The receiver outlives every worker of the scope.
            let _ = sender.send(WorkerMessage::Computed(id, pending, begin.elapsed(), result));
        });
        self.running += 1;
    }

    /// Starts the hash tasks that may start.
    fn start_hashing<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<WorkerMessage>,
    ) where
        'a: 'scope,
        'o: 'scope,
    {
        while let Some((id, task, stop)) = self.hashing.start() {
            let (store, cancel) = (self.store, self.cancel);
            let node = self.graph.node(id);
            let (name, path) = (node.name.as_str(), task.path(store));
            let span =
                debug_span!("hash", node = id.0, name, path = %path.display(), bytes = task.bytes);
            let sender = sender.clone();
            pool.run(self.running + self.hashing.running() - 1, move || {
                let hashed = hashing::hash(&task, &span, store, (cancel, &stop));
                drop(span);
                let _ = sender.send(WorkerMessage::Hashed(id, hashed));
            });
        }
    }

    /// Returns a worker's next result; nothing when it is time to poll the parked nodes.
    fn receive(&self, receiver: &Receiver<WorkerMessage>) -> Option<WorkerMessage> {
        let polls = !self.parked.is_empty() && !self.stopped || self.elsewhere.running() > 0;
        if !polls {
            let sent = receiver.recv();
            return Some(sent.expect("a worker sends before it ends, and one is running"));
        }
        receiver.recv_timeout(POLL_EVERY).ok()
    }

    fn on_result(
        &mut self,
        id: NodeId,
        pending: &PendingNode,
        elapsed: Duration,
        result: Result<NodeState, NodeError>,
    ) {
        self.running -= 1;
        self.resources.release(id);
        if let Some(spending) = &mut self.spending {
            spending.ended(self.graph, id, elapsed);
        }
        match result.and_then(|done| self.record(id, pending, done, elapsed)) {
            Ok((done, differs)) => {
                // Leftovers that cannot be removed are in nobody's way.
                let _left = self.store.cache().unfinished(&pending.key).remove();
                let name = self.graph.node(id).name.as_str();
                let (node, seconds) = (id.0, elapsed.as_secs_f64());
                info!(name: "finished", node, name, seconds, differs, "finished");

                self.outcomes[id.index()] = Outcome::Ran(elapsed);
                self.finish(id, done);
            }
            Err(NodeError::Stage(StageError::Cancelled)) => self.stopped = true,
            // The nodes that run beside it still end: where a record could not be written, theirs may.
            Err(error) => self.fail(id, error),
        }
        self.store.cache().release(&pending.key);
    }

    fn on_hashed(&mut self, id: NodeId, hashed: Result<Hashed, StateError>) {
        self.hashing.ended();
        match hashed {
            Ok(hashed) => {
                self.state.add_hashed(id, hashed);
                self.ready.insert(id);
            }
            // The task was stopped, or its error is of no interest any more.
            Err(_) if self.stopped || self.cancel.is_cancelled() => {}
            Err(error) => self.fail(id, error.into()),
        }
    }

    /// Records a result; returns the one that counts, and whether ours differs.
    fn record(
        &mut self,
        id: NodeId,
        pending: &PendingNode,
        done: NodeState,
        elapsed: Duration,
    ) -> Result<(NodeState, bool), NodeError> {
        let record = node::record(self.graph.node(id), pending, &done, elapsed);
        let stored = self.store.put(&record).map_err(StateError::from)?;
        self.computed_twice += usize::from(stored != Stored::First);
        let name = self.graph.node(id).name.as_str();
        let first = stored == Stored::First;
        debug!(name: "recorded", node = id.0, name, key = %pending.key, first, "recorded");

        if stored == (Stored::Adopted { differs: true }) {
            // All processes go on with the first one's outputs.
            let first = match self.state.look_up_now(id)? {
                Some(Lookup::Done(first)) => *first,
                _ => done,
            };
            return Ok((first, true));
        }
        Ok((done, false))
    }

    /// Sets a node's outputs and makes ready what waited for it alone.
    fn finish(&mut self, id: NodeId, done: NodeState) {
        self.state.set(id, done);
        for dependent in self.graph.dependents(id) {
            if let Some(waiting) = &mut self.waiting[dependent.index()] {
                *waiting -= 1;
                if *waiting == 0 && !matches!(self.outcomes[dependent.index()], Outcome::Skipped(_))
                {
                    self.ready.insert(dependent);
                }
            }
        }
    }

    fn fail(&mut self, id: NodeId, error: NodeError) {
        node::emit_failed(id, self.graph.node(id), &error);
        self.outcomes[id.index()] = Outcome::Failed(error);
        self.stopped |= !self.options.keep_going;
        let mut reached = vec![id];
        while let Some(at) = reached.pop() {
            for dependent in self.graph.dependents(at) {
                let i = dependent.index();
                if self.waiting[i].is_some() && matches!(self.outcomes[i], Outcome::NotRun) {
                    self.outcomes[i] = Outcome::Skipped(id);
                    let name = self.graph.node(dependent).name.as_str();
                    let because = self.graph.node(id).name.as_str();
                    debug!(name: "skipped", node = dependent.0, name, because, "skipped");
                    reached.push(dependent);
                }
            }
        }
    }
}
