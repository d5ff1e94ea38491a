//! Which of the nodes that could start does: the first for which the machine has what its stage declares.

use std::collections::VecDeque;

use crate::graph::NodeId;
use crate::language::workflow::Settings;
use crate::plan::state::Todo;

use super::Options;

/// How many nodes are looked at for one that fits, while the first does not.
const LOOKAHEAD: usize = 64;
/// How many later nodes may start before the first; then nothing starts until it does.
const OVERTAKEN: usize = 16;

/// What a stage declares, or the machine has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Need {
    threads: u64,
    memory: u64,
    gpus: u64,
}

impl Need {
    /// What the settings of a stage declare; nothing counts as nothing.
    pub fn of(settings: &Settings) -> Need {
        let number = |n: Option<usize>| n.unwrap_or(0) as u64;
        Need {
            threads: number(settings.threads),
            memory: settings.memory.unwrap_or(0),
            gpus: number(settings.gpus),
        }
    }

    fn plus(self, other: Need) -> Need {
        Need {
            threads: self.threads.saturating_add(other.threads),
            memory: self.memory.saturating_add(other.memory),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    fn within(self, limit: Need) -> bool {
        self.threads <= limit.threads && self.memory <= limit.memory && self.gpus <= limit.gpus
    }
}

/// The nodes that could start, what the machine has, and what the running nodes take of it.
pub(super) struct Room {
    limit: Need,
    running: Vec<(NodeId, Need)>,
    waiting: VecDeque<(NodeId, Need, Box<Todo>)>,
    overtaken: usize,
}

impl Room {
    /// Nothing runs.
    pub fn new(options: &Options<'_>) -> Room {
        let limit = Need {
            threads: options.threads as u64,
            memory: options.memory,
            gpus: options.gpus as u64,
        };
        Room { limit, running: Vec::new(), waiting: VecDeque::new(), overtaken: 0 }
    }

    /// Adds a node that could start.
    pub fn wait(&mut self, id: NodeId, need: Need, todo: Box<Todo>) {
        self.waiting.push_back((id, need, todo));
    }

    /// Whether enough nodes wait: one where no other could start anyway.
    pub fn is_full(&self, free: bool) -> bool {
        self.waiting.len() >= if free { LOOKAHEAD } else { 1 }
    }

    /// The node that starts now, in the order of their waiting as far as the machine allows.
    pub fn next(&mut self) -> Option<(NodeId, Box<Todo>)> {
        let candidates = if self.overtaken < OVERTAKEN { self.waiting.len() } else { 1 };
        let place =
            self.waiting.iter().take(candidates).position(|(_, need, _)| self.admits(*need))?;
        self.overtaken = if place == 0 { 0 } else { self.overtaken + 1 };
        let (id, need, todo) = self.waiting.remove(place)?;
        self.running.push((id, need));
        Some((id, todo))
    }

    /// Notes that a node ended.
    pub fn leave(&mut self, id: NodeId) {
        self.running.retain(|(running, _)| *running != id);
    }

    /// Whether a node may run beside those that do. One that declares more than there is runs alone.
    fn admits(&self, need: Need) -> bool {
        let alone = |need: Need| !need.within(self.limit);
        if self.running.is_empty() {
            return true;
        }
        if alone(need) || self.running.iter().any(|(_, running)| alone(*running)) {
            return false;
        }
        self.running.iter().fold(need, |sum, (_, running)| sum.plus(*running)).within(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use refrain_cache::Manifest;

    use super::*;

    fn need(threads: u64, memory: u64, gpus: u64) -> Need {
        Need { threads, memory, gpus }
    }

    fn room(needs: &[Need]) -> Room {
        let mut room = Room {
            limit: need(4, 8, 1),
            running: Vec::new(),
            waiting: VecDeque::new(),
            overtaken: 0,
        };
        for (i, need) in needs.iter().enumerate() {
            add(&mut room, i, *need);
        }
        room
    }

    fn add(room: &mut Room, id: usize, need: Need) {
        let manifest = Manifest::new("test");
        let todo = Todo { key: manifest.key(), manifest, file: None, damaged: None };
        room.wait(NodeId(id as u32), need, Box::new(todo));
    }

    fn next(room: &mut Room) -> Option<u32> {
        room.next().map(|(id, _)| id.0)
    }

    #[test]
    fn sums_stay_within_the_machine() {
        for (declared, fit) in
            [(need(2, 0, 0), 2), (need(0, 3, 0), 2), (need(0, 0, 1), 1), (need(0, 0, 0), 5)]
        {
            let mut room = room(&[declared; 5]);
            let started = std::iter::from_fn(|| next(&mut room)).count();
            assert_eq!(started, fit, "{declared:?}");
            room.leave(NodeId(0));
            assert_eq!(
                next(&mut room).is_some(),
                fit < 5,
                "{declared:?}: what ended makes room for one"
            );
            assert_eq!(next(&mut room), None, "{declared:?}: and for no more");
        }
    }

    #[test]
    fn what_declares_more_than_there_is_runs_alone() {
        let mut room = room(&[need(9, 0, 0), need(0, 0, 0), need(0, 9, 0)]);
        assert_eq!(next(&mut room), Some(0));
        assert_eq!(next(&mut room), None, "nothing starts beside it");
        room.leave(NodeId(0));
        assert_eq!(next(&mut room), Some(1));
        assert_eq!(next(&mut room), None, "it does not start beside anything");
        room.leave(NodeId(1));
        assert_eq!(next(&mut room), Some(2));
    }

    /// A large node waits while small ones come and go, but not for ever.
    #[test]
    fn a_large_node_is_overtaken_a_few_times_only() {
        let mut room = room(&[need(0, 5, 0), need(0, 8, 0)]);
        assert_eq!(next(&mut room), Some(0));
        let mut ran = 0;
        for id in 2..1000 {
            add(&mut room, id, need(0, 1, 0));
            match next(&mut room) {
                Some(small) => {
                    assert!(small >= 2);
                    room.leave(NodeId(small));
                    ran += 1;
                }
                None => break,
            }
        }
        assert_eq!(ran, OVERTAKEN);
        room.leave(NodeId(0));
        assert_eq!(next(&mut room), Some(1), "the large one is first");
    }
}
