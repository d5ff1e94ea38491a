//! Pictures as SVG. Colours come by class, so that one picture fits a dark page, a light one and
//! paper.
//!
//! Crates for plotting write colours and fonts into every mark: their pictures cannot follow a
//! page's colours, which its content security policy would not even let them set, and none draws
//! forest plots or graphs of stages.

mod axis;
mod curves;
mod forest;
mod graph;
mod histogram;
mod layout;
mod scatter;
mod spread;
mod timeline;

use refrain_engine::report::page::Page;

use crate::escape::{Html, Named};

pub use curves::curves;
pub use forest::{claims, comparisons};
pub(crate) use graph::counts;
pub use graph::graph;
pub use histogram::histograms;
pub use scatter::scatters;
pub use spread::spreads;
pub use timeline::timeline;

/// A picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The name of its file, without ending.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Its description for those who do not see it.
    pub description: String,
    width: f64,
    height: f64,
    marks: Html,
}

impl Picture {
    fn new(name: &str, title: &str, description: String, [width, height]: [f64; 2]) -> Picture {
        let (name, title) = (file_name(name), title.to_owned());
        Picture { name, title, description, width, height, marks: Html::new() }
    }

    /// Writes the picture into a page; `id` is that of its title there.
    pub fn write(&self, html: &mut Html, id: &str) {
        let view = format!("0 0 {} {}", self.width.ceil(), self.height.ceil());
        let wide = if self.width > 460.0 { "picture wide" } else { "picture" };
        let attributes: [Named<'_>; 6] = [
            ("class", &wide),
            ("viewBox", &view),
            ("width", &self.width.ceil()),
            ("height", &self.height.ceil()),
            ("role", &"img"),
            ("aria-labelledby", &id),
        ];
        html.element("svg", &attributes, |svg| {
            let words = format!("{}. {}", self.title, self.description);
            svg.leaf("title", &[("id", &id)], words).add(&self.marks);
        });
    }

    /// Returns the picture as a document of its own, in the colours of paper.
    pub fn svg(&self) -> String {
        let view = format!("0 0 {} {}", self.width.ceil(), self.height.ceil());
        let attributes: [Named<'_>; 5] = [
            ("xmlns", &"http://www.w3.org/2000/svg"),
            ("class", &"picture"),
            ("viewBox", &view),
            ("width", &self.width.ceil()),
            ("height", &self.height.ceil()),
        ];
        let mut html = Html::new();
        html.element("svg", &attributes, |svg| {
            svg.leaf("title", &[], &self.title).leaf("desc", &[], &self.description);
            svg.picture_style().add(&self.marks);
        });
        format!("{}\n", html.into_string())
    }
}

/// All pictures of a report, their names distinct.
pub fn pictures(page: &Page) -> Vec<Picture> {
    let mut all: Vec<Picture> = Vec::new();
    all.extend(claims(page));
    all.extend(comparisons(page));
    all.extend(spreads(page));
    all.push(graph(page));
    all.extend(timeline(page));
    all.extend(curves(page));
    all.extend(histograms(page));
    all.extend(scatters(page));
    for i in 0..all.len() {
        let same = all[..i].iter().filter(|other| other.name == all[i].name).count();
        if same > 0 {
            all[i].name = format!("{}-{i}", all[i].name);
        }
    }
    all
}

/// A name of a file without anything that a file system or a shell would mind.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().take(80).map(plain).collect();
    name.trim_matches('-').to_owned()
}

/// The arms of a workflow: each has one colour in all pictures.
struct Arms<'p>(Vec<&'p str>);

impl<'p> Arms<'p> {
    fn of(page: &'p Page) -> Arms<'p> {
        let mut arms: Vec<&str> = Vec::new();
        for arm in page.stages.iter().flat_map(|stage| &stage.arms).take(64) {
            if !arms.contains(&arm.as_str()) {
                arms.push(arm);
            }
        }
        Arms(arms)
    }

    /// The class of an arm's colour; what belongs to no arm has the last one.
    fn colour(&self, arm: Option<&str>) -> &'static str {
        const CLASSES: [&str; 7] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6"];
        match arm {
            Some("") => CLASSES[0],
            Some(arm) => {
                let place = self.0.iter().position(|known| *known == arm);
                place.map_or("c7", |place| CLASSES[place % CLASSES.len()])
            }
            None => "c7",
        }
    }

    /// Writes the names of arms with their colours, three in a row; returns the height of that.
    fn legend(&self, svg: &mut Html, labels: &[&str], top: f64) {
        for (i, label) in labels.iter().enumerate() {
            let (x, y) = (46.0 + (i % 3) as f64 * 118.0, top + (i / 3) as f64 * LEGEND);
            svg.element("g", &[("class", &self.colour(Some(label)))], |g| {
                let place: [Named<'_>; 6] = [
                    ("class", &"bar"),
                    ("x", &x),
                    ("y", &y),
                    ("width", &10.0),
                    ("height", &10.0),
                    ("rx", &2.0),
                ];
                g.empty("rect", &place);
            });
            let place: [Named<'_>; 3] =
                [("class", &"small"), ("x", &(x + 15.0)), ("y", &(y + 9.0))];
            svg.leaf("text", &place, short(label, 16));
        }
    }
}

/// The height of a row of a legend.
const LEGEND: f64 = 18.0;

/// The height of the legend of so many arms: one alone needs none.
fn legend_height(arms: usize) -> f64 {
    if arms > 1 { LEGEND * arms.div_ceil(3) as f64 } else { 0.0 }
}

/// A text that is no longer than fits, an ellipsis at its end.
fn short(text: &str, limit: usize) -> String {
    let text = text.replace(['\n', '\t'], " ");
    match text.chars().count() > limit {
        true => {
            let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(file_name("../a b/<c>\u{202e}"), "a-b--c");
    }
}
