//! Language models: tokenizers and chat templates, forward and training, scoring, generation and
//! embeddings.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod adapter;
pub mod backward;
pub mod card;
pub mod chat;
pub mod config;
pub mod embed;
mod family;
pub mod fields;
pub mod forward;
pub mod generate;
#[macro_use]
mod kernels;
pub mod linear;
pub mod memory;
pub mod model;
pub mod random;
pub mod render;
pub mod rope;
pub mod sampling;
pub mod save;
pub mod score;
pub mod tokenizer;
pub mod tokenizer_training;
pub mod train;
pub mod weights;

pub use kernels::instruction_set;
