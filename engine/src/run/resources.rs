//! Admits nodes in the order in which they wait, as far as the machine has what their stages declare.

use std::collections::VecDeque;

use crate::graph::NodeId;
use crate::kind::MemoryNeed;
use crate::language::workflow::Settings;
use crate::plan::state::PendingNode;

use super::RunOptions;

/// How many waiting nodes are searched for one that fits, while the first does not.
const LOOKAHEAD: usize = 64;
/// How many later nodes may start before the first; then nothing starts until it does.
const OVERTAKEN: usize = 16;

/// The resources that a node needs, or that the machine has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ResourceDemand {
    threads: u64,
    memory: MemoryNeed,
    gpus: u64,
}

impl ResourceDemand {
    /// Reads the settings of a stage; what they do not declare counts as zero, memory as the
    /// estimate.
    pub fn of(
        settings: &Settings,
        estimate: impl FnOnce() -> Option<MemoryNeed>,
    ) -> ResourceDemand {
        let number = |n: Option<usize>| n.unwrap_or(0) as u64;
        let memory = match settings.memory {
            Some(own) => MemoryNeed { own, ..MemoryNeed::default() },
            None => estimate().unwrap_or_default(),
        };
        ResourceDemand { threads: number(settings.threads), memory, gpus: number(settings.gpus) }
    }

    /// Returns the bytes of memory, where they are declared or estimated.
    pub fn memory_bytes(&self) -> Option<u64> {
        Some(self.memory.total()).filter(|bytes| *bytes > 0)
    }

    fn add(&mut self, other: &ResourceDemand) {
        self.threads = self.threads.saturating_add(other.threads);
        self.memory.add(&other.memory);
        self.gpus = self.gpus.saturating_add(other.gpus);
    }

    fn within(&self, limit: &ResourceDemand) -> bool {
        self.threads <= limit.threads
            && self.memory.total() <= limit.memory.total()
            && self.gpus <= limit.gpus
    }
}

/// The resources of the machine, the running nodes that take of them, and the waiting ones.
pub(super) struct ResourcePool {
    limit: ResourceDemand,
    running: Vec<(NodeId, ResourceDemand)>,
    waiting: VecDeque<(NodeId, ResourceDemand, Box<PendingNode>)>,
    overtaken: usize,
}

impl ResourcePool {
    /// A pool in which nothing runs.
    pub fn new(options: &RunOptions<'_>) -> ResourcePool {
        let limit = ResourceDemand {
            threads: options.threads as u64,
            memory: MemoryNeed { own: options.memory, ..MemoryNeed::default() },
            gpus: options.gpus as u64,
        };
        ResourcePool { limit, running: Vec::new(), waiting: VecDeque::new(), overtaken: 0 }
    }

    /// Adds a node that could start.
    pub fn enqueue(&mut self, id: NodeId, need: ResourceDemand, pending: Box<PendingNode>) {
        self.waiting.push_back((id, need, pending));
    }

    /// Returns the number of nodes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether enough nodes wait: one where no other could start anyway.
    pub fn is_full(&self, free: bool) -> bool {
        self.waiting.len() >= if free { LOOKAHEAD } else { 1 }
    }

    /// Returns the node that starts now, if the machine has room for one.
    pub fn next(&mut self) -> Option<(NodeId, Box<PendingNode>)> {
        let candidates = if self.overtaken < OVERTAKEN { self.waiting.len() } else { 1 };
        let place =
            self.waiting.iter().take(candidates).position(|(_, need, _)| self.admits(need))?;
        self.overtaken = if place == 0 { 0 } else { self.overtaken + 1 };
        let (id, need, pending) = self.waiting.remove(place)?;
        self.running.push((id, need));
        Some((id, pending))
    }

    /// Gives back what a node took.
    pub fn release(&mut self, id: NodeId) {
        self.running.retain(|(running, _)| *running != id);
    }

    /// Whether a node may run beside those that do. One that declares more than the machine has runs
    /// alone.
    fn admits(&self, need: &ResourceDemand) -> bool {
        let alone = |need: &ResourceDemand| !need.within(&self.limit);
        if self.running.is_empty() {
            return true;
        }
        if alone(need) || self.running.iter().any(|(_, running)| alone(running)) {
            return false;
        }
        let mut together = need.clone();
        self.running.iter().for_each(|(_, running)| together.add(running));
        together.within(&self.limit)
    }
}

#[cfg(test)]
mod tests {
    use refrain_cache::Manifest;

    use super::*;

    fn need(threads: u64, memory: u64, gpus: u64) -> ResourceDemand {
        let memory = MemoryNeed { own: memory, ..MemoryNeed::default() };
        ResourceDemand { threads, memory, gpus }
    }

    fn pool(needs: &[ResourceDemand]) -> ResourcePool {
        let mut pool = ResourcePool {
            limit: need(4, 8, 1),
            running: Vec::new(),
            waiting: VecDeque::new(),
            overtaken: 0,
        };
        for (i, need) in needs.iter().enumerate() {
            add(&mut pool, i, need.clone());
        }
        pool
    }

    fn add(pool: &mut ResourcePool, id: usize, need: ResourceDemand) {
        let manifest = Manifest::new("test");
        let pending = PendingNode { key: manifest.key(), manifest, seen: None, damaged: None };
        pool.enqueue(NodeId(id as u32), need, Box::new(pending));
    }

    fn next(pool: &mut ResourcePool) -> Option<u32> {
        pool.next().map(|(id, _)| id.0)
    }

    #[test]
    fn sums_stay_within_the_machine() {
        for (declared, fit) in
            [(need(2, 0, 0), 2), (need(0, 3, 0), 2), (need(0, 0, 1), 1), (need(0, 0, 0), 5)]
        {
            let mut pool = pool(&std::array::from_fn::<_, 5, _>(|_| declared.clone()));
            let started = std::iter::from_fn(|| next(&mut pool)).count();
            assert_eq!(started, fit, "{declared:?}");
            pool.release(NodeId(0));
            assert_eq!(
                next(&mut pool).is_some(),
                fit < 5,
                "{declared:?}: what ended makes room for one"
            );
            assert_eq!(next(&mut pool), None, "{declared:?}: and for no more");
        }
    }

    #[test]
    fn what_declares_more_than_there_is_runs_alone() {
        let mut pool = pool(&[need(9, 0, 0), need(0, 0, 0), need(0, 9, 0)]);
        assert_eq!(next(&mut pool), Some(0));
        assert_eq!(next(&mut pool), None, "nothing starts beside it");
        pool.release(NodeId(0));
        assert_eq!(next(&mut pool), Some(1));
        assert_eq!(next(&mut pool), None, "it does not start beside anything");
        pool.release(NodeId(1));
        assert_eq!(next(&mut pool), Some(2));
    }

    /// A large node waits while small ones come and go, but not for ever.
    #[test]
    fn a_large_node_is_overtaken_a_few_times_only() {
        let mut pool = pool(&[need(0, 5, 0), need(0, 8, 0)]);
        assert_eq!(next(&mut pool), Some(0));
        let mut ran = 0;
        for id in 2..1000 {
            add(&mut pool, id, need(0, 1, 0));
            match next(&mut pool) {
                Some(small) => {
                    assert!(small >= 2);
                    pool.release(NodeId(small));
                    ran += 1;
                }
                None => break,
            }
        }
        assert_eq!(ran, OVERTAKEN);
        pool.release(NodeId(0));
        assert_eq!(next(&mut pool), Some(1), "the large one is first");
    }
    /// Trials of one base hold its weights once.
    #[test]
    fn shared_memory_counts_once() {
        let trial = |base: &str, own: u64| ResourceDemand {
            memory: MemoryNeed { own, shared: [(base.into(), 5)].into() },
            ..need(0, 0, 0)
        };
        let mut pool = pool(&[trial("a", 1), trial("a", 1), trial("b", 1), trial("a", 2)]);
        assert_eq!(next(&mut pool), Some(0));
        assert_eq!(next(&mut pool), Some(1), "5 + 1 + 1 of 8");
        assert_eq!(next(&mut pool), None, "the base `b` and a third trial are too much");
        pool.release(NodeId(0));
        assert_eq!(next(&mut pool), Some(3), "5 + 1 + 2 of 8, before the waiting `b`");
    }
}
