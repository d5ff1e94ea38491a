//! Reads the text of an expression: numbers, metrics, operators, functions; each fault has its place.

use std::fmt::Write;
use std::ops::Range;

use crate::language::diagnostic::{listed, suggest};

use super::functions::{FUNCTIONS, GROUP};

/// The deepest nesting of parentheses.
const MAX_DEPTH: usize = 50;
/// The largest number of names, numbers and signs.
const MAX_WORDS: usize = 1000;

/// An expression that is read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scanned {
    /// The expression for minijinja: each metric is a variable, each number a float.
    pub code: String,
    /// The expression in one spelling, whatever the spaces in its text.
    pub canonical: String,
    /// The metrics in the order of their variables, each once, with the place where it is named first.
    pub metrics: Vec<(String, String, Range<usize>)>,
}

/// A fault of an expression, with its place in the text.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub at: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

/// Names the variable of a metric.
pub(super) fn variable(number: usize) -> String {
    format!("m{number}")
}

/// Reads an expression over the metrics of these stages, and over names that are bound to metrics.
///
/// Beside numbers and metrics it has `+`, `-`, `*`, `/`, parentheses and functions, and nothing else of what minijinja
/// would take: no text, no lists but a function's, no filters, no whole numbers.
pub(super) fn scan<'s, 't>(
    text: &'t str,
    stages: impl Iterator<Item = &'s str> + Clone,
    names: &'t [&'t str],
) -> Result<Scanned, Vec<Fault>> {
    let mut scanner = Scanner {
        text,
        names,
        at: 0,
        wants_value: true,
        signed: false,
        open: Vec::new(),
        words: 0,
        scanned: Scanned::default(),
        unknown: Vec::new(),
    };
    if let Err(fault) = scanner.all(stages) {
        scanner.unknown.push(fault);
    } else if scanner.scanned.metrics.is_empty() && scanner.unknown.is_empty() {
        let message = "the expression names no metric".to_string();
        scanner.unknown.push(Fault { at: 0..text.len(), message, hint: Some(example()) });
    }
    match scanner.unknown.is_empty() {
        true => Ok(scanner.scanned),
        false => Err(scanner.unknown),
    }
}

/// An open parenthesis.
struct Open {
    at: usize,
    /// The function before it; `None` where it groups.
    function: Option<&'static str>,
    arguments: usize,
    list: List,
}

/// Whether a function's numbers stand in brackets.
#[derive(PartialEq)]
enum List {
    None,
    Open,
    Closed,
}

struct Scanner<'t> {
    text: &'t str,
    /// Names that stand for metrics.
    names: &'t [&'t str],
    at: usize,
    /// Whether a value comes next, and not an operator.
    wants_value: bool,
    /// Whether the last word is a sign.
    signed: bool,
    open: Vec<Open>,
    words: usize,
    scanned: Scanned,
    /// Metrics of stages that do not exist; the expression is read on.
    unknown: Vec<Fault>,
}

impl<'t> Scanner<'t> {
    fn all<'s>(&mut self, stages: impl Iterator<Item = &'s str> + Clone) -> Result<(), Fault> {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            let Some(next) = self.rest().chars().next() else { return self.end() };
            self.words += 1;
            if self.words > MAX_WORDS {
                let message = format!("the expression has more than {MAX_WORDS} names and signs");
                return Err(self.fault(next.len_utf8(), message));
            }

            let signed = std::mem::take(&mut self.signed);
            match (self.wants_value, next) {
                (true, '0'..='9' | '.') => self.number()?,
                (true, 'a'..='z' | 'A'..='Z' | '_') => self.name(stages.clone())?,
                (true, '-') => self.sign(signed)?,
                (true, '(') => self.enter(self.at, None, GROUP)?,
                (true, '[') if self.may_list() => self.list(List::Open, true),
                (false, '+' | '-' | '*' | '/') => self.operator(next)?,
                (false, ',') if self.takes_more() => {
                    self.take(1, ",");
                    self.wants_value = true;
                    if let Some(open) = self.open.last_mut() {
                        open.arguments += 1;
                    }
                }
                (false, ']') if self.list_is(&List::Open) => self.list(List::Closed, false),
                (false, ')') if !self.list_is(&List::Open) => self.leave()?,
                _ => return Err(self.misplaced(next)),
            }
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// A fault of the next bytes.
    fn fault(&self, length: usize, message: impl Into<String>) -> Fault {
        Fault { at: self.at..self.at + length, message: message.into(), hint: None }
    }

    /// Passes over bytes that stand for `code`, in both spellings.
    fn take(&mut self, length: usize, code: &str) {
        self.at += length;
        for text in [&mut self.scanned.code, &mut self.scanned.canonical] {
            let _ = write!(text, "{code} ");
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| rest[from..].iter().take_while(|c| c.is_ascii_digit()).count();
        let mut length = digits(0);
        if rest.get(length) == Some(&b'.') {
            length += 1 + digits(length + 1);
        }
        if matches!(rest.get(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(length + 1), Some(b'+' | b'-')));
            if digits(length + 1 + sign) > 0 {
                length += 1 + sign + digits(length + 1 + sign);
            }
        }

        let written = &self.rest()[..length];
        let number = written.parse::<f64>().ok().filter(|number| number.is_finite());
        let Some(number) = number else {
            return Err(self.fault(length, format!("`{written}` is not a number")));
        };
        self.take(length, &format!("{number:?}"));
        self.wants_value = false;
        Ok(())
    }

    /// Reads a metric or the beginning of a function's call.
    fn name<'s>(&mut self, stages: impl Iterator<Item = &'s str> + Clone) -> Result<(), Fault> {
        let name = word(self.rest(), true);
        let behind = &self.rest()[name.len()..];
        if behind.trim_start().starts_with('(') {
            return self.call(name, behind.len() - behind.trim_start().len());
        }

        if self.names.contains(&name) && !behind.starts_with('.') {
            self.variable(name, "", self.at..self.at + name.len());
            return Ok(());
        }

        let metric = behind.strip_prefix('.').map(|rest| word(rest, false).trim_end_matches('-'));
        let Some(metric) = metric.filter(|metric| !metric.is_empty()) else {
            let fault = self.fault(name.len(), format!("`{name}` is not a metric"));
            let hint = match stages.clone().any(|stage| stage == name) {
                true => format!("name one of the stage's metrics: `{name}.METRIC`"),
                false if self.names.iter().any(|bound| name.contains(bound)) => {
                    "names may have `-` and `/` in them: put spaces around an operator".into()
                }
                false => "write `stage.metric`, for example `target.accuracy`".into(),
            };
            return Err(Fault { hint: Some(hint), ..fault });
        };
        let at = self.at..self.at + name.len() + 1 + metric.len();
        if self.text[at.end..].starts_with('.') {
            let fault = Fault { at, message: format!("`{metric}` is not a metric"), hint: None };
            return Err(match metric.contains('-') {
                true => Fault { hint: Some(SPACE.into()), ..fault },
                false => fault,
            });
        }

        self.metric(name, metric, at, stages);
        Ok(())
    }

    fn metric<'s>(
        &mut self,
        stage: &str,
        metric: &str,
        at: Range<usize>,
        stages: impl Iterator<Item = &'s str> + Clone,
    ) {
        if !stages.clone().any(|known| known == stage) {
            let message = format!("there is no stage `{stage}`");
            let hint = suggest(stage, stages, "stages are");
            self.unknown.push(Fault { at: at.clone(), message, hint });
        }

        self.variable(stage, metric, at);
    }

    /// Passes over a metric, or a name that is bound to one, for which `metric` is empty.
    fn variable(&mut self, stage: &str, metric: &str, at: Range<usize>) {
        let metrics = &mut self.scanned.metrics;
        let known = metrics.iter().position(|(s, m, _)| s == stage && m == metric);
        let number = known.unwrap_or_else(|| {
            metrics.push((stage.to_string(), metric.to_string(), at.clone()));
            metrics.len() - 1
        });
        self.at = at.end;
        let dot = if metric.is_empty() { "" } else { "." };
        let _ = write!(self.scanned.code, "{} ", variable(number));
        let _ = write!(self.scanned.canonical, "{stage}{dot}{metric} ");
        self.wants_value = false;
    }

    /// Reads `NAME(`, of which the parenthesis may stand apart.
    fn call(&mut self, name: &str, apart: usize) -> Result<(), Fault> {
        let Some((function, _)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            let fault = self.fault(name.len(), format!("there is no function `{name}`"));
            return Err(Fault { hint: suggest(name, names(), "functions are"), ..fault });
        };
        let at = self.at;
        self.at += name.len() + apart;
        self.enter(at, Some(function), function)
    }

    /// Opens a parenthesis; what it holds is checked by a function of its own.
    fn enter(
        &mut self,
        at: usize,
        function: Option<&'static str>,
        code: &str,
    ) -> Result<(), Fault> {
        if self.open.len() == MAX_DEPTH {
            let message = format!("the expression is nested more than {MAX_DEPTH} levels deep");
            return Err(self.fault(1, message));
        }
        self.open.push(Open { at, function, arguments: 1, list: List::None });
        self.take(1, &format!("{code}("));
        Ok(())
    }

    /// Closes a parenthesis.
    fn leave(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else {
            return Err(self.fault(1, "`)` closes nothing"));
        };
        if let Some(function) = open.function {
            let one = FUNCTIONS.iter().any(|(name, one)| *name == function && *one);
            if one && (open.arguments > 1 || open.list != List::None) {
                let at = open.at..self.at + 1;
                let message = format!("`{function}` takes one number");
                return Err(Fault { at, message, hint: None });
            }
        }
        self.take(1, ")");
        Ok(())
    }

    /// Reads a sign. A chain of them means nothing, and minijinja's parser would descend at each.
    fn sign(&mut self, signed: bool) -> Result<(), Fault> {
        if signed {
            return Err(self.fault(1, "a sign cannot follow another"));
        }
        self.take(1, "-");
        self.signed = true;
        Ok(())
    }

    fn operator(&mut self, operator: char) -> Result<(), Fault> {
        let doubled = &self.rest()[..2.min(self.rest().len())];
        if matches!(doubled, "**" | "//") || self.list_is(&List::Closed) {
            return Err(self.misplaced(operator));
        }
        self.take(1, &operator.to_string());
        self.wants_value = true;
        Ok(())
    }

    /// Whether a bracket may open here: directly behind the parenthesis of a function.
    fn may_list(&self) -> bool {
        let begins =
            |open: &Open| open.function.is_some() && open.arguments == 1 && open.list == List::None;
        self.open.last().is_some_and(begins) && self.scanned.code.ends_with("( ")
    }

    /// A list is its numbers: the brackets say nothing more.
    fn list(&mut self, list: List, wants_value: bool) {
        self.at += 1;
        self.wants_value = wants_value;
        if let Some(open) = self.open.last_mut() {
            open.list = list;
        }
    }

    fn list_is(&self, list: &List) -> bool {
        self.open.last().is_some_and(|open| open.list == *list)
    }

    fn takes_more(&self) -> bool {
        self.open.last().is_some_and(|open| open.function.is_some() && open.list != List::Closed)
    }

    /// The fault of what cannot stand here.
    fn misplaced(&self, next: char) -> Fault {
        let name = word(self.rest(), true);
        let sign: String = self.rest().chars().take_while(|c| "*/%<>=!&|^~".contains(*c)).collect();
        let (found, length) = match (name.len(), sign.len()) {
            (0, 0) => (next.to_string(), next.len_utf8()),
            (0, length) => (sign.clone(), length),
            (length, _) => (name.to_string(), length),
        };
        if !sign.is_empty() && !matches!(sign.as_str(), "*" | "/") {
            let fault = self.fault(length, format!("there is no operator `{sign}`"));
            let hint =
                format!("operators are `+`, `-`, `*`, `/`; functions are {}", listed(names()));
            return Fault { hint: Some(hint), ..fault };
        }
        let wanted = match self.wants_value {
            true => "a number or `stage.metric`",
            false => "an operator",
        };
        self.fault(length, format!("expected {wanted}, found `{found}`"))
    }

    /// Checks that the text may end.
    fn end(&mut self) -> Result<(), Fault> {
        if let Some(open) = self.open.last().filter(|_| !self.wants_value) {
            let message = match open.list {
                List::Open => "the list is not closed: `]` is missing",
                _ => "the parenthesis is not closed: `)` is missing",
            };
            return Err(Fault {
                at: open.at..self.text.len(),
                message: message.into(),
                hint: None,
            });
        }
        if self.wants_value {
            let message = match self.text.trim().is_empty() {
                true => "the expression is empty",
                false => "the expression ends where a number or `stage.metric` is expected",
            };
            return Err(Fault {
                at: 0..self.text.len(),
                message: message.into(),
                hint: Some(example()),
            });
        }
        let ends = [self.scanned.code.trim_end().len(), self.scanned.canonical.trim_end().len()];
        self.scanned.code.truncate(ends[0]);
        self.scanned.canonical.truncate(ends[1]);
        Ok(())
    }
}

const SPACE: &str = "names may have `-` in them: put a space before a minus";

fn example() -> String {
    "for example `100 * (tuned.accuracy / base.accuracy - 1)`".into()
}

/// Returns the hint at a name that nobody knows where a minus may be meant.
pub(crate) fn minus_hint<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let (first, _) = name.split_once('-')?;
    let mut known = known;
    known.any(|name| name == first).then(|| SPACE.to_string())
}

fn names() -> impl Iterator<Item = &'static str> + Clone {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// Returns the name at the start of a text; that of a stage may have a slash in it.
fn word(text: &str, stage: bool) -> &str {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || stage && c == '/';
    let end = text.find(|c| !inside(c)).unwrap_or(text.len());
    if first { &text[..end] } else { "" }
}
