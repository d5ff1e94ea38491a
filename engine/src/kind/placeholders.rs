//! The placeholders `${in.NAME}`, `${out.NAME}` and `${env:NAME}`, which stay in a text until its node runs.

use crate::language::diagnostic::Diagnostic;
use crate::language::yaml::Node;

use super::Type;

/// Returns the placeholders that stay in a text until its node runs.
pub fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find("${")?;
            let escaped = rest[..at].ends_with('$');
            let after = &rest[at + 2..];
            let Some(end) = after.find('}') else {
                rest = "";
                return None;
            };
            rest = &after[end + 1..];
            if !escaped {
                return Some(&after[..end]);
            }
        }
    })
}

/// Checks that a text holds only the placeholders that its type takes.
pub(super) fn check_placeholders(
    ty: &Type,
    text: &str,
    node: &Node,
    path: &str,
) -> Result<(), Diagnostic> {
    for name in placeholders(text) {
        let secret = name.starts_with("env:");
        if secret != matches!(ty, Type::Secret) {
            let hint = if secret {
                "secrets may stand in `environment` and a server's `key` only, so that they never reach a \
                 key or a log"
            } else {
                "`${in.…}` and `${out.…}` may stand in `command` only"
            };
            return Err(Diagnostic::at(
                node.span.clone(),
                format!("`{path}` may not hold `${{{name}}}`"),
            )
            .hint(hint));
        }
    }
    Ok(())
}
