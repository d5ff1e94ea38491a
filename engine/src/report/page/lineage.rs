//! The stages and files that each figure rests on.

use std::path::Path;

use refrain_cache::Digest;

use crate::graph::{Graph, NodeId};
use crate::kind::MAIN;
use crate::plan::state::NodeState;
use crate::report::comparison::Comparisons;
use crate::report::results::Results;

use super::nodes::Stages;

/// A file or folder that is read.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFile {
    /// The number of its node.
    pub node: u32,
    /// Its path, from the workflow's folder where it lies below it; else its name.
    pub path: String,
    /// Its digest.
    pub file: Option<Digest>,
    /// The rows of the table that is made of it.
    pub rows: Option<u64>,
}

/// The origin of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct FigureLineage {
    /// The figure: a column of results, or a comparison.
    pub figure: String,
    /// The stages that it is read from, by number.
    pub of: Vec<usize>,
    /// The stages above them that are computed, by number.
    pub through: Vec<usize>,
    /// The sources, by number of their stage.
    pub sources: Vec<usize>,
}

/// Collects the files that are read.
pub(super) fn sources<'d>(
    graph: &Graph,
    of: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Vec<SourceFile> {
    let folder = graph.workflow.source.folder();
    let sources = graph.ids().filter_map(|id| {
        let place = graph.node(id).work.source()?;
        let done = of(id);
        Some(SourceFile {
            node: id.0,
            path: relative(&place.path, folder),
            file: done.and_then(|done| done.file),
            rows: done.and_then(|done| done.result.artifacts.get(MAIN)?.rows),
        })
    });
    sources.collect()
}

/// A path without the part that differs from machine to machine.
fn relative(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).ok().map(|path| path.display().to_string());
    let name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    below.or_else(name).unwrap_or_default()
}

/// Finds what each column of the results and each comparison rests on.
pub(super) fn lineages(
    graph: &Graph,
    stages: &Stages,
    results: &Results,
    comparisons: &Comparisons,
) -> Vec<FigureLineage> {
    let mut reads = vec![Vec::new(); stages.nodes.len()];
    for id in graph.ids() {
        let to = stages.stage_of[id.index()];
        for edge in &graph.node(id).inputs {
            let from = stages.stage_of[edge.node.index()];
            if !reads[to].contains(&from) {
                reads[to].push(from);
            }
        }
    }
    let place = |name: &str| stages.nodes.iter().position(|ids| graph.node(ids[0]).stage == name);
    let of_columns = results.columns.iter().map(|column| {
        let of: Vec<usize> = match (&column.metric, &column.of) {
            (Some((stage, _)), _) => place(stage).into_iter().collect(),
            (None, Some(text)) => named(text, &place),
            (None, None) => Vec::new(),
        };
        (column.heading.clone(), of)
    });
    let of_comparisons = comparisons.pairings.iter().map(|pairing| {
        let figures = pairing.comparison.figures.iter();
        let mut of: Vec<usize> = figures.filter_map(|figure| place(&figure.stage)).collect();
        of.dedup();
        (pairing.comparison.name.clone(), of)
    });
    of_columns
        .chain(of_comparisons)
        .map(|(figure, of)| lineage(graph, stages, &reads, figure, of))
        .collect()
}

/// The stages that an expression names.
fn named(text: &str, place: &impl Fn(&str) -> Option<usize>) -> Vec<usize> {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    let words = text.split(|c: char| !is_of_name(c));
    let mut found: Vec<usize> = words.filter_map(|word| place(word.rsplit_once('.')?.0)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn lineage(
    graph: &Graph,
    stages: &Stages,
    reads: &[Vec<usize>],
    figure: String,
    of: Vec<usize>,
) -> FigureLineage {
    let mut wanted = vec![false; reads.len()];
    let mut open = of.clone();
    while let Some(stage) = open.pop() {
        for from in &reads[stage] {
            if !std::mem::replace(&mut wanted[*from], true) {
                open.push(*from);
            }
        }
    }
    let above = (0..reads.len()).filter(|stage| wanted[*stage] && !of.contains(stage));
    let (sources, through) =
        above.partition(|stage| graph.node(stages.nodes[*stage][0]).is_source());
    FigureLineage { figure, of, through, sources }
}
