//! The table of results as dots: the mean of each row, its deviation, and the points behind it.

use refrain_engine::report::page::{Page, SpreadColumn};

use crate::number::with_deviation;

use super::axis::{Scale, horizontal};
use super::forest::{diamond, whisker};
use super::{Arms, Picture, short};

const WIDTH: f64 = 400.0;
const ROW: f64 = 26.0;
const TOP: f64 = 10.0;
const PLOT: [f64; 2] = [112.0, 290.0];
/// Rows and columns that are drawn.
const ROWS: usize = 24;
const COLUMNS: usize = 12;

/// Draws a picture per column.
pub fn spreads(page: &Page) -> Vec<Picture> {
    page.spread
        .iter()
        .filter(|column| column.rows.len() > 1)
        .take(COLUMNS)
        .map(|column| spread(&Arms::of(page), column))
        .collect()
}

fn spread(arms: &Arms<'_>, column: &SpreadColumn) -> Picture {
    let rows = &column.rows[..column.rows.len().min(ROWS)];
    let values = rows.iter().flat_map(|row| {
        let deviation = row.deviation.unwrap_or(0.0);
        let ends = [row.value - deviation, row.value + deviation];
        row.points.iter().copied().chain(ends).chain(row.published)
    });
    let scale = Scale::over(values, PLOT);
    let bottom = TOP + ROW * rows.len() as f64;
    let left_out = match column.rows.len() - rows.len() {
        0 => String::new(),
        n => format!(", {n} more rows not drawn"),
    };
    let words = format!("{} rows{left_out}", rows.len());
    let name = format!("results-{}", column.heading);
    let mut picture = Picture::new(&name, &column.heading, words, [WIDTH, bottom + 22.0]);
    let svg = &mut picture.marks;
    horizontal(svg, &scale, [TOP, bottom], "", 4);
    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let x = PLOT[0] - 10.0;
        svg.leaf("text", &[("class", &"end"), ("x", &x), ("y", &(y + 4.0))], short(&row.label, 16));
        svg.element("g", &[("class", &arms.colour(row.arm.as_deref()))], |g| {
            for point in &row.points {
                let x = scale.at(*point);
                g.empty("circle", &[("class", &"faint"), ("cx", &x), ("cy", &y), ("r", &3.0)]);
            }
            if let Some(deviation) = row.deviation.filter(|deviation| *deviation > 0.0) {
                whisker(g, &scale, [row.value - deviation, row.value + deviation], y);
            }
            let x = scale.at(row.value);
            g.empty("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &4.5)]);
        });
        if let Some(published) = row.published {
            diamond(svg, scale.at(published), y);
        }
        let words = with_deviation(row.value, row.deviation);
        let x = PLOT[1] + 10.0;
        svg.leaf("text", &[("class", &"small"), ("x", &x), ("y", &(y + 4.0))], words);
    }
    picture
}
