//! The end of nodes whose jobs deliver, fail, or are lost.

use std::time::Duration;

use tracing::{debug, info, warn};

use refrain_cache::Stored;

use crate::graph::NodeId;
use crate::kind::StageError;
use crate::language::explain::Explain;
use crate::plan::state::NodeState;
use crate::run::{Outcome, Runner, node};

use super::ExecutorError;
use super::dispatch::{Held, LiveJob};
use super::events::JobEvent;
use super::job_file::JobReport;
use super::watcher::{JobEnd, Notice, Order};

/// The limit of jobs of a node that are lost before the node fails.
const LOST: u32 = 3;

impl Runner<'_, '_> {
    /// Handles what the thread that watches jobs says.
    pub(in crate::run) fn on_notice(&mut self, notice: Notice) {
        match notice {
            // They are looked up as all ready nodes are, which checks their artifacts.
            Notice::Delivered(stored) => {
                for (key, stored) in stored {
                    let Some(id) = self.elsewhere.keys.get(&key) else { continue };
                    if let Some(held) = self.elsewhere.held.get_mut(id) {
                        held.differs |= stored == Stored::Adopted { differs: true };
                        self.ready.insert(*id);
                    }
                }
            }
            Notice::Ended(name, end) => self.job_ended(&name, end),
            Notice::Event(job, event) => self.job_event(&job, &event),
            Notice::Running(placement, jobs) => {
                let most = &mut self.elsewhere.at_once[placement];
                *most = jobs.max(*most);
            }
            Notice::Broken(error) => {
                let message = format!("the results of jobs cannot be taken over: {error}");
                // Nobody would watch another job.
                self.stopped = true;
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
        // The log in the folder of a failed one helps to find out why.
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
    pub(super) fn drop_held(&mut self, id: NodeId) {
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
        let differs = held.differs;
        info!(name: "finished", node = id.0, name, seconds, differs, "finished");
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
}
