//! The jobs of other runs: those of a run that is over are watched by the next one.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use refrain_cache::{Key, SessionWatch};

use crate::graph::NodeId;
use crate::run::Runner;

use super::dispatch::{Held, LiveJob};
use super::job_file::JobFile;
use super::watcher::Order;
use super::{JOB_FILE, Job, JobState, Placement};

/// A job of another run.
struct FoundJob {
    placement: usize,
    job: Job,
    file: JobFile,
    owner: SessionWatch,
}

/// The jobs of other runs that may still run.
#[derive(Default)]
pub(super) struct FoundJobs {
    jobs: Vec<Option<FoundJob>>,
    /// The positions of the jobs, by the keys of their first nodes.
    by_key: HashMap<Key, usize>,
}

impl Runner<'_, '_> {
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
            // Most runs find none, and need not ask.
            if jobs.is_empty() {
                return;
            }
            let named: Vec<&Job> = jobs.iter().map(|(job, _)| job).collect();
            // Where it cannot be asked, its jobs count as over, and are computed twice at worst.
            let Ok(states) = executor.states(&named) else { return };
            let is_live = |state| matches!(state, JobState::Waiting | JobState::Running);
            let mut states = states.into_iter();
            let (live, others) = jobs.into_iter().partition(|_| states.next().is_some_and(is_live));
            jobs = others;
            let live: Vec<(Job, JobFile)> = live;
            for (job, file) in live {
                let position = self.elsewhere.found.jobs.len();
                let keys = file.nodes.iter().filter_map(|node| node.key);
                self.elsewhere.found.by_key.extend(keys.map(|key| (key, position)));
                let owner = cache.watch(&file.owner);
                self.elsewhere.found.jobs.push(Some(FoundJob { placement, job, file, owner }));
            }
        }
        for (job, file) in jobs {
            if !cache.session_lives(&mut cache.watch(&file.owner), Duration::MAX) {
                cache.remove_job(&job.folder);
            }
        }
    }

    /// Watches the job of an earlier run that computes a key, unless that run still does.
    pub(super) fn adopt_job_of(&mut self, key: &Key) {
        let Some(position) = self.elsewhere.found.by_key.get(key).copied() else { return };
        let cache = self.store.cache();
        let Some(found) = &mut self.elsewhere.found.jobs[position] else { return };
        let silence = self.elsewhere.placements[found.placement].config.silence;
        if cache.session_lives(&mut found.owner, silence.min(cache.lease())) {
            return;
        }
        let Some(found) = self.elsewhere.found.jobs[position].take() else { return };
        let FoundJob { placement, job, file, .. } = found;
        let nodes: Vec<Option<NodeId>> =
            file.nodes.iter().map(|node| self.graph.find(&node.name)).collect();
        for id in nodes.iter().flatten() {
            self.elsewhere.held.entry(*id).or_insert_with(|| Held::by(&job.name, None));
        }
        let folder = job.folder.clone();
        let live = LiveJob { placement, folder, nodes, adopted: true };
        self.elsewhere.jobs.insert(job.name.clone(), live);
        self.elsewhere.order(Order::Adopt { placement, job });
    }
}
