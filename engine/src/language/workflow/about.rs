//! The question, licence, authors and date of a workflow, for people.

use crate::language::diagnostic::Diagnostic;
use crate::language::yaml::{Node, Yaml};

use super::parse::Reader;

/// The entries of a workflow that are for people; none of them is in a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Its question.
    pub description: Option<String>,
    /// The licence, as its SPDX name or address.
    pub license: Option<String>,
    /// The authors, in their order.
    pub authors: Vec<String>,
    /// The date of publication: `2026`, `2026-11` or `2026-11-26`.
    pub date: Option<String>,
}

/// Reads the entries of a workflow that are for people.
pub(super) fn read(root: &Node, reader: &mut Reader) -> About {
    let mut text = |name: &str| match root.get(name).map(|node| (&node.value, node)) {
        None | Some((Yaml::Null, _)) => None,
        Some((Yaml::Text(text), _)) => Some(text.trim_end().to_owned()),
        Some((Yaml::Int(..), node)) if name == "date" => node.text().map(Into::into),
        Some((_, node)) => {
            let message = format!("`{name}` must be text");
            reader.problem(Diagnostic::at(node.span.clone(), message));
            None
        }
    };
    let (description, license) = (text("description"), text("license"));
    let date = text("date");
    if let (Some(date), Some(node)) = (&date, root.get("date"))
        && !is_date(date)
    {
        let problem = Diagnostic::at(node.span.clone(), format!("`{date}` is no date"));
        reader.problem(problem.hint("write `2026-11-26`, `2026-11` or `2026`"));
    }
    About { description, license, authors: authors(root, reader), date }
}

fn authors(root: &Node, reader: &mut Reader) -> Vec<String> {
    let Some(node) = root.get("authors") else { return Vec::new() };
    let names = match &node.value {
        Yaml::Null => Some(Vec::new()),
        Yaml::Text(name) => Some(vec![name.clone()]),
        Yaml::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Yaml::Text(name) => Some(name.clone()),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    names.unwrap_or_else(|| {
        let message = "`authors` must be a name or a list of names";
        reader.problem(Diagnostic::at(node.span.clone(), message));
        Vec::new()
    })
}

/// Whether a text is a year, a month or a day as ISO 8601 writes them.
fn is_date(text: &str) -> bool {
    let within = |part: &str, digits: usize, most: u32| {
        part.len() == digits
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse().is_ok_and(|number: u32| (1..=most).contains(&number))
    };
    let mut parts = text.split('-');
    parts.next().is_some_and(|year| within(year, 4, 9999))
        && parts.next().is_none_or(|month| within(month, 2, 12))
        && parts.next().is_none_or(|day| within(day, 2, 31))
        && parts.next().is_none()
}
