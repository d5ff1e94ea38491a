//! What this machine has for nodes to share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

/// Processor cores that this process may use.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get())
}

/// Bytes of memory that are free, in the machine and in the group of this process; without a bound
/// where the system does not say. What the system keeps of files counts as free.
pub fn free_memory() -> u64 {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let in_kilobytes = field(&read("/proc/meminfo"), "MemAvailable:");
    let machine = in_kilobytes.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024));

    let group = |name: &str| read(&format!("/sys/fs/cgroup/memory.{name}"));
    let used = group("current").trim().parse().unwrap_or(0u64);
    let files = field(&group("stat"), "inactive_file").unwrap_or(0);
    let most = group("max").trim().parse().unwrap_or(u64::MAX);
    machine.min(most.saturating_sub(used.saturating_sub(files)))
}

/// The number behind a name in a text of the system.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
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

/// Finds a program in the folders of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The program of this process, as the system knows it.
pub fn own_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::current_exe().ok()).as_deref()
}
