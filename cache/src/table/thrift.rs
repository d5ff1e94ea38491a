//! A reader of Thrift's compact protocol, the encoding of Parquet's metadata; it trusts no item
//! count.

/// Deepest nesting of structures that are skipped, which is a matter of the format.
const MAX_STRUCTURES: usize = 16;

/// The unread bytes; methods return `None` if they are malformed.
pub(super) struct Thrift<'a> {
    pub bytes: &'a [u8],
}

impl Thrift<'_> {
    /// Reads the next field's number and type; `Some(None)` at the end of the structure.
    pub fn field(&mut self, last: &mut u64) -> Option<Option<(u64, u8)>> {
        let header = self.byte()?;
        if header == 0 {
            return Some(None);
        }
        *last = match header >> 4 {
            0 => self.id()?,
            step => *last + u64::from(step),
        };
        // The library has 16 bits for it: another field would be taken for this one.
        (*last <= i16::MAX as u64).then_some(Some((*last, header & 0xf)))
    }

    /// Reads an explicit field number. Zigzag: an odd one is negative, which no field has.
    fn id(&mut self) -> Option<u64> {
        let number = self.varint()?;
        (number % 2 == 0).then_some(number / 2)
    }

    /// Reads the number of a list's items, and their type.
    pub fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let count = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
        Some((count, header & 0xf))
    }

    /// Skips a value.
    pub fn skip(&mut self, kind: u8) -> Option<()> {
        self.skip_within(kind, MAX_STRUCTURES)
    }

    fn skip_within(&mut self, kind: u8, depth: usize) -> Option<()> {
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
                    self.skip_within(kind, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// An item of a list or map. There a truth value has a byte of its own, which the library
    /// forgets: it would step through two thousand million of them in no bytes, and take what
    /// follows for something else. No structure that is read here has such a list.
    fn item(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { None } else { self.skip_within(kind, depth) }
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

    /// Reads an unsigned number.
    pub fn varint(&mut self) -> Option<u64> {
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
