//! Looking after a cache: its contents listed, checked, and removed where nothing needs them.

mod check;
mod listing;
mod plan;
mod remove;

pub use check::Damage;
pub use listing::{Entry, Listing, ListingError, Object, Recorded};
pub use plan::{
    Amount, KeepReason, Limits, Removal, RemovalPlan, RemovalTarget, Roots, plan_removal,
};
pub use remove::RemoveError;

pub(crate) use check::{damaged_logs, verify_objects};
pub(crate) use listing::entries;
pub(crate) use remove::remove;
