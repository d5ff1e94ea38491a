//! Sends what a lock names.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use refrain_cache::{Artifact, Cache, Digest, FileDigests, Record, Records, listing_text};

use crate::connection::Connection;
use crate::error::RemoteError;
use crate::named::Named;
use crate::object::{Content, Object, named};
use crate::page::{self, Page};
use crate::progress::Progress;
use crate::remote::Remote;

/// Objects of one page that are under way at once.
const OBJECTS: usize = 16;
/// Pages that are under way at once.
const PAGES: usize = 4;

/// The outcome of a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Results that are at the remote now.
    pub results: usize,
    /// Objects that were sent.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: u64,
}

impl Remote {
    /// Sends the results, and the files that they are made of, unless they are there. What is there
    /// under the name of a page is believed, unless `again`: then every object is looked for.
    ///
    /// # Errors
    /// [`RemoteError::Absent`] before anything is sent, where the cache lacks a result or holds
    /// another; [`RemoteError::ReadOnly`], [`RemoteError::Damaged`], and failures of the remote.
    pub fn push(
        &self,
        cache: &Cache,
        records: &Records,
        known: &FileDigests,
        named: &[Named],
        again: bool,
        progress: &Progress,
    ) -> Result<Pushed, RemoteError> {
        let connection = &self.connection;
        if connection.address.is_read_only() {
            return Err(RemoteError::ReadOnly { address: connection.address.to_string() });
        }

        let mut parts = Vec::new();
        let mut absent: Vec<&str> = Vec::new();
        for page in page::pages(named) {
            let mut of_page = Vec::new();
            for one in &page.results {
                let record = records.get(&one.key)?.filter(|found| {
                    one.refuse(found).is_none()
                        && found.result.artifacts.values().all(|a| cache.contains(a))
                });
                match record {
                    Some(record) => of_page.push(record),
                    None => absent.push(&one.node),
                }
            }
            parts.push((page, of_page));
        }
        if let Some(first) = absent.first() {
            let (count, first) = (absent.len(), first.to_string());
            return Err(RemoteError::Absent { count, first });
        }

        let source = Source { connection, cache, known, again, progress };
        let pushed = stream::iter(parts)
            .map(|(page, records)| async move { source.page(&page, &records).await })
            .buffer_unordered(PAGES)
            .try_fold(Pushed::default(), |all, one| async move {
                Ok(Pushed {
                    results: all.results + one.results,
                    objects: all.objects + one.objects,
                    bytes: all.bytes + one.bytes,
                })
            });
        self.runtime.block_on(pushed)
    }
}

/// The cache that results are sent from, and the connection they are sent over.
#[derive(Clone, Copy)]
struct Source<'a> {
    connection: &'a Connection,
    cache: &'a Cache,
    known: &'a FileDigests,
    again: bool,
    progress: &'a Progress,
}

impl Source<'_> {
    /// Sends the objects of a page, then the page.
    async fn page(&self, page: &Page<'_>, records: &[Record]) -> Result<Pushed, RemoteError> {
        let mut pushed = Pushed { results: records.len(), ..Pushed::default() };
        let name = named("pages", &page.name);
        let is_there = self.connection.size(&name).await?.is_some();
        if is_there && !self.again {
            return Ok(pushed);
        }

        let objects = self.objects(records)?;
        self.progress.add_total(objects.iter().map(|object| object.bytes).sum());
        let mut sending = stream::iter(&objects)
            .map(|object| async move {
                let sent = self.connection.send(object, self.progress).await?;
                Ok::<_, RemoteError>(sent.then_some(object.bytes))
            })
            .buffer_unordered(OBJECTS);
        while let Some(sent) = sending.next().await {
            if let Some(bytes) = sent? {
                pushed.objects += 1;
                pushed.bytes += bytes;
            }
        }

        if !is_there {
            self.connection.put(&name, page::write(records)).await?;
        }
        Ok(pushed)
    }

    /// Lists the objects of which the results of a page are made, each once.
    fn objects(&self, records: &[Record]) -> Result<Vec<Object>, RemoteError> {
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut objects = Vec::new();
        for artifact in records.iter().flat_map(|record| record.result.artifacts.values()) {
            if seen.insert(artifact.digest) {
                self.add(artifact, &mut seen, &mut objects)?;
            }
        }
        Ok(objects)
    }

    /// Adds the objects of an artifact.
    fn add(
        &self,
        artifact: &Artifact,
        seen: &mut HashSet<Digest>,
        objects: &mut Vec<Object>,
    ) -> Result<(), RemoteError> {
        let path = self.cache.object_path(&artifact.digest);
        if !artifact.kind.is_folder() {
            let (digest, bytes) = (artifact.digest, artifact.bytes);
            objects.push(Object { digest, bytes, content: Content::File(path) });
            return Ok(());
        }

        let mut files = Vec::new();
        for relative in self.cache.files_of(&artifact.digest)? {
            let file = path.join(&relative);
            let hashed = self.known.hash(&file, &|_| Ok(()));
            let hashed = hashed.map_err(|source| RemoteError::Io { path: file.clone(), source })?;
            if seen.insert(hashed.digest) {
                let bytes = hashed.identity.size();
                let content = Content::File(file);
                objects.push(Object { digest: hashed.digest, bytes, content });
            }
            files.push((relative, hashed.digest));
        }
        let listing = listing_text(&files);
        if Digest::of_bytes(listing.as_bytes()) != artifact.digest {
            return Err(RemoteError::Damaged(path));
        }
        let (digest, bytes) = (artifact.digest, listing.len() as u64);
        objects.push(Object { digest, bytes, content: Content::Text(listing) });
        Ok(())
    }
}
