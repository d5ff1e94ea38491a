//! The end of what a process prints, as it is shown to people: bounded, secrets masked, control
//! characters escaped.

use std::collections::VecDeque;

/// The mask of a secret.
const MASK: &str = "***";

/// The last bytes of a stream.
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Whether bytes before these were dropped.
    cut: bool,
}

impl Tail {
    pub fn new(capacity: usize) -> Tail {
        Tail { bytes: VecDeque::with_capacity(capacity), capacity, cut: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(self.capacity);
        self.cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    /// The text for people: secrets masked, control characters escaped.
    ///
    /// Where the start was cut off a secret may be cut in two. So one more byte than a secret can
    /// leave is not shown.
    pub fn show(&self, secrets: &[String], longest_secret: usize) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let secret = secret_bytes(&bytes, secrets);
        let start = if self.cut { longest_secret.min(bytes.len()) } else { 0 };
        let mut shown = String::new();
        let mut at = start;
        while at < bytes.len() {
            let end = at + secret[at..].iter().take_while(|s| **s == secret[at]).count();
            match secret[at] {
                true => shown.push_str(MASK),
                false => push_escaped(&mut shown, &String::from_utf8_lossy(&bytes[at..end])),
            }
            at = end;
        }
        shown
    }
}

/// Which bytes belong to a secret, overlapping ones included.
fn secret_bytes(bytes: &[u8], secrets: &[String]) -> Vec<bool> {
    let mut marks = vec![false; bytes.len()];
    for secret in secrets {
        for (start, window) in bytes.windows(secret.len()).enumerate() {
            if window == secret.as_bytes() {
                marks[start..start + window.len()].fill(true);
            }
        }
    }
    marks
}

fn push_escaped(shown: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, capacity: usize, secrets: &[&str]) -> String {
        let secrets: Vec<String> = secrets.iter().map(|s| s.to_string()).collect();
        let longest = secrets.iter().map(String::len).max().unwrap_or(0);
        let mut tail = Tail::new(capacity + longest);
        text.as_bytes().chunks(3).for_each(|chunk| tail.push(chunk));
        tail.show(&secrets, longest)
    }

    #[test]
    fn the_tail_is_bounded_and_hides_secrets_wherever_it_is_cut() {
        assert_eq!(shown("abcdef", 4, &[]), "cdef");
        assert_eq!(shown("a hunter2 b", 100, &["hunter2"]), "a *** b");
        assert_eq!(shown("abcbcd", 100, &["abc", "bcd"]), "***");
        for capacity in 1..30 {
            let text = shown("token=hunter2; token=hunter2; end", capacity, &["hunter2"]);
            assert!(!text.contains("r2") && text.ends_with('d'), "{text}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\x1b[31m\tb\n", 100, &[]), "a\\u{1b}[31m\tb\n");
    }
}
