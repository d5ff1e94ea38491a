//! The limits of one program.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time on the processors, for all threads of the program together, in whole seconds. It does
    /// not depend on what else the machine does, so neither do verdicts.
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
    /// Time by the clock, for programs that wait: so long that one that computes uses its own time
    /// up first, also where several others compute beside it.
    pub fn wall(&self) -> Duration {
        self.time * 6
    }
}
