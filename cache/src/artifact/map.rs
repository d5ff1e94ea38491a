//! The artifacts of a node by output name, in little memory: a large sweep has hundreds of
//! thousands.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Artifact;

/// A map from names of outputs to artifacts, sorted by name.
///
/// It takes a sixth of the memory of a tree map, whose smallest node has room for eleven.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifacts(Box<[(String, Artifact)]>);

impl Artifacts {
    /// Returns the artifact of an output.
    pub fn get(&self, name: &str) -> Option<&Artifact> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, artifact)| artifact)
    }

    /// Adds the artifact of an output, in place of an earlier one of that name.
    pub fn insert(&mut self, name: String, artifact: Artifact) {
        let all = std::mem::take(&mut self.0).into_iter().chain([(name, artifact)]);
        *self = all.collect();
    }

    /// Whether there is an output of that name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns the number of outputs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no outputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over names and artifacts, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &Artifact)> {
        self.0.iter().map(|(name, artifact)| (name, artifact))
    }

    /// Iterates over the artifacts, sorted by name.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Artifact> {
        self.0.iter().map(|(_, artifact)| artifact)
    }
}

impl<S: AsRef<str> + ?Sized> Index<&S> for Artifacts {
    type Output = Artifact;

    /// The artifact of an output that is there.
    fn index(&self, name: &S) -> &Artifact {
        self.get(name.as_ref()).expect("the output is there")
    }
}

impl FromIterator<(String, Artifact)> for Artifacts {
    /// Of two artifacts of one name the later counts.
    fn from_iter<I: IntoIterator<Item = (String, Artifact)>>(artifacts: I) -> Self {
        let mut sorted: Vec<(String, Artifact)> = Vec::with_capacity(2);
        for (name, artifact) in artifacts {
            match sorted.binary_search_by(|(known, _)| known.as_str().cmp(&name)) {
                Ok(place) => sorted[place].1 = artifact,
                Err(place) => sorted.insert(place, (name, artifact)),
            }
        }
        Self(sorted.into())
    }
}

impl From<BTreeMap<String, Artifact>> for Artifacts {
    fn from(artifacts: BTreeMap<String, Artifact>) -> Self {
        Self(artifacts.into_iter().collect())
    }
}

impl<const N: usize> From<[(String, Artifact); N]> for Artifacts {
    fn from(artifacts: [(String, Artifact); N]) -> Self {
        artifacts.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Artifacts {
    type Item = (&'a String, &'a Artifact);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl Serialize for Artifacts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Artifacts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AsMap)
    }
}

struct AsMap;

impl<'de> Visitor<'de> for AsMap {
    type Value = Artifacts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Artifacts, A::Error> {
        let mut artifacts = Vec::with_capacity(2);
        while let Some(entry) = map.next_entry()? {
            artifacts.push(entry);
        }
        Ok(artifacts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::{ArtifactKind, Digest};

    use super::*;

    #[test]
    fn it_is_written_and_read_as_a_map_sorted_by_name() {
        let artifact = |content: &[u8]| Artifact {
            kind: ArtifactKind::File,
            digest: Digest::of_bytes(content),
            bytes: content.len() as u64,
            rows: None,
            base: None,
        };
        let entries = [("y", "1"), ("main", "2"), ("a", "3"), ("main", "4")]
            .map(|(name, content)| (name.to_owned(), artifact(content.as_bytes())));
        let tree: BTreeMap<String, Artifact> = entries.clone().into();
        let artifacts = Artifacts::from(entries);
        assert_eq!(artifacts, Artifacts::from(tree.clone()));
        assert_eq!(artifacts.get("main"), Some(&artifact(b"4")));
        assert!(
            artifacts.contains_key("a") && !artifacts.contains_key("b") && artifacts.len() == 3
        );
        let json = serde_json::to_string(&artifacts).unwrap();
        assert_eq!(json, serde_json::to_string(&tree).unwrap());
        assert_eq!(serde_json::from_str::<Artifacts>(&json).unwrap(), artifacts);
        assert_eq!(serde_json::from_str::<Artifacts>("{}").unwrap(), Artifacts::default());
    }
}
