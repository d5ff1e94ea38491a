//! Forest plots: conditions against what was obtained, and comparisons with their intervals.

use refrain_engine::report::comparison::CONFIDENCE;
use refrain_engine::report::expect::Verdict;
use refrain_engine::report::page::{Claim, Page, Published};

use crate::escape::Html;
use crate::number::{number, signed};

use super::axis::{Scale, horizontal};
use super::{Picture, short};

const WIDTH: f64 = 860.0;
const ROW: f64 = 30.0;
const TOP: f64 = 14.0;
/// The strip of the plot: labels are left of it, numbers right.
const PLOT: [f64; 2] = [290.0, 620.0];
/// Rows that are drawn.
const ROWS: usize = 60;

/// Draws comparisons: the difference with its interval, beside the published one.
pub fn comparisons(page: &Page) -> Option<Picture> {
    let known: Vec<_> = page.comparisons.iter().filter(|row| row.result.is_some()).collect();
    let rows = &known[..known.len().min(ROWS)];
    if rows.is_empty() {
        return None;
    }
    let mut values = vec![0.0];
    for row in rows {
        values.extend(row.published);
        let result = row.result.as_ref();
        values.extend(result.map(|result| result.estimate));
        let interval = result.and_then(|result| result.interval(CONFIDENCE));
        values.extend(interval.into_iter().flat_map(|interval| [interval.low, interval.high]));
    }
    let scale = Scale::over(values, PLOT);
    let bottom = TOP + ROW * rows.len() as f64;
    let words = format!("{} differences with their 95 % intervals", rows.len());
    let title = "Comparisons with 95 % intervals";
    let mut picture = Picture::new("comparisons", title, words, [WIDTH, bottom + 40.0]);
    let svg = &mut picture.marks;
    horizontal(svg, &scale, [TOP, bottom], "difference (first arm − second)", 6);
    let zero = scale.at(0.0);
    svg.empty(
        "line",
        &[("class", &"zero"), ("x1", &zero), ("x2", &zero), ("y1", &TOP), ("y2", &bottom)],
    );

    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let Some(result) = &row.result else { continue };
        let interval = result.interval(CONFIDENCE);
        let excludes = interval.is_some_and(|i| i.low > 0.0 || i.high < 0.0);
        let colour = if excludes { "c0" } else { "c7" };
        label(svg, y, &row.name, &format!("{} − {} of {}", row.arms[0], row.arms[1], row.of));
        svg.element("g", &[("class", &colour)], |g| {
            if let Some(interval) = interval {
                whisker(g, &scale, [interval.low, interval.high], y);
            }
            let x = scale.at(result.estimate);
            g.empty("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &5.0)]);
        });
        if let Some(published) = row.published {
            diamond(svg, scale.at(published), y);
        }
        let ends = interval.map(|i| format!("  [{}, {}]", signed(i.low), signed(i.high)));
        let words = format!("{}{}", signed(result.estimate), ends.unwrap_or_default());
        let x = PLOT[1] + 16.0;
        svg.leaf("text", &[("class", &"small"), ("x", &x), ("y", &(y + 4.0))], words);
    }
    Some(picture)
}

/// Draws conditions that name a value or bounds, each on a scale of its own: what was published, its tolerance, and
/// what was obtained.
pub fn claims(page: &Page) -> Option<Picture> {
    let has_number =
        |claim: &&Claim| claim.published != Published::Order && claim.obtained.is_some();
    let known: Vec<&Claim> = page.claims.iter().filter(has_number).collect();
    let rows = &known[..known.len().min(ROWS)];
    if rows.is_empty() {
        return None;
    }
    let bottom = TOP + ROW * rows.len() as f64;
    let words = format!("{} conditions, each on a scale of its own", rows.len());
    let title = "Published against obtained";
    let mut picture = Picture::new("claims", title, words, [WIDTH, bottom + 24.0]);
    let svg = &mut picture.marks;
    for (i, claim) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let obtained = claim.obtained.unwrap_or_default();
        let (low, high) = match claim.published {
            Published::Value { value, within } => (value - within, value + within),
            Published::Bounds { low, high } => (low, high),
            Published::Order => continue,
        };
        // The band takes the middle, so that a value within it looks so on every scale.
        let finite = [low, high].into_iter().filter(|end| end.is_finite());
        let span = if high - low > 0.0 && (high - low).is_finite() {
            high - low
        } else {
            obtained.abs().max(1e-9) * 0.5
        };
        let room = finite.clone().flat_map(|end| [end - span, end + span]);
        let scale = Scale::over(room.chain([obtained]), PLOT);
        let (from, to) = (scale.at(low.max(-1e300)), scale.at(high.min(1e300)));
        let (x, width) = (from.min(to), (to - from).abs().max(1.5));
        svg.empty(
            "rect",
            &[
                ("class", &"band"),
                ("x", &PLOT[0]),
                ("y", &(y - 1.0)),
                ("width", &(PLOT[1] - PLOT[0])),
                ("height", &2.0),
            ],
        );
        svg.element("g", &[("class", &"c7")], |g| {
            g.empty(
                "rect",
                &[
                    ("class", &"area"),
                    ("x", &x),
                    ("y", &(y - 9.0)),
                    ("width", &width),
                    ("height", &18.0),
                    ("rx", &2.0),
                ],
            );
        });
        if let Published::Value { value, .. } = claim.published {
            diamond(svg, scale.at(value), y);
        }
        let colour = match claim.verdict {
            Verdict::Holds => "c2",
            Verdict::Fails | Verdict::HoldsAfterAll => "c1",
            Verdict::NotShown => "c7",
        };
        svg.element("g", &[("class", &colour)], |g| {
            g.empty(
                "circle",
                &[("class", &"dot"), ("cx", &scale.at(obtained)), ("cy", &y), ("r", &5.0)],
            );
        });
        label(svg, y, &claim.text.replace('`', ""), claim.source.as_deref().unwrap_or_default());
        let x = PLOT[1] + 16.0;
        let words = format!("{}  {}", number(obtained), claim.verdict.words());
        svg.leaf("text", &[("class", &"small"), ("x", &x), ("y", &(y + 4.0))], words);
    }
    let (x, y) = (PLOT[0], bottom + 16.0);
    let key = "◇ published   ▭ tolerance or bounds   ● obtained";
    svg.leaf("text", &[("class", &"soft small"), ("x", &x), ("y", &y)], key);
    Some(picture)
}

/// A name with a smaller line below it.
fn label(svg: &mut Html, y: f64, name: &str, below: &str) {
    let x = PLOT[0] - 14.0;
    let up = if below.is_empty() { 4.0 } else { -2.0 };
    svg.leaf("text", &[("class", &"end strong"), ("x", &x), ("y", &(y + up))], short(name, 40));
    if !below.is_empty() {
        svg.leaf(
            "text",
            &[("class", &"end soft small"), ("x", &x), ("y", &(y + 11.0))],
            short(below, 48),
        );
    }
}

/// An interval with its ends.
pub(super) fn whisker(svg: &mut Html, scale: &Scale, [low, high]: [f64; 2], y: f64) {
    let (from, to) = (scale.at(low), scale.at(high));
    let (up, down) = (y - 4.0, y + 4.0);
    let path =
        format!("M{from:.1} {y:.1}H{to:.1}M{from:.1} {up:.1}V{down:.1}M{to:.1} {up:.1}V{down:.1}");
    svg.empty("path", &[("class", &"whisker"), ("d", &path)]);
}

/// The mark of a published value.
pub(super) fn diamond(svg: &mut Html, x: f64, y: f64) {
    let path = format!(
        "M{:.1} {y:.1}L{x:.1} {:.1}L{:.1} {y:.1}L{x:.1} {:.1}Z",
        x - 6.0,
        y - 6.0,
        x + 6.0,
        y + 6.0
    );
    svg.empty("path", &[("class", &"diamond"), ("d", &path)]);
}
