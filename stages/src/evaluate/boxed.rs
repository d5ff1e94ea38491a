//! The content of the last `\boxed{…}` of a text.

/// Finds the content of the last `\boxed{…}` or `\fbox{…}`, braces within braces included. Of a box
/// without braces (`\boxed 5`) it is the rest of the line up to a `$`. A box that never closes has
/// none.
pub(super) fn last_boxed(text: &str) -> Option<&str> {
    let ends = ["\\boxed", "\\fbox"].map(|name| text.rfind(name).map(|at| at + name.len()));
    let rest = &text[ends.into_iter().flatten().max()?..];
    match rest.trim_start().strip_prefix('{') {
        Some(inner) => Some(&inner[..closing(inner)?]),
        None => {
            let end = rest.find(['$', '\n']).unwrap_or(rest.len());
            Some(rest[..end].trim()).filter(|inner| !inner.is_empty())
        }
    }
}

/// The place of the brace that closes one before the text. `\{` and `\}` are characters.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_is_found_whole() {
        for (text, inner) in [
            (r"so \boxed{1} and $\boxed{\frac{1}{2}}$.", Some(r"\frac{1}{2}")),
            (r"\boxed{\{1,\{2\}\}}", Some(r"\{1,\{2\}\}")),
            (
                r"\boxed{\begin{pmatrix} 1 \\ 2\\\end{pmatrix}}",
                Some(r"\begin{pmatrix} 1 \\ 2\\\end{pmatrix}"),
            ),
            (r"\boxed {7}", Some("7")),
            (r"$x = \boxed 5$.", Some("5")),
            (r"\fbox{A}", Some("A")),
            (r"\boxed{}", Some("")),
            (r"\boxed{1} then \boxed{2", None),
            (r"\boxed", None),
            ("none", None),
        ] {
            assert_eq!(last_boxed(text), inner, "{text}");
        }
    }
}
