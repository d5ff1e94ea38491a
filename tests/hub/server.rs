//! A small server that speaks the hub's paths, a second host for large files, and faults on request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes from which on a file is a large one, which another host sends.
const LARGE: usize = 2000;
/// What the other host's addresses are signed with.
pub const SIGNATURE: &str = "signed-with-hunter2";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `hub` or `cdn`.
    pub host: &'static str,
    pub method: String,
    /// The path, with its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0)
    }
}

/// What is sent after the headers.
#[derive(Clone)]
pub enum Body {
    Bytes(Vec<u8>),
    /// The connection ends after so many of the bytes.
    Cut(Vec<u8>, usize),
    /// The same byte, until the other side leaves.
    Endless,
    /// These bytes in the place of a whole answer, headers too.
    Raw(Vec<u8>),
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: Body::Bytes(body.into()) }
    }

    pub fn json(value: &Value) -> Reply {
        Reply::new(200, value.to_string())
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Ends the connection after so many bytes.
    pub fn cut(mut self, bytes: usize) -> Reply {
        if let Body::Bytes(body) = self.body {
            self.body = Body::Cut(body, bytes);
        }
        self
    }

    pub fn of(status: u16, body: Body) -> Reply {
        Reply { status, headers: Vec::new(), body }
    }
}

/// Replaces the server's answer to a request, given it.
pub type Fault = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    /// The files of each commit, by repository (`models/org/name`) and commit.
    commits: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// The commits of branches.
    branches: BTreeMap<(String, String), String>,
    /// Repositories that need a token.
    gated: Vec<String>,
    /// Files of other paths.
    files: BTreeMap<String, Vec<u8>>,
    fault: Option<Fault>,
    seen: Vec<Request>,
    cdn: String,
}

pub struct Server {
    pub hub: String,
    pub cdn: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Server {
        let state = Arc::new(Mutex::new(State::default()));
        let (hub, cdn) = (listen("hub", &state), listen("cdn", &state));
        state.lock().unwrap().cdn = cdn.clone();
        Server { hub, cdn, state }
    }

    /// Makes a commit of a repository, to which a branch then points.
    pub fn commit(&self, repository: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let mut state = self.state.lock().unwrap();
        let commit = format!("{:040x}", 0xabc000 + state.commits.len());
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        state.commits.insert((repository.into(), commit.clone()), files);
        state.branches.insert((repository.into(), branch.into()), commit.clone());
        commit
    }

    /// Changes a file under its commit, as no hub does.
    pub fn rewrite(&self, repository: &str, commit: &str, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let files = state.commits.get_mut(&(repository.into(), commit.into())).unwrap();
        files.insert(name.into(), bytes.to_vec());
    }

    pub fn gate(&self, repository: &str) {
        self.state.lock().unwrap().gated.push(repository.into());
    }

    /// Puts a file at a path of the second host.
    pub fn put(&self, path: &str, bytes: &[u8]) -> String {
        let mut state = self.state.lock().unwrap();
        state.files.insert(path.into(), bytes.to_vec());
        format!("{}{path}", self.cdn)
    }

    pub fn fault(&self, fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) {
        self.state.lock().unwrap().fault = Some(Arc::new(fault));
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().fault = None;
    }

    /// Takes the requests so far.
    pub fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

/// The digest of a file as git makes it.
pub fn git_digest(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The digest of a file as the hub gives it.
pub fn etag(bytes: &[u8]) -> String {
    if bytes.len() >= LARGE { sha256(bytes) } else { git_digest(bytes) }
}

fn listen(host: &'static str, state: &Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || {
                // A client that goes away ends its connection.
                let _ended = serve(stream, host, &state);
            });
        }
    });
    address
}

fn serve(stream: TcpStream, host: &'static str, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut writer = stream.try_clone()?;
    let Some(request) = read(&mut BufReader::new(stream), host)? else { return Ok(()) };
    let (reply, fault) = {
        let mut state = state.lock().unwrap();
        state.seen.push(request.clone());
        (state.answer(&request), state.fault.clone())
    };
    let reply = fault.map_or_else(|| reply.clone(), |fault| fault(&request, reply.clone()));
    let is_head = request.method == "HEAD";
    send(&mut writer, &reply, is_head)
}

fn read(reader: &mut impl BufRead, host: &'static str) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    Ok(Some(Request { host, method, path, headers }))
}

fn send(writer: &mut TcpStream, reply: &Reply, is_head: bool) -> std::io::Result<()> {
    if let Body::Raw(bytes) = &reply.body {
        return writer.write_all(bytes);
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let has_length = reply.headers.iter().any(|(name, _)| name == "Content-Length");
    if let Body::Bytes(bytes) | Body::Cut(bytes, _) = &reply.body
        && !has_length
    {
        write!(head, "Content-Length: {}\r\n", bytes.len()).unwrap();
    }
    writer.write_all(format!("{head}\r\n").as_bytes())?;
    if is_head {
        return Ok(());
    }
    match &reply.body {
        Body::Bytes(bytes) => writer.write_all(bytes)?,
        Body::Cut(bytes, at) => writer.write_all(&bytes[..(*at).min(bytes.len())])?,
        Body::Endless => loop {
            writer.write_all(&[b'x'; 64 << 10])?;
        },
        Body::Raw(_) => {}
    }
    writer.flush()?;
    // Read what is left of the request, so that the end of the connection is not a reset.
    writer.shutdown(std::net::Shutdown::Write)?;
    let _rest = writer.read(&mut [0; 64]);
    Ok(())
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if request.host == "cdn" {
            return match self.files.get(path).or_else(|| self.large(path)) {
                Some(bytes) => ranged(request, bytes, &format!("\"cdn-{}\"", bytes.len())),
                None => Reply::new(404, "no such file"),
            };
        }
        let repository = |path: &str| {
            let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            match words.as_slice() {
                ["api", kind, org, name, what @ ..] => {
                    Some((format!("{kind}/{org}/{name}"), what.join("/")))
                }
                ["datasets", org, name, what @ ..] => {
                    Some((format!("datasets/{org}/{name}"), what.join("/")))
                }
                [org, name, what @ ..] => Some((format!("models/{org}/{name}"), what.join("/"))),
                _ => None,
            }
        };
        let Some((repository, what)) = repository(path) else {
            return Reply::new(404, "no such page");
        };
        if !self.commits.keys().any(|(known, _)| *known == repository) {
            return Reply::new(401, "Repository not found").with("X-Error-Code", "RepoNotFound");
        }
        let has_token = request.header("authorization").is_some();
        if self.gated.contains(&repository) && !has_token {
            return Reply::new(401, "gated").with("X-Error-Code", "GatedRepo");
        }
        let what = what.replace("%2F", "/");
        match what.split_once('/').unwrap_or((&what, "")) {
            ("revision", revision) => self.info(&repository, revision),
            ("tree", revision) => self.tree(&repository, revision),
            ("refs", _) => {
                let names = self.branches.keys().filter(|(of, _)| *of == repository);
                let names: Vec<Value> = names.map(|(_, name)| json!({ "name": name })).collect();
                Reply::json(&json!({ "branches": names, "tags": [] }))
            }
            ("resolve", rest) => self.resolve(&repository, rest, request),
            _ => Reply::new(404, "no such page"),
        }
    }

    fn commit(
        &self,
        repository: &str,
        revision: &str,
    ) -> Option<(String, &BTreeMap<String, Vec<u8>>)> {
        let key = |revision: &str| (repository.to_owned(), revision.to_owned());
        let commit = self.branches.get(&key(revision)).cloned().unwrap_or(revision.into());
        let files = self.commits.get(&key(&commit))?;
        Some((commit, files))
    }

    fn info(&self, repository: &str, revision: &str) -> Reply {
        let Some((commit, files)) = self.commit(repository, revision) else {
            return Reply::new(404, "no revision").with("X-Error-Code", "RevisionNotFound");
        };
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let mut file =
                json!({ "rfilename": name, "size": bytes.len(), "blobId": git_digest(bytes) });
            if bytes.len() >= LARGE {
                file["lfs"] =
                    json!({ "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130 });
            }
            file
        };
        let siblings: Vec<Value> = files.iter().map(sibling).collect();
        let id = repository.split_once('/').unwrap().1;
        Reply::json(&json!({ "id": id, "sha": commit, "siblings": siblings }))
    }

    fn tree(&self, repository: &str, revision: &str) -> Reply {
        let Some((_, files)) = self.commit(repository, revision) else {
            return Reply::new(404, "no revision").with("X-Error-Code", "RevisionNotFound");
        };
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let mut file = json!({
                "type": "file", "path": name, "size": bytes.len(), "oid": git_digest(bytes),
            });
            if bytes.len() >= LARGE {
                file["lfs"] =
                    json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130 });
            }
            file
        };
        Reply::json(&files.iter().map(entry).collect())
    }

    fn resolve(&self, repository: &str, rest: &str, request: &Request) -> Reply {
        let (revision, name) = rest.split_once('/').unwrap_or_default();
        let Some((commit, files)) = self.commit(repository, revision) else {
            return Reply::new(404, "no revision").with("X-Error-Code", "RevisionNotFound");
        };
        let Some(bytes) = files.get(name) else {
            return Reply::new(404, "no file").with("X-Error-Code", "EntryNotFound");
        };
        let reply = if bytes.len() >= LARGE {
            let to = format!("{}/large/{}?signature={SIGNATURE}", self.cdn, sha256(bytes));
            Reply::new(302, "")
                .with("Location", to)
                .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
                .with("X-Linked-Size", bytes.len().to_string())
        } else {
            ranged(request, bytes, &format!("\"{}\"", git_digest(bytes)))
        };
        reply.with("X-Repo-Commit", commit)
    }

    fn large(&self, path: &str) -> Option<&Vec<u8>> {
        let digest = path.strip_prefix("/large/")?;
        self.commits.values().flat_map(BTreeMap::values).find(|bytes| sha256(bytes) == digest)
    }
}

/// The bytes that a request asks for.
fn ranged(request: &Request, bytes: &[u8], etag: &str) -> Reply {
    let from = request.from();
    let is_same = request.header("if-range").is_none_or(|validator| validator == etag);
    let reply = match (from, is_same) {
        (0, _) | (_, false) => Reply::new(200, bytes),
        (from, true) if from >= bytes.len() => Reply::new(416, ""),
        (from, true) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[from..]).with("Content-Range", range)
        }
    };
    reply.with("ETag", etag)
}
