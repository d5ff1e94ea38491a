//! Runs the kinds that use a language model, on tiny models with Hugging Face references.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod bench;
mod diversify;
mod end_of_turn;
mod finetune;
mod finetune_new;
mod finetune_watch;
mod generate;
mod memo;
mod messages;
mod peft;
mod score;
