//! The binary driven from outside, a module a theme.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(
    clippy::disallowed_methods,
    clippy::duplicate_mod, // the examples' worlds share their random numbers
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod artifacts;
mod space;
mod thrift; // Parquet files written by hand

mod adapters; // adapters made elsewhere, with their bases
mod attempts; // retries, time limits and memory of commands
mod backends; // which code computes a model
mod bad_input; // what a run is told of data, models and caches that are wrong
mod budget; // what a run costs, and what ends it before it costs more
mod bundle; // what a reviewer gets
mod cache; // stat, verify, gc, and the logs of runs
mod choose; // the best of what was made at the values of an axis, and models kept on the way
mod choosing; // rows that are kept, joined and measured
mod code; // programs of a model, and what the sandbox needs
mod commands; // drawings, completions, manual pages
mod comparing; // two arms, paired by row and seed
mod composition; // the examples of docs/composition.md, and the recipes
#[cfg(unix)]
mod config; // the configuration of the machine
#[cfg(unix)]
mod crash; // faults at every step of a run, and damage to every file of a cache
mod data_in; // tables of every format, in shards, exploded and filtered
mod differing; // what changed between two states of a workflow
mod diversity; // measures of diversity, and rows that are selected by them
mod errors; // what wrong workflows and sources are told
#[cfg(unix)]
mod events; // the run log, log lines and traces
mod examples; // that examples run and print what the document shows
mod executors; // that jobs elsewhere give what a run here gives, whatever dies
mod export; // stores of trackers
mod expressions; // what is computed from metrics, and where it has no value
mod golden_keys; // that no key of an earlier workflow moves
mod hostile; // workflows and files that were made to break a reader
mod hostile_models; // models' folders that were made to break one
mod hostile_tables; // tables that were made to break one
mod hub; // models and data from the hub, files from the web
mod include; // files that a workflow includes
#[cfg(unix)]
mod interrupt; // Ctrl-C
mod json; // the JSON output against its documentation
mod judges; // a model as the judge of responses
mod language; // values, sweeps and names
mod layers; // which crate may import which
mod likeliest; // options of a question by their log-probabilities
mod lm_eval; // task files of lm-evaluation-harness, against its own verdicts
mod lock; // the lock's format, and its writers
mod look_ahead; // what plan and explain say before a run
mod masking; // the first paper's masks and distributions
mod memory; // what needs more than there is
mod mixing; // mixtures of tables, and paraphrases in the place of rows
mod models; // model cards
mod own_metrics; // metrics that a command writes
mod own_tables; // conversations, samples and numbers of one's own
mod peft; // trainers outside, against the reference and our own module
#[cfg(unix)]
mod processes; // several on one cache
mod progress; // what a run prints on the way
mod prompts; // the prompts of workflows/prompts, to the letter where they are published
mod queries; // queries that a model wrote, judged by their results
mod real_input; // the shared folder's data and model, where it is there
mod remote; // a cache that others share
mod repeat; // rounds that read the round before
#[cfg(unix)]
mod report; // the report of a workflow, and the page that is served
mod rerun; // what an edit makes run again
mod results; // which figure stands in which row
mod same_bytes; // what must not change a digest
mod scale; // graphs wider than what is looked up at once
mod schema; // the JSON Schema of the language
mod secrets; // that no value of `${env:NAME}` is kept or shown
mod served; // models that a server computes, and the configuration that names servers
mod sources; // files that change during a run, or without their time
#[cfg(unix)]
mod stdout; // data that stdout refuses, and readers that leave
mod token_perplexity; // the workflows of the first paper
mod training; // a killed training, and the reference's training runs written as workflows
mod usage; // command lines that are wrong
mod verdicts; // answers and verdicts of the shared cases
mod verify; // the lock against the workflow, the cache and a second computation
