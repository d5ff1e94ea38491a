//! The handle of a remote cache, for callers without a runtime of their own.

use std::collections::HashMap;

use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use refrain_cache::{Key, Record};
use tokio::runtime::Runtime;

use crate::address::Address;
use crate::connection::Connection;
use crate::error::{Refused, RemoteError};
use crate::page;

/// Threads that wait for the network and the disk.
const THREADS: usize = 4;
/// Bytes of one page of a trusted remote at most.
const TRUSTED_PAGE: u64 = 1 << 30;

/// A remote cache.
#[derive(Debug)]
pub struct Remote {
    pub(crate) connection: Connection,
    pub(crate) runtime: Runtime,
}

impl Remote {
    /// Opens a remote cache. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RemoteError::Address`] for a folder that is not there, and [`RemoteError::Failed`].
    pub fn open(address: Address) -> Result<Remote, RemoteError> {
        let store = address.open()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| address.failed(&error))?;
        Ok(Remote { connection: Connection { address, store }, runtime })
    }

    /// Returns the address.
    pub fn address(&self) -> &Address {
        &self.connection.address
    }

    /// Reads the records of all pages, whoever wrote them: for a remote that is trusted, and holds
    /// results that no lock here names. Of two records of one key either may be returned.
    ///
    /// # Errors
    /// [`RemoteError::Failed`].
    pub fn all_records(&self) -> Result<HashMap<Key, Record>, RemoteError> {
        self.runtime.block_on(async {
            let connection = &self.connection;
            let mut names = connection.store.list(Some(&ObjectPath::from("v1/pages")));
            let mut records = HashMap::new();
            while let Some(found) = names.next().await {
                let found = found.map_err(|error| connection.failed(&error))?;
                match connection.read(&found.location, TRUSTED_PAGE).await {
                    Ok(Some(bytes)) => records.extend(
                        page::read(&bytes)
                            .filter(|record| record.manifest.key() == record.key)
                            .map(|record| (record.key, record)),
                    ),
                    // It was removed meanwhile, or is none of ours.
                    Ok(None) | Err(Refused::Fault(_)) => {}
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
            Ok(records)
        })
    }
}
