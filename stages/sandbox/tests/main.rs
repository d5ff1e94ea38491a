//! The sandbox driven from outside: what it judges, and what hostile programs get out of it.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

mod hostile;
mod verdicts;
mod world;
