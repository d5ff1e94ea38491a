//! Places of nodes in the sweep, as numbers, so that the nodes of a row are found without a search.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::graph::{Graph, NodeId};
use crate::language::workflow::Axis;

/// Per axis of the table the number of a value, from 1; 0 where a node does not depend on the axis.
pub(super) type Place = Vec<u32>;

/// The places of the nodes that a table shows.
pub(super) struct Places<'g> {
    /// The axes that rows differ in.
    pub axes: Vec<&'g str>,
    labels: Vec<Vec<&'g str>>,
    places: HashMap<NodeId, Place>,
}

/// The nodes of a stage by their values on some axes.
type ByValues = HashMap<Vec<u32>, Vec<NodeId>>;

/// The nodes of a stage by the axes that they depend on, and their values there.
pub(super) struct StageNodes(Vec<(Vec<usize>, ByValues)>);

impl<'g> Places<'g> {
    /// Finds the place of every shown node; averaged axes have no part in it.
    pub fn new(graph: &'g Graph, shown: &[NodeId], averaged: &[String]) -> Places<'g> {
        let used: HashSet<&str> = shown
            .iter()
            .flat_map(|id| graph.node(*id).point.iter().map(|(axis, _)| axis.as_str()))
            .collect();
        let axes: Vec<&Axis> = graph
            .workflow
            .axes
            .iter()
            .filter(|axis| used.contains(axis.name.as_str()) && !averaged.contains(&axis.name))
            .collect();

        let labels: Vec<Vec<&str>> =
            axes.iter().map(|axis| axis.values.iter().map(|(l, _)| l.as_str()).collect()).collect();
        let numbers: HashMap<(&str, &str), (usize, u32)> = axes
            .iter()
            .enumerate()
            .flat_map(|(i, axis)| {
                let label = move |(n, label): (usize, &&'g str)| {
                    ((axis.name.as_str(), *label), (i, n as u32 + 1))
                };
                labels[i].iter().enumerate().map(label)
            })
            .collect();

        let place = |id: &NodeId| {
            let mut place = vec![0; axes.len()];
            for (axis, label) in &graph.node(*id).point {
                if let Some((i, number)) = numbers.get(&(axis.as_str(), label.as_str())) {
                    place[*i] = *number;
                }
            }
            (*id, place)
        };
        let places = shown.iter().map(place).collect();
        let axes = axes.iter().map(|axis| axis.name.as_str()).collect();
        Places { axes, labels, places }
    }

    /// The rows in the order of the sweep: every place of a node that is no part of another node's place.
    pub fn rows(&self) -> Vec<Place> {
        let all: BTreeSet<&Place> = self.places.values().collect();
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

        let stays = |place: &&&Place| {
            let shape = axes_of(place);
            !covered[&shape].contains(&values_at(place, &shape))
        };
        all.iter().filter(stays).map(|place| (*place).clone()).collect()
    }

    /// The nodes of each stage, ready to be found by a row.
    pub fn by_stage(&self, graph: &'g Graph, shown: &[NodeId]) -> HashMap<&'g str, StageNodes> {
        let mut stages: HashMap<&str, StageNodes> = HashMap::new();
        for id in shown {
            let place = &self.places[id];
            let shape = axes_of(place);
            let values = values_at(place, &shape);

            let nodes = stages.entry(&graph.node(*id).stage).or_insert(StageNodes(Vec::new()));
            let at = nodes.0.iter().position(|(axes, _)| *axes == shape).unwrap_or_else(|| {
                nodes.0.push((shape, HashMap::new()));
                nodes.0.len() - 1
            });
            nodes.0[at].1.entry(values).or_default().push(*id);
        }
        stages
    }

    /// The labels of a place by axis; empty where it has none.
    pub fn labels(&self, place: &Place) -> Vec<String> {
        let label = |(axis, number): (usize, &u32)| match number {
            0 => String::new(),
            number => self.labels[axis][*number as usize - 1].to_string(),
        };
        place.iter().enumerate().map(label).collect()
    }

    /// The axes of a place with their labels.
    pub fn point(&self, place: &Place) -> Vec<(&str, &str)> {
        let label = |axis: usize| (self.axes[axis], self.labels[axis][place[axis] as usize - 1]);
        axes_of(place).into_iter().map(label).collect()
    }
}

impl StageNodes {
    /// The nodes that belong to a row: those that depend on axes of the row alone, at its values.
    pub fn at(&self, row: &Place) -> Vec<NodeId> {
        let within = self.0.iter().filter(|(axes, _)| axes.iter().all(|axis| row[*axis] != 0));
        let nodes = within.filter_map(|(axes, nodes)| nodes.get(&values_at(row, axes)));
        nodes.flatten().copied().collect()
    }
}

fn axes_of(place: &[u32]) -> Vec<usize> {
    (0..place.len()).filter(|axis| place[*axis] != 0).collect()
}

fn values_at(place: &[u32], axes: &[usize]) -> Vec<u32> {
    axes.iter().map(|axis| place[*axis]).collect()
}
