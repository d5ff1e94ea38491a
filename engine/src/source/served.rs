//! A model that a server computes: what names it, and the artifact that stands for it.
//!
//! Its weights are not here. It is known by the name and the revision that the workflow gives, by
//! the interface, and by the files of its tokenizer; the address can change no key.

use std::path::Path;

use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, ArtifactKind, Cache, Digest, Manifest};

use crate::kind::{ServedApi, ServedSpec};

use super::SourceError;
use super::model_folder::ModelFolder;
use super::spec::OptionProblem;

/// Version of the way in which a server is asked: raised when that changes results.
const VERSION: u32 = 1;

/// The file that holds the identity of a served model in its artifact.
pub const IDENTITY: &str = "served.json";

/// The hint for an address.
const AN_ADDRESS: &str = "an address begins with `http://` or `https://` and mostly ends in `/v1`";

impl ServedSpec {
    /// Makes the model that a checked mapping with `server` describes; paths are relative to
    /// `folder`.
    ///
    /// # Errors
    /// An address that is none, parts that are missing, a tokenizer that is absent.
    pub fn new(folder: &Path, values: &Map<String, Value>) -> Result<ServedSpec, OptionProblem> {
        let spec = ServedSpec::recorded(folder, values)?;
        let Some(tokenizer) = &spec.tokenizer else { return Ok(spec) };
        if !tokenizer.join("tokenizer.json").is_file() {
            let message = format!("`{}` holds no `tokenizer.json`", tokenizer.display());
            let hint = "name the folder of the model on the hub, of which only the tokenizer's files are read";
            return Err(("tokenizer", message, Some(hint.into())));
        }
        Ok(spec)
    }

    /// As [`ServedSpec::new`], where the tokenizer may be absent.
    ///
    /// # Errors
    /// As [`ServedSpec::new`].
    pub fn recorded(
        folder: &Path,
        values: &Map<String, Value>,
    ) -> Result<ServedSpec, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str).map(str::to_owned);
        let wrong = |at, message: String, hint: &str| Err((at, message, Some(hint.to_owned())));
        for (name, why) in [
            ("path", "a model is either in a folder or on a server"),
            ("base", "an adapter is trained here, or lies in a folder"),
            ("file", "a file is of a model on the hub"),
        ] {
            if values.contains_key(name) {
                return wrong(name, format!("`{name}` stands beside `server`"), why);
            }
        }
        let address = text("server").unwrap_or_default();
        let address = address.trim_end_matches('/').to_owned();
        let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let is_address = host.is_some_and(|host| {
            !host.is_empty()
                && !host.starts_with('/')
                && !host.contains(|c: char| c.is_whitespace())
        });
        if !is_address {
            return wrong("server", format!("`{address}` is not an address"), AN_ADDRESS);
        }
        // A password there would be shown wherever the address is.
        if host.is_some_and(|host| host.split('/').next().is_some_and(|host| host.contains('@'))) {
            let hint = "`key: \"${env:NAME}\"` takes it from the environment";
            return wrong("server", "the address holds a password".into(), hint);
        }
        let Some(name) = text("name").filter(|name| !name.is_empty()) else {
            let hint = "`name` is what the server calls the model: its `/models` lists them";
            return wrong("server", "a served model needs `name`".into(), hint);
        };
        let Some(revision) = text("revision") else {
            let hint =
                "`revision` is any text that you change when the weights of that name change";
            return wrong("server", "a served model needs `revision`".into(), hint);
        };
        let api = match text("api").as_deref() {
            Some("chat") => ServedApi::Chat,
            _ => ServedApi::Completions,
        };
        let tokenizer = text("tokenizer").map(|path| folder.join(path));
        if tokenizer.is_none() && api == ServedApi::Completions {
            let hint = "name the folder of the model's tokenizer; `api: chat` needs none, as the server renders";
            return wrong("server", "`api: completions` needs `tokenizer`".into(), hint);
        }
        Ok(ServedSpec { address, name, revision, tokenizer, api, key: text("key") })
    }

    /// Returns all that identifies it beside its tokenizer.
    fn identity(&self) -> Value {
        json!({ "name": self.name, "revision": self.revision, "api": self.api.word() })
    }

    /// Returns the manifest of its key, given the digest of its tokenizer's files.
    pub(crate) fn manifest(&self, tokenizer: Option<&Digest>) -> Manifest {
        let inputs = tokenizer.map_or_else(|| json!({}), |d| json!({ "tokenizer": d.to_string() }));
        Manifest::new("served")
            .section("versions", json!({ "served": VERSION }))
            .section("parameters", self.identity())
            .section("inputs", inputs)
    }

    /// Stores the artifact that stands for it: its identity, and the files of its tokenizer.
    ///
    /// # Errors
    /// A tokenizer that cannot be read, a cache that cannot be written.
    pub(crate) fn import(&self, cache: &Cache) -> Result<Artifact, SourceError> {
        let folder = cache.new_folder()?;
        let mut identity = self.identity();
        identity["served"] = VERSION.into();
        let io = |path: &Path, error| SourceError::Io { path: path.to_owned(), error };
        folder
            .write(IDENTITY, format!("{identity}\n").as_bytes())
            .map_err(|error| io(&folder.path().join(IDENTITY), error))?;
        if let Some(tokenizer) = &self.tokenizer {
            let files = ModelFolder::open_tokenizer(tokenizer)
                .map_err(|error| io(&error.path, error.error))?;
            files
                .copy_to(folder.path())
                .map_err(|error| io(tokenizer, std::io::Error::other(error.to_string())))?;
        }
        Ok(cache.store_folder(folder, ArtifactKind::Model, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: Value) -> Result<ServedSpec, (&'static str, String)> {
        let Value::Object(values) = values else { panic!("no mapping") };
        ServedSpec::recorded(Path::new("w"), &values).map_err(|(at, message, _)| (at, message))
    }

    #[test]
    fn a_served_model_says_what_identifies_it() {
        let whole = json!({
            "server": "http://a:8000/v1/", "name": "m", "revision": "1", "tokenizer": "t",
        });
        let spec = given(whole.clone()).unwrap();
        assert_eq!((spec.address.as_str(), spec.api), ("http://a:8000/v1", ServedApi::Completions));
        assert_eq!(spec.tokenizer.as_deref(), Some(Path::new("w/t")));

        let without = |name: &str| {
            let mut values = whole.clone();
            values.as_object_mut().unwrap().remove(name);
            given(values).unwrap_err().1
        };
        assert_eq!(without("name"), "a served model needs `name`");
        assert_eq!(without("revision"), "a served model needs `revision`");
        assert_eq!(without("tokenizer"), "`api: completions` needs `tokenizer`");

        let with = |name: &str, value: &str| {
            let mut values = whole.clone();
            values[name] = value.into();
            given(values)
        };
        assert_eq!(with("server", "a:8000").unwrap_err().0, "server");
        assert_eq!(
            with("server", "http://me:hunter2@a/v1").unwrap_err().1,
            "the address holds a password"
        );
        assert_eq!(with("path", "m").unwrap_err().1, "`path` stands beside `server`");
    }

    #[test]
    fn neither_address_nor_key_is_in_the_key() {
        let spec = given(json!({
            "server": "http://a/v1", "name": "m", "revision": "1", "api": "chat", "key": "${env:K}",
        }))
        .unwrap();
        let key = |spec: &ServedSpec| spec.manifest(None).key();
        let moved = ServedSpec { address: "http://b/v1".into(), key: None, ..spec.clone() };
        assert_eq!(key(&moved), key(&spec));
        let other = ServedSpec { revision: "2".into(), ..spec.clone() };
        assert_ne!(key(&other), key(&spec));
        let digest = Digest::of_bytes(b"");
        assert_ne!(spec.manifest(Some(&digest)).key(), key(&spec));
    }
}
