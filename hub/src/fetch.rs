//! Fetches whole sources: the files of a repository that count, or a file of the web.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Span, info, info_span};
use url::Url;

use refrain_cache::write::{create_dir_all, link, write_atomic};
use refrain_engine::kind::{Cancel, Progress};
use refrain_engine::source::fetched::{Found, HubPin, Pin};
use refrain_engine::source::upstream::{
    HubSource, RepositoryKind, Upstream, WebSource, is_commit, shown,
};

use crate::client::{Ask, Client, NoAnswer, number};
use crate::download::{Download, Watch, has_size};
use crate::error::FetchError;
use crate::etag::{Etag, Expected};
use crate::layout::{Places, RepositoryFolder, hub_pin, web_pin};
use crate::listing::{Listing, References, RepositoryInfo};
use crate::settings::Settings;
use crate::transfer::Transfer;

/// Files that are fetched at once.
const AT_ONCE: usize = 4;
/// Shortest time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Fetches sources.
pub struct Fetcher {
    client: Client,
    places: Places,
    /// The answers of the hub so far: sources of one repository are of one commit.
    listings: Mutex<BTreeMap<(String, String), Listing>>,
}

/// A source that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// Where it is, and its pin.
    pub found: Found,
    /// The number of its files.
    pub files: usize,
    /// The bytes that arrived.
    pub bytes: u64,
}

/// A file of a repository that is to be there.
struct Wanted {
    name: String,
    etag: Etag,
    size: u64,
}

impl Fetcher {
    /// Makes a fetcher; nothing is sent yet.
    ///
    /// # Errors
    /// [`FetchError`] for settings that are wrong.
    pub fn new(settings: Settings, places: Places) -> Result<Fetcher, FetchError> {
        Ok(Fetcher { client: Client::new(settings)?, places, listings: Mutex::default() })
    }

    /// Fetches a source; `name` is the source's, `pin` what the lock says of its revision.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(
        &self,
        name: &str,
        upstream: &Upstream,
        pin: Option<&HubPin>,
        transfer: &Transfer,
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let begin = Instant::now();
        let span = info_span!("fetch", name, from = %upstream);
        let _fetch = span.enter();
        let progress = Progress::new(Span::current(), PROGRESS_EVERY);
        let fetched = match upstream {
            Upstream::Hub(source) => self.hub(name, source, pin, (transfer, &progress), cancel)?,
            Upstream::Web(web) => self.web(name, web, (transfer, &progress), cancel)?,
        };
        let (files, bytes, seconds) = (fetched.files, fetched.bytes, begin.elapsed().as_secs_f64());
        info!(name: "fetched", source = name, from = %upstream, files, bytes, seconds, "fetched");
        Ok(fetched)
    }

    fn web(
        &self,
        name: &str,
        web: &WebSource,
        (transfer, progress): (&Transfer, &Progress),
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let target = self.places.web(web);
        let beside = |end: &str| {
            let mut path = target.clone().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        let download = Download {
            what: &web.to_string(),
            owner: &web.to_string(),
            url: &web.url,
            expected: Expected::Declared(web.digest),
            commit: None,
            partial: &beside(".incomplete"),
            target: &target,
            lock: &beside(".lock"),
        };
        let watch = Watch { transfer, progress, stopped: &|| cancel.is_cancelled() };
        let bytes = self.client.download(&download, watch)?;
        let found = Found { path: target, pin: Some(web_pin(name, web)) };
        Ok(Fetched { found, files: 1, bytes })
    }

    fn hub(
        &self,
        name: &str,
        source: &HubSource,
        pin: Option<&HubPin>,
        (transfer, progress): (&Transfer, &Progress),
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let listing = self.listing(source, pin, cancel)?;
        let commit = listing.commit.as_str();
        let folder = self.places.repository(&source.repository);
        // A pin that was made for other files of the repository says its commit alone.
        let pinned = pin.filter(|pin| pin.file == source.file).map(|pin| &pin.files);
        let wanted = self.wanted(source, &listing, pinned, cancel)?;

        let is_there = |file: &Wanted| has_size(&folder.blob(&file.etag), file.size);
        let lacking: Vec<&Wanted> = wanted.iter().filter(|file| !is_there(file)).collect();
        let bytes = lacking.iter().map(|file| file.size).sum();
        transfer.expect(bytes);
        check_space(&source.repository.name, folder.root(), bytes)?;
        let arrived =
            self.download_all(source, commit, &folder, &lacking, (transfer, progress), cancel)?;

        let snapshot = folder.snapshot(commit);
        for file in &wanted {
            point(&folder, &snapshot, file)?;
        }
        let is_asked = pin.is_none() && !source.is_commit();
        if is_asked {
            let reference = folder.reference(&source.revision);
            let parent = reference.parent().unwrap_or(folder.root());
            create_dir_all(parent).map_err(FetchError::io(parent))?;
            write_atomic(&reference, commit.as_bytes()).map_err(FetchError::io(&reference))?;
        }
        let files = wanted.iter().map(|file| (file.name.clone(), file.etag.to_string())).collect();
        let pin = Pin::Hub(hub_pin(name, source, commit, files));
        let found = Found { path: folder.path(commit, source), pin: Some(pin) };
        Ok(Fetched { found, files: wanted.len(), bytes: arrived })
    }

    /// Asks the hub for the files of a source's revision, once.
    fn listing(
        &self,
        source: &HubSource,
        pin: Option<&HubPin>,
        cancel: &Cancel,
    ) -> Result<Listing, FetchError> {
        let revision = pin.map_or(source.revision.as_str(), |pin| pin.commit.as_str());
        let key = (self.api(source), revision.to_owned());
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listings.get(&key) {
            return Ok(known.clone());
        }
        let what = source.repository.to_string();
        let mut url = self.url(&format!("{}/revision/{}", key.0, encoded(revision)));
        url.set_query(Some("blobs=true"));
        let info: RepositoryInfo = match self.client.json(&url, &what, cancel) {
            Err(FetchError::Absent { message, .. }) => {
                let hint = self.references(source, revision, cancel);
                return Err(FetchError::Absent { message, hint });
            }
            info => info?,
        };
        let listing = Listing::new(info, &what)?;
        if is_commit(revision) && listing.commit != revision {
            let reason =
                format!("the commit {revision} was asked for, and {} came", listing.commit);
            return Err(FetchError::Listing { what, reason });
        }
        listings.insert(key, listing.clone());
        Ok(listing)
    }

    /// Returns the hint at a revision that is not there.
    fn references(&self, source: &HubSource, revision: &str, cancel: &Cancel) -> Option<String> {
        let url = self.url(&format!("{}/refs", self.api(source)));
        let what = source.repository.to_string();
        self.client.json::<References>(&url, &what, cancel).ok()?.hint(revision)
    }

    /// Finds out digest and size of each file that a source takes.
    fn wanted(
        &self,
        source: &HubSource,
        listing: &Listing,
        pinned: Option<&BTreeMap<String, String>>,
        cancel: &Cancel,
    ) -> Result<Vec<Wanted>, FetchError> {
        let names = match pinned {
            Some(pinned) => pinned.keys().cloned().collect(),
            None => listing.select(source)?,
        };
        let commit = &listing.commit;
        let limit = self.client.settings().max_size;
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            let what = format!("{}/{name}", source.repository);
            let Some(listed) = listing.files.get(&name) else {
                let found = "it is gone".to_owned();
                let before = pinned.and_then(|files| files.get(&name)).cloned().unwrap_or_default();
                return Err(FetchError::Changed { what, commit: commit.clone(), before, found });
            };
            let (etag, size) = match (&listed.etag, listed.size) {
                (Some(etag), Some(size)) => (etag.clone(), size),
                _ => self.metadata(source, commit, &name, cancel)?,
            };
            let before = pinned.and_then(|files| files.get(&name));
            if let Some(before) = before.filter(|before| *before != etag.as_str()) {
                let (before, found) = (before.clone(), etag.to_string());
                return Err(FetchError::Changed { what, commit: commit.clone(), before, found });
            }
            if size > limit {
                return Err(FetchError::TooLarge { what, bytes: size, limit });
            }
            wanted.push(Wanted { name, etag, size });
        }
        Ok(wanted)
    }

    /// Asks for digest and size of a file that the listing has without them.
    fn metadata(
        &self,
        source: &HubSource,
        commit: &str,
        name: &str,
        cancel: &Cancel,
    ) -> Result<(Etag, u64), FetchError> {
        cancel.check().map_err(|_| FetchError::Interrupted)?;
        let url = self.resolve(source, commit, name);
        let ask = Ask { url: &url, from: 0, validator: None, is_head: true };
        let what = source.repository.to_string();
        let unreachable = |reason: String| FetchError::Unreachable { url: shown(&url), reason };
        let answer = self.client.ask(ask, true).map_err(|error| match error {
            NoAnswer::Final(error) => error,
            NoAnswer::Temporary { reason, .. } => unreachable(reason),
        })?;
        if answer.status != 200 {
            return Err(match self.client.refusal(&answer, &url, &what) {
                NoAnswer::Final(error) => error,
                NoAnswer::Temporary { reason, .. } => unreachable(reason),
            });
        }
        let length = || number(answer.response.headers(), "content-length");
        match (answer.hub.etag, answer.hub.size.or_else(length)) {
            (Some(etag), Some(size)) => Ok((etag, size)),
            _ => Err(unreachable("the server tells neither its digest nor its size".into())),
        }
    }

    /// Fetches blobs, a few at once; the first error ends all.
    fn download_all(
        &self,
        source: &HubSource,
        commit: &str,
        folder: &RepositoryFolder,
        lacking: &[&Wanted],
        (transfer, progress): (&Transfer, &Progress),
        cancel: &Cancel,
    ) -> Result<u64, FetchError> {
        let (next, arrived, failed) =
            (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let stopped = || cancel.is_cancelled() || failed.load(Ordering::Relaxed);
        let watch = Watch { transfer, progress, stopped: &stopped };
        let one = |file: &Wanted| {
            let download = Download {
                what: &format!("{}/{}", source.repository, file.name),
                owner: &source.repository.name,
                url: &self.resolve(source, commit, &file.name),
                expected: Expected::Hub(file.etag.clone(), file.size),
                commit: Some(commit),
                partial: &folder.partial(&file.etag),
                target: &folder.blob(&file.etag),
                lock: &folder.lock(&file.etag),
            };
            self.client.download(&download, watch)
        };
        let work = || -> Result<(), FetchError> {
            while let Some(file) = lacking.get(next.fetch_add(1, Ordering::Relaxed)) {
                let bytes = one(file).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                arrived.fetch_add(bytes, Ordering::Relaxed);
            }
            Ok(())
        };
        let results: Vec<Result<(), FetchError>> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..AT_ONCE.min(lacking.len())).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        });
        // Those that were stopped because of another's error are not the cause.
        let mut errors = results.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        errors.sort_by_key(|error| matches!(error, FetchError::Interrupted));
        match errors.into_iter().next() {
            None => Ok(arrived.into_inner()),
            Some(error) => Err(error),
        }
    }

    /// Returns the path of a repository's interface.
    fn api(&self, source: &HubSource) -> String {
        let kind = match source.repository.kind {
            RepositoryKind::Model => "models",
            RepositoryKind::Dataset => "datasets",
        };
        format!("api/{kind}/{}", source.repository.name)
    }

    /// Returns the address of a file.
    fn resolve(&self, source: &HubSource, commit: &str, name: &str) -> Url {
        let kind = match source.repository.kind {
            RepositoryKind::Model => "",
            RepositoryKind::Dataset => "datasets/",
        };
        let name: Vec<String> = name.split('/').map(encoded).collect();
        let repository = &source.repository.name;
        self.url(&format!("{kind}{repository}/resolve/{commit}/{}", name.join("/")))
    }

    /// Returns the address of a path, whose parts are encoded, at the hub.
    fn url(&self, path: &str) -> Url {
        let mut url = self.client.settings().endpoint.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        url
    }
}

/// Encodes a part of a path, slashes too.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Points from a snapshot to the blob of a file.
fn point(folder: &RepositoryFolder, snapshot: &Path, file: &Wanted) -> Result<(), FetchError> {
    let at = snapshot.join(&file.name);
    let parent = at.parent().unwrap_or(snapshot);
    // A link in the place of a folder would lead out of the cache.
    let mut inner = parent.to_path_buf();
    while inner.starts_with(folder.root()) {
        if inner.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            let error = std::io::Error::other("it is not a folder");
            return Err(FetchError::Io { path: inner, error });
        }
        if !inner.pop() || inner == folder.root() {
            break;
        }
    }
    create_dir_all(parent).map_err(FetchError::io(parent))?;
    let up =
        Path::new(&file.name).components().filter(|c| matches!(c, Component::Normal(_))).count();
    let mut target: PathBuf = std::iter::repeat_n("..", up + 1).collect();
    target.push("blobs");
    target.push(file.etag.as_str());
    link(&target, &at).map_err(FetchError::io(&at))
}

/// Refuses what the disk cannot hold.
fn check_space(what: &str, folder: &Path, bytes: u64) -> Result<(), FetchError> {
    let Some(there) = folder.ancestors().find(|folder| folder.is_dir()) else { return Ok(()) };
    // A file system that does not say is written to until it refuses.
    let Ok(space) = rustix::fs::statvfs(there) else { return Ok(()) };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if bytes > free {
        let (what, folder) = (what.to_owned(), there.to_path_buf());
        return Err(FetchError::NoSpace { what, bytes, free, folder });
    }
    Ok(())
}
