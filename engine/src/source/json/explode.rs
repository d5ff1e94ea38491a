//! Makes a row of each element of a list: the row's own entries, and those of the element, which win.

use serde::de::Deserializer;

use super::shape::Parts;
use crate::source::error::Fault;

/// The entries of a mapping, as they are written.
type Entries<'a> = Vec<(String, &'a str)>;

/// A row that holds a list.
pub(super) struct Exploded<'a> {
    /// The row's other entries.
    pub entries: Entries<'a>,
    /// The elements of the list; `None` where the row has no such column.
    pub elements: Option<Vec<&'a str>>,
}

/// Takes a row apart; the fault comes with its address.
pub(super) fn exploded<'a>(json: &'a str, column: &str) -> Result<Exploded<'a>, (usize, Fault)> {
    let mut row = Exploded { entries: entries(json), elements: None };
    let Some(place) = row.entries.iter().rposition(|(name, _)| name == column) else {
        return Ok(row);
    };
    let list = row.entries.remove(place).1;
    row.entries.retain(|(name, _)| name != column);
    row.elements = Some(Vec::new());
    match list.as_bytes().first() {
        Some(b'[') => row.elements = Some(items(list)),
        Some(b'n') => {}
        _ => {
            let message = format!("`{column}` is not a list here, which `explode` needs");
            return Err((list.as_ptr() as usize, Fault::new(message)));
        }
    }
    Ok(row)
}

/// Returns the entries of a mapping that has been parsed.
pub(super) fn entries(json: &str) -> Entries<'_> {
    let mut found = Vec::new();
    let mut entry = |name: Option<&str>, value| {
        found.push((name.unwrap_or_default().to_owned(), value));
    };
    let _ = serde_json::Deserializer::from_str(json).deserialize_any(Parts(&mut entry));
    found
}

fn items(json: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut part = |_: Option<&str>, value| found.push(value);
    let _ = serde_json::Deserializer::from_str(json).deserialize_any(Parts(&mut part));
    found
}

/// Writes a JSON object for each element of a row, and returns their ends in the text.
pub(super) fn write(row: &Exploded<'_>, column: &str, text: &mut String) -> Vec<usize> {
    let mut ends = Vec::new();
    for element in row.elements.iter().flatten() {
        let own = match element.starts_with('{') {
            true => entries(element),
            false => vec![(column.to_owned(), *element)],
        };
        let replaced = |name: &str| own.iter().any(|(of_element, _)| of_element == name);
        let kept = row.entries.iter().filter(|(name, _)| !replaced(name));
        text.push('{');
        for (i, (name, value)) in kept.chain(&own).enumerate() {
            if i > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        ends.push(text.len());
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str) -> Vec<String> {
        let row = exploded(json, "x").unwrap_or_else(|(_, fault)| panic!("{}", fault.message));
        let mut text = String::new();
        let mut begin = 0;
        let ends = write(&row, "x", &mut text);
        ends.into_iter().map(|end| text[std::mem::replace(&mut begin, end)..end].into()).collect()
    }

    #[test]
    fn an_element_wins_over_its_row() {
        assert_eq!(
            rows(r#"{"a": 1, "x": [{"a": 2, "b": null}, {"b" : 3}, "s", null], "c": "d\""}"#),
            [
                r#"{"c":"d\"","a":2,"b":null}"#,
                r#"{"a":1,"c":"d\"","b":3}"#,
                r#"{"a":1,"c":"d\"","x":"s"}"#,
                r#"{"a":1,"c":"d\"","x":null}"#,
            ]
        );
        for none in [r#"{"a": 1}"#, r#"{"x": null}"#, r#"{"x": []}"#] {
            assert!(rows(none).is_empty(), "{none}");
        }
        assert!(exploded(r#"{"x": "y"}"#, "x").is_err());
    }
}
