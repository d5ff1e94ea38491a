//! Finds the first difference between two artifacts: row and column, tensor, or byte.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::array_value_to_string;
use serde_json::{Map, Value};

use refrain_cache::{ArtifactKind, TableError, TableReader};

/// Rows that are compared at once.
const BATCH_ROWS: usize = 4096;
/// Longest value that is shown, in characters.
const SHOWN: usize = 60;
/// Bytes of the longest header of a safetensors file that is read.
const HEADER: u64 = 100 << 20;
/// Absolute tolerance of floating-point numbers under different profiles, added to [`RELATIVE`].
pub const ABSOLUTE: f64 = 1e-3;
/// Relative tolerance, as a share of the larger number.
pub const RELATIVE: f64 = 1e-2;

/// The measure by which artifacts are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Every bit.
    Bytes,
    /// Floating-point numbers within [`ABSOLUTE`] and [`RELATIVE`], of models only the names of their files.
    Close,
}

/// Why two artifacts could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

/// Describes the first difference, such as ``row 3, column `text`: was a, is b``; `None` where there is none.
///
/// # Errors
/// [`CompareError`] where one of the two cannot be read.
pub fn first_difference(
    kind: ArtifactKind,
    before: &Path,
    now: &Path,
    strictness: Strictness,
) -> Result<Option<String>, CompareError> {
    match kind {
        ArtifactKind::Table => Ok(table(before, now, strictness)?),
        ArtifactKind::Model => model(before, now, strictness),
        ArtifactKind::File => Ok(file(before, now)?.map(|byte| format!("byte {byte} differs"))),
        // Only sources are such folders, and those are compared by their digests.
        ArtifactKind::Folder => Ok(None),
    }
}

/// Whether two floating-point numbers are close enough under different profiles.
pub fn is_close(a: f64, b: f64) -> bool {
    a == b
        || a.is_nan() && b.is_nan()
        || (a - b).abs() <= ABSOLUTE + RELATIVE * a.abs().max(b.abs())
}

fn table(before: &Path, now: &Path, strictness: Strictness) -> Result<Option<String>, TableError> {
    let (a, b) = (TableReader::open(before)?, TableReader::open(now)?);
    for field in a.schema().fields() {
        match b.schema().field_with_name(field.name()) {
            Ok(other) if other.data_type() == field.data_type() => {}
            Ok(_) => return Ok(Some(format!("column `{}` has another type", field.name()))),
            Err(_) => return Ok(Some(format!("column `{}` is gone", field.name()))),
        }
    }
    if let Some(field) =
        b.schema().fields().iter().find(|f| a.schema().field_with_name(f.name()).is_err())
    {
        return Ok(Some(format!("column `{}` is new", field.name())));
    }
    let (mut left, mut right) = (a.batches(None, BATCH_ROWS)?, b.batches(None, BATCH_ROWS)?);
    let (mut x, mut y) = (left.next().transpose()?, right.next().transpose()?);
    let mut row = 0;
    while let (Some(l), Some(r)) = (&x, &y) {
        let rows = l.num_rows().min(r.num_rows());
        let found = in_batch(&l.slice(0, rows), &r.slice(0, rows), row, strictness)?;
        if found.is_some() {
            return Ok(found);
        }
        row += rows;
        (x, y) = (rest(l, rows, &mut left)?, rest(r, rows, &mut right)?);
    }
    Ok((a.rows() != b.rows()).then(|| format!("it had {} rows, has {}", a.rows(), b.rows())))
}

/// Returns the rows of a batch after the first ones, or the next batch.
fn rest(
    batch: &RecordBatch,
    rows: usize,
    more: &mut impl Iterator<Item = Result<RecordBatch, TableError>>,
) -> Result<Option<RecordBatch>, TableError> {
    match batch.num_rows() - rows {
        0 => more.next().transpose(),
        left => Ok(Some(batch.slice(rows, left))),
    }
}

/// Finds the first row of two batches that differs, and its first column that does.
fn in_batch(
    a: &RecordBatch,
    b: &RecordBatch,
    first_row: usize,
    strictness: Strictness,
) -> Result<Option<String>, TableError> {
    let mut found: Option<(usize, &str)> = None;
    for field in a.schema_ref().fields() {
        let name = field.name().as_str();
        let (Some(x), Some(y)) = (a.column_by_name(name), b.column_by_name(name)) else { continue };
        if **x == **y {
            continue;
        }
        let until = found.map_or(a.num_rows(), |(row, _)| row);
        let differs = |row: &usize| !same(&*x.slice(*row, 1), &*y.slice(*row, 1), strictness);
        if let Some(row) = (0..until).find(differs) {
            found = Some((row, name));
        }
    }
    let Some((row, column)) = found else { return Ok(None) };
    let shown = |batch: &RecordBatch, column: &str| -> Result<String, TableError> {
        let array = batch.column_by_name(column).expect("the column was compared");
        let text =
            if array.is_null(row) { "null".into() } else { array_value_to_string(array, row)? };
        let cut: String = text.chars().take(SHOWN).collect();
        let more = if cut.len() < text.len() { "…" } else { "" };
        Ok(format!("{cut}{more}"))
    };
    let id = match a.column_by_name("id") {
        Some(_) => format!(" (`id` {})", shown(a, "id")?),
        None => String::new(),
    };
    let (was, is) = (shown(a, column)?, shown(b, column)?);
    Ok(Some(format!("row {}{id}, column `{column}`: was {was}, is {is}", first_row + row)))
}

/// Whether two arrays of one type are the same.
fn same(a: &dyn Array, b: &dyn Array, strictness: Strictness) -> bool {
    if a == b {
        return true;
    }
    let nulls = |i: usize| a.is_null(i) == b.is_null(i);
    if strictness == Strictness::Bytes || a.len() != b.len() || !(0..a.len()).all(nulls) {
        return false;
    }
    let both = |i: &usize| a.is_valid(*i);
    match a.data_type() {
        DataType::Float32 => {
            let (a, b) = (a.as_primitive::<Float32Type>(), b.as_primitive::<Float32Type>());
            (0..a.len()).filter(both).all(|i| is_close(a.value(i).into(), b.value(i).into()))
        }
        DataType::Float64 => {
            let (a, b) = (a.as_primitive::<Float64Type>(), b.as_primitive::<Float64Type>());
            (0..a.len()).filter(both).all(|i| is_close(a.value(i), b.value(i)))
        }
        DataType::List(_) => {
            let (a, b) = (a.as_list::<i32>(), b.as_list::<i32>());
            (0..a.len()).filter(both).all(|i| same(&*a.value(i), &*b.value(i), strictness))
        }
        DataType::Struct(_) => {
            let (a, b) = (a.as_struct(), b.as_struct());
            a.columns().iter().zip(b.columns()).all(|(a, b)| same(&**a, &**b, strictness))
        }
        _ => false,
    }
}

fn model(
    before: &Path,
    now: &Path,
    strictness: Strictness,
) -> Result<Option<String>, CompareError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| CompareError::Io { path, error }
    };
    let mut names = BTreeSet::new();
    for folder in [before, now] {
        files(folder, "", &mut names).map_err(io(folder))?;
    }
    for name in names {
        let (a, b) = (before.join(&name), now.join(&name));
        match (a.exists(), b.exists()) {
            (true, false) => return Ok(Some(format!("file `{name}` is gone"))),
            (false, _) => return Ok(Some(format!("file `{name}` is new"))),
            (true, true) if strictness == Strictness::Close => continue,
            (true, true) => {}
        }
        if let Some(byte) = file(&a, &b)? {
            let tensor = tensor_at(&a, byte).map_err(io(&a))?;
            let place =
                tensor.map_or(format!("byte {byte}"), |tensor| format!("tensor `{tensor}`"));
            return Ok(Some(format!("{place} of file `{name}` differs")));
        }
    }
    Ok(None)
}

/// Adds the relative paths of the files of a folder.
fn files(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => files(&entry.path(), &format!("{name}/"), names)?,
            false => drop(names.insert(name)),
        }
    }
    Ok(())
}

/// Finds the first byte in which two files differ: the shorter one's end where it is the start of the other.
fn file(before: &Path, now: &Path) -> Result<Option<u64>, CompareError> {
    let open = |path: &Path| {
        File::open(path)
            .map(BufReader::new)
            .map_err(|error| CompareError::Io { path: path.into(), error })
    };
    let (mut a, mut b) = (open(before)?.bytes(), open(now)?.bytes());
    let mut byte = 0;
    loop {
        let next = |bytes: Option<io::Result<u8>>, path: &Path| {
            bytes.transpose().map_err(|error| CompareError::Io { path: path.into(), error })
        };
        match (next(a.next(), before)?, next(b.next(), now)?) {
            (None, None) => return Ok(None),
            (x, y) if x != y => return Ok(Some(byte)),
            _ => byte += 1,
        }
    }
}

/// Finds the tensor of a safetensors file that holds a byte; `None` in its header, and in other files.
fn tensor_at(path: &Path, byte: u64) -> io::Result<Option<String>> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length).min(HEADER);
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let Ok(header) = serde_json::from_slice::<Map<String, Value>>(&header) else { return Ok(None) };
    let Some(offset) = byte.checked_sub(8 + length) else { return Ok(None) };
    let holds = |tensor: &Value| {
        let end = |i: usize| tensor["data_offsets"][i].as_u64().unwrap_or(0);
        (end(0)..end(1)).contains(&offset)
    };
    Ok(header.into_iter().find(|(_, tensor)| holds(tensor)).map(|(name, _)| name))
}
