//! The listing of a folder's files, line by line what `b3sum` prints.

use std::fmt::Write as _;

use super::Digest;

/// Computes the digest of a folder: BLAKE3 of the lines `HEX  PATH` that `b3sum` prints for its
/// files, sorted by the bytes of the path.
///
/// `files` holds paths relative to the folder, with `/` between names, in any order.
pub fn digest_listing(files: &[(String, Digest)]) -> Digest {
    Digest::of_bytes(listing_text(files).as_bytes())
}

/// Returns the lines of which [`digest_listing`] is the digest.
pub fn listing_text(files: &[(String, Digest)]) -> String {
    let mut sorted: Vec<&(String, Digest)> = files.iter().collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut listing = String::with_capacity(files.len() * 96);
    for (path, digest) in sorted {
        push_line(&mut listing, path, digest);
    }
    listing
}

/// Reads the lines that [`listing_text`] writes; `None` for any other text.
pub fn parse_listing(text: &str) -> Option<Vec<(String, Digest)>> {
    let mut files = Vec::new();
    for line in text.split_inclusive('\n') {
        let line = line.strip_suffix('\n')?;
        let (line, escaped) = match line.strip_prefix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (digest, path) = line.split_once("  ")?;
        let path = if escaped { unescape(path)? } else { path.to_owned() };
        files.push((path, digest.parse().ok()?));
    }
    // One folder has one listing.
    (listing_text(&files) == text).then_some(files)
}

/// Appends a line as `b3sum` prints it: a name with a backslash or a line break is escaped, and the
/// line then begins with a backslash.
fn push_line(listing: &mut String, path: &str, digest: &Digest) {
    let escaped = path.contains(['\\', '\n', '\r']);
    if escaped {
        listing.push('\\');
    }
    write!(listing, "{digest}  ").expect("writing into a string cannot fail");
    if escaped {
        listing.push_str(&path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"));
    } else {
        listing.push_str(path);
    }
    listing.push('\n');
}

/// Undoes the escapes of a name.
fn unescape(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}
