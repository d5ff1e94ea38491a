//! Looks at the footer of a Parquet file before the library does, which walks the schema by recursion without a limit, and believes it.

use std::fs::File;
use std::io;
use std::io::{Read, Seek, SeekFrom};

/// Deepest nesting of a schema. A list takes two levels of it, so that lists may be nested thirty-two times.
const MAX_DEPTH: usize = 64;
/// Deepest nesting of the footer's own structures, which is a matter of the format.
const MAX_STRUCTURES: usize = 16;
/// What stands before the length of the footer and after it.
const MAGIC: &[u8; 4] = b"PAR1";

/// Refuses a file whose schema is nested too deep to be read, in words. What else is wrong is left to the library.
pub(super) fn check_depth(file: &File) -> io::Result<Result<(), String>> {
    let Some(footer) = read(file)? else { return Ok(Ok(())) };
    Ok(match (Footer { bytes: &footer }).schema_fits() {
        Some(true) => Ok(()),
        Some(false) => Err(format!("its schema is nested deeper than {MAX_DEPTH} levels")),
        None => Err("its footer is damaged".to_owned()),
    })
}

/// The footer's bytes; `None` where there is none.
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

/// A reader of Thrift's compact form; `None` is returned for what is none.
struct Footer<'a> {
    bytes: &'a [u8],
}

impl Footer<'_> {
    /// Whether every schema in the footer (there should be one, its second field) keeps to [`MAX_DEPTH`].
    fn schema_fits(&mut self) -> Option<bool> {
        let mut last = 0;
        while let Some((id, kind)) = self.field(&mut last)? {
            match (id, kind) {
                (2, 9) => {
                    if !self.elements_fit()? {
                        return Some(false);
                    }
                }
                _ => self.skip(kind, MAX_STRUCTURES)?,
            }
        }
        Some(true)
    }

    /// The schema's elements come depth first, each with the number of its children.
    fn elements_fit(&mut self) -> Option<bool> {
        let (count, kind) = self.list()?;
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

    /// The number of children of the next element, its fifth field.
    fn children(&mut self) -> Option<u64> {
        let (mut last, mut children) = (0, 0);
        while let Some((id, kind)) = self.field(&mut last)? {
            match (id, kind) {
                (5, 4..=6) => {
                    let number = self.varint()?;
                    // Zigzag: an odd number is negative, which is no number of children.
                    children = (number % 2 == 0).then_some(number / 2)?;
                }
                _ => self.skip(kind, MAX_STRUCTURES)?,
            }
        }
        Some(children)
    }

    /// The next field's number and type; `Some(None)` at the end of the structure.
    fn field(&mut self, last: &mut u64) -> Option<Option<(u64, u8)>> {
        let header = self.byte()?;
        if header == 0 {
            return Some(None);
        }
        *last = match header >> 4 {
            0 => self.varint()? / 2,
            step => last.checked_add(u64::from(step))?,
        };
        Some(Some((*last, header & 0xf)))
    }

    /// The number of a list's items, and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let count = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
        Some((count, header & 0xf))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.pass(8)?,
            8 => {
                let length = self.varint()?;
                self.pass(length)?;
            }
            9 | 10 => {
                let (count, kind) = self.list()?;
                for _ in 0..count {
                    self.item(kind, depth)?;
                }
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.item(kinds >> 4, depth)?;
                    self.item(kinds & 0xf, depth)?;
                }
            }
            12 => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// An item of a list or map: there a truth value has a byte of its own.
    fn item(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.byte().map(drop) } else { self.skip(kind, depth) }
    }

    fn pass(&mut self, count: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
