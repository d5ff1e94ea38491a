//! Checks that what a lock names is at a remote, a sample of it by its bytes.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt, stream};
use refrain_cache::{Artifact, Digest, Key, Record};

use crate::connection::Connection;
use crate::error::{Fault, Refused, RemoteError};
use crate::named::Named;
use crate::object::{Budget, name, named};
use crate::page::{self, Page};
use crate::progress::Progress;
use crate::pull::fault;
use crate::remote::Remote;

/// Requests that are under way at once.
const REQUESTS: usize = 32;
/// Bytes of an object that the lock gives no size of at most.
const UNKNOWN: u64 = 1 << 40;

/// The outcome of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Results whose records are there and as the lock says.
    pub results: usize,
    /// Objects that are there.
    pub objects: usize,
    /// Objects of which the bytes were hashed.
    pub hashed: usize,
    /// Results that are not as the lock says.
    pub faults: Vec<Fault>,
}

/// An object that must be there.
struct Expected<'a> {
    one: &'a Named,
    digest: Digest,
    bytes: Option<u64>,
}

impl Remote {
    /// Checks that the records and objects of all results are there, and receives a share of the
    /// objects, one at least, to hash them. Which ones follows from the digests.
    ///
    /// # Errors
    /// Failures of the remote.
    pub fn check(
        &self,
        named: &[Named],
        share: f64,
        progress: &Progress,
    ) -> Result<Checked, RemoteError> {
        let connection = &self.connection;
        self.runtime.block_on(async {
            let mut checked = Checked::default();
            let mut folders: BTreeMap<Digest, (&Named, &Artifact)> = BTreeMap::new();
            let mut objects: BTreeMap<Digest, Expected<'_>> = BTreeMap::new();
            for page in page::pages(named) {
                connection.check_page(&page, &mut checked).await?;
                for one in page.results {
                    for artifact in one.result.artifacts.values() {
                        let (digest, bytes) = (artifact.digest, Some(artifact.bytes));
                        match artifact.kind.is_folder() {
                            true => drop(folders.insert(digest, (one, artifact))),
                            false => drop(objects.insert(digest, Expected { one, digest, bytes })),
                        }
                    }
                }
            }

            for (one, folder) in folders.into_values() {
                match connection.listing(folder).await {
                    Ok(files) => {
                        let files = files.into_iter().map(|(_, digest)| digest);
                        let expected = |digest| (digest, Expected { one, digest, bytes: None });
                        objects.extend(files.map(expected));
                    }
                    Err(Refused::Fault(reason)) => checked.faults.push(fault(one, &reason)),
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
            connection.check_objects(&objects, share, progress, &mut checked).await?;
            checked.faults.sort_by(|a, b| (&a.node, &a.reason).cmp(&(&b.node, &b.reason)));
            Ok(checked)
        })
    }
}

impl Connection {
    async fn check_page(&self, page: &Page<'_>, checked: &mut Checked) -> Result<(), RemoteError> {
        let found = match self.read(&named("pages", &page.name), page.limit()).await {
            Ok(found) => found.unwrap_or_default(),
            Err(Refused::Error(error)) => return Err(error),
            Err(Refused::Fault(reason)) => {
                checked.faults.extend(page.results.iter().map(|one| fault(one, &reason)));
                return Ok(());
            }
        };
        let found: HashMap<Key, Record> =
            page::read(&found).map(|record| (record.key, record)).collect();
        for one in &page.results {
            let reason = match found.get(&one.key) {
                Some(record) => one.refuse(record),
                None => Some("its record is not there".into()),
            };
            match reason {
                Some(reason) => checked.faults.push(fault(one, &reason)),
                None => checked.results += 1,
            }
        }
        Ok(())
    }

    async fn check_objects(
        &self,
        objects: &BTreeMap<Digest, Expected<'_>>,
        share: f64,
        progress: &Progress,
        checked: &mut Checked,
    ) -> Result<(), RemoteError> {
        let is_drawn = |digest: &Digest| {
            let [first, second, ..] = digest.as_bytes();
            f64::from(u16::from_be_bytes([*first, *second])) < share * f64::from(u16::MAX)
        };
        let first = objects.keys().next().filter(|_| !objects.keys().any(is_drawn));
        let mut results = stream::iter(objects.values())
            .map(|expected| async move {
                let is_drawn = is_drawn(&expected.digest) || first == Some(&expected.digest);
                (expected, is_drawn, self.check_object(expected, is_drawn, progress).await)
            })
            .buffer_unordered(REQUESTS);
        while let Some((expected, is_drawn, result)) = results.next().await {
            match result {
                Ok(()) => {
                    checked.objects += 1;
                    checked.hashed += usize::from(is_drawn);
                }
                Err(Refused::Fault(reason)) => {
                    checked.faults.push(fault(expected.one, &reason));
                }
                Err(Refused::Error(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn check_object(
        &self,
        expected: &Expected<'_>,
        is_drawn: bool,
        progress: &Progress,
    ) -> Result<(), Refused> {
        if is_drawn {
            let (digest, bytes) = (&expected.digest, expected.bytes);
            self.receive(digest, bytes, &Budget::new(UNKNOWN), None, progress).await?;
            return Ok(());
        }
        let name = name(&expected.digest);
        match (self.size(&name).await?, expected.bytes) {
            (None, _) => Err(Refused::Fault(format!("`{name}` is not there"))),
            (Some(found), Some(bytes)) if found != bytes => {
                Err(Refused::Fault(format!("`{name}` has {found} bytes, the lock says {bytes}")))
            }
            _ => Ok(()),
        }
    }
}
