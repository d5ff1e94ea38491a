//! Keys and their manifests: one walk over a manifest feeds both the hasher and the differences.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::digest::{Digest, ParseDigestError};

/// Begins every hashed manifest; another way of hashing needs another tag.
const DOMAIN: &[u8] = b"refrain key 1";

/// BLAKE3 of everything that determines a node's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Digest);

impl Key {
    /// Creates the key with this digest.
    pub const fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// Returns the digest of the key.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }

    /// Returns the first eight hexadecimal characters, for people; never an identity.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Key {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        text.parse().map(Self)
    }
}

/// Everything that determines a node's result: its kind, and named sections of values.
///
/// The order of sections and map entries is kept for reading alone: it enters neither the key nor
/// [`Manifest::differences`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(Map<String, Value>);

/// One value that differs between two manifests.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Names joined by `.`, list positions in brackets, such as `parameters.mix[0].share`.
    pub path: String,
    /// The value in the older manifest, `None` where it has none.
    pub before: Option<Value>,
    /// The value in the newer manifest, `None` where it has none.
    pub after: Option<Value>,
}

impl Manifest {
    /// Creates the manifest of a stage kind, or of a source, without sections.
    pub fn new(kind: &str) -> Self {
        Self(Map::from_iter([("kind".to_owned(), Value::from(kind))]))
    }

    /// Adds a section, or replaces the one of that name.
    #[must_use]
    pub fn section(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Returns the value of a section.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Computes the key: equal for manifests whose values are equal, whatever the order of their
    /// map entries and the spelling of their numbers.
    pub fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        let mut encoded = Vec::new();
        self.walk(&mut |path, leaf| {
            encoded.clear();
            encode_path(path, &mut encoded);
            encode_leaf(leaf, &mut encoded);
            hasher.update(&encoded);
        });
        Key(hasher.finalize().into())
    }

    /// Returns the values in which `newer` differs from this manifest, in the order of the walk;
    /// empty exactly when the keys are equal.
    pub fn differences(&self, newer: &Self) -> Vec<Difference> {
        let mut leaves: BTreeMap<Vec<Step<'_>>, (Option<Leaf<'_>>, Option<Leaf<'_>>)> =
            BTreeMap::new();
        self.walk(&mut |path, leaf| leaves.entry(path.to_vec()).or_default().0 = Some(leaf));
        newer.walk(&mut |path, leaf| leaves.entry(path.to_vec()).or_default().1 = Some(leaf));
        leaves
            .into_iter()
            .filter(|(_, (before, after))| before != after)
            .map(|(path, (before, after))| Difference {
                path: render_path(&path),
                before: before.map(Leaf::to_value),
                after: after.map(Leaf::to_value),
            })
            .collect()
    }

    /// Returns every value with its path, in the order in which they enter the key.
    pub fn leaves(&self) -> Vec<(String, Value)> {
        let mut leaves = Vec::new();
        self.walk(&mut |path, leaf| leaves.push((render_path(path), leaf.to_value())));
        leaves
    }

    /// Calls `visit` with the path and the value of every leaf, map entries in the order of their
    /// keys' bytes.
    fn walk<'a>(&'a self, visit: &mut impl FnMut(&[Step<'a>], Leaf<'a>)) {
        walk_map(&self.0, &mut Vec::new(), visit);
    }
}

/// One step from a value to a value inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step<'a> {
    Name(&'a str),
    Index(u64),
}

/// A value without values inside it. Numbers stand by value: 1, 1.0 and 1e0 are one integer, and
/// -0.0 is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaf<'a> {
    Null,
    Bool(bool),
    Integer(i128),
    /// Finite, and not an integer that fits 64 bits.
    Float(f64),
    Text(&'a str),
    EmptyList,
    EmptyMap,
}

fn walk_map<'a>(
    map: &'a Map<String, Value>,
    path: &mut Vec<Step<'a>>,
    visit: &mut impl FnMut(&[Step<'a>], Leaf<'a>),
) {
    let mut entries: Vec<(&'a String, &'a Value)> = map.iter().collect();
    entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    for (name, value) in entries {
        path.push(Step::Name(name));
        walk_value(value, path, visit);
        path.pop();
    }
}

fn walk_value<'a>(
    value: &'a Value,
    path: &mut Vec<Step<'a>>,
    visit: &mut impl FnMut(&[Step<'a>], Leaf<'a>),
) {
    match value {
        Value::Null => visit(path, Leaf::Null),
        Value::Bool(value) => visit(path, Leaf::Bool(*value)),
        Value::Number(number) => visit(path, number_leaf(number)),
        Value::String(text) => visit(path, Leaf::Text(text)),
        Value::Array(items) if items.is_empty() => visit(path, Leaf::EmptyList),
        Value::Object(map) if map.is_empty() => visit(path, Leaf::EmptyMap),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index as u64));
                walk_value(item, path, visit);
                path.pop();
            }
        }
        Value::Object(map) => walk_map(map, path, visit),
    }
}

/// Returns the leaf of a number, by value.
fn number_leaf(number: &Number) -> Leaf<'static> {
    if let Some(integer) = number.as_i128() {
        return Leaf::Integer(integer);
    }
    let float = number.as_f64().expect("a JSON number is a 64-bit integer or a finite float");
    // Within these bounds the conversion is exact for a float without a fraction.
    let integral = float.fract() == 0.0 && float.abs() < 18_446_744_073_709_551_616.0;
    if integral { Leaf::Integer(float as i128) } else { Leaf::Float(float) }
}

impl Leaf<'_> {
    fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::from(value),
            Self::Integer(value) => {
                Number::from_i128(value).map_or(Value::from(value as f64), Value::Number)
            }
            Self::Float(value) => Value::from(value),
            Self::Text(text) => Value::from(text),
            Self::EmptyList => Value::Array(Vec::new()),
            Self::EmptyMap => Value::Object(Map::new()),
        }
    }
}

/// Appends a path so that no two paths, and no path and leaf, share an encoding: counts and lengths
/// come first.
fn encode_path(path: &[Step<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(&(path.len() as u64).to_le_bytes());
    for step in path {
        match step {
            Step::Name(name) => {
                out.push(b'.');
                encode_text(name, out);
            }
            Step::Index(index) => {
                out.push(b'[');
                out.extend_from_slice(&index.to_le_bytes());
            }
        }
    }
}

/// Appends a type tag and the value, little endian.
fn encode_leaf(leaf: Leaf<'_>, out: &mut Vec<u8>) {
    match leaf {
        Leaf::Null => out.push(b'n'),
        Leaf::Bool(value) => out.extend_from_slice(&[b'b', u8::from(value)]),
        Leaf::Integer(value) => {
            out.push(b'i');
            out.extend_from_slice(&value.to_le_bytes());
        }
        Leaf::Float(value) => {
            out.push(b'f');
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        Leaf::Text(text) => {
            out.push(b's');
            encode_text(text, out);
        }
        Leaf::EmptyList => out.push(b'l'),
        Leaf::EmptyMap => out.push(b'm'),
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Formats a path for people; a name that holds a separator is quoted.
fn render_path(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Name(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                if name.is_empty() || name.contains(['.', '[', ']', '"']) {
                    text.push_str(&Value::from(*name).to_string());
                } else {
                    text.push_str(name);
                }
            }
        }
    }
    text
}
