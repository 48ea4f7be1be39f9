//! What the panic of one thread means for those that work beside it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the other workers to stop if this one panics: they may wait for its work, and nobody waits for theirs.
pub(crate) struct StopOnPanic<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
