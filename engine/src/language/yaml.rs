//! The YAML tree of a workflow, with the place of every value.
//!
//! Events come from `saphyr-parser`; plain scalars are typed by `serde_yaml`, so that `yes`, `1e3` or `~` mean
//! here what they mean in all other YAML that Refrain reads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::language::diagnostic::{Diagnostic, Span};
use crate::language::scalar::canonical;

/// The largest workflow, in bytes.
pub const MAX_BYTES: usize = 16 << 20;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// The largest number of nodes after aliases are expanded.
pub const MAX_NODES: usize = 4_000_000;

/// The longest plain scalar that is read as a number, in bytes. A longer text, read as a document, may be a bomb.
const MAX_TYPED: usize = 1024;

/// The file, or the part of one, whose names and folder a value was written with; by its number in
/// [`Workflow::scopes`](crate::language::workflow::Workflow::scopes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ScopeId(pub u32);

impl ScopeId {
    /// The workflow's own file.
    pub const ROOT: ScopeId = ScopeId(0);

    /// Returns the number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Place among the files of the workflow, in bytes.
    pub span: Span,
    /// The names that it may use; it keeps them where a param hands it on.
    pub scope: ScopeId,
    /// The value.
    pub value: Yaml,
}

/// The spelling of a plain scalar where it is not the canonical one: `3.10`, `1e3`, `.inf`, `True`.
///
/// The value decides wherever a number or a truth value is wanted, the spelling wherever text is.
pub type Spelling = Option<Arc<str>>;

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// `null`, `~` or nothing.
    Null,
    /// A `null` that came from a param or an axis: the value is as good as not written.
    Absent,
    /// `true` or `false`.
    Bool(bool, Spelling),
    /// A whole number.
    Int(i64, Spelling),
    /// Any other number.
    Float(f64, Spelling),
    /// Text.
    Text(String),
    /// Text that still holds `${in.…}`, `${out.…}` or `${env:…}`; in it, `$${` stands for `${`.
    Deferred(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Place in the file, in bytes.
    pub span: Span,
    /// The key.
    pub text: String,
}

impl Node {
    /// A value of the workflow's own file.
    pub fn new(span: Span, value: Yaml) -> Node {
        Node { span, scope: ScopeId::ROOT, value }
    }

    /// Makes a value that nobody wrote, and puts it where another one stands.
    pub fn from_json(json: &serde_json::Value, span: &Span, scope: ScopeId) -> Node {
        use serde_json::Value;
        let inner = |json| Node::from_json(json, span, scope);
        let value = match json {
            Value::Null => Yaml::Null,
            Value::Bool(b) => Yaml::Bool(*b, None),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Yaml::Int(whole, None),
                None => Yaml::Float(number.as_f64().unwrap_or(f64::NAN), None),
            },
            Value::String(text) => Yaml::Text(text.clone()),
            Value::Array(items) => Yaml::List(items.iter().map(inner).collect()),
            Value::Object(entries) => {
                let key = |text: &String| Key { span: span.clone(), text: text.clone() };
                Yaml::Map(entries.iter().map(|(name, json)| (key(name), inner(json))).collect())
            }
        };
        Node { span: span.clone(), scope, value }
    }

    /// Moves the value, with all that is in it, to another place and scope.
    pub fn moved(&mut self, by: usize, scope: ScopeId) {
        self.span = self.span.start + by..self.span.end + by;
        self.scope = scope;
        match &mut self.value {
            Yaml::List(items) => items.iter_mut().for_each(|item| item.moved(by, scope)),
            Yaml::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
                key.span = key.span.start + by..key.span.end + by;
                value.moved(by, scope);
            }),
            _ => {}
        }
    }

    /// Counts the values in the value, itself included.
    pub fn size(&self) -> usize {
        size(self).0
    }

    /// Returns the entry of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.text == key).map(|(_, v)| v)
    }

    /// Returns the entries of a mapping; none of another value.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Yaml::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Names the type of the value, for people.
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Yaml::Null | Yaml::Absent => "nothing",
            Yaml::Bool(..) => "true or false",
            Yaml::Int(..) | Yaml::Float(..) => "a number",
            Yaml::Text(_) | Yaml::Deferred(_) => "text",
            Yaml::List(_) => "a list",
            Yaml::Map(_) => "a mapping",
        }
    }

    /// Returns a scalar as it was written; `None` for `null`, lists and mappings.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        let spelling = match &self.value {
            Yaml::Text(text) | Yaml::Deferred(text) => return Some(text.into()),
            Yaml::Bool(_, spelling) | Yaml::Int(_, spelling) | Yaml::Float(_, spelling) => spelling,
            Yaml::Null | Yaml::Absent | Yaml::List(_) | Yaml::Map(_) => return None,
        };
        Some(match spelling {
            Some(written) => Cow::Borrowed(&**written),
            None => canonical(&self.to_json()).into(),
        })
    }

    /// Converts the value to JSON without its spans.
    ///
    /// JSON has no infinity: `.inf`, `-.inf` and `.nan` become the texts `inf`, `-inf` and `nan`.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.value {
            Yaml::Null | Yaml::Absent => Value::Null,
            Yaml::Bool(b, _) => Value::Bool(*b),
            Yaml::Int(i, _) => Value::from(*i),
            Yaml::Float(f, _) => match serde_json::Number::from_f64(*f) {
                Some(number) => Value::Number(number),
                None => Value::String(f.to_string().to_lowercase()),
            },
            Yaml::Text(t) | Yaml::Deferred(t) => Value::String(t.clone()),
            Yaml::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Yaml::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect())
            }
        }
    }
}

/// Parses one document.
pub fn parse(text: &str) -> Result<Node, Diagnostic> {
    if text.len() > MAX_BYTES {
        return Err(Diagnostic::general(format!(
            "the workflow is larger than {} MB",
            MAX_BYTES >> 20
        )));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // YAML's printable characters; the parser lets others pass.
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    if let Some((at, c)) = text.char_indices().find(|(_, c)| control(*c)) {
        let message = format!("control character `{}` in YAML", c.escape_default());
        return Err(Diagnostic::at(at..at + c.len_utf8(), message)
            .hint("inside double quotes it can be written as `\\x..`"));
    }
    Builder::new(text).document()
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Byte offset of every character; `None` when the text is ASCII and both are the same.
    bytes: Option<Vec<usize>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Builder<'a> {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(i, _)| i).collect());
        Builder {
            text,
            parser: Parser::new_from_str(text),
            bytes,
            anchors: HashMap::new(),
            nodes: 0,
        }
    }

    fn byte(&self, character: usize) -> usize {
        match &self.bytes {
            None => character.min(self.text.len()),
            Some(bytes) => bytes.get(character).copied().unwrap_or(self.text.len()),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next() {
            Some(Ok((event, span))) => {
                let span = self.byte(span.start.index())..self.byte(span.end.index());
                Ok((event, span))
            }
            Some(Err(error)) => {
                let at = self.byte(error.marker().index());
                Err(Diagnostic::at(at..at, format!("this is not YAML: {}", error.info())))
            }
            None => Err(Diagnostic::general("the workflow ends in the middle")),
        }
    }

    fn document(mut self) -> Result<Node, Diagnostic> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => {
                    return Err(Diagnostic::general("the workflow is empty")
                        .hint("a workflow begins with `refrain: 1`, a `name` and `stages`"));
                }
                (event, span) => {
                    let node = self.node(event, span, 0)?;
                    return self.end(node);
                }
            }
        }
    }

    fn end(&mut self, node: Node) -> Result<Node, Diagnostic> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(node),
                (Event::DocumentStart(_), span) => {
                    return Err(Diagnostic::at(span, "a workflow is one YAML document")
                        .hint("remove the `---` and what follows it"));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::at(
                span,
                format!("the workflow has more than {MAX_NODES} values"),
            ));
        }
        if depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(tag) = tag {
                    return Err(tagged(&tag.to_string(), &text, span));
                }
                let value = match style {
                    ScalarStyle::Plain => plain(&text).map_err(|m| {
                        Diagnostic::at(span.clone(), m).hint("put it between quotes if it is text")
                    })?,
                    _ => Yaml::Text(text.into()),
                };
                (Node::new(span, value), anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(span, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(span, depth)?, anchor),
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned().ok_or_else(|| {
                    Diagnostic::at(span.clone(), "an alias inside the value that it names")
                })?;
                let (nodes, levels) = size(&node);
                self.nodes += nodes;
                // One alias inside another would nest without end, while each of them is flat.
                if depth + levels > MAX_DEPTH {
                    return Err(too_deep(span));
                }
                (Node { span, ..node }, 0)
            }
            _ => return Err(Diagnostic::at(span, "a value is missing here")),
        };
        if anchor != 0 {
            // The value of an anchor is a copy, and one in another is copied at each level.
            self.nodes += size(&node).0;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<Node, Diagnostic> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, end) => {
                    let span = self.trim(start.start..end.end);
                    return Ok(Node::new(span, Yaml::List(items)));
                }
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<Node, Diagnostic> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut places: HashMap<String, Span> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let span = self.trim(start.start..span.end);
                return Ok(Node::new(span, Yaml::Map(entries)));
            }
            let Event::Scalar(text, style, _, _) = event else {
                return Err(Diagnostic::at(span, "a key must be text"));
            };
            if text == "<<" && style == ScalarStyle::Plain {
                return Err(Diagnostic::at(span, "merge keys (`<<`) are not part of the language")
                    .hint("write the keys out, or put what is shared into `params`"));
            }
            let key = Key { text: text.into_owned(), span: span.clone() };
            if places.insert(key.text.clone(), span).is_some() {
                return Err(Diagnostic::at(key.span, format!("duplicate key `{}`", key.text))
                    .hint("remove one of them"));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push((key, value));
        }
    }

    /// A block's span ends at the start of what follows; take the blank lines and indentation off.
    fn trim(&self, span: Span) -> Span {
        let text = self.text.get(span.clone()).unwrap_or("");
        span.start..span.start + text.trim_end().len()
    }
}

/// The problem of a value with a tag; `!function` names Python code in the files of other tools.
fn tagged(tag: &str, text: &str, span: Span) -> Diagnostic {
    if tag != "!function" {
        return Diagnostic::at(span, format!("YAML tags such as `{tag}` are not used here"));
    }
    let message = format!("`!function {text}` is Python code, which is not run here");
    Diagnostic::at(span, message)
        .hint("compute the column that it makes before, for example by a `run` stage, and name it")
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::at(span, format!("nested deeper than {MAX_DEPTH} levels"))
}

/// The number of values in a value, itself included, and the levels below it.
fn size(node: &Node) -> (usize, usize) {
    let below: &mut dyn Iterator<Item = &Node> = match &node.value {
        Yaml::List(items) => &mut items.iter(),
        Yaml::Map(entries) => &mut entries.iter().map(|(_, value)| value),
        _ => return (1, 0),
    };
    below.map(size).fold((1, 0), |(n, levels), (more, deep)| (n + more, levels.max(deep + 1)))
}

/// Types a plain scalar as the YAML 1.2 core schema does; the error is a number that nothing can hold.
fn plain(text: &str) -> Result<Yaml, String> {
    if let Some(number) = canonical_whole_number(text) {
        return Ok(Yaml::Int(number, None));
    }
    let first = text.bytes().next().unwrap_or(b'~');
    let may_be_typed = first.is_ascii_digit() || b"~+-.nNtTfF".contains(&first);
    let may_be_typed = may_be_typed && text.len() <= MAX_TYPED;
    let as_text = || Yaml::Text(text.to_string());
    if !may_be_typed {
        return Ok(as_text());
    }
    let typed = match serde_yaml::from_str::<serde_yaml::Value>(text) {
        // To a whole document some texts are more than a scalar: `---` begins an empty one.
        Ok(serde_yaml::Value::Null) if matches!(text, "" | "~" | "null" | "Null" | "NULL") => {
            return Ok(Yaml::Null);
        }
        Ok(serde_yaml::Value::Bool(b)) => Yaml::Bool(b, None),
        Ok(serde_yaml::Value::Number(n)) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Yaml::Int(i, None),
            (None, Some(f)) => Yaml::Float(f, None),
            (None, None) => return Ok(as_text()),
        },
        Err(_) if is_whole_number(text) => {
            return Err(format!("`{text}` is too large for a whole number"));
        }
        _ => return Ok(as_text()),
    };
    Ok(spelled(typed, text))
}

/// Reads the commonest scalar, a whole number in its canonical spelling, without a parser of documents.
fn canonical_whole_number(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// Keeps the spelling of a number or a truth value, unless it is the canonical one.
fn spelled(value: Yaml, text: &str) -> Yaml {
    let node = Node::new(0..0, value);
    let spelling = (node.text().as_deref() != Some(text)).then(|| text.into());
    match node.value {
        Yaml::Bool(b, _) => Yaml::Bool(b, spelling),
        Yaml::Int(i, _) => Yaml::Int(i, spelling),
        Yaml::Float(f, _) => Yaml::Float(f, spelling),
        other => other,
    }
}

/// Whether a text is a whole number: decimal, `0x…` or `0o…`.
fn is_whole_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits =
        |digits: &str, radix| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    match (unsigned.strip_prefix("0x"), unsigned.strip_prefix("0o")) {
        (Some(hex), _) => digits(hex, 16),
        (_, Some(octal)) => digits(octal, 8),
        _ => digits(unsigned, 10),
    }
}

/// Parses the value of a `--set NAME=VALUE`, typed like a value in a workflow.
pub fn parse_value(text: &str) -> Result<Node, Diagnostic> {
    if text.trim().is_empty() {
        return Ok(Node::new(0..0, Yaml::Text(String::new())));
    }
    let mut node = parse(text)?;
    clear_spans(&mut node);
    Ok(node)
}

fn clear_spans(node: &mut Node) {
    node.span = 0..0;
    match &mut node.value {
        Yaml::List(items) => items.iter_mut().for_each(clear_spans),
        Yaml::Map(entries) => entries.iter_mut().for_each(|(_, v)| clear_spans(v)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().message
    }

    #[test]
    fn values_are_typed_and_placed() {
        let node = parse("a: 1\nü: [2.5, no, \"3\", ~, 1e3]\n").unwrap();
        assert_eq!(node.get("a").unwrap().value, Yaml::Int(1, None));
        let Yaml::List(items) = &node.get("ü").unwrap().value else { panic!("not a list") };
        let values: Vec<_> = items.iter().map(|n| n.value.clone()).collect();
        assert_eq!(
            values,
            [
                Yaml::Float(2.5, None),
                Yaml::Text("no".into()),
                Yaml::Text("3".into()),
                Yaml::Null,
                Yaml::Float(1000.0, Some("1e3".into()))
            ]
        );
        assert_eq!(items[0].span, 10..13);
    }

    #[test]
    fn a_scalar_keeps_its_spelling_and_is_never_lost() {
        for (written, json) in [
            ("3.10", "3.1"),
            ("1.0", "1.0"),
            ("7e10", "70000000000.0"),
            ("+1", "1"),
            ("0x1F", "31"),
            (".inf", "\"inf\""),
            ("-.INF", "\"-inf\""),
            (".NaN", "\"nan\""),
            ("True", "true"),
        ] {
            let node = parse(written).unwrap();
            assert_eq!(node.text().as_deref(), Some(written));
            assert_eq!(node.to_json().to_string(), json, "{written}");
        }
        for canonical in ["0.1", "-2", "true"] {
            let value = parse(canonical).unwrap().value;
            let spelling = match &value {
                Yaml::Bool(_, spelling) | Yaml::Int(_, spelling) | Yaml::Float(_, spelling) => {
                    spelling
                }
                _ => panic!("`{canonical}` has no type"),
            };
            assert_eq!(*spelling, None, "{canonical}");
        }
        assert_eq!(parse("null").unwrap().text(), None);
    }

    #[test]
    fn what_the_language_excludes_is_refused() {
        assert!(error("a: 1\na: 2\n").contains("duplicate key"));
        assert!(error("a: &x {b: 1}\nc:\n  <<: *x\n").contains("merge keys"));
        assert!(error("a: 1\n---\nb: 2\n").contains("one YAML document"));
        assert!(
            error(&format!("{}1{}", "[".repeat(70), "]".repeat(70))).contains("deeper than 64")
        );
        assert!(error("a: [1, 2").contains("not YAML"));
        assert!(error("").contains("empty"));
        assert!(error("a: !!python/object:os.system x\n").contains("tags"));
    }

    #[test]
    fn what_only_looks_like_a_value_is_text_or_refused() {
        assert_eq!(parse("a: ---\n").unwrap().get("a").unwrap().value, Yaml::Text("---".into()));
        for number in ["18446744073709551616", "-9223372036854775809", "0xfffffffffffffffff"] {
            assert!(error(&format!("a: {number}\n")).contains("too large"), "{number}");
            assert!(parse(&format!("a: '{number}'\n")).is_ok());
        }
        assert!(error("a: b\u{7}\n").contains("control character `\\u{7}`"));
    }

    #[test]
    fn an_alias_bomb_is_bounded() {
        let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(error(&text).contains("more than"));
    }
}
