//! The steps of [`crate::write`] in a build without fault injection: nothing.

use std::io;
use std::io::Write;

use super::Needs;

/// Whether a fault is armed.
pub(super) const fn armed() -> bool {
    false
}

/// Runs before every step that puts no bytes into a file.
pub(super) const fn step(_needs: Needs) -> io::Result<()> {
    Ok(())
}

/// Puts bytes into a file with one write.
pub(super) fn write(mut file: impl Write, bytes: &[u8]) -> io::Result<usize> {
    file.write(bytes)
}
