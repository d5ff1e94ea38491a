//! The limits of one program.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time from the start of the program to the end of its tests.
    pub time: Duration,
    /// Bytes of address space of its one process.
    pub memory: u64,
    /// Bytes of its scratch folder, and of each file in it.
    pub scratch: u64,
    /// Open files.
    pub files: u64,
    /// Threads.
    pub threads: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            time: Duration::from_secs(10),
            memory: 1 << 30,
            scratch: 64 << 20,
            files: 64,
            threads: 32,
        }
    }
}

impl Limits {
    /// Seconds of CPU time: those of the wall, for all threads together, rounded up.
    pub fn cpu_seconds(&self) -> u64 {
        self.time.as_secs() + u64::from(self.time.subsec_nanos() > 0)
    }
}
