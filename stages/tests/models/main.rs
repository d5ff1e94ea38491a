//! Runs the kinds that use a language model, on tiny models with Hugging Face references.

mod bench;
mod end_of_turn;
mod finetune;
mod finetune_new;
mod generate;
mod messages;
mod score;
