//! The components that determine the bytes of the kinds' results, each with its version in one place.
//!
//! A version is raised when the bytes change for some input, and only then; `CHANGELOG.md` says for which.

use refrain_engine::kind::Component;

/// The choice among artifacts by a metric.
pub const CHOOSE: Component = component("choose", 1);
/// Names, extraction and comparison of answers.
pub const EVALUATE: Component = component("evaluate", 3);
/// Choice of rows and measures.
pub const DIVERSIFY: Component = component("diversify", 2);
/// Embeddings of texts.
pub const EMBED: Component = component("embed", 1);
/// The layout of a trained model or adapter.
pub const FINETUNE: Component = component("finetune", 2);
/// Continuations of a prompt's tokens.
pub const GENERATE: Component = component("generate", 1);
/// What a language model computes of its folder: configuration, weights, forward and backward passes.
pub const LM: Component = component("lm", 3);
/// Masks of tokens.
pub const MASK: Component = component("mask", 1);
/// The way from a row to text and tokens.
pub const RENDER: Component = component("render", 2);
/// What a model is asked for each document of a task.
pub const PREPARE: Component = component("prepare", 1);
/// What a command is given and what is taken from it.
pub const RUN: Component = component("run", 1);
/// The draw of a token from logits.
pub const SAMPLE: Component = component("sample", 1);
/// Columns and metrics of scored rows.
pub const SCORE: Component = component("score", 2);
/// The format of tables, which every kind that writes one depends on.
pub const TABLE: Component = component("table", 1);
/// Steps of an optimizer.
pub const TRAIN: Component = component("train", 2);

const fn component(name: &'static str, version: u32) -> Component {
    Component { name, version }
}
