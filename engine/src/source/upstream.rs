//! Sources that lie on the Hugging Face hub or on the web, as a workflow declares them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::{Host, Url};

use refrain_cache::{ArtifactKind, Digest, is_inside};

use super::spec::OptionProblem;

/// The branch that is meant where a workflow names no revision.
const MAIN_BRANCH: &str = "main";
/// Longest name of an owner or of a repository on the hub.
const MAX_NAME: usize = 96;

/// The place from which a source is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A repository on the hub, or files of it.
    Hub(HubSource),
    /// A file on the web.
    Web(WebSource),
}

/// The files of a repository that a source consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSource {
    /// The repository.
    pub repository: Repository,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A file, a folder or a pattern; of a model without it all files that count.
    pub file: Option<String>,
}

/// A repository on the hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// Its kind.
    pub kind: RepositoryKind,
    /// Its name: `org/name`, or `name` alone for old ones.
    pub name: String,
}

/// The kind of a repository.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum RepositoryKind {
    /// Of a model.
    #[default]
    Model,
    /// Of a data set.
    Dataset,
}

/// A file on the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSource {
    /// Its address. A query may hold a secret, so it is not shown whole.
    pub url: Url,
    /// The digest of its bytes.
    pub digest: ContentDigest,
}

/// A digest of a file's bytes, as a workflow writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentDigest {
    /// BLAKE3.
    Blake3(Digest),
    /// SHA-256.
    Sha256([u8; 32]),
}

impl Upstream {
    /// Reads the options of a checked entry, of `models` where `model` is set; `None` where nothing
    /// is to be fetched.
    ///
    /// # Errors
    /// Options that do not fit together, and names, addresses or digests that are none.
    pub fn of(model: bool, values: &Map<String, Value>) -> Result<Option<Upstream>, OptionProblem> {
        let has = |name: &str| values.contains_key(name);
        let wrong = |at, message: String, hint: &str| Err((at, message, Some(hint.to_owned())));
        let place = ["hub", "url"].into_iter().find(|name| has(name));
        let Some(place) = place else {
            let lone = [("file", "hub"), ("digest", "url")].into_iter().find(|(name, _)| has(name));
            if let Some((name, of)) = lone {
                let hint = "leave it out, or name where the source is fetched from";
                return wrong(name, format!("`{name}` is for a source with `{of}`"), hint);
            }
            if has("revision") && !has("server") {
                let hint = "leave it out, or name the `hub` repository or the `server`";
                return wrong("revision", "`revision` is for a source with `hub`".into(), hint);
            }
            return Ok(None);
        };
        if let Some(other) = ["path", "server", "url"].into_iter().find(|o| *o != place && has(o)) {
            let hint = "a source lies in one place: a path, the hub, the web, or a server";
            return wrong(place, format!("`{other}` stands beside `{place}`"), hint);
        }
        match place {
            "hub" => HubSource::of(model, values).map(|hub| Some(Upstream::Hub(hub))),
            _ => WebSource::of(values).map(|web| Some(Upstream::Web(web))),
        }
    }

    /// The path that stands for the source where its files are absent; its name tells the format.
    pub fn placeholder(&self) -> PathBuf {
        match self {
            Upstream::Hub(HubSource { repository, file: Some(file), .. }) => {
                PathBuf::from(format!("hub:{}/{file}", repository.name))
            }
            Upstream::Hub(HubSource { repository, .. }) => {
                PathBuf::from(format!("hub:{}", repository.name))
            }
            Upstream::Web(web) => PathBuf::from(web.file_name()),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Hub(HubSource { repository, file: None, .. }) => repository.fmt(f),
            Upstream::Hub(HubSource { repository, file: Some(file), .. }) => {
                write!(f, "{repository}/{file}")
            }
            Upstream::Web(web) => web.fmt(f),
        }
    }
}

impl HubSource {
    fn of(model: bool, values: &Map<String, Value>) -> Result<HubSource, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str);
        let wrong = |at, message: String, hint: &str| Err((at, message, Some(hint.to_owned())));
        let name = text("hub").unwrap_or_default();
        if !is_repository(name) {
            let hint = "write it as the hub does: `hub: org/name`";
            return wrong("hub", format!("`{name}` is not a name of the hub"), hint);
        }
        let revision = text("revision").unwrap_or(MAIN_BRANCH);
        if !is_revision(revision) {
            let hint = "a revision is a commit of 40 characters, a branch or a tag";
            return wrong("revision", format!("`{revision}` is not a revision"), hint);
        }
        let file = text("file");
        if let Some(file) = file.filter(|file| !is_inside(file) || file.contains('\\')) {
            let hint = "name it by its path in the repository, such as `data/train.jsonl`";
            return wrong("file", format!("`{file}` is not a path inside of a repository"), hint);
        }
        let kind = match model || text("type") == Some("model") {
            true => RepositoryKind::Model,
            false => RepositoryKind::Dataset,
        };
        if kind == RepositoryKind::Dataset && file.is_none() {
            let hint = "name a file, a folder or a pattern of it: `file: data/train-*.parquet`";
            return wrong("hub", "data on the hub need `file`".into(), hint);
        }
        let repository = Repository { kind, name: name.into() };
        Ok(HubSource { repository, revision: revision.into(), file: file.map(Into::into) })
    }

    /// Whether the revision is a commit, which never means anything else.
    pub fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl WebSource {
    fn of(values: &Map<String, Value>) -> Result<WebSource, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str).unwrap_or_default();
        let wrong = |at, message: String, hint: &str| Err((at, message, Some(hint.to_owned())));
        let Ok(url) = Url::parse(text("url")) else {
            let hint = "an address begins with `https://`";
            return wrong("url", "`url` is not an address of the web".into(), hint);
        };
        if !is_allowed(&url) {
            let hint = "only `https://` is fetched, and `http://` from this machine itself";
            let message = format!("an address with `{}://` is not fetched", url.scheme());
            return wrong("url", message, hint);
        }
        // A password there would be shown wherever the address is.
        if has_password(&url) {
            let hint = "fetch the file by hand and give its `path`";
            return wrong("url", "the address holds a password".into(), hint);
        }
        if !values.contains_key("digest") {
            let hint = "`b3sum FILE` or `sha256sum FILE` prints it: `digest: \"sha256:…\"`";
            return wrong("url", "a file from the web needs `digest`".into(), hint);
        }
        let Ok(digest) = text("digest").parse() else {
            let hint =
                "write `sha256:` or `blake3:` and 64 hexadecimal digits, or what `b3sum` prints";
            return wrong("digest", format!("`{}` is not a digest", text("digest")), hint);
        };
        Ok(WebSource { url, digest })
    }

    /// Returns the last part of its path, where that is a plain name.
    pub fn file_name(&self) -> &str {
        let last = self.url.path_segments().and_then(|mut parts| parts.next_back());
        let is_plain = |name: &&str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !name.is_empty()
                && !name.starts_with('.')
                && name.len() < 128
                && name.chars().all(allowed)
        };
        last.filter(is_plain).unwrap_or("file")
    }
}

impl fmt::Display for WebSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))
    }
}

/// Formats an address without its query, which may hold a secret.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Whether an address may be fetched: by https, or by http from this machine itself.
pub fn is_allowed(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => is_this_machine(url),
        _ => false,
    }
}

/// Whether an address is one of this machine itself.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether an address holds a name and a password.
pub fn has_password(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether a text names a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_odd = |text: &str| part.starts_with(text) || part.ends_with(text);
        (1..=MAX_NAME).contains(&part.len())
            && part.chars().all(allowed)
            && !is_odd("-")
            && !is_odd(".")
            && !part.contains("--")
            && !part.contains("..")
    };
    name.split('/').count() <= 2 && name.split('/').all(is_part) && !name.ends_with(".git")
}

fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    is_inside(text)
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && text.len() <= 256
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentDigest::Blake3(digest) => write!(f, "blake3:{digest}"),
            // A digest of 32 bytes is written as one of the other kind is.
            ContentDigest::Sha256(bytes) => {
                write!(f, "sha256:{}", blake3::Hash::from_bytes(*bytes))
            }
        }
    }
}

impl FromStr for ContentDigest {
    type Err = ();

    fn from_str(text: &str) -> Result<ContentDigest, ()> {
        let (algorithm, hex) = text.split_once(':').unwrap_or(("blake3", text));
        let bytes = blake3::Hash::from_hex(hex.to_ascii_lowercase()).map_err(drop)?;
        match algorithm {
            "blake3" => Ok(ContentDigest::Blake3(Digest::from(bytes))),
            "sha256" => Ok(ContentDigest::Sha256(*bytes.as_bytes())),
            _ => Err(()),
        }
    }
}

/// Returns what an entry of `models` or `data` is, by its options alone.
pub(crate) fn kind(model: bool, values: &Map<String, Value>) -> ArtifactKind {
    match values.get("type").and_then(Value::as_str) {
        _ if model => ArtifactKind::Model,
        Some("model") => ArtifactKind::Model,
        Some("file") => ArtifactKind::File,
        Some("folder") => ArtifactKind::Folder,
        _ => ArtifactKind::Table,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(model: bool, values: Value) -> Result<Option<Upstream>, (&'static str, String)> {
        let Value::Object(values) = values else { panic!("no mapping") };
        Upstream::of(model, &values).map_err(|(at, message, _)| (at, message))
    }

    #[test]
    fn a_repository_is_named_as_the_hub_does() {
        let of = |name: &str| given(true, json!({ "hub": name }));
        for name in ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B", "a_b/c.d"] {
            assert!(of(name).is_ok(), "{name}");
        }
        for name in
            ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a--b", ".a", "a b", "a\0", "a.git"]
        {
            assert_eq!(of(name).unwrap_err().0, "hub", "{name}");
        }
    }

    #[test]
    fn a_revision_and_a_file_stay_inside() {
        for revision in ["main", "refs/pr/1", "v1.0", "feature/x"] {
            assert!(
                given(true, json!({ "hub": "a/b", "revision": revision })).is_ok(),
                "{revision}"
            );
        }
        for revision in ["", "..", "../x", "/x", "a//b", "a/../b", "a?b", ".x", "a/./b"] {
            let found = given(true, json!({ "hub": "a/b", "revision": revision }));
            assert_eq!(found.unwrap_err().0, "revision", "{revision}");
        }
        for file in ["", "..", "../x", "/etc/passwd", "a/../../b", "a\\b", "a\0"] {
            let found = given(false, json!({ "hub": "a/b", "file": file }));
            assert_eq!(found.unwrap_err().0, "file", "{file}");
        }
        assert!(given(false, json!({ "hub": "a/b", "file": "data/*.parquet" })).is_ok());
        assert_eq!(
            given(false, json!({ "hub": "a/b" })).unwrap_err().1,
            "data on the hub need `file`"
        );
    }

    #[test]
    fn options_that_do_not_belong_together_are_refused() {
        let said = |values| given(false, values).unwrap_err().1;
        assert_eq!(said(json!({ "path": "x", "file": "y" })), "`file` is for a source with `hub`");
        assert_eq!(
            said(json!({ "path": "x", "digest": "y" })),
            "`digest` is for a source with `url`"
        );
        assert_eq!(
            said(json!({ "path": "x", "revision": "y" })),
            "`revision` is for a source with `hub`"
        );
        assert_eq!(said(json!({ "hub": "a/b", "path": "y" })), "`path` stands beside `hub`");
        assert_eq!(
            said(json!({ "url": "https://a/b", "hub": "a/b" })),
            "`url` stands beside `hub`"
        );
        assert_eq!(given(true, json!({ "server": "x", "revision": "1" })), Ok(None));
        assert_eq!(given(true, json!({ "path": "x" })), Ok(None));
    }

    #[test]
    fn an_address_is_one_of_the_web() {
        let digest = "0".repeat(64);
        let of = |url: &str| given(false, json!({ "url": url, "digest": digest }));
        for url in
            ["https://a/b.jsonl", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]/x"]
        {
            assert!(of(url).is_ok(), "{url}");
        }
        for url in
            ["", "a", "ftp://a/b", "file:///etc/passwd", "http://a/b", "http://127.evil.org/x"]
        {
            assert_eq!(of(url).unwrap_err().0, "url", "{url}");
        }
        let said = of("https://me:hunter2@a/b").unwrap_err().1;
        assert_eq!(said, "the address holds a password");
        let Ok(Some(upstream)) = of("https://a/b.jsonl?key=hunter2#x") else { panic!() };
        assert_eq!(upstream.to_string(), "https://a/b.jsonl");
        assert_eq!(upstream.placeholder(), PathBuf::from("b.jsonl"));
    }

    #[test]
    fn a_digest_has_three_spellings() {
        let hex = "ab".repeat(32);
        let digest = |text: &str| text.parse::<ContentDigest>();
        assert_eq!(digest(&hex), digest(&format!("blake3:{hex}")));
        assert_eq!(digest(&format!("sha256:{hex}")).unwrap().to_string(), format!("sha256:{hex}"));
        assert_eq!(digest(&hex.to_uppercase()), digest(&hex));
        for wrong in ["", "sha1:ab", &hex[1..], &format!("sha256:{}", "zz".repeat(32))] {
            assert!(digest(wrong).is_err(), "{wrong}");
        }
    }
}
