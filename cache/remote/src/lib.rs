//! A remote cache: what a lock names, in a bucket or a folder that a lab and its CI share.
//!
//! # The layout
//!
//! ```text
//! v1/objects/ab/cdef…   the bytes of a file under their BLAKE3 digest; of a folder its files, and
//!                       the listing of which the folder's digest is that of the bytes
//! v1/pages/ab/cdef…     records of some sixty keys, JSON Lines in the order of the keys
//! ```
//!
//! # Why it needs neither locks nor conditional writes nor clocks
//!
//! Everything is written under a name that follows from what is asked for. An object is named by
//! its bytes. A page is named by the keys and output digests of its records, and which keys share a
//! page follows from the keys alone: whoever holds a lock finds its pages without a listing, and
//! two who push the same results write the same names. A page is written after all objects of its
//! records, so that a page that is there means that they were; an interrupted push goes on after
//! its last page.
//!
//! # What is trusted
//!
//! Nothing. A record is taken only where the lock names its key, its output digests, its metrics
//! and its profile; an object only where its bytes hash to its name and are as many as the lock
//! says. Of a remote that the caller trusts, further records are taken whose manifest hashes to
//! their key.
#![warn(missing_docs)]

mod address;
mod check;
mod connection;
mod error;
mod named;
mod object;
mod page;
mod progress;
mod pull;
mod push;
mod remote;

pub use address::Address;
pub use check::Checked;
pub use error::{Fault, RemoteError};
pub use named::Named;
pub use progress::Progress;
pub use pull::Pulled;
pub use push::Pushed;
pub use remote::Remote;
