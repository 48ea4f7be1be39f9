//! Keeps the lock of a phase as long as the phase makes progress.

use crate::{
    control::{Observer, Progress},
    snapshot::SnapshotGuard,
};

/// Progress is what renews a lock (P12).
pub(crate) struct Renewing<'a> {
    pub(crate) guard: &'a SnapshotGuard<'a>,
    pub(crate) observer: &'a dyn Observer,
}

impl Observer for Renewing<'_> {
    fn progress(&self, progress: Progress) {
        match self.guard.renew() {
            // A lost lock is seen where it matters: this permit deletes nothing, and the sweep takes a lock of its own.
            Ok(()) | Err(_) => self.observer.progress(progress),
        }
    }
}
