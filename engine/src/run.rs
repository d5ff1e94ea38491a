//! Runs a graph: nodes start when their inputs are there, within the given number of jobs.
//!
//! One thread decides, workers compute. The loop:
//! 1. every wanted node whose inputs are done is looked up in the cache; what is there is done at once;
//! 2. what is not there starts on a thread of its own while fewer than `jobs` run and the machine has what it declares;
//! 3. a finished node is written down before anything that reads it starts;
//! 4. a failed one takes out what depends on it, and, unless `keep_going`, everything that has not started.

mod again;
mod node;
mod pool;
mod resources;
mod retry;

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use refrain_cache::Stored;

use crate::event::{Event, Events};
use crate::graph::{Graph, NodeId};
use crate::kind::Cancel;
use crate::state::{Done, Look, State, StateError, Todo};
use crate::store::{Store, StoreError};

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

    fn with<'r>(&'r self, wanted: impl Fn(&Outcome) -> bool + 'r) -> impl Iterator<Item = NodeId> + 'r {
        self.outcomes.iter().enumerate().filter(move |(_, o)| wanted(o)).map(|(i, _)| NodeId(i as u32))
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
    events: Events<'_>,
) -> Result<Report<'a>, StateError> {
    let wanted = match &options.only {
        Some(targets) => graph.upstream(targets),
        None => vec![true; graph.nodes.len()],
    };
    events(Event::Begin { nodes: wanted.iter().filter(|w| **w).count() });
    let (sender, receiver) = mpsc::channel();
    let mut runner = Runner::new(graph, store, options, cancel, events, wanted);
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel();
        let syncing = scope.spawn(move || sync_in_groups(store, &stopped));
        let driven = runner.drive(&mut Pool::new(scope), &sender, &receiver);
        drop(stop);
        let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        driven.and(synced.map_err(StateError::from))
    })?;
    let interrupted = cancel.is_cancelled();
    Ok(Report { state: runner.state, outcomes: runner.outcomes, interrupted })
}

/// Puts on disk what was made, in groups, until the run ends; then the rest.
fn sync_in_groups(store: &Store, stopped: &Receiver<()>) -> Result<(), StoreError> {
    while stopped.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
        store.sync()?;
    }
    store.sync()
}

/// A worker's word: the node, and what it made.
type Word = (NodeId, Box<Todo>, Duration, Result<Done, Failure>);

struct Runner<'a, 'o> {
    graph: &'a Graph,
    store: &'a Store,
    options: &'o Options<'o>,
    cancel: &'o Cancel,
    events: Events<'o>,
    state: State<'a>,
    outcomes: Vec<Outcome>,
    /// For each node how many of its edges wait for an input; `None` when it is not wanted.
    waiting: Vec<Option<usize>>,
    ready: BTreeSet<NodeId>,
    room: Room,
    running: usize,
    stopped: bool,
}

impl<'a, 'o> Runner<'a, 'o> {
    fn new(
        graph: &'a Graph,
        store: &'a Store,
        options: &'o Options<'o>,
        cancel: &'o Cancel,
        events: Events<'o>,
        wanted: Vec<bool>,
    ) -> Runner<'a, 'o> {
        let waiting: Vec<Option<usize>> = wanted
            .iter()
            .zip(&graph.nodes)
            .map(|(wanted, node)| {
                let sources: HashSet<NodeId> = node.inputs.iter().map(|e| e.node).collect();
                wanted.then_some(sources.len())
            })
            .collect();
        let ready = graph.ids().filter(|id| waiting[id.index()] == Some(0)).collect();
        let outcomes = graph.nodes.iter().map(|_| Outcome::NotRun).collect();
        let state = State::new(graph, store);
        Runner {
            graph,
            store,
            options,
            cancel,
            events,
            state,
            outcomes,
            waiting,
            ready,
            room: Room::new(options),
            running: 0,
            stopped: false,
        }
    }

    fn drive<'scope, 'env>(
        &mut self,
        pool: &mut Pool<'scope, 'env>,
        sender: &Sender<Word>,
        receiver: &Receiver<Word>,
    ) -> Result<(), StateError>
    where
        'a: 'scope,
        'o: 'scope,
    {
        loop {
            self.stopped |= self.cancel.is_cancelled();
            while !self.stopped {
                let free = self.running < self.options.jobs;
                if let Some((id, todo)) = free.then(|| self.room.next()).flatten() {
                    self.start(pool, sender, id, todo);
                    continue;
                }
                if self.room.is_full(free) {
                    break;
                }
                let Some(id) = self.ready.pop_first() else { break };
                match self.look(id) {
                    Ok(Some(todo)) => self.room.wait(id, Need::of(&self.graph.node(id).settings), todo),
                    Ok(None) => {}
                    Err(error) => self.fail(id, Failure::State(error)),
                }
            }
            if self.running == 0 {
                return Ok(());
            }
            let word = receiver.recv().expect("a worker sends before it ends, and one is running");
            self.running -= 1;
            self.room.leave(word.0);
            self.hear(word)?;
        }
    }

    /// Looks a ready node up; what the cache has is done at once.
    fn look(&mut self, id: NodeId) -> Result<Option<Box<Todo>>, StateError> {
        let look = self.state.look(id)?.expect("a ready node's inputs are done");
        match look {
            Look::Done(done) if !self.options.force.contains(&id) => {
                (self.events)(Event::Cached { node: id, key: &done.key });
                self.outcomes[id.index()] = Outcome::Cached;
                self.finish(id, *done);
                Ok(None)
            }
            Look::Done(done) => {
                let node = self.graph.node(id);
                if matches!(node.work, crate::graph::Work::Model(_) | crate::graph::Work::File(_)) {
                    self.finish(id, *done);
                    return Ok(None);
                }
                let manifest = self.state.manifest(node, done.file).expect("a ready node's inputs are done");
                self.store.forget(&done.key)?;
                Ok(Some(Box::new(Todo { key: done.key, manifest, file: done.file, damaged: None })))
            }
            Look::Todo(todo) => {
                if let Some(damage) = &todo.damaged {
                    self.store.forget(&todo.key)?;
                    let text = format!("the cached result is damaged and is made again: {damage}");
                    (self.events)(Event::Note { node: id, text });
                }
                Ok(Some(todo))
            }
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
        let share =
            (self.options.threads / self.options.jobs.min(self.running + self.ready.len() + 1)).max(1);
        let job = node::Job {
            id,
            node,
            inputs,
            cache: self.store.cache(),
            threads: node.settings.threads.unwrap_or(share).min(self.options.threads.max(1)),
            cancel: self.cancel,
            environment: self.options.environment,
            events: self.events,
        };
        (self.events)(Event::Started { node: id, key: &todo.key });
        let sender = sender.clone();
        pool.run(self.running, move || {
            let begin = Instant::now();
            let result = retry::attempts(&job, &todo);
            // The receiver outlives every worker of the scope.
            let _ = sender.send((id, todo, begin.elapsed(), result));
        });
        self.running += 1;
    }

    fn hear(&mut self, (id, todo, elapsed, result): Word) -> Result<(), StateError> {
        match result {
            Ok(done) => {
                let record = node::record(self.graph.node(id), &todo, &done, elapsed);
                let differs = match self.store.put(&record)? {
                    Stored::Adopted { differs } => differs,
                    Stored::First => false,
                };
                // The record says all; what cannot be removed is in nobody's way.
                let _left = self.store.cache().unfinished(&todo.key).remove();
                (self.events)(Event::Finished { node: id, elapsed, differs });
                self.outcomes[id.index()] = Outcome::Ran(elapsed);
                self.finish(id, done);
            }
            Err(Failure::Stage(crate::kind::StageError::Cancelled)) => self.stopped = true,
            Err(failure) => self.fail(id, failure),
        }
        Ok(())
    }

    /// Notes a node as done and makes ready what waited for it alone.
    fn finish(&mut self, id: NodeId, done: Done) {
        self.state.set(id, done);
        for dependent in self.graph.dependents(id) {
            if let Some(waiting) = &mut self.waiting[dependent.index()] {
                *waiting -= 1;
                if *waiting == 0 && !matches!(self.outcomes[dependent.index()], Outcome::Skipped(_)) {
                    self.ready.insert(dependent);
                }
            }
        }
    }

    fn fail(&mut self, id: NodeId, failure: Failure) {
        (self.events)(Event::Failed { node: id, failure: &failure });
        self.outcomes[id.index()] = Outcome::Failed(failure);
        self.stopped |= !self.options.keep_going;
        let mut reached = vec![id];
        while let Some(at) = reached.pop() {
            for dependent in self.graph.dependents(at) {
                let i = dependent.index();
                if self.waiting[i].is_some() && matches!(self.outcomes[i], Outcome::NotRun) {
                    self.outcomes[i] = Outcome::Skipped(id);
                    (self.events)(Event::Skipped { node: dependent, because: id });
                    reached.push(dependent);
                }
            }
        }
    }
}
