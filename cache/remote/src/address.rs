//! Addresses of remote caches: a bucket, a folder, or a page of the web.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::RemoteError;

/// Longest that nothing arrives before a request counts as failed.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest that a request is tried again.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// Times that a request is tried again.
const RETRIES: usize = 5;
/// Shortest value that is taken for a secret: a shorter one would mask ordinary words.
const SECRET: usize = 6;

/// The address of a remote cache, and what is needed to reach it.
#[derive(Clone)]
pub struct Address {
    url: Url,
    /// Credentials and settings by the names of the services' own variables.
    options: Vec<(String, String)>,
}

/// Builds the client of a service with the settings of an address that it knows. The builders share
/// no trait.
macro_rules! built {
    ($address:expr, $builder:expr) => {{
        let mut builder = $builder;
        for (name, value) in &$address.options {
            if let Ok(key) = name.to_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        Arc::new(builder.build().map_err(|error| $address.refused(&error))?)
    }};
}

impl Address {
    /// Reads an address: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `file:///FOLDER`, a folder's
    /// path, `https://…` or `http://…`. `options` has credentials and settings by the names of the
    /// services' own variables, such as `AWS_ACCESS_KEY_ID`; others are passed over.
    ///
    /// # Errors
    /// [`RemoteError::Address`].
    pub fn parse(text: &str, options: Vec<(String, String)>) -> Result<Address, RemoteError> {
        let refused = |reason: String| RemoteError::Address { address: text.into(), reason };
        let url = if text.contains("://") {
            Url::parse(text).map_err(|error| refused(error.to_string()))?
        } else {
            let path = std::path::absolute(Path::new(text));
            let path = path.map_err(|error| refused(error.to_string()))?;
            Url::from_directory_path(path).map_err(|()| refused("it is no path".into()))?
        };
        let known = ["az", "azure", "abfs", "abfss", "file", "gs", "http", "https", "s3", "s3a"];
        if !known.contains(&url.scheme()) {
            let scheme = url.scheme();
            return Err(refused(format!(
                "`{scheme}://` is none of `s3://`, `gs://`, `az://`, `file://`, `https://`"
            )));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("it has a query or a fragment".into()));
        }
        Ok(Address { url, options })
    }

    /// Whether it can only be read.
    pub fn is_read_only(&self) -> bool {
        matches!(self.url.scheme(), "http" | "https")
    }

    /// Opens a connection; nothing is sent yet.
    pub(crate) fn open(&self) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        // Of several providers of cryptography one must be named; another part of the process may
        // have done so.
        let _named_before = rustls::crypto::ring::default_provider().install_default();
        let url = self.url.as_str();
        let store: Arc<dyn ObjectStore> = match self.url.scheme() {
            "file" => return self.open_folder(),
            "http" | "https" => Arc::new(
                HttpBuilder::new()
                    .with_url(url)
                    .with_client_options(client().with_allow_http(true))
                    .with_retry(retries())
                    .build()
                    .map_err(|error| self.refused(&error))?,
            ),
            "gs" => {
                let builder = GoogleCloudStorageBuilder::new()
                    .with_url(url)
                    .with_client_options(client())
                    .with_retry(retries());
                built!(self, builder)
            }
            "s3" | "s3a" => {
                let builder = AmazonS3Builder::new()
                    .with_url(url)
                    .with_client_options(client().with_allow_http(self.has_plain_endpoint()))
                    .with_retry(retries());
                built!(self, builder)
            }
            _ => {
                let builder = MicrosoftAzureBuilder::new()
                    .with_url(url)
                    .with_client_options(client())
                    .with_retry(retries());
                built!(self, builder)
            }
        };
        // The path of an address of the web is a part of its requests already.
        if self.is_read_only() {
            return Ok(store);
        }
        let prefix =
            ObjectPath::from_url_path(self.url.path()).map_err(|error| self.refused(&error))?;
        Ok(if prefix.is_root() { store } else { Arc::new(PrefixStore::new(store, prefix)) })
    }

    /// Whether the options name a server without encryption, such as one of this machine.
    fn has_plain_endpoint(&self) -> bool {
        let is_endpoint = |name: &str| name.to_lowercase().starts_with("aws_endpoint");
        self.options.iter().any(|(name, value)| is_endpoint(name) && value.starts_with("http://"))
    }

    fn open_folder(&self) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        let refused = |reason: &str| RemoteError::Address {
            address: self.to_string(),
            reason: reason.to_string(),
        };
        let path = self.url.to_file_path().map_err(|()| refused("it is no path from the root"))?;
        if !path.is_dir() {
            return Err(refused("there is no such folder"));
        }
        let folder = LocalFileSystem::new_with_prefix(path);
        Ok(Arc::new(folder.map_err(|error| self.refused(&error))?))
    }

    /// The error of an address, or of the settings that go with it.
    fn refused(&self, error: &dyn std::error::Error) -> RemoteError {
        RemoteError::Address { address: self.to_string(), reason: self.reason(error) }
    }

    /// The error of a request.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) -> RemoteError {
        RemoteError::Failed { address: self.to_string(), reason: self.reason(error) }
    }

    /// An error and its causes, without the secrets that the address was opened with.
    fn reason(&self, error: &dyn std::error::Error) -> String {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = error.source();
        }
        let secrets = self.options.iter().map(|(_, value)| value.as_str());
        for secret in secrets.chain(self.url.password()).filter(|secret| secret.len() >= SECRET) {
            reason = reason.replace(secret, "***");
        }
        reason
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.password().is_some() {
            // Fails for addresses that cannot have a password, and so have none.
            let _has_none = url.set_password(Some("***"));
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A client without a limit on a whole request: an object may take hours.
fn client() -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE)
}

fn retries() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}
