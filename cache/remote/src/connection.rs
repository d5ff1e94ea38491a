//! The connection to a remote cache, and plain requests over it.

use std::sync::Arc;

use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{GetResult, ObjectStore, ObjectStoreExt, PutPayload};

use crate::address::Address;
use crate::error::{Refused, RemoteError};

/// An address, and the client that reaches it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub address: Address,
    pub store: Arc<dyn ObjectStore>,
}

impl Connection {
    /// Puts bytes under a name.
    pub async fn put(&self, name: &ObjectPath, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let put = self.store.put(name, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|e| self.failed(&e))
    }

    /// Returns the size of what is under a name, in bytes.
    pub async fn size(&self, name: &ObjectPath) -> Result<Option<u64>, RemoteError> {
        match self.store.head(name).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Asks for what is under a name, of at most `limit` bytes; `None` where nothing is.
    pub async fn get(&self, name: &ObjectPath, limit: u64) -> Result<Option<GetResult>, Refused> {
        match self.store.get(name).await {
            Ok(found) if found.meta.size > limit => {
                let size = found.meta.size;
                Err(Refused::Fault(format!("it has {size} bytes, at most {limit} are expected")))
            }
            Ok(found) => Ok(Some(found)),
            // A bucket that is not there is a slip of the pen, not an empty one.
            Err(object_store::Error::NotFound { source, .. })
                if !source.to_string().contains("NoSuchBucket") =>
            {
                Ok(None)
            }
            Err(error) => Err(Refused::Error(self.failed(&error))),
        }
    }

    /// Receives what is under a name into memory.
    pub async fn read(&self, name: &ObjectPath, limit: u64) -> Result<Option<Vec<u8>>, Refused> {
        let Some(found) = self.get(name, limit).await? else { return Ok(None) };
        let mut stream = found.into_stream();
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| self.failed(&error))?;
            // A server may send more than it said.
            if (bytes.len() + part.len()) as u64 > limit {
                return Err(Refused::Fault(format!("it has more than {limit} bytes")));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Some(bytes))
    }

    /// The error of a request.
    pub fn failed(&self, error: &object_store::Error) -> RemoteError {
        self.address.failed(error)
    }
}
