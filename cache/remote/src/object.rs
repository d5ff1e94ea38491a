//! Objects on their way: read from the cache and sent, or received, hashed and stored.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{GetResultPayload, ObjectStoreExt, WriteMultipart};
use refrain_cache::Digest;
use refrain_cache::write::PlainFile;

use crate::connection::Connection;
use crate::error::{Refused, RemoteError};
use crate::progress::Progress;

/// Bytes of an object that is sent whole; and of the parts of a larger one.
const PART: usize = 16 << 20;
/// Parts of one object that are under way at once.
const PARTS: usize = 4;
/// Bytes up to which an object is sent without asking whether it is there.
pub(crate) const SMALL: u64 = 1 << 20;

/// The bytes of an object.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A file of the cache.
    File(PathBuf),
    /// A listing.
    Text(String),
}

/// An object to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub digest: Digest,
    pub bytes: u64,
    pub content: Content,
}

/// The name of an object.
pub(crate) fn name(digest: &Digest) -> ObjectPath {
    named("objects", digest)
}

/// The name of something under a digest.
pub(crate) fn named(what: &str, digest: &Digest) -> ObjectPath {
    let hex = digest.to_string();
    let (first, rest) = hex.split_at(2);
    ObjectPath::from(format!("v1/{what}/{first}/{rest}"))
}

impl Connection {
    /// Sends an object, unless it is there with its size.
    pub async fn send(&self, object: &Object, progress: &Progress) -> Result<bool, RemoteError> {
        let name = name(&object.digest);
        if object.bytes > SMALL && self.size(&name).await? == Some(object.bytes) {
            progress.add_done(object.bytes);
            return Ok(false);
        }

        match &object.content {
            Content::Text(text) => self.put(&name, text.clone().into_bytes()).await?,
            Content::File(path) => self.send_file(path, &name, object, progress).await?,
        }
        progress.add_done(if matches!(object.content, Content::Text(_)) {
            object.bytes
        } else {
            0
        });
        Ok(true)
    }

    /// Sends a file, and hashes it on the way: a damaged one does not arrive.
    async fn send_file(
        &self,
        path: &Path,
        name: &ObjectPath,
        object: &Object,
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::Io { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();

        let mut part = read_part(&mut file).map_err(failed)?;
        hasher.update(&part);
        if part.len() < PART {
            if Digest::from(hasher.finalize()) != object.digest {
                return Err(RemoteError::Damaged(path.into()));
            }
            let bytes = part.len() as u64;
            self.put(name, part).await?;
            progress.add_done(bytes);
            return Ok(());
        }

        let upload = self.store.put_multipart(name).await.map_err(|e| self.failed(&e))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part_size(object.bytes));
        loop {
            upload.wait_for_capacity(PARTS).await.map_err(|e| self.failed(&e))?;
            let bytes = part.len() as u64;
            upload.put(Bytes::from(part));
            progress.add_done(bytes);
            part = read_part(&mut file).map_err(failed)?;
            if part.is_empty() {
                break;
            }
            hasher.update(&part);
        }
        if Digest::from(hasher.finalize()) != object.digest {
            upload.abort().await.map_err(|e| self.failed(&e))?;
            return Err(RemoteError::Damaged(path.into()));
        }
        upload.finish().await.map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Receives an object of a known size into a new file, or only hashes it; refuses any bytes but
    /// those of its name.
    pub async fn receive(
        &self,
        digest: &Digest,
        expected: Option<u64>,
        budget: &Budget,
        to: Option<&Path>,
        progress: &Progress,
    ) -> Result<(), Refused> {
        let name = name(digest);
        let found = self.get(&name, expected.unwrap_or(budget.left())).await?;
        let found = found.ok_or_else(|| Refused::Fault(format!("`{name}` is not there")))?;
        let limit = found.meta.size;
        if !budget.take(limit) {
            let left = budget.left();
            return Err(Refused::Fault(format!(
                "`{name}` has {limit} bytes, at most {left} are expected"
            )));
        }
        let write_failed = |source| {
            let path = to.unwrap_or(Path::new("")).into();
            Refused::Error(RemoteError::Io { path, source })
        };
        let file = to.map(PlainFile::create_new).transpose().map_err(write_failed)?;
        let mut sink = Sink { file, hasher: blake3::Hasher::new(), progress };

        match found.payload {
            GetResultPayload::File(mut file, _) => {
                let copied = tokio::task::block_in_place(|| copy(&mut file, &mut sink, limit));
                copied.map_err(write_failed)?;
            }
            GetResultPayload::Stream(mut stream) => {
                while let Some(part) = stream.next().await {
                    let part = part.map_err(|error| self.failed(&error))?;
                    sink.take(&part).map_err(write_failed)?;
                    if sink.hasher.count() > limit {
                        break;
                    }
                }
            }
        }

        let bytes = sink.hasher.count();
        if Digest::from(sink.hasher.finalize()) != *digest {
            return Err(Refused::Fault(format!("the bytes of `{name}` are not those of its name")));
        }
        match expected {
            Some(expected) if expected != bytes => {
                Err(Refused::Fault(format!("`{name}` has {bytes} bytes, the lock says {expected}")))
            }
            None if bytes != limit => {
                Err(Refused::Fault(format!("`{name}` has {bytes} bytes, its answer said {limit}")))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that may still be received, shared by objects that are under way at once.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        Budget(AtomicU64::new(bytes))
    }

    /// Returns what is left.
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes the bytes of an object, if as many are left.
    fn take(&self, bytes: u64) -> bool {
        let rest = |left: u64| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }
}

/// Takes the bytes of an object as they arrive.
struct Sink<'a> {
    file: Option<PlainFile>,
    hasher: blake3::Hasher,
    progress: &'a Progress,
}

impl Sink<'_> {
    fn take(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.progress.add_done(bytes.len() as u64);
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }
}

/// Copies a file to its end, or to a byte after `limit`.
fn copy(from: &mut File, to: &mut Sink<'_>, limit: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; (limit + 1).clamp(1, 1 << 20) as usize];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 || to.hasher.count() > limit {
            return Ok(());
        }
        to.take(&buffer[..read])?;
    }
}

/// Reads the next part of a file; less than a part only at its end.
fn read_part(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut part = Vec::new();
    file.take(PART as u64).read_to_end(&mut part)?;
    Ok(part)
}

/// The size of the parts of an object: no service takes more than 10,000 of them.
fn part_size(bytes: u64) -> usize {
    (bytes / 9_000).max(PART as u64) as usize
}
