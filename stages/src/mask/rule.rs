//! Which tokens of a response are masked, given their perplexities.
//!
//! A token without a prediction has the perplexity NaN, which is neither above nor below anything:
//! it is never masked.

use crate::draw::Draws;

/// A way to choose the masked tokens of a response.
#[derive(Debug, Clone, PartialEq)]
pub enum MaskRule {
    /// Tokens above the threshold.
    Above(f64),
    /// Tokens below the threshold.
    Below(f64),
    /// As many as are above the threshold, but the lowest ones; equal ones in the order of the
    /// response.
    Lowest(f64),
    /// As many as are above the threshold, but drawn evenly and without replacement.
    Random(f64),
    /// As many draws as the whole text has tokens above the threshold, each from all of its tokens
    /// and with replacement: what is drawn of the prompt, or twice, masks nothing. The control of
    /// arXiv 2501.14315, which so masks fewer tokens than `Above`.
    RandomPaper(f64),
    /// Tokens above the threshold, and the first `equal` ones of the table that lie on it.
    Budget {
        /// The lowest perplexity that is masked.
        threshold: f64,
        /// Number of tokens on the threshold that are still to be masked.
        equal: usize,
    },
    /// None.
    Nothing,
}

impl MaskRule {
    /// The threshold; `None` where nothing is compared.
    pub fn threshold(&self) -> Option<f64> {
        match self {
            MaskRule::Above(t)
            | MaskRule::Below(t)
            | MaskRule::Lowest(t)
            | MaskRule::Random(t)
            | MaskRule::RandomPaper(t) => Some(*t),
            MaskRule::Budget { threshold, .. } => Some(*threshold),
            MaskRule::Nothing => None,
        }
    }

    /// Sets `kept` to false for the masked tokens of a response and returns how many they are.
    ///
    /// `values` are those of the whole text, the last ones the response's; `kept` is all true and as
    /// long as the response. Rows come in the order of the table. `draws` gives the random numbers
    /// of the row.
    pub fn mark(
        &mut self,
        values: &[f64],
        draws: impl FnOnce() -> Draws,
        kept: &mut [bool],
    ) -> usize {
        let prompt = values.len() - kept.len();
        let perplexities = &values[prompt..];
        match self {
            MaskRule::Nothing => 0,
            MaskRule::Above(threshold) => mark_where(perplexities, kept, |p| p > *threshold),
            MaskRule::Below(threshold) => mark_where(perplexities, kept, |p| p < *threshold),
            MaskRule::Budget { threshold, equal } => mark_where(perplexities, kept, |p| {
                let on_threshold = p == *threshold && *equal > 0;
                *equal -= usize::from(on_threshold);
                p > *threshold || on_threshold
            }),
            MaskRule::Lowest(threshold) => {
                let (count, mut predicted) = candidates(perplexities, *threshold);
                // The sort is stable, so that equal ones stay in the order of the response.
                predicted.sort_by(|&a, &b| perplexities[a].total_cmp(&perplexities[b]));
                predicted[..count].iter().for_each(|&i| kept[i] = false);
                count
            }
            MaskRule::Random(threshold) => {
                let (count, mut predicted) = candidates(perplexities, *threshold);
                let draws = draws();
                // The first steps of a Fisher-Yates shuffle.
                for i in 0..count {
                    let other = i + draws.below(i as u64, (predicted.len() - i) as u64) as usize;
                    predicted.swap(i, other);
                    kept[predicted[i]] = false;
                }
                count
            }
            MaskRule::RandomPaper(threshold) => {
                let count = values.iter().filter(|value| **value > *threshold).count() as u64;
                let draws = draws();
                for i in 0..count {
                    let drawn = draws.below(i, values.len() as u64) as usize;
                    if let Some(drawn) = drawn.checked_sub(prompt) {
                        kept[drawn] = false;
                    }
                }
                kept.iter().filter(|kept| !**kept).count()
            }
        }
    }
}

fn mark_where(
    perplexities: &[f64],
    kept: &mut [bool],
    mut masked: impl FnMut(f64) -> bool,
) -> usize {
    let mut count = 0;
    for (perplexity, kept) in perplexities.iter().zip(kept) {
        *kept = !masked(*perplexity);
        count += usize::from(!*kept);
    }
    count
}

/// Returns the number of tokens above the threshold, and the positions of all that have a
/// prediction.
fn candidates(perplexities: &[f64], threshold: f64) -> (usize, Vec<usize>) {
    let count = perplexities.iter().filter(|p| **p > threshold).count();
    (count, (0..perplexities.len()).filter(|&i| !perplexities[i].is_nan()).collect())
}

/// `share * n`, rounded down. A product within rounding of a whole number is that number: 0.29 of
/// 100 is 29, although the f64 nearest to 0.29 is a little less.
pub fn whole_part(share: f64, n: u64) -> usize {
    let product = share * n as f64;
    let whole = product.round();
    let within_rounding = (product - whole).abs() <= f64::EPSILON * product;
    (if within_rounding { whole } else { product.floor() }) as usize
}

/// The rule that masks exactly `count` tokens of a table (all predicted ones when they are fewer),
/// the most perplexing first and equal ones in the order of the table. Reorders the values, which
/// are those of the predicted tokens.
pub fn budget(values: &mut [f64], count: usize) -> MaskRule {
    let count = count.min(values.len());
    let Some(first) = count.checked_sub(1) else {
        return MaskRule::Nothing;
    };
    let (above, threshold, _) = values.select_nth_unstable_by(first, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    let equal = count - above.iter().filter(|value| **value > threshold).count();
    MaskRule::Budget { threshold, equal }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn marked(mut rule: MaskRule, perplexities: &[f64]) -> Vec<bool> {
        let mut kept = vec![true; perplexities.len()];
        let count = rule.mark(perplexities, || Draws::new("test", 1, &[]), &mut kept);
        assert_eq!(count, kept.iter().filter(|kept| !**kept).count());
        kept.iter().map(|kept| !kept).collect()
    }

    #[test]
    fn thresholds_are_strict_and_spare_what_has_no_prediction() {
        let row = [1.0, 2.5, 2.6, f64::NAN];
        assert_eq!(marked(MaskRule::Above(2.5), &row), [false, false, true, false]);
        assert_eq!(marked(MaskRule::Below(2.5), &row), [true, false, false, false]);
        assert_eq!(marked(MaskRule::Lowest(2.5), &row), [true, false, false, false]);
    }

    #[test]
    fn shares_are_rounded_down_as_written() {
        let cases = [
            (0.29, 100, 29),
            (0.07, 100, 7),
            (0.5, 3, 1),
            (0.999, 10, 9),
            (1.0, 7, 7),
            (0.0, 7, 0),
            (0.1, 0, 0),
        ];
        for (share, n, expected) in cases {
            assert_eq!(whole_part(share, n), expected, "{share} of {n}");
        }
    }

    /// Few different values, so that ties are frequent; 0 stands for no prediction.
    fn rows() -> impl Strategy<Value = Vec<Vec<f64>>> {
        let value = (0..6_u8).prop_map(|v| if v == 0 { f64::NAN } else { f64::from(v) });
        vec(vec(value, 0..20), 0..10)
    }

    proptest! {
        #[test]
        fn controls_mask_as_many_as_above_in_every_row(rows in rows(), threshold in 0.5..6.0) {
            for row in rows {
                let count = |masked: Vec<bool>| masked.iter().filter(|m| **m).count();
                let above = count(marked(MaskRule::Above(threshold), &row));
                prop_assert_eq!(above, count(marked(MaskRule::Random(threshold), &row)));
                prop_assert_eq!(above, count(marked(MaskRule::Lowest(threshold), &row)));
                let random = marked(MaskRule::Random(threshold), &row);
                prop_assert!(row.iter().zip(random).all(|(p, masked)| !(masked && p.is_nan())));
            }
        }

        #[test]
        fn a_budget_masks_exactly_the_highest_ones_with_the_first_of_equals(rows in rows(), share in 0.0..1.0) {
            let mut predicted: Vec<f64> = rows.iter().flatten().copied().filter(|p| !p.is_nan()).collect();
            let count = whole_part(share, predicted.len() as u64);
            let mut rule = budget(&mut predicted, count);
            let mut expected: Vec<(usize, usize)> = Vec::new();
            for (r, row) in rows.iter().enumerate() {
                expected.extend((0..row.len()).filter(|&i| !row[i].is_nan()).map(|i| (r, i)));
            }
            expected.sort_by(|a, b| rows[b.0][b.1].total_cmp(&rows[a.0][a.1]));
            expected.truncate(count);
            expected.sort_unstable();
            let mut found = Vec::new();
            for (r, row) in rows.iter().enumerate() {
                let mut kept = vec![true; row.len()];
                rule.mark(row, || Draws::new("test", 1, &[]), &mut kept);
                found.extend((0..row.len()).filter(|&i| !kept[i]).map(|i| (r, i)));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
