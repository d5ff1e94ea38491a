//! The layout of a graph in layers: long edges bend around boxes, and crossings are few.

use std::collections::BTreeMap;

/// Sweeps over the layers in which order and heights are improved.
const SWEEPS: usize = 8;
/// The height that an edge takes in a layer that it passes.
const PASSING: f64 = 14.0;
/// The room between two boxes of a layer.
const GAP: f64 = 16.0;

/// Places of boxes and ways of edges.
#[derive(Debug, Default)]
pub struct Layout {
    /// The layer of each box.
    pub layer: Vec<usize>,
    /// The middle of each box, from the top.
    pub y: Vec<f64>,
    /// For each edge the layers and heights that it passes.
    pub bends: Vec<Vec<(usize, f64)>>,
    /// The number of layers.
    pub layers: usize,
    /// The height of all.
    pub height: f64,
}

/// A box, or a place where an edge passes a layer.
struct Vertex {
    layer: usize,
    height: f64,
    y: f64,
    left: Vec<usize>,
    right: Vec<usize>,
}

impl Vertex {
    fn new(layer: usize, height: f64) -> Vertex {
        Vertex { layer, height, y: 0.0, left: Vec::new(), right: Vec::new() }
    }
}

/// Lays boxes of a height out; of each edge the first box stands before the second.
pub fn layout(boxes: usize, edges: &[(usize, usize)], height: f64) -> Layout {
    let layer = layers(boxes, edges);
    let layers = layer.iter().max().map_or(0, |last| last + 1);
    let mut vertices: Vec<Vertex> = layer.iter().map(|layer| Vertex::new(*layer, height)).collect();

    // Edges from one box pass a layer at one place, as a trunk that branches.
    let mut trunks: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut passing: Vec<Vec<usize>> = Vec::with_capacity(edges.len());
    for &(from, to) in edges {
        let mut chain = vec![from];
        for between in layer[from] + 1..layer[to] {
            chain.push(*trunks.entry((from, between)).or_insert_with(|| {
                vertices.push(Vertex::new(between, PASSING));
                vertices.len() - 1
            }));
        }
        chain.push(to);
        for pair in chain.windows(2) {
            if !vertices[pair[0]].right.contains(&pair[1]) {
                vertices[pair[0]].right.push(pair[1]);
                vertices[pair[1]].left.push(pair[0]);
            }
        }
        passing.push(chain[1..chain.len() - 1].to_vec());
    }

    let mut order: Vec<Vec<usize>> = vec![Vec::new(); layers];
    for (i, vertex) in vertices.iter().enumerate() {
        order[vertex.layer].push(i);
    }
    order_layers(&vertices, &mut order);
    let height = place(&mut vertices, &order);
    let bend = |chain: &Vec<usize>| {
        chain.iter().map(|i| (vertices[*i].layer, vertices[*i].y)).collect::<Vec<_>>()
    };
    Layout {
        y: vertices[..boxes].iter().map(|vertex| vertex.y).collect(),
        bends: passing.iter().map(bend).collect(),
        layer,
        layers,
        height,
    }
}

/// The layer of each box: behind all that it reads, and sources as near to their readers as they
/// can be.
fn layers(boxes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut readers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut reads = vec![Vec::new(); boxes];
    for &(from, to) in edges {
        readers.entry(from).or_default().push(to);
        reads[to].push(from);
    }
    let mut layer = vec![0_usize; boxes];
    for to in 0..boxes {
        layer[to] = reads[to].iter().map(|from| layer[*from] + 1).max().unwrap_or(0);
    }
    for from in (0..boxes).rev().filter(|from| reads[*from].is_empty()) {
        let nearest = readers.get(&from).and_then(|to| to.iter().map(|to| layer[*to]).min());
        layer[from] = nearest.map_or(0, |nearest| nearest.saturating_sub(1));
    }
    layer
}

/// Orders each layer by the mean place of what its boxes are joined to, from both sides in turn.
fn order_layers(vertices: &[Vertex], order: &mut [Vec<usize>]) {
    let mut rank = vec![0.0; vertices.len()];
    let number = |order: &[usize], rank: &mut [f64]| {
        for (place, i) in order.iter().enumerate() {
            rank[*i] = place as f64;
        }
    };
    order.iter().for_each(|layer| number(layer, &mut rank));
    for sweep in 0..SWEEPS {
        let forward = sweep % 2 == 0;
        let mut numbers: Vec<usize> = (0..order.len()).collect();
        if !forward {
            numbers.reverse();
        }
        for layer in numbers {
            let mean = |i: usize| {
                let beside = if forward { &vertices[i].left } else { &vertices[i].right };
                match beside.len() {
                    0 => rank[i],
                    n => beside.iter().map(|other| rank[*other]).sum::<f64>() / n as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> =
                order[layer].iter().map(|i| (mean(*i), *i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            order[layer] = keyed.into_iter().map(|(_, i)| i).collect();
            number(&order[layer], &mut rank);
        }
    }
}

/// Sets the heights: boxes move towards what they are joined to, in their order. Returns the height
/// of all.
fn place(vertices: &mut [Vertex], order: &[Vec<usize>]) -> f64 {
    for layer in order {
        let mut y = 0.0;
        for i in layer {
            vertices[*i].y = y + vertices[*i].height / 2.0;
            y += vertices[*i].height + GAP;
        }
    }
    for sweep in 0..2 * SWEEPS {
        let mut numbers: Vec<usize> = (0..order.len()).collect();
        if sweep % 2 == 1 {
            numbers.reverse();
        }
        for layer in numbers {
            let wanted: Vec<f64> = order[layer]
                .iter()
                .map(|i| {
                    let beside = || vertices[*i].left.iter().chain(&vertices[*i].right);
                    match beside().count() {
                        0 => vertices[*i].y,
                        n => beside().map(|other| vertices[*other].y).sum::<f64>() / n as f64,
                    }
                })
                .collect();
            for (i, y) in order[layer].iter().zip(apart(vertices, &order[layer], &wanted)) {
                vertices[*i].y = y;
            }
        }
    }
    let top = vertices.iter().map(|v| v.y - v.height / 2.0).fold(f64::INFINITY, f64::min);
    vertices.iter_mut().for_each(|vertex| vertex.y -= top);
    vertices.iter().map(|v| v.y + v.height / 2.0).fold(0.0, f64::max)
}

/// The heights nearest to those wanted at which no two of a layer touch: the mean of the way down
/// and the way up.
fn apart(vertices: &[Vertex], layer: &[usize], wanted: &[f64]) -> Vec<f64> {
    let distance = |a: usize, b: usize| (vertices[a].height + vertices[b].height) / 2.0 + GAP;
    let mut down = wanted.to_vec();
    for i in 1..layer.len() {
        down[i] = down[i].max(down[i - 1] + distance(layer[i - 1], layer[i]));
    }
    let mut up = wanted.to_vec();
    for i in (0..layer.len().saturating_sub(1)).rev() {
        up[i] = up[i].min(up[i + 1] - distance(layer[i], layer[i + 1]));
    }
    down.iter().zip(&up).map(|(a, b)| (a + b) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_lies_in_a_row_and_a_long_edge_passes_it() {
        let found = layout(3, &[(0, 1), (1, 2), (0, 2)], 40.0);
        assert_eq!(found.layer, [0, 1, 2]);
        assert_eq!(found.bends[0], []);
        let [(1, y)] = found.bends[2][..] else { panic!("{:?}", found.bends) };
        assert!((y - found.y[1]).abs() >= 27.0 + GAP - 1e-9, "{y} {:?}", found.y);
    }

    #[test]
    fn no_two_boxes_of_a_layer_touch() {
        let edges: Vec<(usize, usize)> = (0..40).map(|i| (i % 7, 7 + i % 13)).collect();
        let found = layout(20, &edges, 40.0);
        for a in 0..20 {
            for b in 0..a {
                let same = found.layer[a] == found.layer[b];
                assert!(!same || (found.y[a] - found.y[b]).abs() >= 40.0 + GAP - 1e-9, "{a} {b}");
            }
        }
    }
}
