//! Records of earlier runs: the lock, the run logs, and whether a workflow is up to date.

pub mod lock;
pub mod reasons;
pub mod roots;
pub mod run_log;
pub mod up_to_date;
