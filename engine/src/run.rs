//! Runs a graph: nodes start when their inputs are there, within the given number of jobs.
//!
//! One thread decides, workers compute. The loop:
//! 1. every wanted node whose inputs are done is looked up in the cache; what is there is done at once;
//! 2. what is not there is claimed, and starts on a thread of its own while fewer than `jobs` run and the machine has
//!    what it declares; what another process has claimed is put aside, and looked at again until that one has recorded it
//!    or is gone;
//! 3. a finished node is written down before anything that reads it starts;
//! 4. a failed one takes out what depends on it, and, unless `keep_going`, everything that has not started.

mod again;
mod ahead;
mod aside;
pub mod event;
mod node;
mod pool;
mod resources;
mod retry;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info, info_span, trace_span};

use refrain_cache::Stored;

use crate::graph::{Graph, NodeId};
use crate::kind::Cancel;
use crate::plan::state::{Done, Look, State, StateError, Todo};
use crate::store::{Store, StoreError};

use ahead::Ahead;
use aside::Aside;
use pool::Pool;
use resources::{Need, Room};

pub use again::again;
pub use node::Failure;

/// The longest that a finished node stays in memory alone.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// How a graph is run. Nothing here can change a result.
pub struct Options<'a> {
    /// Most nodes at once, at least 1.
    pub jobs: usize,
    /// Threads of the machine that nodes share, at least 1.
    pub threads: usize,
    /// Bytes of memory that running nodes may declare together.
    pub memory: u64,
    /// Graphics cards that running nodes may declare together.
    pub gpus: usize,
    /// Whether what does not depend on a failed node still runs.
    pub keep_going: bool,
    /// The nodes that are wanted, with all that they are made from; `None` = all.
    pub only: Option<Vec<NodeId>>,
    /// Nodes that are computed again though the cache has them.
    pub force: HashSet<NodeId>,
    /// Resolves `${env:NAME}`.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
}

/// What became of a node.
#[derive(Debug)]
pub enum Outcome {
    /// Not wanted, or not reached.
    NotRun,
    /// Found in the cache.
    Cached,
    /// Computed.
    Ran(Duration),
    /// It failed.
    Failed(Failure),
    /// A node that it reads failed.
    Skipped(NodeId),
}

/// What became of a run.
pub struct Report<'a> {
    /// The nodes' outputs.
    pub state: State<'a>,
    /// What became of each node, by number.
    pub outcomes: Vec<Outcome>,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// How many nodes another process had recorded too when this one had computed them.
    pub computed_twice: usize,
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
            && !self.outcomes.iter().any(|o| matches!(o, Outcome::Failed(_) | Outcome::Skipped(_)))
    }
}

/// Runs the graph.
pub fn run<'a>(
    graph: &'a Graph,
    store: &'a Store,
    options: &Options<'_>,
    cancel: &Cancel,
) -> Result<Report<'a>, StateError> {
    let wanted = match &options.only {
        Some(targets) => graph.upstream(targets),
        None => vec![true; graph.nodes.len()],
    };
    let nodes = wanted.iter().filter(|wanted| **wanted).count();
    let _run = info_span!("run", nodes).entered();

    let (sender, receiver) = mpsc::channel();
    let mut runner = Runner::new(graph, store, options, cancel, wanted);
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel();
        let syncing = scope.spawn(move || sync_in_groups(store, &stopped));
        runner.drive(&mut Pool::new(scope), &sender, &receiver);
        drop(stop);
        syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let interrupted = cancel.is_cancelled();
    let Runner { state, outcomes, computed_twice, .. } = runner;
    Ok(Report { state, outcomes, interrupted, computed_twice })
}

/// Puts on disk what was made, in groups, until the run ends; then the rest. A disk that refuses once is not given up,
/// for the nodes that run may take hours; but the run has failed then.
fn sync_in_groups(store: &Store, stopped: &Receiver<()>) -> Result<(), StoreError> {
    let mut synced = Ok(());
    while stopped.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
        synced = synced.and(trace_span!("sync").in_scope(|| store.sync()));
    }
    synced.and(trace_span!("sync").in_scope(|| store.sync()))
}

/// A worker's word: the node, and what it made.
type Word = (NodeId, Box<Todo>, Duration, Result<Done, Failure>);

struct Runner<'a, 'o> {
    graph: &'a Graph,
    store: &'a Store,
    options: &'o Options<'o>,
    cancel: &'o Cancel,
    state: State<'a>,
    outcomes: Vec<Outcome>,
    /// For each node how many of its edges wait for an input; `None` when it is not wanted.
    waiting: Vec<Option<usize>>,
    ready: BTreeSet<NodeId>,
    /// What somebody computes already.
    aside: BTreeMap<NodeId, Aside>,
    ahead: Ahead,
    room: Room,
    running: usize,
    stopped: bool,
    computed_twice: usize,
}

impl<'a, 'o> Runner<'a, 'o> {
    fn new(
        graph: &'a Graph,
        store: &'a Store,
        options: &'o Options<'o>,
        cancel: &'o Cancel,
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
            state,
            outcomes,
            waiting,
            ready,
            aside: BTreeMap::new(),
            // What is forced is forgotten when its turn comes, which a look ahead would not see.
            ahead: Ahead::new(options.force.is_empty()),
            room: Room::new(options),
            running: 0,
            stopped: false,
            computed_twice: 0,
        }
    }

    fn drive<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<Word>,
        receiver: &Receiver<Word>,
    ) where
        'a: 'scope,
        'o: 'scope,
    {
        loop {
            self.stopped |= self.cancel.is_cancelled();
            if !self.stopped {
                self.look_aside();
            }
            while !self.stopped {
                let free = self.running < self.options.jobs;
                if let Some((id, todo)) = free.then(|| self.room.next()).flatten() {
                    match self.claim(id, todo) {
                        Ok(Some(todo)) => self.start(pool, sender, id, todo),
                        Ok(None) => self.room.leave(id),
                        Err(error) => {
                            self.room.leave(id);
                            self.fail(id, Failure::State(error));
                        }
                    }
                    continue;
                }
                if self.room.is_full(free) {
                    break;
                }
                let Some((id, look)) = self.ahead.next(&mut self.ready, &self.state) else {
                    break;
                };
                match self.look(id, look) {
                    Ok(Some(todo)) => {
                        self.room.wait(id, Need::of(&self.graph.node(id).settings), todo)
                    }
                    Ok(None) => {}
                    Err(error) => self.fail(id, Failure::State(error)),
                }
            }
            self.store.cache().flush_claims();
            if self.running == 0 && (self.stopped || self.aside.is_empty()) {
                return;
            }
            if let Some(word) = self.listen(receiver) {
                self.running -= 1;
                self.room.leave(word.0);
                self.hear(word);
            }
        }
    }

    /// Takes in what the cache says of a ready node; what it has is done at once.
    fn look(
        &mut self,
        id: NodeId,
        look: Result<Option<Look>, StateError>,
    ) -> Result<Option<Box<Todo>>, StateError> {
        match look?.expect("a ready node's inputs are done") {
            Look::Done(done) if !self.options.force.contains(&id) => {
                self.cached(id, *done);
                Ok(None)
            }
            Look::Done(done) => {
                let node = self.graph.node(id);
                if matches!(node.work, crate::graph::Work::Model(_) | crate::graph::Work::File(_)) {
                    self.finish(id, *done);
                    return Ok(None);
                }
                let manifest =
                    self.state.manifest(node, done.file).expect("a ready node's inputs are done");
                Ok(Some(Box::new(Todo { key: done.key, manifest, file: done.file, damaged: None })))
            }
            Look::Todo(todo) => Ok(Some(todo)),
        }
    }

    fn start<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<Word>,
        id: NodeId,
        todo: Box<Todo>,
    ) where
        'a: 'scope,
        'o: 'scope,
    {
        let node = self.graph.node(id);
        let inputs = self.state.inputs(node).expect("a started node's inputs are done");
        let share = (self.options.threads
            / self.options.jobs.min(self.running + self.ahead.len() + self.ready.len() + 1))
        .max(1);
        let job = node::Job {
            node,
            inputs,
            cache: self.store.cache(),
            threads: node.settings.threads.unwrap_or(share).min(self.options.threads.max(1)),
            fresh: self.options.force.contains(&id),
            cancel: self.cancel,
            environment: self.options.environment,
            span: node::span(id, node, &todo.key),
        };
        let sender = sender.clone();
        pool.run(self.running, move || {
            let begin = Instant::now();
            let result = retry::attempts(&job, &todo);
            // What hears of the result may expect the span to be closed.
            drop(job);
            // The receiver outlives every worker of the scope.
            let _ = sender.send((id, todo, begin.elapsed(), result));
        });
        self.running += 1;
    }

    fn hear(&mut self, (id, todo, elapsed, result): Word) {
        match result.and_then(|done| self.record(id, &todo, done, elapsed)) {
            Ok((done, differs)) => {
                // The record says all; what cannot be removed is in nobody's way.
                let _left = self.store.cache().unfinished(&todo.key).remove();
                let name = self.graph.node(id).name.as_str();
                let (node, seconds) = (id.0, elapsed.as_secs_f64());
                info!(name: "finished", node, name, seconds, differs, "finished");

                self.outcomes[id.index()] = Outcome::Ran(elapsed);
                self.finish(id, done);
            }
            Err(Failure::Stage(crate::kind::StageError::Cancelled)) => self.stopped = true,
            // What runs beside it still comes to its end: where a record could not be written, it may find room.
            Err(failure) => self.fail(id, failure),
        }
        self.store.cache().release(&todo.key);
    }

    /// Writes down what a node made; what all processes go on with, and whether that differs from it.
    fn record(
        &mut self,
        id: NodeId,
        todo: &Todo,
        done: Done,
        elapsed: Duration,
    ) -> Result<(Done, bool), Failure> {
        let record = node::record(self.graph.node(id), todo, &done, elapsed);
        let stored = self.store.put(&record).map_err(StateError::from)?;
        self.computed_twice += usize::from(stored != Stored::First);
        let name = self.graph.node(id).name.as_str();
        let first = stored == Stored::First;
        debug!(name: "recorded", node = id.0, name, key = %todo.key, first, "recorded");

        if stored == (Stored::Adopted { differs: true }) {
            // All go on with what the first one made.
            let first = match self.state.look(id)? {
                Some(Look::Done(first)) => *first,
                _ => done,
            };
            return Ok((first, true));
        }
        Ok((done, false))
    }

    /// Notes a node as done and makes ready what waited for it alone.
    fn finish(&mut self, id: NodeId, done: Done) {
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

    fn fail(&mut self, id: NodeId, failure: Failure) {
        node::emit_failed(id, self.graph.node(id), &failure);
        self.outcomes[id.index()] = Outcome::Failed(failure);
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
