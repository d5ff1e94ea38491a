//! The first rows of tables: texts, tokens coloured by perplexity, masked ones struck out.

use refrain_engine::report::page::{Page, Sample, SampleTable, Token};

use crate::escape::Html;
use crate::number::{count, number};

/// Stages of which rows are shown.
const STAGES: usize = 40;
/// Tokens of the whole page that are coloured.
const TOKENS: usize = 5000;

/// Writes the section, where a table was read.
pub fn section(page: &Page) -> Option<Html> {
    if page.samples.is_empty() {
        return None;
    }
    let mut html = Html::new();
    key(&mut html);
    let mut budget = TOKENS;
    let mut stages: Vec<usize> = page.samples.iter().map(|sample| sample.stage).collect();
    stages.dedup();
    for stage in stages.iter().take(STAGES) {
        let tables: Vec<&SampleTable> =
            page.samples.iter().filter(|sample| sample.stage == *stage).collect();
        let of = &page.stages[*stage];
        html.element("details", &[("class", &"stage")], |html| {
            html.element("summary", &[], |html| {
                html.leaf("b", &[], &of.name).text(" ");
                let rows = count(tables[0].rows as usize, "row");
                html.leaf("span", &[("class", &"soft")], format!("{}, {rows}", of.kind));
            });
            for table in &tables {
                write_table(page, table, &mut budget, html);
            }
        });
    }
    super::left_out(&mut html, STAGES, stages.len(), "tables", "`refrain show` prints any");
    Some(html)
}

/// The colours and marks of tokens.
fn key(html: &mut Html) {
    html.element("p", &[("class", &"key")], |html| {
        html.text("The first rows of each table. Perplexity of a token: ");
        for (class, words) in BUCKETS {
            html.leaf("span", &[("class", &class)], words).text(" ");
        }
        html.leaf("span", &[("class", &"t m")], "masked").text(": not trained on.");
    });
}

/// Classes of tokens by perplexity.
const BUCKETS: [(&str, &str); 6] = [
    ("t", "< 1.5"),
    ("t p1", "< 2.5"),
    ("t p2", "< 5"),
    ("t p3", "< 10"),
    ("t p4", "< 50"),
    ("t p5", "50 and above"),
];

fn bucket(perplexity: f64) -> usize {
    [1.5, 2.5, 5.0, 10.0, 50.0].iter().filter(|end| perplexity >= **end).count()
}

fn write_table(page: &Page, table: &SampleTable, budget: &mut usize, html: &mut Html) {
    let node = &page.nodes[table.node as usize];
    html.element("div", &[("class", &"table")], |html| {
        let output = table.output.as_ref().map(|output| format!(".{output}"));
        html.leaf("h3", &[], format!("{}{}", node.name, output.unwrap_or_default()));
        let columns: Vec<String> =
            table.columns.iter().map(|(name, kind)| format!("{name}: {kind}")).collect();
        html.leaf("p", &[("class", &"columns")], columns.join(" · "));
        if table.samples.is_empty() {
            html.leaf("p", &[("class", &"note")], "The table has no rows.");
        }
        for sample in &table.samples {
            write_sample(sample, budget, html);
        }
    });
}

fn write_sample(sample: &Sample, budget: &mut usize, html: &mut Html) {
    html.element("dl", &[("class", &"sample")], |html| {
        let mut entry = |name: &str, write: &mut dyn FnMut(&mut Html)| {
            html.element("div", &[], |html| {
                html.leaf("dt", &[], name);
                html.element("dd", &[("class", &"text")], |html| write(html));
            });
        };
        for (name, text) in &sample.texts {
            match *name == "response" && !sample.tokens.is_empty() {
                true => entry(name, &mut |html| tokens(sample, budget, html)),
                false => entry(name, &mut |html| {
                    html.text(text);
                }),
            }
        }
        let has_response = sample.texts.iter().any(|(name, _)| *name == "response");
        if !has_response && !sample.tokens.is_empty() {
            entry("tokens", &mut |html| tokens(sample, budget, html));
        }
        if let Some(correct) = sample.correct {
            let (class, word) = if correct { ("good", "yes") } else { ("bad", "no") };
            entry("correct", &mut |html| {
                html.leaf("span", &[("class", &class)], word);
            });
        }
        if !sample.others.is_empty() {
            let others: Vec<String> =
                sample.others.iter().map(|(name, value)| format!("{name} {value}")).collect();
            entry("other columns", &mut |html| {
                html.leaf("span", &[("class", &"soft")], others.join(" · "));
            });
        }
    });
}

/// Writes tokens while the page has room for them; then their text alone.
fn tokens(sample: &Sample, budget: &mut usize, html: &mut Html) {
    let shown = sample.tokens.len().min(*budget);
    *budget -= shown;
    sample.tokens[..shown].iter().for_each(|token| write_token(token, html));
    let rest: String = sample.tokens[shown..].iter().map(|token| token.text.as_str()).collect();
    html.text(rest);
    if sample.is_cut {
        html.text("…");
    }
}

fn write_token(token: &Token, html: &mut Html) {
    const MASKED: [&str; 6] = ["t m", "t p1 m", "t p2 m", "t p3 m", "t p4 m", "t p5 m"];
    let place = token.perplexity.map_or(0, bucket);
    let masked = token.is_trained == Some(false);
    let class = if masked { MASKED[place] } else { BUCKETS[place].0 };
    let perplexity = token
        .perplexity
        .map_or("no prediction".into(), |perplexity| format!("perplexity {}", number(perplexity)));
    let title = if masked { format!("{perplexity}, masked") } else { perplexity };
    html.leaf("span", &[("class", &class), ("title", &title)], &token.text);
}
