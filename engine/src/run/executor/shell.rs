//! Words in the language of a shell.

use std::ffi::OsStr;

/// Writes a word so that a shell reads it as it is.
pub(super) fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_encoded_bytes() {
        match byte {
            b'\'' => text.extend(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}
