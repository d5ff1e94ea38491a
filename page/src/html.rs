//! The page as a whole: its head, its policy, its sections.

use std::fmt::Write;

use refrain_engine::report::page::Page;
use sha2::{Digest, Sha256};

use crate::escape::{Html, Named, OwnCode};
use crate::section::{head, sections};
use crate::style::STYLE;

const SCRIPT: &str = include_str!("page.js");

/// The use of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A file that stands alone.
    File,
    /// Served while a run is under way: the script asks for changes.
    Live,
}

/// Writes the page.
pub fn html(page: &Page, mode: Mode) -> String {
    let sections = sections(page);
    let mut html = Html::new();
    let live: Named<'_> = ("data-live", &"");
    let language: Named<'_> = ("lang", &"en");
    let attributes = if mode == Mode::Live { vec![language, live] } else { vec![language] };
    html.element("html", &attributes, |html| {
        html.element("head", &[], |html| {
            html.empty("meta", &[("charset", &"utf-8")]);
            let policy = content_security_policy(mode);
            html.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
            let width = "width=device-width, initial-scale=1";
            html.empty("meta", &[("name", &"viewport"), ("content", &width)]);
            html.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            html.empty("meta", &[("name", &"referrer"), ("content", &"no-referrer")]);
            // Without an icon of its own a browser asks the server for one.
            html.empty("link", &[("rel", &"icon"), ("href", &"data:,")]);
            html.leaf("title", &[], format!("{}: report", page.name));
            html.own_code(OwnCode::Style, STYLE);
        });
        html.element("body", &[], |html| {
            html.leaf("a", &[("class", &"skip"), ("href", &"#main")], "Skip to the content");
            html.element("nav", &[("aria-label", &"Sections")], |html| {
                html.element("ul", &[], |html| {
                    for section in &sections {
                        let to = format!("#{}", section.id);
                        html.element("li", &[], |html| {
                            html.leaf("a", &[("href", &to)], section.heading);
                        });
                    }
                });
                if mode == Mode::Live {
                    html.leaf("p", &[("id", &"live"), ("role", &"status")], "live");
                }
            });
            html.element("main", &[("id", &"main")], |html| {
                head(page, html);
                for section in &sections {
                    let title = format!("{}-title", section.id);
                    let attributes: [Named<'_>; 2] =
                        [("id", &section.id), ("aria-labelledby", &title)];
                    html.element("section", &attributes, |html| {
                        html.leaf("h2", &[("id", &title)], section.heading);
                        html.add(&section.content);
                    });
                }
            });
            html.own_code(OwnCode::Script, SCRIPT);
        });
    });
    html.into_document()
}

/// The policy of the page: its own style and script, known by their hashes, and nothing else.
pub fn content_security_policy(mode: Mode) -> String {
    let connect = match mode {
        Mode::File => "",
        Mode::Live => "; connect-src 'self'",
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'{connect}",
        base64(&Sha256::digest(STYLE)),
        base64(&Sha256::digest(SCRIPT)),
    )
}

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word = part.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for digit in 0..4 {
            match digit <= part.len() {
                true => text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63])),
                // Writing into a text cannot fail.
                false => drop(text.write_char('=')),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let encoded =
            ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|t| base64(t.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn own_code_cannot_end_its_element() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }
}
