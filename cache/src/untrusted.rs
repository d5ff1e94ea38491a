//! Reading files that others wrote: regular files only, up to a limit, and no panic of a parser.

mod contained;
mod plain;

pub use contained::{contained, panic_is_contained};
pub use plain::{open_plain, read_plain};

pub(crate) use plain::fill_at;
