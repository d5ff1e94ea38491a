//! Markup that text cannot break: element text, attributes, SVG text and JSON are escaped where
//! they are written.

use std::fmt::Write;

use serde_json::Value;

/// Markup. Elements and attributes have names of this program; everything else in it was escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

/// A value of an attribute.
pub trait Attribute {
    /// Writes the value, escaped.
    fn write(&self, markup: &mut String);
}

/// An attribute: its name and its value.
pub type Named<'a> = (&'static str, &'a dyn Attribute);

impl Html {
    /// Markup without anything in it.
    pub fn new() -> Html {
        Html::default()
    }

    /// Writes an element with its content.
    pub fn element(
        &mut self,
        name: &'static str,
        attributes: &[Named<'_>],
        content: impl FnOnce(&mut Html),
    ) -> &mut Html {
        self.open(name, attributes);
        self.0.push('>');
        content(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
        self
    }

    /// Writes an element that holds a text alone.
    pub fn leaf(
        &mut self,
        name: &'static str,
        attributes: &[Named<'_>],
        text: impl AsRef<str>,
    ) -> &mut Html {
        self.element(name, attributes, |html| {
            html.text(text);
        })
    }

    /// Writes an element that cannot hold anything, of HTML or SVG.
    pub fn empty(&mut self, name: &'static str, attributes: &[Named<'_>]) -> &mut Html {
        self.open(name, attributes);
        self.0.push_str("/>");
        self
    }

    fn open(&mut self, name: &'static str, attributes: &[Named<'_>]) {
        self.0.push('<');
        self.0.push_str(name);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            value.write(&mut self.0);
            self.0.push('"');
        }
    }

    /// Writes text.
    pub fn text(&mut self, text: impl AsRef<str>) -> &mut Html {
        escape(text.as_ref(), &mut self.0);
        self
    }

    /// Writes other markup.
    pub fn add(&mut self, other: &Html) -> &mut Html {
        self.0.push_str(&other.0);
        self
    }

    /// Writes a style sheet or a script of this program.
    pub fn own_code(&mut self, element: OwnCode, code: &'static str) -> &mut Html {
        let (open, close) = match element {
            OwnCode::Style => ("<style>", "</style>"),
            OwnCode::Script => ("<script>", "</script>"),
        };
        self.0.push_str(open);
        self.0.push_str(code);
        self.0.push_str(close);
        self
    }

    /// Writes the style sheet of a picture that stands alone; it is made of this program's own.
    pub(crate) fn picture_style(&mut self) -> &mut Html {
        self.0.push_str("<style>");
        self.0.push_str(&crate::style::standalone());
        self.0.push_str("</style>");
        self
    }

    /// Writes a block of data for the script, in which no character could end it.
    pub fn data(&mut self, id: &'static str, value: &Value) -> &mut Html {
        self.element("script", &[("type", &"application/json"), ("id", &id)], |html| {
            for c in value.to_string().chars() {
                match c {
                    '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => push_unicode(c, &mut html.0),
                    c if is_hidden(c) => push_unicode(c, &mut html.0),
                    c => html.0.push(c),
                }
            }
        })
    }

    /// Returns the markup as a document that begins with its declaration.
    pub fn into_document(self) -> String {
        format!("<!doctype html>\n{}\n", self.0)
    }

    /// Returns the markup.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// The elements of this program's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCode {
    /// A style sheet.
    Style,
    /// A script.
    Script,
}

/// `\uXXXX`, as JSON has it, which a script shows as the character.
fn push_unicode(c: char, out: &mut String) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        // Writing into a text cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// Escapes a text for elements and quoted attributes of HTML, SVG and XML alike.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

/// A text whose hidden characters are shown, for data that the script writes as text.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

/// Whether a character has no shape of its own and could make a text read as another: controls,
/// those that turn the direction round, spaces of no width, tags, and those that no document may
/// hold.
pub fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => true,
        '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' => true,
        '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control(),
    }
}

impl Attribute for str {
    fn write(&self, markup: &mut String) {
        escape(self, markup);
    }
}

impl Attribute for &str {
    fn write(&self, markup: &mut String) {
        escape(self, markup);
    }
}

impl Attribute for String {
    fn write(&self, markup: &mut String) {
        escape(self, markup);
    }
}

impl Attribute for f64 {
    /// Coordinates: two decimals are finer than any screen.
    fn write(&self, markup: &mut String) {
        let rounded = (self * 100.0).round() / 100.0;
        // No coordinate is `-0`, infinite or undefined.
        let rounded = if rounded.is_finite() { rounded + 0.0 } else { 0.0 };
        // Writing into a text cannot fail.
        let _ = write!(markup, "{rounded}");
    }
}

impl Attribute for usize {
    fn write(&self, markup: &mut String) {
        // Writing into a text cannot fail.
        let _ = write!(markup, "{self}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "</script><img src=x onerror=\"alert('1')\">&amp;\u{202e}\u{0}\u{200b}";

    #[test]
    fn text_and_attributes_cannot_become_markup() {
        let mut html = Html::new();
        html.leaf("p", &[("title", &HOSTILE)], HOSTILE);
        let escaped = "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;\
                       &amp;amp;\\u{202e}\\u{0}\\u{200b}";
        assert_eq!(html.into_string(), format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn data_cannot_end_their_block_and_come_back_whole() {
        let value = json!([HOSTILE, "\u{2028}<!--", "\u{e0041}"]);
        let mut html = Html::new();
        html.data("d", &value);
        let text = html.into_string();
        let inside = text.strip_prefix("<script type=\"application/json\" id=\"d\">");
        let inside = inside.and_then(|text| text.strip_suffix("</script>")).expect("its block");
        assert!(!inside.contains(['<', '>', '&', '\u{2028}', '\u{202e}', '\u{e0041}']), "{inside}");
        assert_eq!(serde_json::from_str::<Value>(inside).expect("JSON"), value);
    }

    #[test]
    fn coordinates_are_short_and_finite() {
        let written = |value: f64| {
            let mut text = String::new();
            value.write(&mut text);
            text
        };
        assert_eq!(
            [1.0, 0.125, -0.001, f64::NAN, 1e9].map(written),
            ["1", "0.13", "0", "0", "1000000000"]
        );
    }

    #[test]
    fn joiners_of_letters_and_emoji_stay() {
        assert_eq!(visible("क्‍ष 👩‍🔬 שלום"), "क्‍ष 👩‍🔬 שלום");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
    }
}
