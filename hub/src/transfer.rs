//! The bytes of a fetch so far, for whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

use refrain_engine::kind::Progress;

/// The bytes of a fetch: those that arrived, and those that are to arrive.
#[derive(Debug, Default)]
pub struct Transfer {
    done: AtomicU64,
    total: AtomicU64,
}

impl Transfer {
    /// Returns the bytes that arrived, and those that arrived or will, as far as that is known.
    pub fn so_far(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.total.load(Ordering::Relaxed).max(done))
    }

    /// Adds bytes that are to arrive.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes off bytes that need not arrive after all.
    pub(crate) fn spare(&self, bytes: u64) {
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that arrived, and tells of them.
    pub(crate) fn arrived(&self, bytes: u64, progress: &Progress) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let (done, total) = self.so_far();
        progress.set(done, Some(total), "bytes");
    }
}
