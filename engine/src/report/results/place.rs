//! Places of points in the table, so that the points of a row are found without a search.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::language::workflow::Axis;
use crate::report::points::{Place, Point, axes_of, values_at};

/// The axes that rows differ in, and the rows.
pub(super) struct Places<'g> {
    /// The axes, by their numbers in the workflow.
    axes: Vec<(usize, &'g Axis)>,
}

/// Points by their values on some axes.
type ByValues<'p> = HashMap<Vec<u32>, Vec<&'p Point>>;

/// The points of a column by the axes that they depend on, and their values there.
pub(super) struct ColumnPoints<'p>(Vec<(Vec<usize>, ByValues<'p>)>);

impl<'g> Places<'g> {
    /// Finds the axes that the points depend on; averaged ones have no part in a place.
    pub fn new<'p>(
        axes: &'g [Axis],
        points: impl Iterator<Item = &'p Point>,
        averaged: &[String],
    ) -> Places<'g> {
        let mut used = vec![false; axes.len()];
        for point in points {
            axes_of(&point.place).into_iter().for_each(|axis| used[axis] = true);
        }
        let stays = |(i, axis): &(usize, &Axis)| used[*i] && !averaged.contains(&axis.name);
        Places { axes: axes.iter().enumerate().filter(stays).collect() }
    }

    /// Returns the names of the axes.
    pub fn names(&self) -> Vec<String> {
        self.axes.iter().map(|(_, axis)| axis.name.clone()).collect()
    }

    /// Returns the place of a point on the axes of the table.
    fn of(&self, point: &Point) -> Place {
        self.axes.iter().map(|(i, _)| point.place[*i]).collect()
    }

    /// The rows in the order of the sweep: every place of a point that is no part of another point's place.
    pub fn rows<'p>(&self, points: impl Iterator<Item = &'p Point>) -> Vec<Place> {
        let all: BTreeSet<Place> = points.map(|point| self.of(point)).collect();
        let shapes: BTreeSet<Vec<usize>> = all.iter().map(|place| axes_of(place)).collect();

        // For each set of axes the values there of all places that depend on further axes.
        let inside = |small: &[usize], large: &[usize]| {
            small.len() < large.len() && small.iter().all(|axis| large.contains(axis))
        };
        let covered: HashMap<&Vec<usize>, HashSet<Vec<u32>>> = shapes
            .iter()
            .map(|shape| {
                let larger = all.iter().filter(|place| inside(shape, &axes_of(place)));
                (shape, larger.map(|place| values_at(place, shape)).collect())
            })
            .collect();

        let stays = |place: &Place| {
            let shape = axes_of(place);
            !covered[&shape].contains(&values_at(place, &shape))
        };
        all.iter().filter(|place| stays(place)).cloned().collect()
    }

    /// The points of a column, ready to be found by a row.
    pub fn column<'p>(&self, points: &'p [Point]) -> ColumnPoints<'p> {
        let mut shapes: Vec<(Vec<usize>, ByValues<'p>)> = Vec::new();
        for point in points {
            let place = self.of(point);
            let shape = axes_of(&place);
            let values = values_at(&place, &shape);

            let at = shapes.iter().position(|(axes, _)| *axes == shape).unwrap_or_else(|| {
                shapes.push((shape, HashMap::new()));
                shapes.len() - 1
            });
            shapes[at].1.entry(values).or_default().push(point);
        }
        ColumnPoints(shapes)
    }

    /// The labels of a place by axis; empty where it has none.
    pub fn labels(&self, place: &Place) -> Vec<String> {
        (0..place.len()).map(|axis| self.label(place, axis).unwrap_or_default().into()).collect()
    }

    /// The axes of a place with their labels.
    pub fn point(&self, place: &Place) -> Vec<(&str, &str)> {
        let named = |axis: usize| Some((self.axes[axis].1.name.as_str(), self.label(place, axis)?));
        (0..place.len()).filter_map(named).collect()
    }

    fn label(&self, place: &Place, axis: usize) -> Option<&str> {
        let number = (place[axis] as usize).checked_sub(1)?;
        Some(&self.axes[axis].1.values[number].0)
    }
}

impl<'p> ColumnPoints<'p> {
    /// The points that belong to a row: those that depend on axes of the row alone, at its values.
    pub fn at(&self, row: &Place) -> Vec<&'p Point> {
        let within = self.0.iter().filter(|(axes, _)| axes.iter().all(|axis| row[*axis] != 0));
        let points = within.filter_map(|(axes, points)| points.get(&values_at(row, axes)));
        points.flatten().copied().collect()
    }
}
