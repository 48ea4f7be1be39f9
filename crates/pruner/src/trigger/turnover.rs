//! How much of a store may be garbage that only a cycle finds, measured by how much it has grown.

use serde::{Deserialize, Serialize};

use super::Share;
use crate::error::iec;

/// By how much the store has grown since it was smallest after the last finished run: the share that is garbage where the
/// live state keeps its size, more than that where it grows, less where it shrinks. Absent until a first cycle has
/// finished, after one that went on without a run on record until the next one has, and after each one until a round of the
/// sweep between cycles has told what is left to it (I13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Turnover {
    /// Nodes that the mark of the last finished cycle found live, or as few as were stored since.
    pub live: u64,
    /// Nodes by which the store has grown since: those put that were not there, less those that the sweep between cycles
    /// deleted.
    pub added: u64,
    /// Those of them that it is about to delete, at least.
    pub waiting: u64,
}

impl Turnover {
    /// From 0 to 1; 0 of nothing.
    pub fn share(self) -> f64 {
        if self.present() == 0 { 0.0 } else { self.garbage() as f64 / self.present() as f64 }
    }

    pub(super) fn figure(self) -> Figure {
        Figure::Garbage { nodes: self.garbage(), of: self.present() }
    }

    /// What only a cycle can find of it.
    pub(super) fn garbage(self) -> u64 {
        self.added.saturating_sub(self.waiting)
    }

    pub(super) fn present(self) -> u64 {
        self.live.saturating_add(self.added)
    }
}

/// The share of garbage that makes a cycle due, as shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GarbageStatus {
    /// The share of the nodes present that may be garbage, from 0 to 1; absent where it is not measured.
    pub share: Option<f64>,
    /// The share from which on the next cycle is due in this node.
    pub due_from: Share,
}

/// What was measured that set a run off, where a measurement decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Nodes that might be garbage.
    Garbage {
        /// So many.
        nodes: u64,
        /// Of so many present.
        of: u64,
    },
    /// Room on the disk.
    Free {
        /// Bytes that were free.
        bytes: u64,
    },
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Garbage { nodes, of } => write!(f, "{nodes} nodes of {of} may be garbage"),
            Self::Free { bytes } => write!(f, "{} are free", iec(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_set_a_run_off_is_told_in_words() {
        assert_eq!(Figure::Garbage { nodes: 5, of: 9 }.to_string(), "5 nodes of 9 may be garbage");
        assert_eq!(Figure::Free { bytes: 3 << 20 }.to_string(), "3.0 MiB are free");
    }
}
