//! The nodes that are computed elsewhere, as the deciding thread sees them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::Duration;

use tracing::{Dispatch as Subscriber, Span, debug, dispatcher, info, warn};

use refrain_cache::write::create_dir_all;
use refrain_cache::{Digest, Key, SessionWatch};

use crate::graph::{Node, NodeId};
use crate::kind::StageError;
use crate::language::explain::Explain;
use crate::plan::state::{NodeState, PendingNode};
use crate::run::parked::Claim;
use crate::run::{Outcome, Runner, WorkerMessage, node};
use crate::store::Store;

use super::events::JobEvent;
use super::forming::{Took, can_leave, chain, chains_of_job, job_nodes, resources_of, seconds_of};
use super::job_file::{JobFile, JobReport};
pub(in crate::run) use super::watcher::Notice;
use super::watcher::{JobEnd, Order, Watcher};
use super::{ExecutorError, JOB_FILE, Job, JobResources, JobState, Placement};

/// The limit of jobs of a node that are lost before the node fails.
const LOST: u32 = 3;
/// The limit of ready nodes that wait for a job.
const READY: usize = 4096;

/// The nodes that are computed elsewhere.
pub(in crate::run) struct Elsewhere<'o> {
    placements: &'o [Placement],
    /// For each placement the nodes that wait for a job.
    ready: Vec<VecDeque<(NodeId, Box<PendingNode>)>>,
    jobs: BTreeMap<String, LiveJob>,
    held: HashMap<NodeId, Held>,
    keys: HashMap<Key, NodeId>,
    /// The jobs of other runs that may still run, and their positions by the keys of their first
    /// nodes.
    found: Vec<Option<FoundJob>>,
    found_keys: HashMap<Key, usize>,
    /// How many jobs of a node were lost.
    lost: HashMap<NodeId, u32>,
    took: HashMap<String, Took>,
    /// For each placement the most jobs that were seen to run at once.
    at_once: Vec<usize>,
    orders: Option<Sender<Order>>,
    /// The number of jobs made so far.
    made: u64,
    /// Whether the jobs that have not begun were taken back.
    withdrawn: bool,
}

/// A job under way.
struct LiveJob {
    placement: usize,
    folder: PathBuf,
    /// Its nodes, in its own order; `None` for one that this run does not have.
    nodes: Vec<Option<NodeId>>,
    /// Whether an earlier run made it.
    adopted: bool,
}

impl LiveJob {
    fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied().flatten()
    }
}

/// A job of another run.
struct FoundJob {
    placement: usize,
    job: Job,
    file: JobFile,
    owner: SessionWatch,
}

/// A node that a job computes.
struct Held {
    /// The job; `None` once it is over.
    job: Option<String>,
    /// The node as it was when its key was found; `None` before.
    pending: Option<Box<PendingNode>>,
    /// The span of a node that has begun.
    span: Option<Span>,
}

impl<'o> Elsewhere<'o> {
    pub fn new(placements: &'o [Placement]) -> Elsewhere<'o> {
        Elsewhere {
            placements,
            ready: placements.iter().map(|_| VecDeque::new()).collect(),
            jobs: BTreeMap::new(),
            held: HashMap::new(),
            keys: HashMap::new(),
            found: Vec::new(),
            found_keys: HashMap::new(),
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

    fn order(&self, order: Order) {
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
        let demand = self.demand(self.graph.node(nodes[0]));
        let config = &self.elsewhere.placements[placement].config;
        let resources = resources_of(self.graph, &nodes, &demand, config);
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
            let held = Held { job: Some(job.name.clone()), pending, span: None };
            self.elsewhere.held.insert(*id, held);
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

    /// Handles what the thread that watches jobs says.
    pub(in crate::run) fn on_notice(&mut self, notice: Notice) {
        match notice {
            // They are looked up as all ready nodes are, which checks their artifacts.
            Notice::Delivered(keys) => {
                let ids = keys.iter().filter_map(|key| self.elsewhere.keys.get(key).copied());
                let ids: Vec<NodeId> = ids.filter(|id| self.state.done(*id).is_none()).collect();
                self.ready.extend(ids);
            }
            Notice::Ended(name, end) => self.job_ended(&name, end),
            Notice::Event(job, event) => self.job_event(&job, &event),
            Notice::Running(placement, jobs) => {
                let most = &mut self.elsewhere.at_once[placement];
                *most = jobs.max(*most);
            }
            Notice::Broken(error) => {
                let message = format!("the results of jobs cannot be taken over: {error}");
                self.elsewhere.end();
                for (_, job) in std::mem::take(&mut self.elsewhere.jobs) {
                    job.ids().for_each(|id| self.fail_elsewhere(id, &message, None));
                }
            }
        }
    }

    /// Shows what happened to a node of a job.
    fn job_event(&mut self, job: &str, event: &JobEvent) {
        let Some(LiveJob { adopted, .. }) = self.elsewhere.jobs.get(job) else { return };
        let id = match adopted {
            false => u32::try_from(event.node).ok().map(NodeId),
            true => self.graph.find(&event.name),
        };
        let Some(id) = id.filter(|id| id.index() < self.graph.nodes.len()) else { return };
        let node = self.graph.node(id);
        match (event.started(), self.elsewhere.held.get_mut(&id)) {
            (Some(key), Some(held)) => held.span = Some(node::span(id, node, &key)),
            // Its result arrived before.
            (Some(_), None) => {}
            (None, None) if event.is_progress() => {}
            (None, _) => event.emit(id.0, &node.name),
        }
    }

    fn job_ended(&mut self, name: &str, end: JobEnd) {
        let Some(job) = self.elsewhere.jobs.remove(name) else { return };
        let (report, why) = match end {
            JobEnd::Reported(report) => {
                let stopped = report.interrupted.then(|| "the job was asked to stop".to_owned());
                (*report, stopped.unwrap_or_else(|| "the job did not compute it".into()))
            }
            JobEnd::Lost(why) => (JobReport::default(), why),
            JobEnd::Refused(error) => return self.refused(&job, &error),
            JobEnd::Withdrawn => {
                job.ids().for_each(|id| self.drop_held(id));
                return self.store.cache().remove_job(&job.folder);
            }
        };
        for (model, fact) in report.pins {
            self.pins.pin(model, fact);
        }
        let all_done = report.failures.is_empty() && !report.interrupted;
        for failure in report.failures {
            let Some(id) = job.nodes.get(failure.node).copied().flatten() else { continue };
            let Some(held) = self.elsewhere.held.get(&id) else { continue };
            // The node of an earlier run may have had another key under its name.
            if !job.adopted || held.pending.is_some() {
                self.drop_held(id);
                self.fail(id, failure.error.into());
            }
        }
        let mut lost = Vec::new();
        for id in job.ids() {
            let Some(held) = self.elsewhere.held.get_mut(&id) else { continue };
            held.job = None;
            let Some(key) = held.pending.as_ref().map(|pending| pending.key) else { continue };
            match self.store.has_recorded(&key) {
                // It may have arrived while nobody knew its key.
                Ok(true) => drop(self.ready.insert(id)),
                Ok(false) | Err(_) => lost.push(id),
            }
        }
        let is_lost = !lost.is_empty();
        for id in lost {
            self.lost(id, name, &why);
        }
        // What is left there helps to find out why.
        if all_done && !is_lost {
            self.store.cache().remove_job(&job.folder);
        }
    }

    /// Computes a node again whose job was lost, or fails it.
    fn lost(&mut self, id: NodeId, job: &str, why: &str) {
        self.drop_held(id);
        let times = self.elsewhere.lost.entry(id).or_insert(0);
        *times += 1;
        if *times >= LOST {
            let message =
                format!("{times} jobs ended without its result; of the last, `{job}`: {why}");
            let hint = Some("the folder of the job in the cache's `jobs/` holds its log".into());
            return self.fail(id, StageError::Environment { message, hint }.into());
        }
        let name = self.graph.node(id).name.as_str();
        if self.stopped {
            return;
        }
        warn!(name: "job_lost", node = id.0, name, "its job was lost, and is made again: {why}");
        self.ready.insert(id);
    }

    fn refused(&mut self, job: &LiveJob, error: &ExecutorError) {
        self.store.cache().remove_job(&job.folder);
        let message = error.to_string();
        // Of a chain the first node fails, and the others are skipped by it.
        job.ids().for_each(|id| self.fail_elsewhere(id, &message, error.hint()));
        if !self.stopped {
            self.elsewhere.order(Order::GoOn);
        }
    }

    /// Fails a node that cannot be computed elsewhere, unless it is skipped already.
    fn fail_elsewhere(&mut self, id: NodeId, message: &str, hint: Option<String>) {
        self.drop_held(id);
        if matches!(self.outcomes[id.index()], Outcome::NotRun) {
            let message = message.to_owned();
            self.fail(id, StageError::Environment { message, hint }.into());
        }
    }

    /// Lets go of a node: its job does not compute it any more.
    fn drop_held(&mut self, id: NodeId) {
        self.give_back(id);
        if let Some(Held { pending: Some(pending), .. }) = self.elsewhere.held.remove(&id) {
            self.elsewhere.keys.remove(&pending.key);
            self.store.cache().release(&pending.key);
        }
    }

    /// Finishes a node whose result a job delivered.
    pub(in crate::run) fn computed_elsewhere(&mut self, id: NodeId, done: NodeState) {
        let Some(held) = self.elsewhere.held.remove(&id) else { return };
        self.elsewhere.keys.remove(&done.key);
        let seconds = self.store.seconds(&done.key);
        let node = self.graph.node(id);
        let name = node.name.as_str();
        let span = held.span.unwrap_or_else(|| node::span(id, node, &done.key));
        debug!(name: "recorded", node = id.0, name, key = %done.key, first = true, "recorded");
        info!(name: "finished", node = id.0, name, seconds, differs = false, "finished");
        drop(span);

        let elapsed = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.elsewhere.took.entry(node.stage.clone()).or_default().add(seconds);
        if let Some(spending) = &mut self.spending {
            spending.ended(self.graph, id, elapsed);
        }
        self.outcomes[id.index()] = Outcome::Ran(elapsed);
        self.store.cache().release(&done.key);
        self.finish(id, done);
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

    /// Finds the jobs of other runs. Those that are over, and whose run is, are removed: what they
    /// delivered was taken over when the cache was opened.
    pub(in crate::run) fn find_jobs(&mut self) {
        let cache = self.store.cache();
        let Ok(entries) = fs::read_dir(cache.jobs_dir()) else { return };
        let mut jobs = Vec::new();
        for entry in entries.flatten().filter(|_| !self.elsewhere.placements.is_empty()) {
            let folder = entry.path();
            let Ok(file) = JobFile::read(&folder.join(JOB_FILE)) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            jobs.push((Job { name, folder }, file));
        }
        for (placement, Placement { executor, .. }) in self.elsewhere.placements.iter().enumerate()
        {
            let named: Vec<&Job> = jobs.iter().map(|(job, _)| job).collect();
            // Where it cannot be asked, its jobs count as over, and are computed twice at worst.
            let Ok(states) = executor.states(&named) else { return };
            let is_live = |state| matches!(state, JobState::Waiting | JobState::Running);
            let mut states = states.into_iter();
            let (live, others) = jobs.into_iter().partition(|_| states.next().is_some_and(is_live));
            jobs = others;
            let live: Vec<(Job, JobFile)> = live;
            for (job, file) in live {
                let position = self.elsewhere.found.len();
                let keys = file.nodes.iter().filter_map(|node| node.key);
                self.elsewhere.found_keys.extend(keys.map(|key| (key, position)));
                let owner = cache.watch(&file.owner);
                self.elsewhere.found.push(Some(FoundJob { placement, job, file, owner }));
            }
        }
        for (job, file) in jobs {
            if !cache.session_lives(&mut cache.watch(&file.owner), Duration::MAX) {
                cache.remove_job(&job.folder);
            }
        }
    }

    /// Watches the job of an earlier run that computes a key, unless that run still does.
    fn adopt_job_of(&mut self, key: &Key) {
        let Some(position) = self.elsewhere.found_keys.get(key).copied() else { return };
        let cache = self.store.cache();
        let Some(found) = &mut self.elsewhere.found[position] else { return };
        let silence = self.elsewhere.placements[found.placement].config.silence;
        if cache.session_lives(&mut found.owner, silence.min(cache.lease())) {
            return;
        }
        let Some(found) = self.elsewhere.found[position].take() else { return };
        let FoundJob { placement, job, file, .. } = found;
        let nodes: Vec<Option<NodeId>> =
            file.nodes.iter().map(|node| self.graph.find(&node.name)).collect();
        for id in nodes.iter().flatten() {
            let held = Held { job: Some(job.name.clone()), pending: None, span: None };
            self.elsewhere.held.entry(*id).or_insert(held);
        }
        let folder = job.folder.clone();
        let live = LiveJob { placement, folder, nodes, adopted: true };
        self.elsewhere.jobs.insert(job.name.clone(), live);
        self.elsewhere.order(Order::Adopt { placement, job });
    }
}
