//! The graph of stages: a box per stage, however many nodes its sweep has; its axes and its status
//! in it.

use std::collections::{BTreeMap, BTreeSet};

use refrain_engine::report::page::{Page, PageStage, StatusCounts};

use crate::escape::{Html, Named};

use super::layout::{Layout, layout};
use super::{Picture, short};

const BOX: [f64; 2] = [150.0, 50.0];
/// The room between two layers.
const BETWEEN: f64 = 46.0;
const MARGIN: f64 = 8.0;
/// Further room before a layer that edges with labels lead to.
const LABEL: f64 = 78.0;
/// The room between two edges that end at one box, and the limit of those that end apart.
const PORT: f64 = 13.0;
const PORTS: usize = 4;
/// Stages that are drawn one by one; of more, those of a kind and depth share a box.
const STAGES: usize = 90;

/// A box of the picture.
struct Drawn {
    name: String,
    lines: [String; 2],
    title: String,
    is_source: bool,
    counts: StatusCounts,
}

/// Draws the graph.
pub fn graph(page: &Page) -> Picture {
    let (boxes, edges) = match page.stages.len() > STAGES {
        true => joined(page),
        false => each(page),
    };
    let pairs: Vec<(usize, usize)> = edges.keys().copied().collect();
    let Layout { layer, y, bends, layers, height } = layout(boxes.len(), &pairs, BOX[1]);
    let mut labelled = vec![false; layers.max(1)];
    for ((_, to), arms) in &edges {
        labelled[layer[*to]] |= arms.is_some();
    }
    let mut lefts = vec![MARGIN; layers.max(1)];
    for i in 1..lefts.len() {
        let label = if labelled[i] { LABEL } else { 0.0 };
        lefts[i] = lefts[i - 1] + BOX[0] + BETWEEN + label;
    }
    let x = |layer: usize| lefts[layer];
    let width = x(layers.max(1) - 1) + BOX[0] + MARGIN;
    let words = match page.stages.len() > STAGES {
        false => format!("{} stages and sources, {} nodes", page.stages.len(), page.nodes.len()),
        true => format!(
            "{} stages and sources, {} nodes; stages of one kind and depth share a box",
            page.stages.len(),
            page.nodes.len()
        ),
    };
    let mut picture =
        Picture::new("graph", "The graph of stages", words, [width, height + 2.0 * MARGIN]);
    let svg = &mut picture.marks;
    let ends = ends(&edges, &y, &bends);
    for (((&(from, to), arms), bends), end) in edges.iter().zip(&bends).zip(&ends) {
        let start = [x(layer[from]) + BOX[0], MARGIN + y[from]];
        let end = [x(layer[to]) - 5.0, MARGIN + end];
        let bends: Vec<[f64; 2]> = bends.iter().map(|(layer, y)| [x(*layer), MARGIN + y]).collect();
        let straight = if labelled[layer[to]] { LABEL } else { 0.0 };
        edge(svg, start, end, &bends, straight);
        if let Some(arms) = arms {
            let (x, y) = (end[0] - 8.0, end[1] + 4.0);
            let place: [Named<'_>; 3] = [("class", &"small end halo strong"), ("x", &x), ("y", &y)];
            svg.leaf("text", &place, short(arms, 12));
        }
    }
    for (i, drawn) in boxes.iter().enumerate() {
        draw(svg, drawn, x(layer[i]), MARGIN + y[i] - BOX[1] / 2.0);
    }
    picture
}

/// The heights at which edges end: those that end at one box stand apart, in the order in which
/// they come.
fn ends(edges: &Edges, y: &[f64], bends: &[Vec<(usize, f64)>]) -> Vec<f64> {
    let mut arriving: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    for (i, ((from, to), bends)) in edges.keys().zip(bends).enumerate() {
        let before = bends.last().map_or(y[*from], |(_, y)| *y);
        arriving.entry(*to).or_default().push((before, i));
    }
    let mut ends = vec![0.0; edges.len()];
    for (to, mut arriving) in arriving {
        arriving.sort_by(|a, b| a.0.total_cmp(&b.0));
        let n = arriving.len();
        for (place, (_, edge)) in arriving.into_iter().enumerate() {
            let apart = if n <= PORTS { PORT * (place as f64 - (n - 1) as f64 / 2.0) } else { 0.0 };
            ends[edge] = y[to] + apart;
        }
    }
    ends
}

type Edges = BTreeMap<(usize, usize), Option<String>>;

/// A box per stage. A stage that another one was expanded from, as `x/answers` from `x`, shares its
/// box.
fn each(page: &Page) -> (Vec<Drawn>, Edges) {
    let names: BTreeMap<&str, usize> =
        page.stages.iter().enumerate().map(|(i, stage)| (stage.name.as_str(), i)).collect();
    let owner = |i: usize| {
        let reader = page.stages[i].name.rsplit_once('/').and_then(|(name, _)| names.get(name));
        let is_read = |to: &usize| page.edges.iter().all(|e| e.from != i || e.to == *to);
        reader.copied().filter(is_read).unwrap_or(i)
    };
    let owners: Vec<usize> = (0..page.stages.len()).map(owner).collect();
    let kept: Vec<usize> = (0..owners.len()).filter(|i| owners[*i] == *i).collect();
    let place = |i: usize| kept.iter().position(|kept| *kept == owners[i]).unwrap_or(0);

    let drawn = |i: &usize| {
        let parts = (0..owners.len()).filter(|part| owners[*part] == *i && part != i);
        drawn(&page.stages[*i], &parts.map(|part| &page.stages[part]).collect::<Vec<_>>())
    };
    let mut edges = Edges::new();
    for edge in &page.edges {
        let (from, to) = (place(edge.from), place(edge.to));
        if from != to {
            edges.insert((from, to), edge.arms.clone());
        }
    }
    (kept.iter().map(drawn).collect(), edges)
}

/// The box of a stage and of what it was expanded into.
fn drawn(stage: &PageStage, parts: &[&PageStage]) -> Drawn {
    let kinds: Vec<&str> = parts.iter().map(|part| part.kind).chain([stage.kind]).collect();
    let times =
        if stage.nodes.len() > 1 { format!(" ×{}", stage.nodes.len()) } else { String::new() };
    let axis = |(name, labels): &(String, Vec<String>)| format!("{name} {}", labels.len());
    let axes: Vec<String> = stage.axes.iter().map(axis).collect();
    let labels = |(name, labels): &(String, Vec<String>)| {
        let shown: Vec<&str> = labels.iter().take(12).map(String::as_str).collect();
        let more = if labels.len() > shown.len() { ", …" } else { "" };
        format!("\n{name}: {}{more}", shown.join(", "))
    };
    let words: String = stage.axes.iter().map(labels).collect();
    let described = stage.description.as_ref().map(|text| format!("\n{text}"));
    Drawn {
        name: stage.name.clone(),
        lines: [format!("{}{times}", kinds.join(", ")), axes.join(" × ")],
        title: format!("{}{}{words}", stage.name, described.unwrap_or_default()),
        is_source: stage.is_source,
        counts: counts(parts.iter().copied().chain([stage])),
    }
}

/// The statuses of the nodes of stages.
pub(crate) fn counts<'s>(stages: impl IntoIterator<Item = &'s PageStage>) -> StatusCounts {
    let mut sum = StatusCounts::default();
    for PageStage { counts, .. } in stages {
        sum.ran += counts.ran;
        sum.known += counts.known;
        sum.failed += counts.failed;
        sum.skipped += counts.skipped;
        sum.running += counts.running;
        sum.missing += counts.missing;
    }
    sum
}

/// A box per kind and depth, where there are too many stages to see.
fn joined(page: &Page) -> (Vec<Drawn>, Edges) {
    let mut depth = vec![0; page.stages.len()];
    let mut edges: Vec<(usize, usize)> = page.edges.iter().map(|e| (e.from, e.to)).collect();
    // Stages come before their readers, so that one way through them is enough.
    edges.sort_by_key(|(_, to)| *to);
    for (from, to) in &edges {
        depth[*to] = depth[*to].max(depth[*from] + 1);
    }
    let deepest = depth.iter().max().copied().unwrap_or(0);
    // Of a very long chain several depths share a box too.
    let stride = deepest / 40 + 1;
    let mut places: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let groups: BTreeSet<(usize, &str)> =
        page.stages.iter().zip(&depth).map(|(stage, depth)| (depth / stride, stage.kind)).collect();
    for group in groups {
        let next = places.len();
        places.insert(group, next);
    }
    let group_of: Vec<usize> = page
        .stages
        .iter()
        .zip(&depth)
        .map(|(stage, depth)| places[&(depth / stride, stage.kind)])
        .collect();
    let mut members: Vec<Vec<&PageStage>> = vec![Vec::new(); places.len()];
    for (stage, group) in page.stages.iter().zip(&group_of) {
        members[*group].push(stage);
    }
    let drawn = |stages: &Vec<&PageStage>| {
        let nodes: usize = stages.iter().map(|stage| stage.nodes.len()).sum();
        let names: Vec<&str> = stages.iter().take(40).map(|stage| stage.name.as_str()).collect();
        let name = match stages.len() {
            1 => stages[0].name.clone(),
            n => format!("{n} stages"),
        };
        Drawn {
            name,
            lines: [stages[0].kind.to_owned(), format!("{nodes} nodes")],
            title: names.join(", "),
            is_source: stages[0].is_source,
            counts: counts(stages.iter().copied()),
        }
    };
    let pairs = edges.iter().map(|(from, to)| (group_of[*from], group_of[*to]));
    let edges = pairs.filter(|(from, to)| from < to).map(|pair| (pair, None)).collect();
    (members.iter().map(drawn).collect(), edges)
}

/// A smooth way from box to box through the places where it passes layers, straight at its end.
fn edge(svg: &mut Html, start: [f64; 2], end: [f64; 2], bends: &[[f64; 2]], straight: f64) {
    let mut path = format!("M{:.1} {:.1}", start[0], start[1]);
    let mut at = start;
    let mut to = |path: &mut String, next: [f64; 2]| {
        let middle = (at[0] + next[0]) / 2.0;
        path.push_str(&format!(
            "C{middle:.1} {:.1} {middle:.1} {:.1} {:.1} {:.1}",
            at[1], next[1], next[0], next[1]
        ));
        at = next;
    };
    for bend in bends {
        to(&mut path, *bend);
        to(&mut path, [bend[0] + BOX[0], bend[1]]);
    }
    to(&mut path, [end[0] - straight, end[1]]);
    path.push_str(&format!("H{:.1}", end[0]));
    svg.empty("path", &[("class", &"edge"), ("d", &path)]);
    let [x, y] = end;
    let arrow = format!("M{:.1} {y:.1}l-7 -4v8z", x + 5.0);
    svg.empty("path", &[("class", &"arrow"), ("d", &arrow)]);
}

fn draw(svg: &mut Html, drawn: &Drawn, x: f64, y: f64) {
    let class = if drawn.is_source { "source" } else { "box" };
    svg.element("g", &[], |g| {
        g.leaf("title", &[], &drawn.title);
        let round = if drawn.is_source { 14.0 } else { 5.0 };
        g.empty(
            "rect",
            &[
                ("class", &class),
                ("x", &x),
                ("y", &y),
                ("width", &BOX[0]),
                ("height", &BOX[1]),
                ("rx", &round),
            ],
        );
        let left = x + 12.0;
        g.leaf(
            "text",
            &[("class", &"strong"), ("x", &left), ("y", &(y + 17.0))],
            short(&drawn.name, 19),
        );
        let [first, second] = &drawn.lines;
        g.leaf(
            "text",
            &[("class", &"soft small"), ("x", &left), ("y", &(y + 31.0))],
            short(first, 23),
        );
        if !second.is_empty() {
            g.leaf(
                "text",
                &[("class", &"soft small"), ("x", &left), ("y", &(y + 43.0))],
                short(second, 23),
            );
        }
        status(g, &drawn.counts, x, y);
    });
}

/// A strip of the nodes' statuses at the left edge of a box.
fn status(svg: &mut Html, counts: &StatusCounts, x: f64, y: f64) {
    let StatusCounts { ran, known, failed, skipped, running, missing } = *counts;
    let parts = [
        (known, "k-known"),
        (ran, "k-ran"),
        (running, "k-running"),
        (failed + skipped, "k-failed"),
        (missing, "k-missing"),
    ];
    let all: usize = parts.iter().map(|(count, _)| count).sum();
    let room = BOX[1] - 16.0;
    let mut top = y + 8.0;
    for (count, class) in parts.into_iter().filter(|(count, _)| *count > 0) {
        let height = room * count as f64 / all as f64;
        svg.empty(
            "rect",
            &[
                ("class", &class),
                ("x", &(x + 4.0)),
                ("y", &top),
                ("width", &3.0),
                ("height", &height),
            ],
        );
        top += height;
    }
}
