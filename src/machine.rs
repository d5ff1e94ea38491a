//! What this machine has for nodes to share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

/// Processor cores that this process may use.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get())
}

/// Bytes of memory, or of the part that this process may use; without a bound where the system does not say.
pub fn memory() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let total = read("/proc/meminfo").lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kilobytes.trim().parse::<u64>().ok()
    });
    let group = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
    total.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024)).min(group)
}

/// Graphics cards, as far as the system shows them as devices.
pub fn gpus() -> usize {
    let devices = fs::read_dir("/dev").into_iter().flatten().flatten();
    let card = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    devices.filter(|device| device.file_name().to_str().is_some_and(card)).count()
}

/// The program of this process, as the system knows it.
pub fn own_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::current_exe().ok()).as_deref()
}
