//! Checks the page headers of a Parquet file before the library reads them, which steps through
//! lists of any promised length.

use std::fs::File;
use std::io;

use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::Thrift;
use crate::untrusted::fill_at;

/// Bytes that are read of a header at first: nearly all are shorter.
const FIRST: usize = 512;
/// Bytes of the longest header, which holds the least and the greatest value of its page.
const MOST: usize = 16 << 20;

/// Returns the reason if a page of a column has a malformed header. All other faults are left to
/// the library. The column must lie within the file.
pub(super) fn check_pages(
    file: &File,
    column: &ColumnChunkMetaData,
) -> io::Result<Result<(), String>> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset()) as u64;
    let end = start + column.compressed_size() as u64;
    let mut at = start;
    while at < end {
        let Some((header, content)) = page_at(file, at)? else {
            let path = column.column_path();
            return Ok(Err(format!(
                "a page of the column `{}` has a damaged header",
                path.string()
            )));
        };
        // A page without a size, or with one that leads out of the column, is the library's to
        // refuse.
        let Some(content) = content else { break };
        at += header as u64 + content;
    }
    Ok(Ok(()))
}

/// Returns the bytes of a page's header, and those of its content according to the header.
fn page_at(file: &File, at: u64) -> io::Result<Option<(usize, Option<u64>)>> {
    let mut bytes = vec![0; FIRST];
    loop {
        let read = fill_at(file, &mut bytes, at)?;
        let found = sizes(&bytes[..read]);
        if found.is_some() || read < bytes.len() || bytes.len() >= MOST {
            return Ok(found);
        }
        bytes.resize(bytes.len() * 8, 0);
    }
}

fn sizes(bytes: &[u8]) -> Option<(usize, Option<u64>)> {
    let mut header = Thrift { bytes };
    let (mut last, mut content) = (0, None);
    while let Some((id, kind)) = header.field(&mut last)? {
        match (id, kind) {
            (3, 5) => {
                let number = header.varint()?;
                // Zigzag: an odd number is negative, which cannot be a size.
                let size = (number % 2 == 0).then_some(number / 2);
                content = Some(size.filter(|size| *size <= i32::MAX as u64)?);
            }
            _ => header.skip(kind)?,
        }
    }
    Some((bytes.len() - header.bytes.len(), content))
}
