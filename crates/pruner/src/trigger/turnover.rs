//! How much of a store may be garbage that only a cycle finds: measured, as a bound from above.

use serde::Serialize;

/// How much of the store is new since the last run and was not deleted between cycles: an upper bound of the share that is
/// garbage, exact where the live state keeps its size. Absent until a first cycle has finished, and after each one until a
/// round of the sweep between cycles has told what is left to it (I13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Turnover {
    /// Nodes that the mark of the last finished cycle found live.
    pub live: u64,
    /// Nodes by which the store has grown since the last run began: those put that were not there, less those that the sweep
    /// between cycles deleted.
    pub added: u64,
    /// Those of them that it is about to delete, at least.
    pub waiting: u64,
}

impl Turnover {
    /// From 0 to 1; 0 of nothing.
    pub fn share(self) -> f64 {
        if self.present() == 0 { 0.0 } else { self.garbage() as f64 / self.present() as f64 }
    }

    /// What only a cycle can find of it.
    pub(super) fn garbage(self) -> u64 {
        self.added.saturating_sub(self.waiting)
    }

    pub(super) fn present(self) -> u64 {
        self.live.saturating_add(self.added)
    }
}
