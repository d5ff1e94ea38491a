//! Hashes a large file piece by piece on all cores, without mapping it and with little memory.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use super::{Digest, OnHashed};

/// Bytes that a core reads and then hashes at once: few enough to stay in its own cache. A power of
/// two, because the pieces are subtrees of the file's hash tree.
pub(super) const PIECE: u64 = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE as usize]);
}

/// Hashes the first `length` bytes of a file, more than one piece.
pub(super) fn digest(file: &File, length: u64, on_hashed: OnHashed<'_>) -> io::Result<Digest> {
    let (left, right) = halves(file, 0, length, on_hashed)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// Hashes the two subtrees below the one of `length` bytes at `offset`.
fn halves(
    file: &File,
    offset: u64,
    length: u64,
    on_hashed: OnHashed<'_>,
) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(
        || subtree(file, offset, left, on_hashed),
        || subtree(file, offset + left, length - left, on_hashed),
    );
    Ok((left?, right?))
}

fn subtree(
    file: &File,
    offset: u64,
    length: u64,
    on_hashed: OnHashed<'_>,
) -> io::Result<ChainingValue> {
    // Asked before anything is read: of two halves each is begun whatever became of the other.
    on_hashed(0)?;
    if length > PIECE {
        let (left, right) = halves(file, offset, length, on_hashed)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    BUFFER.with_borrow_mut(|buffer| {
        let piece = &mut buffer[..length as usize];
        file.read_exact_at(piece, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("it shrank while it was read"),
            _ => error,
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset).update(piece);
        on_hashed(length)?;
        Ok(hasher.finalize_non_root())
    })
}
