//! The processes that use a cache: how they see each other, and how one of them keeps the others
//! out.

mod removal_lock;
mod session;

pub use removal_lock::RemovalLock;
pub use session::Sharing;

pub(crate) use session::{LivenessWatch, Presence, Session, remove_leftovers};
