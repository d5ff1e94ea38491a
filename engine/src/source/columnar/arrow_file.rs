//! Reads Arrow IPC, stream or file, message by message. The file form is the stream between a magic
//! word and an index of it that is not needed.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{MessageHeader, root_as_message};

use refrain_cache::{TableError, contained, normal_batch, normal_schema, open_plain};

use crate::source::SourceError;

const MAGIC: &[u8] = b"ARROW1";
/// Bytes at whose multiples messages begin.
const ALIGNMENT: u64 = 8;
const CONTINUES: u32 = u32::MAX;
/// Limit in bytes on what describes a message.
const MAX_HEADER: u64 = 256 << 20;
/// Limit in bytes on a buffer that is decompressed.
const MAX_BUFFER: i64 = 2 << 30;

/// An open file: its columns and its number of rows are known.
#[derive(Debug, Clone)]
pub(super) struct ArrowFile {
    path: PathBuf,
    /// With normal types, without what was dropped.
    pub schema: SchemaRef,
    pub rows: u64,
    /// The position in the file of each column of the schema.
    positions: Vec<usize>,
}

impl ArrowFile {
    /// Opens a file and goes over its messages without their content, so that their lengths are
    /// known to be true before they are believed.
    pub fn open(path: &Path, dropped: &[&str]) -> Result<ArrowFile, SourceError> {
        let rows = check(path).map_err(|error| broken(path, error.to_string()))?;
        let whole = sound(path, || Ok(reader(path, None)?.schema()))?;
        if let Some(absent) = dropped.iter().find(|name| whole.index_of(name).is_err()) {
            let there = whole.fields().iter().map(|field| field.name().clone()).collect();
            let column = (*absent).to_owned();
            return Err(TableError::Missing { column, there }.into());
        }
        let kept = |at: &usize| !dropped.contains(&whole.field(*at).name().as_str());
        let positions: Vec<usize> = (0..whole.fields().len()).filter(kept).collect();
        let schema = normal_schema(&whole.project(&positions).map_err(TableError::from)?)?;
        Ok(ArrowFile { path: path.into(), schema, rows, positions })
    }

    /// Reads the rows in batches of up to `rows`; `columns` come in the order of the file.
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        rows: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, SourceError>> + Send + use<>, SourceError>
    {
        let mut positions = match columns {
            None => self.positions.clone(),
            Some(names) => {
                let at = |name: &&str| Ok(self.positions[self.schema.index_of(name)?]);
                names
                    .iter()
                    .map(at)
                    .collect::<Result<Vec<_>, ArrowError>>()
                    .map_err(TableError::from)?
            }
        };
        positions.sort_unstable();
        let path = self.path.clone();
        let mut reader = sound(&path, || reader(&path, Some(positions)))?;
        let mut rest: Option<RecordBatch> = None;
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            while rest.as_ref().is_none_or(|batch| batch.num_rows() == 0) {
                if ended {
                    return None;
                }
                match sound(&path, || reader.next().transpose()) {
                    Ok(Some(batch)) => rest = Some(batch),
                    Ok(None) => ended = true,
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                }
            }
            let batch = rest.take()?;
            let taken = rows.min(batch.num_rows());
            rest = Some(batch.slice(taken, batch.num_rows() - taken));
            Some(normal_batch(&batch.slice(0, taken)).map_err(SourceError::from))
        }))
    }
}

/// Calls Arrow's reader, which may panic on a damaged file, and names the file in its errors.
fn sound<T>(path: &Path, call: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, SourceError> {
    match contained(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(broken(path, error.to_string())),
        Err(panic) => Err(broken(path, format!("its content is damaged ({panic})"))),
    }
}

fn broken(path: &Path, reason: String) -> SourceError {
    SourceError::Content {
        path: path.into(),
        message: format!("cannot be read as Arrow: {reason}"),
        hint: Some("fetch it again, or give its `format`".into()),
    }
}

type Stream = StreamReader<BufReader<File>>;

fn reader(path: &Path, columns: Option<Vec<usize>>) -> Result<Stream, ArrowError> {
    StreamReader::try_new(BufReader::new(at_stream(path)?), columns)
}

/// Opens a file at the first message, which stands behind the magic word and zeros.
fn at_stream(path: &Path) -> io::Result<File> {
    let mut file = open_plain(path)?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(ALIGNMENT * 128).read_to_end(&mut start)?;
    let mut at = 0;
    if start.starts_with(MAGIC) {
        let words = start.chunks(ALIGNMENT as usize).skip(1);
        let zeros = words.take_while(|word| word.iter().all(|byte| *byte == 0)).count();
        at = ALIGNMENT * (1 + zeros as u64);
    }
    file.seek(SeekFrom::Start(at))?;
    Ok(file)
}

/// Goes over the messages of a file and returns the number of rows.
fn check(path: &Path) -> io::Result<u64> {
    let wrong = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let cut = || wrong("the file is cut off");
    let file = at_stream(path)?;
    let size = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut rows = 0_u64;
    let mut at = file.stream_position()?;
    loop {
        let Some(word) = word(&mut file)? else { return Ok(rows) };
        let length = match word {
            CONTINUES => self::word(&mut file)?.ok_or_else(cut)?,
            // Before version 0.15 of Arrow.
            length => length,
        };
        if length == 0 {
            return Ok(rows);
        }
        at = file.stream_position()?.max(at);
        if u64::from(length) > MAX_HEADER || at + u64::from(length) > size {
            return Err(cut());
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        at += u64::from(length);
        let message = root_as_message(&header).map_err(|error| wrong(&error.to_string()))?;
        let body =
            u64::try_from(message.bodyLength()).map_err(|_| wrong("a length is negative"))?;
        if body > size - at {
            return Err(cut());
        }
        if message.header_type() == MessageHeader::RecordBatch {
            let batch =
                message.header_as_record_batch().ok_or_else(|| wrong("a message is empty"))?;
            let length =
                u64::try_from(batch.length()).map_err(|_| wrong("a length is negative"))?;
            rows = rows.checked_add(length).ok_or_else(|| wrong("it has too many rows"))?;
        }
        check_buffers(&message, &mut file, at, body)
            .map_err(|reason| wrong(&reason.to_string()))?;
        at += body;
        file.seek(SeekFrom::Start(at))?;
    }
}

/// Checks how long the compressed buffers of a message say that they become.
fn check_buffers(
    message: &arrow::ipc::Message<'_>,
    file: &mut BufReader<File>,
    at: u64,
    body: u64,
) -> io::Result<()> {
    let batch = message.header_as_record_batch();
    let batch = batch.or_else(|| message.header_as_dictionary_batch().and_then(|d| d.data()));
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else { return Ok(()) };
    for buffer in batch.buffers().iter().flatten() {
        let (offset, length) = (buffer.offset().max(0) as u64, buffer.length().max(0) as u64);
        if length < 8 || offset > body || length > body - offset {
            continue;
        }
        file.seek(SeekFrom::Start(at + offset))?;
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        if i64::from_le_bytes(bytes) > MAX_BUFFER {
            let reason = "a buffer says that it is longer than 2 GB";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    }
    Ok(())
}

/// Reads four bytes as a number; `None` at the end of the file.
fn word(file: &mut BufReader<File>) -> io::Result<Option<u32>> {
    let mut bytes = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok().map(u32::from_le_bytes))
}
