//! Corrects the p-values of comparisons that form a group.

use std::collections::BTreeMap;

use crate::ledger::lock::Compared;
use crate::statistics::holm;

use super::Pairing;

/// Corrects all tests of each group together (Holm). A comparison without a group is one of its
/// own.
pub(super) fn correct(
    pairings: &[Pairing],
    results: &[Option<&Compared>],
) -> Vec<Option<Vec<f64>>> {
    let mut groups: BTreeMap<(bool, &str), Vec<usize>> = BTreeMap::new();
    for (i, Pairing { comparison, .. }) in pairings.iter().enumerate() {
        // A group may have the name of a comparison.
        let group = match &comparison.group {
            Some(group) => (true, group.as_str()),
            None => (false, comparison.name.as_str()),
        };
        groups.entry(group).or_default().push(i);
    }

    let mut corrected = vec![None; pairings.len()];
    for members in groups.into_values() {
        let known: Option<Vec<&Compared>> = members.iter().map(|member| results[*member]).collect();
        let Some(known) = known else { continue };
        let ps: Vec<f64> =
            known.iter().flat_map(|one| one.tests.iter().map(|test| test.p)).collect();
        let mut ps = holm(&ps).into_iter();
        for (member, one) in members.into_iter().zip(known) {
            corrected[member] = Some(ps.by_ref().take(one.tests.len()).collect());
        }
    }
    corrected
}
