//! Tells the format and the compression of a source's files from their names and first bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use refrain_cache::open_plain;

/// The format of a source's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, file or stream.
    Arrow,
    /// A folder that Hugging Face `datasets` saved.
    Hf,
}

/// The words of `format` in a workflow.
pub(super) const WORDS: &[&str] = &["jsonl", "json", "csv", "tsv", "parquet", "arrow", "hf"];

const ALL: [Format; 7] = [
    Format::Jsonl,
    Format::Json,
    Format::Csv,
    Format::Tsv,
    Format::Parquet,
    Format::Arrow,
    Format::Hf,
];

/// The byte-order mark that some programs put before the text.
pub(super) const MARK: &[u8] = "\u{feff}".as_bytes();
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Formats that are known by their first bytes alone.
const BINARY: [(&[u8], Format); 3] = [
    (b"PAR1", Format::Parquet),
    (b"ARROW1", Format::Arrow),
    // The first message of a stream.
    (&[0xff; 4], Format::Arrow),
];
/// Byte-order marks of texts that are not read.
const UTF_16: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
/// Compressions that are not read.
const OTHERS: [(&[u8], &str); 3] =
    [(b"BZh", "bzip2"), (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"), (b"PK\x03\x04", "zip")];

/// Bytes of a text from which its format is told.
const START: u64 = 4096;
/// The largest window of a zstd file that is read, as a power of two: what `zstd --long` makes.
const WINDOW: u32 = 27;

impl Format {
    /// Returns its word in a workflow.
    pub fn word(self) -> &'static str {
        WORDS[ALL.iter().position(|format| *format == self).unwrap_or_default()]
    }

    pub(super) fn of_word(word: &str) -> Option<Format> {
        WORDS.iter().position(|known| *known == word).map(|place| ALL[place])
    }

    /// Tells the format from a file's name, whether it is there or not.
    pub(super) fn of_name(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        Some(match name.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" => Format::Jsonl,
            "json" => Format::Json,
            "csv" => Format::Csv,
            "tsv" | "tab" => Format::Tsv,
            "parquet" => Format::Parquet,
            "arrow" | "feather" | "ipc" => Format::Arrow,
            _ => return None,
        })
    }
}

/// Tells the format of a file: by its first bytes where they are unmistakable, else by its name,
/// else by what a text begins with. `named` is the format that its name, or the workflow, says.
pub(super) fn of_file(path: &Path, named: Option<Format>) -> io::Result<Option<Format>> {
    let mut start = Vec::new();
    open_plain(path)?.take(START).read_to_end(&mut start)?;
    if named.is_none()
        && let Some(format) = binary(&start)
    {
        return Ok(Some(format));
    }
    if !matches!(named, None | Some(Format::Json)) {
        return Ok(named);
    }

    let mut text = Vec::new();
    text_reader(path)?.take(START).read_to_end(&mut text)?;
    let text = text.strip_prefix(MARK).unwrap_or(&text).trim_ascii_start();
    Ok(match (text.first(), named) {
        // Many name JSON Lines `.json`.
        (Some(b'{'), _) => Some(Format::Jsonl),
        (Some(b'['), None) => Some(Format::Json),
        _ => named,
    })
}

fn binary(start: &[u8]) -> Option<Format> {
    let found = BINARY.iter().find(|(magic, _)| start.starts_with(magic));
    found.map(|(_, format)| *format)
}

/// Opens a text, decompressed where its first bytes say that it is compressed.
pub(super) fn text_reader(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = open_plain(path)?;
    let start = first_bytes(&mut file)?;
    if start.starts_with(GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(BufReader::new(file))));
    }
    if start.starts_with(ZSTD) {
        let mut decoder = zstd::Decoder::new(file)?;
        decoder.window_log_max(WINDOW)?;
        return Ok(Box::new(decoder));
    }
    let refused = |message: String| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return refused(format!("it is compressed by {name}; only gzip and zstd are read"));
    }
    if UTF_16.iter().any(|mark| start.starts_with(mark)) {
        return refused("it is UTF-16; only UTF-8 is read".into());
    }
    if let Some(format) = binary(&start) {
        return refused(format!("it is {}, not a text", format.word()));
    }
    Ok(Box::new(file))
}

fn first_bytes(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    Read::by_ref(file).take(8).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        let cases = [
            ("a.jsonl", Some("jsonl")),
            ("a.NDJSON.gz", Some("jsonl")),
            ("a.json.zst", Some("json")),
            ("data/a.b.csv", Some("csv")),
            ("a.tab", Some("tsv")),
            ("train-*.parquet", Some("parquet")),
            ("a.feather", Some("arrow")),
            ("a.txt", None),
            ("jsonl", None),
            ("folder", None),
        ];
        for (name, expected) in cases {
            assert_eq!(Format::of_name(Path::new(name)).map(Format::word), expected, "{name}");
        }
        for word in WORDS {
            assert_eq!(Format::of_word(word).map(Format::word), Some(*word));
        }
    }
}
