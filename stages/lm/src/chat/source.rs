//! A template's source, brought from Python's Jinja to the dialect of our engine.

/// The filter that stands in for a percent operator after a text.
pub(super) const PERCENT: &str = "python_percent";

/// Deepest nesting of percent operators that is rewritten.
const DEPTH: usize = 32;

/// Rewrites what the engine lacks: the blocks `generation`, which only mark the assistant's tokens,
/// and the percent operator after a text. Line ends become line feeds, as Python's Jinja makes
/// them.
pub fn translate(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut result = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        result.push_str(text);
        let close = match tag.as_bytes().get(1) {
            Some(b'#') => "#}",
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            _ => {
                result.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let end =
            if close == "#}" { tag.find(close) } else { end_of(&tag[2..], close).map(|at| at + 2) };
        // An open tag is an error, which the engine reports.
        let Some(end) = end else { break };
        let (inside, after) = (&tag[2..end], &tag[end..]);
        result.push_str(&tag[..2]);
        if close == "#}" {
            result.push_str(inside);
        } else if close == "%}" && word(inside) == "raw" {
            let length = end_of_raw(after);
            result.push_str(inside);
            result.push_str(&after[..length]);
            rest = &after[length..];
            continue;
        } else if close == "%}" && is_alone(inside, "generation") {
            result.push_str(&inside.replacen("generation", "if true", 1));
        } else if close == "%}" && is_alone(inside, "endgeneration") {
            result.push_str(&inside.replacen("endgeneration", "endif", 1));
        } else {
            result.push_str(&expression(inside, 0));
        }
        result.push_str(close);
        rest = &after[2..];
    }
    result.push_str(rest);
    result
}

/// The first word of a tag.
fn word(inside: &str) -> &str {
    let body = inside.trim_start_matches(['-', '+']).trim_start();
    body.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Whether a tag is that word and nothing else.
fn is_alone(inside: &str, name: &str) -> bool {
    inside.trim_matches(['-', '+']).trim() == name
}

/// Finds the end of a tag's content: `close` outside of texts and brackets.
fn end_of(inside: &str, close: &str) -> Option<usize> {
    let mut at = 0;
    let mut depth = 0usize;
    while at < inside.len() {
        let rest = &inside[at..];
        if rest.starts_with(close) && (depth == 0 || close == "%}") {
            return Some(at);
        }
        at += match rest.as_bytes()[0] {
            b'\'' | b'"' => text_length(rest),
            b'{' => {
                depth += 1;
                1
            }
            b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    None
}

/// Length up to the content's end of a raw block, from the close of its first tag.
fn end_of_raw(after: &str) -> usize {
    let mut from = 0;
    while let Some(at) = after[from..].find("{%") {
        let tag = from + at;
        if word(&after[tag + 2..]) == "endraw" {
            return after[tag..].find("%}").map_or(after.len(), |length| tag + length + 2);
        }
        from = tag + 2;
    }
    after.len()
}

/// Length of a text in quotes, these included.
fn text_length(rest: &str) -> usize {
    let quote = rest.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Rewrites `'text' % operand` as a filter, which binds as strongly; operands within operands up to
/// [`DEPTH`].
fn expression(inside: &str, depth: usize) -> String {
    if depth == DEPTH {
        return inside.to_owned();
    }
    let mut result = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = rest.find(['\'', '"']) {
        let end = at + text_length(&rest[at..]);
        result.push_str(&rest[..end]);
        rest = &rest[end..];
        let Some(operand) = rest.trim_start().strip_prefix('%') else { continue };
        let operand = operand.trim_start();
        let length = operand_length(operand);
        if length == 0 {
            continue;
        }
        let (operand, after) = operand.split_at(length);
        let items = tuple(operand);
        let items = items.unwrap_or(operand).trim_end().trim_end_matches(',');
        let arguments = expression(items, depth + 1);
        result.push_str(&format!("|{PERCENT}({arguments})"));
        rest = after;
    }
    result.push_str(rest);
    result
}

/// The content of a tuple: brackets around the whole, with a comma in them.
fn tuple(operand: &str) -> Option<&str> {
    let inner = operand.strip_prefix('(')?.strip_suffix(')')?;
    let whole = bracket_length(operand) == operand.len();
    let mut at = 0;
    while whole && at < inner.len() {
        let rest = &inner[at..];
        at += match rest.as_bytes()[0] {
            b',' => return Some(inner),
            b'(' | b'[' | b'{' => bracket_length(rest),
            b'\'' | b'"' => text_length(rest),
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    None
}

/// Length of the value that stands after an operator, with its attributes, calls and filters.
fn operand_length(rest: &str) -> usize {
    let Some(first) = rest.chars().next() else { return 0 };
    let mut at = match first {
        '(' | '[' | '{' => bracket_length(rest),
        '\'' | '"' => text_length(rest),
        c if c.is_alphanumeric() || c == '_' => name_length(rest),
        _ => return 0,
    };
    loop {
        let tail = &rest[at..];
        let spaces = tail.len() - tail.trim_start().len();
        at += match tail.trim_start().chars().next() {
            Some('[' | '(') if spaces == 0 => bracket_length(tail),
            Some('.') if spaces == 0 => 1 + name_length(&tail[1..]),
            Some('|') => {
                let name = &tail[spaces + 1..];
                let before = name.len() - name.trim_start().len();
                spaces + 1 + before + name_length(name.trim_start())
            }
            _ => return at,
        };
    }
}

fn name_length(rest: &str) -> usize {
    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

/// Length of a bracket with all that is in it.
fn bracket_length(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        at += match here.as_bytes()[0] {
            b'\'' | b'"' => text_length(here),
            b'(' | b'[' | b'{' => {
                depth += 1;
                1
            }
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
                1
            }
            _ => here.chars().next().map_or(1, char::len_utf8),
        };
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_lacks_is_rewritten_and_nothing_else() {
        for (source, expected) in [
            ("a\r\nb\rc", "a\nb\nc"),
            ("{{ '%s|%s' % (a, b) }}", "{{ '%s|%s'|python_percent(a, b) }}"),
            ("{{ '%s' % m['x'].y | trim }}", "{{ '%s'|python_percent(m['x'].y | trim) }}"),
            ("{{ '%s' % (a) ~ 1 }}", "{{ '%s'|python_percent((a)) ~ 1 }}"),
            ("{{ '%s' % (a,) }}", "{{ '%s'|python_percent(a) }}"),
            ("{{ '%s' % ('%d' % n, 1) }}", "{{ '%s'|python_percent('%d'|python_percent(n), 1) }}"),
            ("{{ n % 2 }}{% if i % 2 == 1 %}", "{{ n % 2 }}{% if i % 2 == 1 %}"),
            ("{% set x = 'a' %}{% set y = 'b' -%}", "{% set x = 'a' %}{% set y = 'b' -%}"),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
            ("{% set generation = 3 %}", "{% set generation = 3 %}"),
            ("{# '%s' % (a, b) #}", "{# '%s' % (a, b) #}"),
            (
                "{% raw %}{{ '%s' % (a, b) }}{% endraw %}",
                "{% raw %}{{ '%s' % (a, b) }}{% endraw %}",
            ),
            ("{{ {'a': {'b': '}}'}} }}", "{{ {'a': {'b': '}}'}} }}"),
            ("'%s' % (a, b) { x }", "'%s' % (a, b) { x }"),
        ] {
            assert_eq!(translate(source), expected, "{source}");
        }
    }

    /// Nested and unclosed to the hundred thousandth: in bounded time and depth.
    #[test]
    fn endless_nesting_is_passed_over() {
        for unit in ["'%s' % (", "{% raw %}{%", "{{ '", "{% if x", "{# ", "'a' % b|"] {
            translate(&format!("{{{{ {}", unit.repeat(100_000)));
            translate(&format!("{{{{ {} }}}}", unit.repeat(100_000)));
        }
    }

    #[test]
    fn broken_sources_pass_through() {
        for source in
            ["{{ 'a", "{% if x", "{", "{{", "{#", "{{ '%s' % ", "{{ '%s' % (", "{% raw %}{{"]
        {
            translate(source);
        }
        assert_eq!(translate("{{ 'a"), "{{ 'a");
    }
}
