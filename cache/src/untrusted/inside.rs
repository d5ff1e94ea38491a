//! Names of files inside a folder, as somebody else gives them.

use std::path::{Component, Path};

/// Whether a name is a relative path, with `/` between folders, that stays inside its folder.
pub fn is_inside(name: &str) -> bool {
    let is_plain = |part| matches!(part, Component::Normal(_));
    !name.is_empty() && !name.contains('\0') && Path::new(name).components().all(is_plain)
}
