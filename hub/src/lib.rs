//! Fetches models and data from the Hugging Face hub, and files from the web.
//!
//! Files of the hub go into Hugging Face's own cache folder, laid out as `huggingface_hub` does, so
//! that each finds what the other fetched:
//!
//! ```text
//!   models--ORG--NAME/blobs/ETAG                  the bytes, under the digest that the hub gives them
//!   models--ORG--NAME/snapshots/COMMIT/FILE       links to blobs
//!   models--ORG--NAME/refs/REVISION               the commit that a branch or tag meant last
//!   models--ORG--NAME/trees/COMMIT.json           all files of a commit; only read
//!   .locks/models--ORG--NAME/ETAG.lock            held while a blob is fetched
//! ```
//!
//! Nothing that a server says is trusted: names stay inside the folder, sizes are bounded before
//! bytes arrive, and bytes are hashed before they get their name. The token goes to the hub alone.
//! This crate reads no environment: [`Settings`] holds what it needs.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod client;
mod download;
mod error;
mod etag;
mod fetch;
mod layout;
mod listing;
mod settings;
mod transfer;

pub use error::FetchError;
pub use fetch::{Fetched, Fetcher};
pub use layout::{Lookup, Places};
pub use settings::{Settings, Token};
pub use transfer::Transfer;
