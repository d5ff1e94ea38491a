//! Results at points of the sweep, each stored once for all points that agree on the axes that it depends on.

use std::collections::HashMap;

use crate::language::interpolate::{AxisSet, Point};

/// Results by the sets of axes that they depend on and the chosen values of those axes.
pub(super) struct ByAxes<T> {
    /// The result that depends on no axis: the only one of nearly every parameter and declaration.
    constant: Option<T>,
    sets: Vec<(AxisSet, HashMap<Vec<u32>, T>)>,
}

impl<T> Default for ByAxes<T> {
    fn default() -> ByAxes<T> {
        ByAxes { constant: None, sets: Vec::new() }
    }
}

impl<T> ByAxes<T> {
    /// Returns the result at a point.
    pub fn get(&self, point: &Point) -> Option<&T> {
        let swept = || self.sets.iter().find_map(|(axes, at)| at.get(&project(*axes, point)));
        self.constant.as_ref().or_else(swept)
    }

    /// Adds the result of a point, which depends on these axes.
    pub fn insert(&mut self, axes: AxisSet, point: &Point, result: T) {
        if axes == 0 {
            self.constant = Some(result);
            return;
        }
        let place = self.sets.iter().position(|(known, _)| *known == axes).unwrap_or_else(|| {
            self.sets.push((axes, HashMap::new()));
            self.sets.len() - 1
        });
        self.sets[place].1.insert(project(axes, point), result);
    }

    /// Whether there is no result at all.
    pub fn is_empty(&self) -> bool {
        self.constant.is_none() && self.sets.is_empty()
    }
}

/// Returns the chosen values of a set of axes.
fn project(axes: AxisSet, point: &Point) -> Vec<u32> {
    point.iter().enumerate().filter(|(i, _)| axes & (1 << i) != 0).map(|(_, v)| *v).collect()
}

/// Moves on to the next point of the sweep; returns whether there is one.
pub(super) fn advance(point: &mut [u32], sizes: &[u32]) -> bool {
    let Some(axis) = (0..sizes.len()).rev().find(|a| point[*a] + 1 < sizes[*a]) else {
        return false;
    };
    point[axis] += 1;
    point[axis + 1..].fill(0);
    true
}
