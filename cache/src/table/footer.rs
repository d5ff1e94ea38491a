//! Checks the footer of a Parquet file before the library reads it, which walks the schema by
//! recursion without a limit, and trusts it.

use std::fs::File;
use std::io;
use std::io::{Read, Seek, SeekFrom};

use super::thrift::Thrift;

/// Deepest nesting of a schema. A list takes two levels of it, so that lists may be nested
/// thirty-two times.
const MAX_DEPTH: usize = 64;
/// The magic bytes at the end of a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// Returns the reason if a file's schema is nested too deep. All other faults are left to the
/// library.
pub(super) fn check_depth(file: &File) -> io::Result<Result<(), String>> {
    let Some(footer) = read(file)? else { return Ok(Ok(())) };
    Ok(match Footer(Thrift { bytes: &footer }).schema_fits() {
        Some(true) => Ok(()),
        Some(false) => Err(format!("its schema is nested deeper than {MAX_DEPTH} levels")),
        None => Err("its footer is damaged".to_owned()),
    })
}

/// Reads the footer's bytes; `None` if there is no footer.
fn read(mut file: &File) -> io::Result<Option<Vec<u8>>> {
    let size = file.metadata()?.len();
    if size < 12 {
        return Ok(None);
    }
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(size - 8))?;
    file.read_exact(&mut end)?;
    let [a, b, c, d, magic @ ..] = end;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if magic != *MAGIC || length > size - 8 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(size - 8 - length))?;
    let mut footer = vec![0; length as usize];
    file.read_exact(&mut footer)?;
    Ok(Some(footer))
}

/// The unread bytes of a footer; methods return `None` if they are malformed.
struct Footer<'a>(Thrift<'a>);

impl Footer<'_> {
    /// Whether every schema in the footer (there should be one, its second field) keeps to
    /// [`MAX_DEPTH`].
    fn schema_fits(&mut self) -> Option<bool> {
        let mut last = 0;
        while let Some((id, kind)) = self.0.field(&mut last)? {
            match (id, kind) {
                (2, 9) => {
                    if !self.elements_fit()? {
                        return Some(false);
                    }
                }
                _ => self.0.skip(kind)?,
            }
        }
        Some(true)
    }

    /// The schema's elements come depth first, each with the number of its children.
    fn elements_fit(&mut self) -> Option<bool> {
        let (count, kind) = self.0.list()?;
        // Of each element around the next one, how many children are still to come.
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..count {
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            let children = if kind == 12 { self.children()? } else { return None };
            if children > count {
                return None;
            }
            if children > 0 {
                open.push(children);
            }
            if open.len() > MAX_DEPTH {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Reads the number of children of the next element, its fifth field.
    fn children(&mut self) -> Option<u64> {
        let (mut last, mut children) = (0, 0);
        while let Some((id, kind)) = self.0.field(&mut last)? {
            match (id, kind) {
                (5, 4..=6) => {
                    let number = self.0.varint()?;
                    // Zigzag: an odd number is negative, which cannot be a number of children.
                    children = (number % 2 == 0).then_some(number / 2)?;
                }
                _ => self.0.skip(kind)?,
            }
        }
        Some(children)
    }
}
