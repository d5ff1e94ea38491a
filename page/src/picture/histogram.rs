//! Histograms of perplexity, of masked shares and of response lengths, an outline per arm.

use refrain_engine::report::page::{DistributionPanel, Page, Quantity, Series};

use crate::number::number;

use super::axis::{Scale, horizontal, vertical};
use super::{Arms, Picture, legend_height};

const SIZE: [f64; 2] = [400.0, 236.0];
const PLOT_X: [f64; 2] = [46.0, 388.0];
const PLOT_Y: [f64; 2] = [182.0, 30.0];
/// Panels and series that are drawn.
const PANELS: usize = 36;
const SERIES: usize = 8;

/// Draws a picture per quantity and stage.
pub fn histograms(page: &Page) -> Vec<Picture> {
    page.distributions.iter().take(PANELS).map(|panel| draw(page, panel)).collect()
}

/// The name of a quantity in file names, titles and on axes.
fn words(panel: &DistributionPanel) -> [String; 3] {
    match panel.quantity {
        Quantity::Perplexity => {
            ["perplexity", "Perplexity", "perplexity of a token"].map(Into::into)
        }
        Quantity::MaskedShare => {
            ["masked", "Masked share", "share of a response's tokens"].map(Into::into)
        }
        Quantity::Length => {
            let unit = format!("{} of a response", panel.unit);
            ["length".into(), "Response length".into(), unit]
        }
    }
}

/// The scale of lengths, wide enough that one bin does not fill the picture.
fn lengths(low: f64, high: f64, series: &[Series], places: [f64; 2]) -> Scale {
    let first = series.iter().find_map(|series| series.distribution.bins.first());
    let width = first.map_or(1.0, |bin| bin.high - bin.low);
    let lacks = (12.0 * width - (high - low)).max(0.0);
    let before = (lacks / 2.0 / width).floor() * width;
    let low = (low - before).max(0.0);
    Scale::whole([low, high.max(low + 12.0 * width)], places)
}

fn draw(page: &Page, panel: &DistributionPanel) -> Picture {
    let series = &panel.series[..panel.series.len().min(SERIES)];
    let bins = || series.iter().flat_map(|series| &series.distribution.bins);
    let low = bins().map(|bin| bin.low).fold(f64::INFINITY, f64::min);
    let high = bins().map(|bin| bin.high).fold(f64::NEG_INFINITY, f64::max);
    let x = match panel.quantity {
        Quantity::Perplexity => Scale::log([low, high.max(low * 2.0)], PLOT_X),
        Quantity::MaskedShare => Scale::exact([0.0, 1.0], PLOT_X),
        Quantity::Length => lengths(low, high, series, PLOT_X),
    };
    let share = |series: &Series, count: u64| count as f64 / series.distribution.n.max(1) as f64;
    let highest = series
        .iter()
        .flat_map(|s| s.distribution.bins.iter().map(move |bin| share(s, bin.count)))
        .fold(0.0, f64::max);
    let y = Scale::exact([0.0, highest * 1.05], PLOT_Y);

    let arms = Arms::of(page);
    let [name, title, axis] = words(panel);
    let stage = &page.stages[panel.stage].name;
    let mean = |series: &Series| {
        let Series { label, distribution } = series;
        let of = if label.is_empty() { String::new() } else { format!("{label}: ") };
        let mean = match panel.quantity {
            Quantity::Perplexity => "geometric mean",
            _ => "mean",
        };
        format!("{of}{mean} {}, n {}", number(distribution.mean), number(distribution.n as f64))
    };
    let mut description: Vec<String> = series.iter().map(mean).collect();
    if panel.series.len() > series.len() {
        description.push(format!("{} more arms not drawn", panel.series.len() - series.len()));
    }
    if panel.left_out > 0 {
        description.push(format!("{} nodes of the stage not counted", panel.left_out));
    }
    let threshold = panel.threshold.filter(|threshold| x.holds(*threshold));
    if let Some(threshold) = panel.threshold {
        description.push(format!("masked above {}", number(threshold)));
    }
    let legend = legend_height(series.len());
    let mut picture = Picture::new(
        &format!("{name}-{stage}"),
        &format!("{title} in {stage}"),
        description.join("; "),
        [SIZE[0], SIZE[1] + legend],
    );
    let svg = &mut picture.marks;
    horizontal(svg, &x, [PLOT_Y[1], PLOT_Y[0]], &axis, 6);
    vertical(svg, &y, PLOT_X, "share", 4);
    for series in series {
        let mut path = String::new();
        let bins = &series.distribution.bins;
        if let Some(first) = bins.first() {
            path.push_str(&format!("M{:.1} {:.1}", x.at(first.low), PLOT_Y[0]));
        }
        for bin in bins {
            let (y, to) = (y.at(share(series, bin.count)), x.at(bin.high));
            path.push_str(&format!("V{y:.1}H{to:.1}"));
        }
        path.push_str(&format!("V{:.1}Z", PLOT_Y[0]));
        svg.element("g", &[("class", &arms.colour(Some(&series.label)))], |g| {
            g.leaf("title", &[], mean(series));
            g.empty("path", &[("class", &"area"), ("d", &path)]);
        });
    }
    if let Some(threshold) = threshold {
        let at = x.at(threshold);
        svg.empty(
            "line",
            &[
                ("class", &"threshold"),
                ("x1", &at),
                ("x2", &at),
                ("y1", &PLOT_Y[1]),
                ("y2", &PLOT_Y[0]),
            ],
        );
        let words = format!("masked above {}", number(threshold));
        svg.leaf(
            "text",
            &[("class", &"small soft"), ("x", &(at + 5.0)), ("y", &(PLOT_Y[1] + 10.0))],
            words,
        );
    }
    if series.len() > 1 {
        let labels: Vec<&str> = series.iter().map(|series| series.label.as_str()).collect();
        arms.legend(svg, &labels, SIZE[1] + 4.0);
    }
    picture
}
