//! Reads the tensors of a model folder: one or several memory-mapped safetensors files, brought to
//! f32.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use refrain_cache::{open_plain, read_plain};

use crate::fields::MAX_BYTES;

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

/// The mapped files of a model folder.
pub struct Weights {
    /// The folder, or the one file.
    place: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    /// The file from which a tensor is read.
    places: BTreeMap<String, usize>,
    /// A tensor that other files hold too.
    duplicate: Option<String>,
    contents: Contents,
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
    /// Maps the files of a folder.
    pub fn open(folder: &Path) -> Result<Weights, WeightsError> {
        Weights::open_files(folder, Files::of(folder)?)
    }

    /// Maps one file.
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
            let map = map(&path)?;
            for (name, tensor) in parse(&path, &map)?.iter() {
                // Of a tensor in several files the index says which one counts.
                let other = weights.places.get(name).copied();
                if let Some(other) = other {
                    weights.duplicate = Some(name.to_owned());
                    match files.index.get(name) {
                        None => {
                            let (first, second) = (weights.files[other].0.clone(), path.clone());
                            return Err(WeightsError::Twice { name: name.into(), first, second });
                        }
                        Some(file) if *file != number => continue,
                        Some(_) => {}
                    }
                }
                weights.places.insert(name.to_owned(), number);
                if other.is_none() {
                    weights.contents.parameters += tensor.shape().iter().product::<usize>() as u64;
                }
                weights.contents.dtypes.insert(format!("{:?}", tensor.dtype()).to_lowercase());
            }
            weights.files.push((path, map));
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

    /// Returns the error about a tensor that nothing reads.
    pub(crate) fn unread(&self, name: &str) -> WeightsError {
        let file = self.places.get(name).map_or(&self.place, |place| &self.files[*place].0);
        WeightsError::Unread { path: file.clone(), name: name.to_owned() }
    }

    /// A tensor of the given shape as f32, row-major.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let missing = || WeightsError::Missing { name: name.into(), place: self.place.clone() };
        let place = *self.places.get(name).ok_or_else(missing)?;
        let (path, map) = &self.files[place];
        let view = parse(path, map)?.tensor(name).map_err(|e| corrupt(path, e))?;
        if view.shape() != shape {
            let words = |s: &[usize]| {
                format!("[{}]", s.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
            };
            return Err(WeightsError::Shape {
                path: path.clone(),
                name: name.into(),
                found: words(view.shape()),
                expected: words(shape),
            });
        }
        let bytes = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes
                .par_chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => bytes
                .par_chunks_exact(2)
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Dtype::BF16 => bytes
                .par_chunks_exact(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            other => {
                let dtype = format!("{other:?}").to_lowercase();
                return Err(WeightsError::Type { path: path.clone(), name: name.into(), dtype });
            }
        };
        match values.par_iter().position_first(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let (path, name, value) = (path.clone(), name.to_owned(), values[index]);
                Err(WeightsError::NotFinite { path, name, value, index })
            }
        }
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

fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let io = |error| WeightsError::Io { path: path.into(), error };
    let file = open_plain(path).map_err(io)?;
    // SAFETY: the map is only read. A file that another process truncates meanwhile ends this
    // process with a signal, as it would any reader of mapped weights; copying instead would double
    // the memory of a large model.
    unsafe { Mmap::map(&file) }.map_err(io)
}

fn parse<'m>(path: &Path, map: &'m Mmap) -> Result<SafeTensors<'m>, WeightsError> {
    SafeTensors::deserialize(map).map_err(|e| corrupt(path, e))
}

fn corrupt(path: &Path, error: safetensors::SafeTensorError) -> WeightsError {
    WeightsError::Corrupt { path: path.into(), message: error.to_string() }
}
