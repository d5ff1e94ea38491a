//! Model folders in Hugging Face's layout, written from tensors in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use refrain_cache::write::{PlainFile, copy_file, write_plain};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo, View};

/// The files beside the weights that say how text becomes tokens and when generation ends.
const COMPANIONS: [&str; 8] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];

/// A tensor of 32-bit floats in row-major order, to be written.
#[derive(Debug, Clone, Copy)]
pub struct F32Tensor<'a> {
    /// The sizes of its dimensions.
    pub shape: &'a [usize],
    /// Its values, as many as the product of the sizes.
    pub values: &'a [f32],
}

/// An error of writing a model.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The system refuses.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The tensors do not fit the format.
    #[error("cannot write the weights to `{}`: {detail}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The fault.
        detail: String,
    },
}

impl View for F32Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    /// A copy of one tensor, which lives only while it is written.
    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes `config.json` and `model.safetensors` (f32, sorted by name) into an existing folder. The
/// bytes depend on the arguments alone.
///
/// # Errors
/// A file that cannot be written.
pub fn save_model<T: View>(
    folder: &Path,
    config: &serde_json::Value,
    tensors: &BTreeMap<String, T>,
) -> Result<(), SaveError> {
    let path = folder.join("config.json");
    write_plain(&path, &json_file(config)).map_err(|source| SaveError::Write { path, source })?;
    let path = folder.join("model.safetensors");
    let header = match header(tensors) {
        Ok(header) => header,
        Err(error) => return Err(SaveError::Weights { path, detail: error.to_string() }),
    };
    write_tensors(&path, &header, tensors).map_err(|source| SaveError::Write { path, source })
}

/// A column of numbers, to be written as a tensor of one dimension.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Column {
    fn view(&self) -> ColumnView<'_> {
        let length = match self {
            Column::I32(values) => values.len(),
            Column::I64(values) => values.len(),
            Column::F64(values) => values.len(),
        };
        ColumnView { column: self, shape: [length] }
    }
}

/// A column with its shape, as the format's writer wants it.
struct ColumnView<'a> {
    column: &'a Column,
    shape: [usize; 1],
}

impl View for ColumnView<'_> {
    fn dtype(&self) -> Dtype {
        match self.column {
            Column::I32(_) => Dtype::I32,
            Column::I64(_) => Dtype::I64,
            Column::F64(_) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.column {
            Column::I32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Column::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Column::F64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        let width = if matches!(self.column, Column::I32(_)) { 4 } else { 8 };
        width * self.shape[0]
    }
}

/// Writes columns as the tensors of a safetensors file. The bytes depend on the arguments alone.
///
/// # Errors
/// A file that cannot be written.
pub fn save_columns(path: &Path, columns: &BTreeMap<String, Column>) -> Result<(), SaveError> {
    let views: BTreeMap<String, ColumnView<'_>> =
        columns.iter().map(|(name, column)| (name.clone(), column.view())).collect();
    let header = header(&views)
        .map_err(|error| SaveError::Weights { path: path.into(), detail: error.to_string() })?;
    write_tensors(path, &header, &views)
        .map_err(|source| SaveError::Write { path: path.into(), source })
}

/// Returns the header of a safetensors file: the length of a JSON text, padded to 8 bytes, and the
/// text.
fn header<T: View>(tensors: &BTreeMap<String, T>) -> Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = end;
        end += tensor.data_len();
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let mut json = serde_json::to_vec(&Metadata::new(metadata(), infos.collect())?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

/// Writes tensor by tensor, so that the whole is never in memory twice.
fn write_tensors<T: View>(
    path: &Path,
    header: &[u8],
    tensors: &BTreeMap<String, T>,
) -> io::Result<()> {
    let mut file = BufWriter::new(PlainFile::create(path)?);
    file.write_all(header)?;
    for tensor in tensors.values() {
        file.write_all(&tensor.data())?;
    }
    file.flush()
}

/// Copies tokenizer, chat template and generation settings of one model folder to another, as far
/// as they are there.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), SaveError> {
    for name in COMPANIONS {
        let (source, path) = (from.join(name), to.join(name));
        if source.is_file() {
            copy_file(&source, &path).map_err(|source| SaveError::Write { path, source })?;
        }
    }
    Ok(())
}

/// JSON as Hugging Face's tools write it: indented by two, with a line feed at the end.
pub(crate) fn json_file(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Loaders in Python ask for the framework that wrote the tensors.
pub(crate) fn metadata() -> Option<HashMap<String, String>> {
    Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_read_back_with_their_types() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.safetensors");
        let columns = BTreeMap::from([
            ("ids".to_owned(), Column::I32(vec![1, -100])),
            ("order".to_owned(), Column::I64(vec![1 << 40])),
            ("rates".to_owned(), Column::F64(vec![])),
        ]);
        save_columns(&path, &columns).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ids = read.tensor("ids").unwrap();
        assert_eq!((ids.dtype(), ids.data()), (Dtype::I32, &[1, 0, 0, 0, 156, 255, 255, 255][..]));
        let order = read.tensor("order").unwrap();
        assert_eq!((order.dtype(), order.data()), (Dtype::I64, &(1i64 << 40).to_le_bytes()[..]));
        let rates = read.tensor("rates").unwrap();
        assert_eq!((rates.dtype(), rates.shape()), (Dtype::F64, &[0][..]));
    }

    #[test]
    fn a_folder_reads_back_and_its_bytes_are_fixed() {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({ "model_type": "llama", "hidden_size": 2 });
        let (matrix, vector) = ([1.0, -2.5, f32::MIN_POSITIVE, 0.0, -0.0, 3.0], [7.0]);
        let tensors = BTreeMap::from([
            ("b".to_owned(), F32Tensor { shape: &[1], values: &vector }),
            ("a".to_owned(), F32Tensor { shape: &[2, 3], values: &matrix }),
        ]);
        save_model(folder.path(), &config, &tensors).unwrap();
        let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}}"#;
        assert_eq!(std::str::from_utf8(&bytes[8..8 + header.len()]).unwrap(), header);
        assert_eq!(bytes[bytes.len() - 4..], 7f32.to_le_bytes());
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a").unwrap().data()[16..20], (-0f32).to_le_bytes());
        assert_eq!(
            std::fs::read_to_string(folder.path().join("config.json")).unwrap(),
            "{\n  \"model_type\": \"llama\",\n  \"hidden_size\": 2\n}\n"
        );
        let wrong = BTreeMap::from([("a".to_owned(), F32Tensor { shape: &[3], values: &vector })]);
        assert!(matches!(
            save_model(folder.path(), &config, &wrong),
            Err(SaveError::Weights { .. })
        ));
        let absent = folder.path().join("absent");
        assert!(matches!(save_model(&absent, &config, &tensors), Err(SaveError::Write { .. })));
    }
}
