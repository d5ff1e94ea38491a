//! Reading files that others wrote: regular files only, up to a limit, no panic of a parser, and
//! no name that leaves its folder.

mod contained;
mod inside;
mod plain;

pub use contained::{contained, panic_is_contained};
pub use inside::is_inside;
pub use plain::{open_plain, read_plain};

pub(crate) use plain::fill_at;
