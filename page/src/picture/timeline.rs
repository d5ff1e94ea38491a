//! The timeline of a run: a lane per stage, a bar per node that was computed.

use refrain_engine::report::page::{Page, PageNode, Status};

use crate::number::time;

use super::axis::Scale;
use super::{Picture, short};

const WIDTH: f64 = 1060.0;
const PLOT: [f64; 2] = [184.0, 1046.0];
const TOP: f64 = 14.0;
const LANE: f64 = 11.0;
const GAP: f64 = 7.0;
/// Stages, and lanes of one, that are drawn.
const STAGES: usize = 80;
const LANES: usize = 8;
/// Bars of one lane that are drawn apart; shorter ones are joined.
const NARROW: f64 = 1.5;

/// A bar: where it begins and ends, and its nodes.
struct Bar<'a> {
    from: f64,
    to: f64,
    first: &'a PageNode,
    nodes: usize,
}

/// Draws the last run, where its log has times.
pub fn timeline(page: &Page) -> Option<Picture> {
    let course = page.course.as_ref()?;
    let begun = |node: &&PageNode| node.started.is_some();
    let now = page.nodes.iter().filter_map(|node| node.ended.or(node.started)).fold(0.0, f64::max);
    let end = course.end.map_or(now, |(seconds, _)| seconds.max(now));
    let mut stages: Vec<(usize, Vec<&PageNode>)> = Vec::new();
    for node in page.nodes.iter().filter(begun) {
        match stages.iter_mut().find(|(stage, _)| *stage == node.stage) {
            Some((_, nodes)) => nodes.push(node),
            None => stages.push((node.stage, vec![node])),
        }
    }
    if stages.is_empty() {
        return None;
    }
    for (_, nodes) in &mut stages {
        nodes.sort_by(|a, b| a.started.unwrap_or(0.0).total_cmp(&b.started.unwrap_or(0.0)));
    }
    stages.sort_by(|(_, a), (_, b)| {
        a[0].started.unwrap_or(0.0).total_cmp(&b[0].started.unwrap_or(0.0))
    });
    let left_out = stages.len().saturating_sub(STAGES);
    stages.truncate(STAGES);

    let scale = Scale::exact([0.0, end.max(1e-3)], PLOT);
    let lanes: Vec<Vec<Vec<Bar<'_>>>> =
        stages.iter().map(|(_, nodes)| lanes(nodes, end, &scale)).collect();
    let height = |lanes: &Vec<Vec<Bar<'_>>>| LANE * lanes.len() as f64 + GAP;
    let bottom = TOP + lanes.iter().map(height).sum::<f64>();
    let mut words = format!("{} stages over {}", stages.len(), time(end));
    if left_out > 0 {
        words.push_str(&format!("; {left_out} more stages not drawn"));
    }
    let mut picture =
        Picture::new("timeline", "Timeline of the run", words, [WIDTH, bottom + 24.0]);
    let svg = &mut picture.marks;
    for tick in scale.ticks(8) {
        let x = scale.at(tick);
        svg.empty(
            "line",
            &[("class", &"grid"), ("x1", &x), ("x2", &x), ("y1", &TOP), ("y2", &bottom)],
        );
        let label = if tick == 0.0 { "0".into() } else { duration(tick) };
        svg.leaf(
            "text",
            &[("class", &"soft small middle"), ("x", &x), ("y", &(bottom + 15.0))],
            label,
        );
    }

    let mut y = TOP;
    for ((stage, _), lanes) in stages.iter().zip(&lanes) {
        let middle = y + LANE * lanes.len() as f64 / 2.0 + 4.0;
        let name = short(&page.stages[*stage].name, 24);
        svg.leaf("text", &[("class", &"end"), ("x", &(PLOT[0] - 10.0)), ("y", &middle)], name);
        for bars in lanes {
            for bar in bars {
                draw(svg, &scale, bar, y);
            }
            y += LANE;
        }
        y += GAP;
    }
    Some(picture)
}

/// The lanes of a stage: bars that overlap lie in different ones.
fn lanes<'a>(nodes: &[&'a PageNode], end: f64, scale: &Scale) -> Vec<Vec<Bar<'a>>> {
    let mut lanes: Vec<Vec<Bar<'a>>> = Vec::new();
    for node in nodes {
        let from = node.started.unwrap_or(0.0);
        let to = node.ended.unwrap_or(end).max(from);
        let free = |bars: &Vec<Bar<'a>>| bars.last().is_none_or(|last| last.to <= from + 1e-9);
        let place = lanes.iter().position(free).unwrap_or_else(|| {
            if lanes.len() < LANES {
                lanes.push(Vec::new());
            }
            lanes.len() - 1
        });
        let narrow = |last: &&mut Bar<'a>| {
            scale.at(to) - scale.at(last.from) < NARROW || scale.at(last.to) > scale.at(to)
        };
        match lanes[place].last_mut().filter(narrow) {
            Some(last) => (last.to, last.nodes) = (last.to.max(to), last.nodes + 1),
            None => lanes[place].push(Bar { from, to, first: node, nodes: 1 }),
        }
    }
    lanes
}

fn draw(svg: &mut crate::escape::Html, scale: &Scale, bar: &Bar<'_>, y: f64) {
    let class = match bar.first.status {
        Status::Failed => "bar k-failed",
        Status::Running { .. } => "bar k-running",
        _ => "bar k-ran",
    };
    let x = scale.at(bar.from);
    let width = (scale.at(bar.to) - x).max(1.2);
    let words = match bar.nodes {
        1 => format!("{}: {}", bar.first.name, time(bar.to - bar.from)),
        n => format!("{n} nodes from {}", bar.first.name),
    };
    let (top, height) = (y + 1.0, LANE - 2.0);
    svg.element(
        "rect",
        &[
            ("class", &class),
            ("x", &x),
            ("y", &top),
            ("width", &width),
            ("height", &height),
            ("rx", &1.5),
        ],
        |rect| {
            rect.leaf("title", &[], words);
        },
    );
}

/// A time on the axis.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0).replace(".0 min", " min"),
        s => format!("{:.1} h", s / 3600.0).replace(".0 h", " h"),
    }
}
