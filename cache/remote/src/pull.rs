//! Receives what a lock names.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use futures_util::{StreamExt, stream};
use refrain_cache::write::create_dir_all;
use refrain_cache::{
    Artifact, Cache, Digest, FileDigests, Key, Record, Records, is_inside, parse_listing,
};
use tokio::runtime::Handle;

use crate::connection::Connection;
use crate::error::{Fault, Refused, RemoteError};
use crate::named::{Named, refuse_key};
use crate::object::{Budget, name, named};
use crate::page::{self, Page};
use crate::progress::Progress;
use crate::remote::Remote;

/// Results of one page that are under way at once.
const RESULTS: usize = 16;
/// Pages that are under way at once.
const PAGES: usize = 4;
/// Files of one folder that are under way at once.
const FILES: usize = 16;
/// Bytes of a folder's listing at most.
pub(crate) const LISTING: u64 = 16 << 20;

/// The outcome of a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Results that were received.
    pub received: usize,
    /// Results that the cache held already.
    pub present: usize,
    /// Nodes whose results are not at the remote.
    pub absent: Vec<String>,
    /// Results that were refused.
    pub faults: Vec<Fault>,
}

impl Pulled {
    fn and(mut self, mut other: Pulled) -> Pulled {
        self.received += other.received;
        self.present += other.present;
        self.absent.append(&mut other.absent);
        self.faults.append(&mut other.faults);
        self
    }
}

/// Where received results go.
#[derive(Clone, Copy)]
struct Target<'a> {
    connection: &'a Connection,
    cache: &'a Cache,
    records: &'a Records,
    progress: &'a Progress,
}

impl Remote {
    /// Receives the wanted ones of the results that a lock names. `named` has all of them: which
    /// page a record is in depends on its neighbours. A result is recorded when its artifacts are
    /// in the cache, so that nothing received is lost when the rest fails.
    ///
    /// # Errors
    /// Failures of the remote and of the cache; what is wrong with single results is in
    /// [`Pulled::faults`].
    pub fn pull(
        &self,
        cache: &Cache,
        records: &Records,
        known: &FileDigests,
        named: &[Named],
        wanted: &(dyn Fn(&Key) -> bool + Sync),
        progress: &Progress,
    ) -> Result<Pulled, RemoteError> {
        let target = Target { connection: &self.connection, cache, records, progress };
        let pulled = self.runtime.block_on(async {
            let mut pages = stream::iter(page::pages(named))
                .map(|page| async move { target.page(&page, wanted).await })
                .buffer_unordered(PAGES);
            let mut pulled = Pulled::default();
            let mut failed = None;
            while let Some(page) = pages.next().await {
                match page {
                    Ok(page) => pulled = pulled.and(page),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            failed.map_or(Ok(pulled), Err)
        });
        cache.sync(known)?;

        let mut pulled = pulled?;
        pulled.absent.sort();
        pulled.faults.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(pulled)
    }

    /// Receives the results of records that a trusted remote holds, by the names of their nodes.
    ///
    /// # Errors
    /// See [`Remote::pull`].
    pub fn pull_records(
        &self,
        cache: &Cache,
        records: &Records,
        found: &[(String, Record)],
        progress: &Progress,
    ) -> Result<Pulled, RemoteError> {
        let target = Target { connection: &self.connection, cache, records, progress };
        let mut pulled = Pulled::default();
        self.runtime.block_on(async {
            let mut results = stream::iter(found)
                .map(|(node, record)| async move {
                    let received = match refuse_key(&record.key, record) {
                        Some(reason) => Err(Refused::Fault(reason)),
                        None => target.result(record).await,
                    };
                    (node.clone(), received)
                })
                .buffer_unordered(RESULTS);
            while let Some((node, received)) = results.next().await {
                match received {
                    Ok(()) => pulled.received += 1,
                    Err(Refused::Fault(reason)) => pulled.faults.push(Fault { node, reason }),
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
            Ok(())
        })?;
        pulled.faults.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(pulled)
    }
}

impl Target<'_> {
    /// Receives the wanted results of a page.
    async fn page(
        &self,
        page: &Page<'_>,
        wanted: &(dyn Fn(&Key) -> bool + Sync),
    ) -> Result<Pulled, RemoteError> {
        let mut pulled = Pulled::default();
        let mut lacking = Vec::new();
        for one in page.results.iter().filter(|one| wanted(&one.key)) {
            let artifacts = &one.result.artifacts;
            let is_there = self.records.summary(&one.key)?.is_some()
                && artifacts.values().all(|artifact| self.cache.contains(artifact));
            match is_there {
                true => pulled.present += 1,
                false => {
                    self.progress
                        .add_total(artifacts.values().map(|artifact| artifact.bytes).sum());
                    lacking.push(*one);
                }
            }
        }
        if lacking.is_empty() {
            return Ok(pulled);
        }

        let found = match self.connection.read(&named("pages", &page.name), page.limit()).await {
            Ok(found) => found.unwrap_or_default(),
            Err(Refused::Error(error)) => return Err(error),
            Err(Refused::Fault(reason)) => {
                pulled.faults.extend(lacking.iter().map(|one| fault(one, &reason)));
                return Ok(pulled);
            }
        };
        let found: HashMap<Key, Record> =
            page::read(&found).map(|record| (record.key, record)).collect();
        let found = &found;
        let mut results = stream::iter(lacking)
            .map(|one| async move {
                let Some(record) = found.get(&one.key) else { return (one, Ok(false)) };
                let received = match one.refuse(record) {
                    Some(reason) => Err(Refused::Fault(reason)),
                    None => self.result(record).await,
                };
                (one, received.map(|()| true))
            })
            .buffer_unordered(RESULTS);
        while let Some((one, received)) = results.next().await {
            match received {
                Ok(true) => pulled.received += 1,
                Ok(false) => pulled.absent.push(one.node.clone()),
                Err(Refused::Fault(reason)) => pulled.faults.push(fault(one, &reason)),
                Err(Refused::Error(error)) => return Err(error),
            }
        }
        Ok(pulled)
    }

    /// Receives the artifacts of a record, and enters it.
    async fn result(&self, record: &Record) -> Result<(), Refused> {
        for artifact in record.result.artifacts.values() {
            if self.cache.contains(artifact) && self.cache.verify(artifact).is_ok() {
                continue;
            }
            match artifact.kind.is_folder() {
                false => self.file(artifact).await?,
                true => self.folder(artifact).await?,
            }
        }
        self.records.put(record).map_err(RemoteError::from)?;
        Ok(())
    }

    async fn file(&self, artifact: &Artifact) -> Result<(), Refused> {
        let scratch = self.cache.scratch_dir()?;
        let path = scratch.path().join("object");
        let (digest, bytes) = (&artifact.digest, artifact.bytes);
        let budget = Budget::new(bytes);
        self.connection.receive(digest, Some(bytes), &budget, Some(&path), self.progress).await?;
        tokio::task::block_in_place(|| self.cache.store_hashed_file(&path, *digest))?;
        Ok(())
    }

    async fn folder(&self, artifact: &Artifact) -> Result<(), Refused> {
        let files = self.connection.listing(artifact).await?;
        let folder = self.cache.new_folder()?;
        let budget = Budget::new(artifact.bytes);
        tokio::task::block_in_place(|| self.files(&files, folder.path(), &budget))?;
        if budget.left() > 0 {
            let left = budget.left();
            let reason = format!("the files of a folder have {left} bytes less than the lock says");
            return Err(Refused::Fault(reason));
        }
        let store = || self.cache.store_hashed_folder(folder, artifact.kind, artifact.base, &files);
        tokio::task::block_in_place(store)?;
        Ok(())
    }

    /// Receives the files of a folder, several at once, each hashed and written on a thread of its
    /// own.
    fn files(
        &self,
        files: &[(String, Digest)],
        folder: &Path,
        budget: &Budget,
    ) -> Result<(), Refused> {
        let runtime = Handle::current();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            while let Some((relative, digest)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let received =
                    runtime.block_on(self.one_file(&folder.join(relative), digest, budget));
                if let Err(refused) = received {
                    // The first failure is told; the others end too.
                    next.store(files.len(), Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(refused);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..files.len().min(FILES) {
                scope.spawn(work);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    async fn one_file(&self, path: &Path, digest: &Digest, budget: &Budget) -> Result<(), Refused> {
        let parent = path.parent().unwrap_or(path);
        create_dir_all(parent).map_err(|source| RemoteError::Io { path: parent.into(), source })?;
        self.connection.receive(digest, None, budget, Some(path), self.progress).await
    }
}

impl Connection {
    /// Receives the listing of a folder: paths that stay inside it, and digests.
    pub async fn listing(&self, folder: &Artifact) -> Result<Vec<(String, Digest)>, Refused> {
        let name = name(&folder.digest);
        let wrong = |what: &str| Refused::Fault(format!("`{name}` {what}"));
        let bytes = self.read(&name, LISTING).await?.ok_or_else(|| wrong("is not there"))?;
        if Digest::of_bytes(&bytes) != folder.digest {
            return Err(wrong("has bytes that are not those of its name"));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
        let files = parse_listing(&text).ok_or_else(|| wrong("is no listing of files"))?;
        match files.iter().find(|(relative, _)| !is_inside(relative)) {
            Some((relative, _)) => {
                Err(wrong(&format!("has the file `{relative}`, a path that leaves its folder")))
            }
            None => Ok(files),
        }
    }
}

pub(crate) fn fault(one: &Named, reason: &str) -> Fault {
    Fault { node: one.node.clone(), reason: reason.into() }
}
