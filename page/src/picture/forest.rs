//! Forest plots: conditions against what was obtained, and comparisons with their intervals.

use refrain_engine::report::comparison::{CONFIDENCE, ComparedRow};
use refrain_engine::report::expect::Verdict;
use refrain_engine::report::page::{Claim, Page, Published};

use crate::escape::Html;
use crate::number::{number, signed};

use super::axis::{Scale, horizontal};
use super::{Picture, short};

const WIDTH: f64 = 440.0;
/// A row: its name and its number, a smaller line, the interval.
const ROW: f64 = 56.0;
const PLOT: [f64; 2] = [10.0, 430.0];
/// The height of the interval in its row.
const MARK: f64 = 42.0;
/// The room for an axis.
const AXIS: f64 = 46.0;
/// Rows that are drawn.
const ROWS: usize = 60;
/// By how much the widest interval of an axis may exceed the narrowest.
const RATIO: f64 = 12.0;

/// Draws comparisons: the difference with its interval, beside the published one. Those of another
/// order of magnitude have an axis of their own.
pub fn comparisons(page: &Page) -> Option<Picture> {
    let known = page.comparisons.iter().filter(|row| row.result.is_some());
    let groups = by_magnitude(known.take(ROWS).collect());
    let rows: usize = groups.iter().map(Vec::len).sum();
    if rows == 0 {
        return None;
    }
    let height = ROW * rows as f64 + AXIS * groups.len() as f64;
    let words = format!("{rows} differences with their 95 % intervals");
    let mut picture = Picture::new("comparisons", "Differences", words, [WIDTH, height]);
    let mut top = 0.0;
    for group in &groups {
        let bottom = top + ROW * group.len() as f64;
        let scale = Scale::over(group.iter().flat_map(|row| ends(row)).chain([0.0]), PLOT);
        let svg = &mut picture.marks;
        let words = if group.len() == rows || bottom + AXIS >= height { AXIS_TITLE } else { "" };
        horizontal(svg, &scale, [top + 6.0, bottom], words, 6);
        let zero = scale.at(0.0);
        svg.empty(
            "line",
            &[
                ("class", &"zero"),
                ("x1", &zero),
                ("x2", &zero),
                ("y1", &(top + 6.0)),
                ("y2", &bottom),
            ],
        );
        for (i, row) in group.iter().enumerate() {
            comparison(svg, &scale, row, top + ROW * i as f64);
        }
        top = bottom + AXIS;
    }
    Some(picture)
}

const AXIS_TITLE: &str = "first arm − second";

/// All values that an axis must hold for a row.
fn ends(row: &ComparedRow) -> Vec<f64> {
    let mut values: Vec<f64> = row.published.into_iter().collect();
    if let Some(result) = &row.result {
        values.push(result.estimate);
        let interval = result.interval(CONFIDENCE);
        values.extend(interval.into_iter().flat_map(|interval| [interval.low, interval.high]));
    }
    values
}

/// Groups comparisons, in their order, so that no interval is too small to see beside another.
fn by_magnitude(rows: Vec<&ComparedRow>) -> Vec<Vec<&ComparedRow>> {
    let reach = |row: &ComparedRow| ends(row).into_iter().map(f64::abs).fold(1e-12, f64::max);
    let mut reaches: Vec<f64> = rows.iter().map(|row| reach(row)).collect();
    reaches.sort_by(f64::total_cmp);
    let mut limits: Vec<f64> = Vec::new();
    let mut first = 0.0;
    for reach in reaches {
        if limits.is_empty() || reach > first * RATIO {
            limits.push(reach);
            first = reach;
        }
        if let Some(last) = limits.last_mut() {
            *last = reach;
        }
    }
    let group = |limit: (usize, &f64)| {
        let below = if limit.0 == 0 { 0.0 } else { limits[limit.0 - 1] };
        let within = |row: &&&ComparedRow| reach(row) > below && reach(row) <= *limit.1;
        rows.iter().filter(within).copied().collect()
    };
    limits.iter().enumerate().map(group).collect()
}

fn comparison(svg: &mut Html, scale: &Scale, row: &ComparedRow, top: f64) {
    let Some(result) = &row.result else { return };
    let interval = result.interval(CONFIDENCE);
    let excludes = interval.is_some_and(|i| i.low > 0.0 || i.high < 0.0);
    let colour = if excludes { "c0" } else { "c7" };
    let ends = interval.map(|i| format!(" [{}, {}]", signed(i.low), signed(i.high)));
    let words = format!("{}{}", signed(result.estimate), ends.unwrap_or_default());
    let below = format!("{} − {} of {}", row.arms[0], row.arms[1], row.of);
    label(svg, top, [&row.name, &below, &words]);

    let y = top + MARK;
    svg.element("g", &[("class", &colour)], |g| {
        if let Some(interval) = interval {
            whisker(g, scale, [interval.low, interval.high], y);
        }
        let x = scale.at(result.estimate);
        g.empty("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &5.0)]);
    });
    if let Some(published) = row.published {
        diamond(svg, scale.at(published), y);
    }
}

/// Draws conditions that name a value or bounds, each on a scale of its own: what was published,
/// its tolerance, and what was obtained.
pub fn claims(page: &Page) -> Option<Picture> {
    let has_number =
        |claim: &&Claim| claim.published != Published::Order && claim.obtained.is_some();
    let rows: Vec<&Claim> = page.claims.iter().filter(has_number).take(ROWS).collect();
    if rows.is_empty() {
        return None;
    }
    let bottom = ROW * rows.len() as f64;
    let words = format!("{} conditions, each on a scale of its own", rows.len());
    let title = "Published and obtained";
    let mut picture = Picture::new("claims", title, words, [WIDTH, bottom + 26.0]);
    let svg = &mut picture.marks;
    for (i, claim) in rows.iter().enumerate() {
        condition(svg, claim, ROW * i as f64);
    }
    let key = "◇ published   ▭ tolerance or bounds   ● obtained";
    let y = bottom + 18.0;
    svg.leaf("text", &[("class", &"soft small"), ("x", &PLOT[0]), ("y", &y)], key);
    Some(picture)
}

fn condition(svg: &mut Html, claim: &Claim, top: f64) {
    let obtained = claim.obtained.unwrap_or_default();
    let (low, high) = match claim.published {
        Published::Value { value, within } => (value - within, value + within),
        Published::Bounds { low, high } => (low, high),
        Published::Order => return,
    };
    // A band takes a third of the scale, so that a value within it looks so in every row.
    let span = match (high - low).is_finite() && high > low {
        true => high - low,
        false => {
            let bound = if low.is_finite() { low } else { high };
            2.0 * (obtained - bound).abs().max(bound.abs() * 0.1).max(1e-9)
        }
    };
    let finite = [low, high].into_iter().filter(|end| end.is_finite());
    let room = finite.flat_map(|end| [end - span, end + span]);
    let scale = Scale::over(room.chain([obtained]), PLOT);
    let y = top + MARK;
    let (from, to) = (scale.at(low.max(f64::MIN)), scale.at(high.min(f64::MAX)));
    let (width, height) = ((to - from).abs().max(1.5), 16.0);
    let line = y - 1.0;
    svg.empty(
        "rect",
        &[
            ("class", &"band"),
            ("x", &PLOT[0]),
            ("y", &line),
            ("width", &(PLOT[1] - PLOT[0])),
            ("height", &2.0),
        ],
    );
    svg.element("g", &[("class", &"c7")], |g| {
        g.empty(
            "rect",
            &[
                ("class", &"tolerance"),
                ("x", &from.min(to)),
                ("y", &(y - 8.0)),
                ("width", &width),
                ("height", &height),
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
        let x = scale.at(obtained);
        g.empty("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &5.0)]);
    });
    let text = claim.text.replace('`', "");
    let (name, condition) = text.split_once(": ").unwrap_or((&text, ""));
    let source = claim.source.as_ref().map(|source| format!(" ({source})"));
    let below = format!("{condition}{}", source.unwrap_or_default());
    label(svg, top, [name, &below, &format!("{}, {}", number(obtained), claim.verdict.words())]);
}

/// The name of a row with its number, and a smaller line below it.
fn label(svg: &mut Html, top: f64, [name, below, number]: [&str; 3]) {
    let (left, right) = (PLOT[0], PLOT[1]);
    let (first, second) = (top + 16.0, top + 30.0);
    let room = 56usize.saturating_sub(number.chars().count()).max(16);
    svg.leaf("text", &[("class", &"strong halo"), ("x", &left), ("y", &first)], short(name, room));
    svg.leaf("text", &[("class", &"small end halo"), ("x", &right), ("y", &first)], number);
    svg.leaf(
        "text",
        &[("class", &"soft small halo"), ("x", &left), ("y", &second)],
        short(below, 66),
    );
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
    let (left, right, up, down) = (x - 6.0, x + 6.0, y - 6.0, y + 6.0);
    let path = format!("M{left:.1} {y:.1}L{x:.1} {up:.1}L{right:.1} {y:.1}L{x:.1} {down:.1}Z");
    svg.empty("path", &[("class", &"diamond"), ("d", &path)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, published: f64) -> ComparedRow {
        ComparedRow {
            name: name.into(),
            of: String::new(),
            arms: [String::new(), String::new()],
            seeds: Vec::new(),
            result: None,
            reason: None,
            is_wrong: false,
            published: Some(published),
            corrected: None,
            claims: Vec::new(),
        }
    }

    #[test]
    fn differences_of_other_magnitudes_have_an_axis_of_their_own() {
        let rows = [row("a", 0.2), row("b", 21.0), row("c", -0.3), row("d", 0.9)];
        let groups = by_magnitude(rows.iter().collect());
        let names: Vec<String> = groups
            .iter()
            .map(|group| group.iter().map(|row| row.name.as_str()).collect())
            .collect();
        assert_eq!(names, ["acd", "b"]);
    }
}
