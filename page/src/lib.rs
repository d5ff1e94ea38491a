//! A report as a page, as Markdown and as pictures: text is made of a
//! [`Page`](refrain_engine::report::page::Page), and nothing is read or written.
//!
//! Model text reaches the page, so every text goes through [`escape`]: markup and text have
//! different types, and only that module joins them.

pub mod escape;
mod html;
mod markdown;
mod number;
mod picture;
mod section;
mod style;

pub use html::{Mode, content_security_policy, html};
pub use markdown::markdown;
pub use picture::{Picture, pictures};
