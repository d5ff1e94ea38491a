//! Training curves: the loss over steps, held-out losses dashed.

use refrain_engine::report::page::{CurvePanel, Page};

use super::axis::{Scale, horizontal, vertical};
use super::{Arms, Picture, legend_height};

const SIZE: [f64; 2] = [400.0, 250.0];
const PLOT_X: [f64; 2] = [46.0, 388.0];
/// From the bottom to the top: a loss grows upwards.
const PLOT_Y: [f64; 2] = [196.0, 30.0];
/// Panels that are drawn.
const PANELS: usize = 24;

/// Draws a picture per stage that trains.
pub fn curves(page: &Page) -> Vec<Picture> {
    page.curves.iter().take(PANELS).map(|panel| draw(page, panel)).collect()
}

fn draw(page: &Page, panel: &CurvePanel) -> Picture {
    let stage = &page.stages[panel.stage];
    let arms = Arms::of(page);
    let labels: Vec<&str> = stage.arms.iter().take(9).map(String::as_str).collect();
    let points = || panel.curves.iter().flat_map(|curve| curve.loss.iter().chain(&curve.evaluated));
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let lowest =
        points().map(|point| point.1).filter(|y| y.is_finite()).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.1).filter(|y| y.is_finite()).fold(0.0, f64::max);
    let x = Scale::exact([0.0, last], PLOT_X);
    let y = Scale::exact([(lowest - (highest - lowest) * 0.05).max(0.0), highest * 1.02], PLOT_Y);

    let held = panel.curves.iter().any(|curve| !curve.evaluated.is_empty());
    let mut words = match panel.curves.len() {
        1 => "One training".to_owned(),
        n => format!("{n} trainings"),
    };
    if held {
        words.push_str(", loss on held-out rows dashed");
    }
    if panel.left_out > 0 {
        words.push_str(&format!("; {} nodes of the stage have no curve here", panel.left_out));
    }
    let height = SIZE[1] + legend_height(labels.len());
    let mut picture = Picture::new(
        &format!("training-{}", stage.name),
        &format!("Loss of {}", stage.name),
        words,
        [SIZE[0], height],
    );
    let svg = &mut picture.marks;
    horizontal(svg, &x, [PLOT_Y[1], PLOT_Y[0]], "step", 5);
    vertical(svg, &y, PLOT_X, "loss", 4);
    for curve in &panel.curves {
        let node = &page.nodes[curve.node as usize];
        svg.element("g", &[("class", &arms.colour(Some(&node.arm)))], |g| {
            g.leaf("title", &[], &node.name);
            g.empty("path", &[("class", &"curve"), ("d", &path(&curve.loss, &x, &y))]);
            if !curve.evaluated.is_empty() {
                g.empty("path", &[("class", &"held"), ("d", &path(&curve.evaluated, &x, &y))]);
                for (step, loss) in &curve.evaluated {
                    let (x, y) = (x.at(*step), y.at(*loss));
                    g.empty("circle", &[("class", &"ring"), ("cx", &x), ("cy", &y), ("r", &2.5)]);
                }
            }
        });
    }
    if labels.len() > 1 {
        arms.legend(svg, &labels, SIZE[1] + 4.0);
    }
    picture
}

/// A line through points; where a value is undefined it is broken.
pub(super) fn path(points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let mut path = String::with_capacity(points.len() * 12);
    let mut is_begun = false;
    for (a, b) in points {
        if !b.is_finite() {
            is_begun = false;
            continue;
        }
        let letter = if is_begun { 'L' } else { 'M' };
        path.push_str(&format!("{letter}{:.1} {:.1}", x.at(*a), y.at(*b)));
        is_begun = true;
    }
    path
}
