//! The text of scalar values: their canonical form, the labels of axis values, and names.

use serde_json::Value;

/// Returns the canonical text of a scalar: `1`, `1.0` and `1e0` are all `1`.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (None, Some(f)) if f.fract() == 0.0 && f.abs() < 9e15 => format!("{}", f as i64),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

/// Returns the label of an axis value, as it appears in the names of nodes: `masked[threshold=2.5]`.
///
/// A text that would make a name ambiguous is quoted as JSON: `asked[prompt="briefly, please"]`.
pub fn label(value: &Value) -> String {
    match value {
        Value::String(text) if ambiguous(text) => value.to_string(),
        other => canonical(other),
    }
}

/// Returns the text that a label stands for, without its quotes.
pub fn label_text(label: &str) -> String {
    match serde_json::from_str(label) {
        Ok(Value::String(text)) => text,
        _ => label.to_string(),
    }
}

fn ambiguous(text: &str) -> bool {
    text.starts_with('"')
        || text.contains(|c: char| matches!(c, ',' | '=' | '[' | ']') || c.is_control())
}

/// Checks that a free name may be used in references, paths and columns.
///
/// # Errors
/// The message of the problem.
pub fn check_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if first && rest && name.len() <= 100 {
        return Ok(());
    }
    Err(format!("`{name}` is not a name: letters, digits, `_` and `-`, beginning with a letter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_quoted_only_where_a_name_would_be_ambiguous() {
        for (text, shown) in [
            ("brief", "brief"),
            ("say \"hi\"", "say \"hi\""),
            ("Answer briefly, please.", "\"Answer briefly, please.\""),
            ("[INST] think [/INST]", "\"[INST] think [/INST]\""),
            ("\"a\"", "\"\\\"a\\\"\""),
            ("a\nb", "\"a\\nb\""),
        ] {
            let made = label(&Value::from(text));
            assert_eq!(made, shown);
            assert_eq!(label_text(&made), text);
        }
        assert_eq!(label(&serde_json::json!(2.0)), "2");
    }
}
