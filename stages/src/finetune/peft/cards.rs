//! The graphics cards that the trainers of this process use, so that no two share one.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Numbers of the cards in use, of those that are visible.
static USED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Cards that a trainer has for itself until this is dropped.
pub(super) struct Cards {
    taken: Vec<usize>,
    /// Their names, as `CUDA_VISIBLE_DEVICES` has them.
    pub names: String,
}

impl Cards {
    /// Takes the first free cards of those that `CUDA_VISIBLE_DEVICES` lists, or of all.
    ///
    /// The engine admits no more trainings than there are cards; one that declares more than there
    /// are runs alone, and is told by its trainer.
    pub fn take(count: usize, visible: Option<&str>) -> Cards {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<usize> = (0..).filter(|card| !used.contains(card)).take(count).collect();
        used.extend(&taken);
        let listed: Option<Vec<&str>> =
            visible.map(|visible| visible.split(',').map(str::trim).collect());
        let name = |card: &usize| match &listed {
            Some(listed) => listed.get(*card).map(|name| (*name).to_owned()),
            None => Some(card.to_string()),
        };
        let names: Vec<String> = taken.iter().filter_map(name).collect();
        Cards { names: names.join(","), taken }
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|card| !self.taken.contains(card));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_trainers_have_different_cards_until_one_ends() {
        let first = Cards::take(2, None);
        assert_eq!(first.names, "0,1");
        let second = Cards::take(1, Some("4, 5, GPU-7"));
        assert_eq!(second.names, "GPU-7");
        assert_eq!(Cards::take(1, Some("4,5,6")).names, "", "none is left of three");
        drop(first);
        assert_eq!(Cards::take(1, Some("4,5,GPU-7")).names, "4");
        assert_eq!(Cards::take(0, None).names, "");
    }
}
