//! The nodes that are computed elsewhere, as the deciding thread sees them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;

use tracing::{Dispatch as Subscriber, Span, dispatcher};

use refrain_cache::write::create_dir_all;
use refrain_cache::{Digest, Key};

use crate::graph::{Node, NodeId};
use crate::kind::StageError;
use crate::plan::state::PendingNode;
use crate::run::parked::Claim;
use crate::run::{Outcome, Runner, WorkerMessage};
use crate::store::Store;

use super::adoption::FoundJobs;
use super::forming::{
    StageTime, can_leave, chain, chains_of_job, job_nodes, resources_of, seconds_of,
};
use super::job_file::JobFile;
pub(in crate::run) use super::watcher::Notice;
use super::watcher::{Order, Watcher};
use super::{Job, JobResources, Placement};

/// The limit of ready nodes that wait for a job.
const READY: usize = 4096;

/// The nodes that are computed elsewhere.
pub(in crate::run) struct Elsewhere<'o> {
    pub(super) placements: &'o [Placement],
    /// For each placement the nodes that wait for a job.
    ready: Vec<VecDeque<(NodeId, Box<PendingNode>)>>,
    pub(super) jobs: BTreeMap<String, LiveJob>,
    pub(super) held: HashMap<NodeId, Held>,
    pub(super) keys: HashMap<Key, NodeId>,
    pub(super) found: FoundJobs,
    /// The number of jobs of a node that were lost.
    pub(super) lost: HashMap<NodeId, u32>,
    pub(super) took: HashMap<String, StageTime>,
    /// For each placement the most jobs that were seen to run at once.
    pub(super) at_once: Vec<usize>,
    orders: Option<Sender<Order>>,
    /// The number of jobs made so far.
    made: u64,
    /// Whether the jobs that have not begun were taken back.
    withdrawn: bool,
}

/// A job under way.
pub(super) struct LiveJob {
    pub placement: usize,
    pub folder: PathBuf,
    /// Its nodes, in its own order; `None` for one that this run does not have.
    pub nodes: Vec<Option<NodeId>>,
    /// Whether an earlier run made it.
    pub adopted: bool,
}

impl LiveJob {
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied().flatten()
    }
}

/// A node that a job computes.
pub(super) struct Held {
    /// The job; `None` once it is over.
    pub job: Option<String>,
    /// The node as it was when its key was found; `None` before.
    pub pending: Option<Box<PendingNode>>,
    /// The span of a node that has begun.
    pub span: Option<Span>,
    /// Whether an earlier result of its key counts, which differs from that of the job.
    pub differs: bool,
}

impl Held {
    /// A node of a job, with what is known of it.
    pub fn by(job: &str, pending: Option<Box<PendingNode>>) -> Held {
        Held { job: Some(job.to_owned()), pending, span: None, differs: false }
    }
}

impl<'o> Elsewhere<'o> {
    pub fn new(placements: &'o [Placement]) -> Elsewhere<'o> {
        Elsewhere {
            placements,
            ready: placements.iter().map(|_| VecDeque::new()).collect(),
            jobs: BTreeMap::new(),
            held: HashMap::new(),
            keys: HashMap::new(),
            found: FoundJobs::default(),
            lost: HashMap::new(),
            took: HashMap::new(),
            at_once: vec![0; placements.len()],
            orders: None,
            made: 0,
            withdrawn: false,
        }
    }

    /// Starts the thread that watches jobs, where there is any executor.
    pub fn watch<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        store: &'o Store,
        notices: &Sender<WorkerMessage>,
    ) where
        'o: 'scope,
    {
        if self.placements.is_empty() {
            return;
        }
        let (orders, taken): (_, Receiver<Order>) = mpsc::channel();
        let watcher = Watcher::new(self.placements, store, notices.clone());
        let events = dispatcher::get_default(Subscriber::clone);
        scope.spawn(move || {
            let _events = dispatcher::set_default(&events);
            watcher.run(&taken);
        });
        self.orders = Some(orders);
    }

    /// Ends the thread that watches jobs.
    pub fn end(&mut self) {
        self.orders = None;
    }

    /// The number of jobs under way.
    pub fn running(&self) -> usize {
        self.jobs.len()
    }

    /// Whether more nodes may be looked up to be computed elsewhere.
    pub fn wants_more(&self) -> bool {
        !self.placements.is_empty() && self.ready.iter().map(VecDeque::len).sum::<usize>() < READY
    }

    /// Whether a job computes a node, or did.
    pub fn holds(&self, id: NodeId) -> bool {
        self.held.contains_key(&id)
    }

    /// Gives an order to the thread that watches jobs.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread has ended where it said that nothing can be taken over.
            let _ended = orders.send(order);
        }
    }
}

impl Runner<'_, '_> {
    /// Returns the executor that a node goes to.
    fn placement_of(&self, node: &Node) -> Option<usize> {
        let takes = |placement: &Placement| {
            (placement.takes)(node) && can_leave(self.graph, node, &placement.config)
        };
        self.elsewhere.placements.iter().position(takes)
    }

    /// Takes a pending node that is computed elsewhere; gives back any other.
    pub(in crate::run) fn send_away(
        &mut self,
        id: NodeId,
        pending: Box<PendingNode>,
    ) -> Option<Box<PendingNode>> {
        if self.elsewhere.placements.is_empty() {
            return Some(pending);
        }
        self.adopt_job_of(&pending.key);
        match self.elsewhere.held.get_mut(&id) {
            Some(held) if held.job.is_some() => {
                // The claim keeps other processes from it; where one holds it, both compute it.
                let _held_elsewhere = self.store.cache().claim(&pending.key);
                self.elsewhere.keys.insert(pending.key, id);
                // It may have arrived since it was looked up.
                if self.store.has_recorded(&pending.key).unwrap_or(false) {
                    self.ready.insert(id);
                }
                held.pending = Some(pending);
                return None;
            }
            // Its job is over and did not compute it.
            Some(_) => drop(self.elsewhere.held.remove(&id)),
            None => {}
        }
        match self.placement_of(self.graph.node(id)) {
            Some(placement) => {
                self.elsewhere.ready[placement].push_back((id, pending));
                None
            }
            None => Some(pending),
        }
    }

    /// Makes jobs of the nodes that wait for one, as far as the executors take more.
    pub(in crate::run) fn form_jobs(&mut self) {
        for placement in 0..self.elsewhere.placements.len() {
            let limit = self.elsewhere.placements[placement].config.jobs.max(1);
            loop {
                let is_there = |job: &&LiveJob| job.placement == placement;
                let live = self.elsewhere.jobs.values().filter(is_there).count();
                if self.stopped || live >= limit || self.elsewhere.ready[placement].is_empty() {
                    break;
                }
                self.form_job(placement);
            }
        }
    }

    /// Makes one job.
    fn form_job(&mut self, placement: usize) {
        let mut nodes = Vec::new();
        let mut pendings = HashMap::new();
        let mut chains = 1;
        while pendings.len() < chains {
            let Some((id, _)) = self.elsewhere.ready[placement].front() else { break };
            let id = *id;
            if let Some(first) = nodes.first()
                && !self.fits_beside(id, *first)
            {
                break;
            }
            let Some((_, pending)) = self.elsewhere.ready[placement].pop_front() else { break };
            if let Some(Err(over)) = self.spending.as_mut().map(|spending| spending.admit(id)) {
                self.over_budget = Some(over);
                self.stopped = true;
                break;
            }
            let pending = match self.claim(id, pending) {
                Ok(Claim::Start(pending)) => pending,
                Ok(Claim::Settled) => {
                    self.give_back(id);
                    continue;
                }
                Err(error) => {
                    self.give_back(id);
                    self.fail(id, error.into());
                    continue;
                }
            };
            let chain = self.chain_of(id, placement);
            if pendings.is_empty() {
                let Elsewhere { ready, took, at_once, .. } = &self.elsewhere;
                let ready = ready[placement].len() + 1;
                let seconds = seconds_of(self.graph, &chain, took);
                chains = chains_of_job(seconds, ready, at_once[placement]);
            }
            nodes.extend(chain);
            pendings.insert(id, pending);
        }
        if !nodes.is_empty() {
            self.start_job(placement, nodes, pendings);
        }
    }

    /// Returns the chain of nodes that a job takes with its first one.
    fn chain_of(&self, first: NodeId, placement: usize) -> Vec<NodeId> {
        let is_forced = |id: &NodeId| self.options.force.contains(id);
        if is_forced(&first) || self.spending.is_some() {
            return vec![first];
        }
        chain(self.graph, &self.state, first, |id| {
            self.waiting[id.index()].is_some()
                && !is_forced(&id)
                && !self.elsewhere.holds(id)
                && matches!(self.outcomes[id.index()], Outcome::NotRun)
                && self.placement_of(self.graph.node(id)) == Some(placement)
        })
    }

    /// Whether two nodes take the same of a machine, so that they may share a job.
    fn fits_beside(&self, id: NodeId, first: NodeId) -> bool {
        let of = |id: NodeId| {
            let settings = &self.graph.node(id).settings;
            (settings.threads, settings.memory, settings.gpus, settings.timeout.is_some())
        };
        of(id) == of(first)
    }

    fn start_job(
        &mut self,
        placement: usize,
        nodes: Vec<NodeId>,
        mut pendings: HashMap<NodeId, Box<PendingNode>>,
    ) {
        let memory = |id: &NodeId| self.demand(self.graph.node(*id)).memory_bytes();
        let memory = pendings.keys().filter_map(memory).max();
        let config = &self.elsewhere.placements[placement].config;
        let resources = resources_of(self.graph, &nodes, memory, config);
        let written = self.write_job(&nodes, &pendings, resources);
        let job = match written {
            Ok(job) => job,
            Err(message) => {
                for (id, pending) in pendings {
                    self.give_back(id);
                    self.store.cache().release(&pending.key);
                    let (message, hint) = (message.clone(), None);
                    self.fail(id, StageError::Environment { message, hint }.into());
                }
                return;
            }
        };

        for id in &nodes {
            let pending = pendings.remove(id);
            if let Some(pending) = &pending {
                self.elsewhere.keys.insert(pending.key, *id);
            }
            self.elsewhere.held.insert(*id, Held::by(&job.name, pending));
        }
        let nodes = nodes.into_iter().map(Some).collect();
        let live = LiveJob { placement, folder: job.folder.clone(), nodes, adopted: false };
        self.elsewhere.jobs.insert(job.name.clone(), live);
        self.elsewhere.order(Order::Submit { placement, job, resources });
    }

    /// Writes the file of a job into a folder of its own.
    fn write_job(
        &mut self,
        nodes: &[NodeId],
        pendings: &HashMap<NodeId, Box<PendingNode>>,
        resources: JobResources,
    ) -> Result<Job, String> {
        let cache = self.store.cache();
        let session = cache.session_name().map_err(|error| error.to_string())?;
        let number = self.elsewhere.made;
        self.elsewhere.made += 1;
        let digest = Digest::of_bytes(format!("{session} {number}").as_bytes());
        let name = format!("refrain-{}", digest.short());
        let folder = cache.jobs_dir().join(&name);

        let is_forced = |id: NodeId| self.options.force.contains(&id);
        let mut file = JobFile::new(session, cache.root().to_path_buf(), self.pins.all());
        file.threads = resources.threads;
        file.memory = resources.memory;
        file.nodes = job_nodes(self.graph, &self.state, nodes, pendings, is_forced)
            .ok_or("internal error: an input of a job is not known")?;
        create_dir_all(&folder)
            .and_then(|()| file.write(&folder))
            .map_err(|error| format!("cannot write a job into `{}`: {error}", folder.display()))?;
        Ok(Job { name, folder })
    }

    /// Ends jobs when the run stops: all when it was interrupted, else those that have not begun.
    pub(in crate::run) fn stop_jobs(&mut self) {
        if self.cancel.is_cancelled() {
            let jobs = std::mem::take(&mut self.elsewhere.jobs);
            jobs.values().flat_map(LiveJob::ids).for_each(|id| self.drop_held(id));
            let names: Vec<String> = jobs.into_keys().collect();
            if !names.is_empty() {
                self.elsewhere.order(Order::Cancel(names));
            }
        } else if !self.elsewhere.withdrawn {
            self.elsewhere.withdrawn = true;
            self.elsewhere.order(Order::Withdraw);
        }
        for ready in &mut self.elsewhere.ready {
            ready.clear();
        }
    }
}
