//! Diversity against accuracy: a point per node, coloured by arm.

use refrain_engine::report::page::{Page, Tradeoff};

use crate::number::number;

use super::axis::{Scale, horizontal, vertical};
use super::{Arms, Picture, legend_height};

const SIZE: [f64; 2] = [400.0, 286.0];
const PLOT_X: [f64; 2] = [46.0, 388.0];
const PLOT_Y: [f64; 2] = [232.0, 30.0];
/// Points that are drawn.
const POINTS: usize = 300;

/// Draws a picture per measure and accuracy.
pub fn scatters(page: &Page) -> Vec<Picture> {
    page.tradeoffs.iter().map(|tradeoff| draw(&Arms::of(page), tradeoff)).collect()
}

fn draw(arms: &Arms<'_>, tradeoff: &Tradeoff) -> Picture {
    let points = &tradeoff.points[..tradeoff.points.len().min(POINTS)];
    let x = Scale::over(points.iter().map(|point| point.diversity), PLOT_X);
    let y = Scale::over(points.iter().map(|point| point.accuracy), PLOT_Y);
    let mut labels: Vec<&str> = Vec::new();
    for point in points {
        if !labels.contains(&point.label.as_str()) && labels.len() < 9 {
            labels.push(&point.label);
        }
    }
    let words = match tradeoff.points.len() - points.len() {
        0 => format!("{} points", points.len()),
        n => format!("{} points, {n} more not drawn", points.len()),
    };
    let Tradeoff { diversity, accuracy, .. } = tradeoff;
    let legend = legend_height(labels.len());
    let mut picture = Picture::new(
        &format!("tradeoff-{diversity}-{accuracy}"),
        &format!("{accuracy} against {diversity}"),
        words,
        [SIZE[0], SIZE[1] + legend],
    );
    let svg = &mut picture.marks;
    horizontal(svg, &x, [PLOT_Y[1], PLOT_Y[0]], diversity, 5);
    vertical(svg, &y, PLOT_X, accuracy, 4);
    for point in points {
        let (x, y) = (x.at(point.diversity), y.at(point.accuracy));
        svg.element("g", &[("class", &arms.colour(Some(&point.label)))], |g| {
            let words =
                format!("{}: {}, {}", point.label, number(point.diversity), number(point.accuracy));
            g.leaf("title", &[], words);
            g.empty("circle", &[("class", &"ring"), ("cx", &x), ("cy", &y), ("r", &4.5)]);
        });
    }
    arms.legend(svg, &labels, SIZE[1] + 4.0);
    picture
}
