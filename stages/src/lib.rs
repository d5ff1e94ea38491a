//! The kinds of stages that a workflow can use.
//!
//! Each kind is one constant, a [`Kind`]: the table of its parameters,
//! the components whose versions its key holds, a check of what types cannot express, and the
//! function that runs one node.
//!
//! | kind | module | in → out |
//! |---|---|---|
//! | `generate` | [`generate`] | prompts → responses of a model |
//! | `score` | [`score`] | responses → their tokens, with the probability of each |
//! | `mask` | [`mask`] | scored table → table with `loss_mask` |
//! | `diversify` | [`diversify`] | table → fewer rows of it, and metrics about them |
//! | `finetune` | [`finetune`] | rows → a trained model or adapter, and a log |
//! | `choose` | [`choose`] | models or tables over an axis, metrics → the best of them |
//! | `prepare` | [`prepare`] | documents of a task → what a model is asked for each |
//! | `evaluate` | [`evaluate`] | responses and references → verdicts and accuracy |
//! | `run` | [`run`] | anything → anything, by a command |
//!
//! Three rules hold for all of them. A stage passes on every column of its input and adds or
//! replaces its own. Tables are read and written batch by batch, so that memory does not grow with
//! them unless a kind says so. Nothing here depends on time, host, thread count or batch size:
//! random choices come from [`draw`], sums are added in the order of the rows.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod adapters;
pub mod backend;
mod canonical;
pub mod choose;
mod components;
mod continuation;
pub mod diversify;
pub mod draw;
pub mod evaluate;
pub mod finetune;
pub mod generate;
mod lists;
mod lm_eval;
pub mod mask;
mod memo;
mod memory;
mod models;
mod options;
pub mod prepare;
mod process;
mod prompts;
pub mod python;
mod python_regex;
pub mod quantile;
mod remarks;
mod requests;
pub mod run;
pub mod score;
mod scores;
mod served;
pub mod tables;
mod tokens;

use refrain_engine::kind::{Kind, Kinds};

pub use backend::model_facts;
pub use refrain_lm::card;
pub use refrain_lm::instruction_set;
pub use served::{end_servers, kill_servers};

/// All kinds.
pub fn kinds() -> Kinds {
    with_evaluate(evaluate::EVALUATE)
}

/// All kinds, for a command line that tolerates a sandbox that lacks layers.
pub fn kinds_with_weaker_sandbox() -> Kinds {
    with_evaluate(evaluate::EVALUATE_WEAKER)
}

fn with_evaluate(evaluate: Kind) -> Kinds {
    Kinds::new(vec![
        generate::GENERATE,
        score::SCORE,
        mask::MASK,
        diversify::DIVERSIFY,
        finetune::FINETUNE,
        choose::CHOOSE,
        prepare::PREPARE,
        evaluate,
        run::RUN,
    ])
    .with_model_facts(model_facts)
    .with_exactness(backend::is_exact)
    .with_kept_pins(served::kept_pin)
}
