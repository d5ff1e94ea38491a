//! Reads the tensors of a model folder from one or several safetensors files, in the type in which
//! they are stored.

mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use refrain_cache::{open_plain, read_plain};

use crate::fields::MAX_BYTES;
use crate::kernels::panels::Stored;

use place::Place;

/// An error of reading weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be opened.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// There are no weights.
    #[error("`{}` holds no `model.safetensors` and no `model.safetensors.index.json`", .0.display())]
    None(PathBuf),
    /// A file is truncated or not safetensors.
    #[error("`{}` is not a whole safetensors file: {message}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// The index is wrong.
    #[error("`{}` is not an index of safetensors files: {message}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// A tensor is in several files.
    #[error(
        "the tensor `{name}` is in `{}` and in `{}`, and `model.safetensors.index.json` names \
         neither", first.display(), second.display()
    )]
    Twice {
        /// The tensor.
        name: String,
        /// A file that holds it.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// A tensor is not there.
    #[error("the weights in `{}` lack the tensor `{name}`", place.display())]
    Missing {
        /// The tensor.
        name: String,
        /// The model's folder, or its one file.
        place: PathBuf,
    },
    /// A tensor has another shape.
    #[error("the tensor `{name}` in `{}` has shape {found}, expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: String,
        /// The shape that the configuration demands.
        expected: String,
    },
    /// A tensor has a type that is not read.
    #[error("the tensor `{name}` in `{}` is {dtype}; weights are read as f32, f16 or bf16", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor is not part of the model.
    #[error(
        "the tensor `{name}` in `{}` is not part of the model that `config.json` describes",
        path.display()
    )]
    Unread {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor holds a value that is not a number.
    #[error("the tensor `{name}` in `{}` holds {value} at index {index}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The first such value.
        value: f32,
        /// Its index.
        index: usize,
    },
}

/// The files of a model folder. They are read piece by piece and not mapped, so that no page of them
/// counts as this process's memory.
pub struct Weights {
    /// The folder, or the one file.
    place: PathBuf,
    files: Vec<Shard>,
    /// The file from which a tensor is read.
    places: BTreeMap<String, usize>,
    /// A tensor that other files hold too.
    duplicate: Option<String>,
    contents: Contents,
}

/// One file.
struct Shard {
    path: PathBuf,
    file: File,
    /// Offset of the first value in the file.
    start: u64,
    header: Metadata,
}

/// Number and types of stored values, from the files' headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Values of all tensors.
    pub parameters: u64,
    /// The tensors' types, such as `bf16`.
    pub dtypes: BTreeSet<String>,
}

impl Weights {
    /// Opens the files of a folder.
    pub fn open(folder: &Path) -> Result<Weights, WeightsError> {
        Weights::open_files(folder, Files::of(folder)?)
    }

    /// Opens one file.
    pub fn open_file(path: &Path) -> Result<Weights, WeightsError> {
        Weights::open_files(path, Files { paths: vec![path.to_owned()], index: BTreeMap::new() })
    }

    fn open_files(place: &Path, files: Files) -> Result<Weights, WeightsError> {
        let mut weights = Weights {
            place: place.into(),
            files: Vec::new(),
            places: BTreeMap::new(),
            duplicate: None,
            contents: Contents::default(),
        };
        for (number, path) in files.paths.into_iter().enumerate() {
            let shard = Shard::open(path)?;
            let mut tensors: Vec<_> = shard.header.tensors().into_iter().collect();
            tensors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (name, tensor) in tensors {
                // Of a tensor in several files the index says which one counts.
                let other = weights.places.get(&name).copied();
                if let Some(other) = other {
                    weights.duplicate = Some(name.clone());
                    match files.index.get(&name) {
                        None => {
                            let first = weights.files[other].path.clone();
                            return Err(WeightsError::Twice { name, first, second: shard.path });
                        }
                        Some(file) if *file != number => continue,
                        Some(_) => {}
                    }
                }
                weights.places.insert(name, number);
                if other.is_none() {
                    weights.contents.parameters += tensor.shape.iter().product::<usize>() as u64;
                }
                weights.contents.dtypes.insert(format!("{:?}", tensor.dtype).to_lowercase());
            }
            weights.files.push(shard);
        }
        Ok(weights)
    }

    /// Returns a tensor that several files hold, so that only their index tells which one counts.
    pub fn duplicate(&self) -> Option<&str> {
        self.duplicate.as_deref()
    }

    /// Returns the number and types of the stored values.
    pub fn contents(&self) -> Contents {
        self.contents.clone()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Returns the sizes of a tensor's dimensions.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let info = self.files[*self.places.get(name)?].header.info(name)?;
        Some(&info.shape)
    }

    /// Returns the error about a tensor that nothing reads.
    pub(crate) fn unread(&self, name: &str) -> WeightsError {
        let file = self.places.get(name).map_or(&self.place, |place| &self.files[*place].path);
        WeightsError::Unread { path: file.clone(), name: name.to_owned() }
    }

    /// A tensor of the given shape in 32 bits, row-major.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let mut values = self.rows(name, shape)?;
        values.widened();
        match values {
            Stored::F32(values) => Ok(values),
            _ => Ok(Vec::new()),
        }
    }

    /// A tensor of the given shape as it is stored, row-major.
    pub fn rows(&self, name: &str, shape: &[usize]) -> Result<Stored, WeightsError> {
        let place = self.find(name, shape)?;
        let values = shape.iter().product();
        match place.info.dtype {
            Dtype::F32 => Ok(Stored::F32(place.rows(values)?)),
            Dtype::F16 => Ok(Stored::F16(place.rows(values)?)),
            Dtype::BF16 => Ok(Stored::Bf16(place.rows(values)?)),
            other => Err(place.wrong_type(other)),
        }
    }

    /// Rows of a matrix `[outputs, inputs]` as they are stored, brought into panels on the way.
    pub fn panels(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: Range<usize>,
    ) -> Result<Stored, WeightsError> {
        let place = self.find(name, &shape)?;
        match place.info.dtype {
            Dtype::F32 => Ok(Stored::F32(place.panels(rows, shape[1])?)),
            Dtype::F16 => Ok(Stored::F16(place.panels(rows, shape[1])?)),
            Dtype::BF16 => Ok(Stored::Bf16(place.panels(rows, shape[1])?)),
            other => Err(place.wrong_type(other)),
        }
    }

    /// Finds a tensor and compares its shape.
    fn find<'w>(&'w self, name: &'w str, shape: &[usize]) -> Result<Place<'w>, WeightsError> {
        let missing = || WeightsError::Missing { name: name.into(), place: self.place.clone() };
        let shard = &self.files[*self.places.get(name).ok_or_else(missing)?];
        let info = shard.header.info(name).ok_or_else(missing)?;
        if info.shape == shape {
            return Ok(Place { shard, name, info });
        }
        let words = |s: &[usize]| {
            format!("[{}]", s.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
        };
        Err(WeightsError::Shape {
            path: shard.path.clone(),
            name: name.into(),
            found: words(&info.shape),
            expected: words(shape),
        })
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard, WeightsError> {
        let file =
            open_plain(&path).map_err(|error| WeightsError::Io { path: path.clone(), error })?;
        // SAFETY: the map is only read, and only for the header, before this function ends. A file
        // that another process truncates meanwhile ends this process with a signal, as it would any
        // reader of mapped weights.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|error| WeightsError::Io { path: path.clone(), error })?;
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|error| {
            WeightsError::Corrupt { path: path.clone(), message: error.to_string() }
        })?;
        let start = (length + size_of::<u64>()) as u64;
        Ok(Shard { path, file, start, header })
    }
}

/// Lists the safetensors files of a folder: `model.safetensors`, else those of its index.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    Ok(Files::of(folder)?.paths)
}

/// Safetensors files, and what their index says.
struct Files {
    paths: Vec<PathBuf>,
    /// The file of a tensor, as a number in `paths`.
    index: BTreeMap<String, usize>,
}

impl Files {
    /// Finds the files of a folder. A whole file goes before an index, as in transformers, which
    /// leaves the index of older shards behind when it saves over them.
    fn of(folder: &Path) -> Result<Files, WeightsError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            Ok(Files { paths: vec![single], index: BTreeMap::new() })
        } else if index.exists() {
            shards(folder, &index)
        } else {
            Err(WeightsError::None(folder.into()))
        }
    }
}

fn shards(folder: &Path, index: &Path) -> Result<Files, WeightsError> {
    let wrong = |message: String| WeightsError::Index { path: index.into(), message };
    let read = read_plain(index, MAX_BYTES);
    let bytes = read.map_err(|error| WeightsError::Io { path: index.into(), error })?;
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| wrong("it has no `weight_map`".into()))?;
    let named = || map.iter().filter_map(|(tensor, file)| Some((tensor, file.as_str()?)));
    let mut names: Vec<&str> = named().map(|(_, file)| file).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        // A name from a stranger's file must not lead out of the folder.
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(wrong(format!("`{name}` is not the name of a file beside it")));
        }
    }
    let number = |file: &str| names.binary_search(&file).ok();
    let index =
        named().filter_map(|(tensor, file)| Some((tensor.clone(), number(file)?))).collect();
    Ok(Files { paths: names.iter().map(|name| folder.join(name)).collect(), index })
}
