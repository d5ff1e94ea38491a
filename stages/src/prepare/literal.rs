//! Literals of Python, which templates of lists write: `['a', "b's"]`.

use serde_json::{Map, Value};

/// Deepest nesting.
const DEPTH: usize = 32;

/// Reads a literal as `ast.literal_eval` does; a tuple becomes a list. `None` of anything else.
pub(super) fn read(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.rest.trim().is_empty().then_some(value)
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    /// Takes a sign, with the white space before it.
    fn take(&mut self, sign: &str) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(sign);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth == DEPTH {
            return None;
        }
        if self.take("[") {
            return self.items("]", depth).map(|(items, _)| Value::Array(items));
        }
        if self.take("(") {
            let (mut items, commas) = self.items(")", depth)?;
            return if items.len() == 1 && !commas { items.pop() } else { Some(items.into()) };
        }
        if self.take("{") {
            return self.mapping(depth);
        }
        for (word, value) in [("None", Value::Null), ("True", true.into()), ("False", false.into())]
        {
            if self.take(word) {
                return Some(value);
            }
        }
        match self.rest.chars().next()? {
            quote @ ('\'' | '"') => self.text(quote).map(Value::String),
            _ => self.number(),
        }
    }

    /// Reads up to the closing bracket; whether there was a comma.
    fn items(&mut self, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        let (mut items, mut commas) = (Vec::new(), false);
        while !self.take(close) {
            if !items.is_empty() && !commas {
                return None;
            }
            items.push(self.value(depth + 1)?);
            if self.take(",") {
                commas = true;
            } else {
                return self.take(close).then_some((items, commas));
            }
        }
        Some((items, commas))
    }

    fn mapping(&mut self, depth: usize) -> Option<Value> {
        let mut entries = Map::new();
        while !self.take("}") {
            let Value::String(key) = self.value(depth + 1)? else { return None };
            if !self.take(":") {
                return None;
            }
            entries.insert(key, self.value(depth + 1)?);
            if !self.take(",") {
                return self.take("}").then_some(Value::Object(entries));
            }
        }
        Some(Value::Object(entries))
    }

    fn text(&mut self, quote: char) -> Option<String> {
        let mut out = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\n' => return None,
                '\\' => {
                    let (_, escape) = characters.next()?;
                    let digits = match escape {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        'n' | 'r' | 't' | '\\' | '\'' | '"' => {
                            out.push(match escape {
                                'n' => '\n',
                                'r' => '\r',
                                't' => '\t',
                                same => same,
                            });
                            continue;
                        }
                        _ => return None,
                    };
                    let mut code = 0;
                    for _ in 0..digits {
                        code = code * 16 + characters.next()?.1.to_digit(16)?;
                    }
                    out.push(char::from_u32(code)?);
                }
                _ if character == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(out);
                }
                _ => out.push(character),
            }
        }
        None
    }

    fn number(&mut self) -> Option<Value> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        let value = match number.parse::<i64>() {
            Ok(whole) => whole.into(),
            Err(_) if number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                Value::from(number.parse::<f64>().ok().filter(|number| number.is_finite())?)
            }
            Err(_) => return None,
        };
        self.rest = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, value) in [
            (r#"['a', "it's", 'x\n\'\u00e9\x41\\']"#, json!(["a", "it's", "x\n'éA\\"])),
            ("[]", json!([])),
            (" ( 1, -2.5 , None,) ", json!([1, -2.5, null])),
            ("(1)", json!(1)),
            ("[[True], {'k': [1]}]", json!([[true], { "k": [1] }])),
            ("'a'", json!("a")),
        ] {
            assert_eq!(read(text), Some(value), "{text}");
        }
        for text in
            ["[a]", "['a' 'b']", "['a'", "[,]", "f()", "['\\q']", "", "nan", &"[".repeat(99)]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
