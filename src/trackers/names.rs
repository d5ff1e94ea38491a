//! Names in a store: what a file system or a tracker does not take is replaced.

use refrain_cache::Digest;

/// Bytes of the longest part of a name.
const LONGEST: usize = 100;

/// Makes a name out of characters that every tracker and file system takes. A name that loses
/// something is told from others by a part of its digest.
pub fn safe(name: &str, allowed: &str) -> String {
    let takes = |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
    let plain: String = name.chars().map(|c| if takes(c) { c } else { '_' }).collect();
    let only_dots = plain.bytes().all(|byte| byte == b'.');
    if plain == name && plain.len() <= LONGEST && !only_dots {
        return plain;
    }
    let cut: String =
        plain.chars().take(LONGEST).map(|c| if only_dots { '_' } else { c }).collect();
    format!("{cut}-{}", Digest::of_bytes(name.as_bytes()).short())
}

/// As [`safe`] for each part between slashes.
pub fn safe_path(name: &str, allowed: &str) -> String {
    let parts: Vec<String> = name.split('/').map(|part| safe(part, allowed)).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_loses_something_is_told_from_others() {
        assert_eq!(safe("tuned[arm=masked]", "[=]"), "tuned[arm=masked]");
        assert!(safe("a b", "").starts_with("a_b-"));
        assert_ne!(safe("a b", ""), safe("a_b", ""));
        assert_ne!(safe("a b", ""), safe("a/b", ""));
        assert_eq!(safe_path("train/loss", "_"), "train/loss");
        // Nothing leads out of a folder, and no name is empty.
        for name in ["..", ".", "", "../x", "/x", "a/../b"] {
            let path = safe_path(name, ".");
            let leads_out = |part: &str| part.is_empty() || part.bytes().all(|byte| byte == b'.');
            assert!(!path.split('/').any(leads_out), "{name}: {path}");
        }
        assert!(safe(&"x".repeat(300), "").len() < 130);
    }
}
