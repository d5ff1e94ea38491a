//! The metadata of a bundle as RO-Crate 1.2 has them (<https://w3id.org/ro/crate/1.2>): what it is,
//! whose it is, and the digest of every file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use refrain_cache::Digest;
use refrain_engine::language::workflow::About;

/// The name of the file.
pub const NAME: &str = "ro-crate-metadata.json";
/// The beginning of an identifier that is a digest.
const BLAKE3: &str = "blake3:";

/// A file of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Formats the metadata; `workflow` names the workflow's file among `files`.
pub fn format(
    name: &str,
    about: &About,
    workflow: &str,
    files: &BTreeMap<String, FileFacts>,
) -> String {
    let id = |id: &str| json!({ "@id": id });
    let ids: Vec<Value> = files.keys().map(|name| id(&escaped(name))).collect();
    let author = |(number, name): (usize, &String)| json!({ "@id": format!("#author-{}", number + 1), "@type": "Person", "name": name });
    let authors: Vec<Value> = about.authors.iter().enumerate().map(author).collect();
    let license = about.license.as_deref().unwrap_or_default();
    let license = match license.contains("://") {
        true => license.to_owned(),
        false => format!("https://spdx.org/licenses/{license}"),
    };
    let mut root = json!({
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": about.description.as_deref().unwrap_or(name),
        "datePublished": about.date,
        "license": id(&license),
        "mainEntity": id(&escaped(workflow)),
        "hasPart": ids,
    });
    if !authors.is_empty() {
        root["author"] =
            authors.iter().map(|author| id(author["@id"].as_str().unwrap_or(""))).collect();
    }
    let mut graph = vec![
        json!({
            "@id": NAME,
            "@type": "CreativeWork",
            "about": id("./"),
            "conformsTo": id("https://w3id.org/ro/crate/1.2"),
        }),
        root,
        json!({ "@id": license, "@type": "CreativeWork", "name": about.license }),
    ];
    graph.extend(authors);
    for (name, facts) in files {
        graph.push(json!({
            "@id": escaped(name),
            "@type": if name == workflow { json!(["File", "SoftwareSourceCode"]) } else { json!("File") },
            "name": name,
            "contentSize": facts.bytes.to_string(),
            "encodingFormat": encoding(name),
            "identifier": format!("{BLAKE3}{}", facts.digest),
        }));
    }
    let document = json!({ "@context": "https://w3id.org/ro/crate/1.2/context", "@graph": graph });
    format!("{document:#}\n")
}

/// The parts of metadata that a check needs.
pub struct Metadata {
    /// The name of the workflow's file.
    pub workflow: String,
    /// The files.
    pub files: BTreeMap<String, FileFacts>,
}

/// Reads metadata; an error in words where they are not those of a bundle.
pub fn read(text: &str) -> Result<Metadata, String> {
    let wrong = || format!("`{NAME}` is not that of a bundle");
    let document: Value =
        serde_json::from_str(text).map_err(|error| format!("`{NAME}`: {error}"))?;
    let graph = document["@graph"].as_array().ok_or_else(wrong)?;
    let root = graph.iter().find(|entity| entity["@id"] == "./").ok_or_else(wrong)?;
    let workflow = root["mainEntity"]["@id"].as_str().ok_or_else(wrong)?;
    let mut files = BTreeMap::new();
    for entity in graph {
        let digest = entity["identifier"].as_str().and_then(|text| text.strip_prefix(BLAKE3));
        let (Some(digest), Some(name)) = (digest, entity["name"].as_str()) else { continue };
        let bytes = entity["contentSize"].as_str().and_then(|text| text.parse().ok());
        let digest = digest.parse().map_err(|_| wrong())?;
        files.insert(name.to_owned(), FileFacts { digest, bytes: bytes.ok_or_else(wrong)? });
    }
    let workflow = files.keys().find(|name| escaped(name) == workflow).ok_or_else(wrong)?.clone();
    Ok(Metadata { workflow, files })
}

/// A file's name as an identifier: a relative URI.
fn escaped(name: &str) -> String {
    let mut uri = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

/// The media type of a file.
fn encoding(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("yaml" | "yml") => "application/yaml",
        Some("json" | "lock" | "jsonl") => "application/json",
        Some("html") => "text/html",
        Some("csv") => "text/csv",
        _ => "application/octet-stream",
    }
}
