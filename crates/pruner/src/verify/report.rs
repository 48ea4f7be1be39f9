//! What a verification answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{error::Way, snapshot::KeptOrders};

/// What is wrong with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// The node.
    pub hash: String,
    /// What is wrong with it, as the rest of a sentence about it.
    pub what: String,
    /// From a retained root down to it; empty when the path was not found.
    pub path: Vec<String>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Retained roots.
    pub roots: u64,
    /// Those of them that lie below the window, each with why it is kept, in runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_below: Vec<KeptOrders>,
    /// Oldest order of the window whose states were checked.
    pub first_order: u64,
    /// Newest one: the head.
    pub last_order: u64,
    /// Whether history holds fewer orders than asked for.
    pub shorter_than_asked: bool,
    /// The window reaches below this order, and an earlier prune took what only the states below it needed.
    pub pruned_below: Option<u64>,
    /// Older states from this order on are retained too, and what only they reach counts as leaked; absent where there are
    /// none or leaks are not counted.
    #[serde(default)]
    pub retained_from: Option<u64>,
    /// That acknowledged orders behind the newest one may be lost, with a damaged write-ahead log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_cut: Option<String>,
    /// Nodes that the roots reach and that are present; absent after a sample.
    pub live_nodes: Option<u64>,
    /// Nodes present; absent after a sample.
    pub present_nodes: Option<u64>,
    /// Reachable nodes that are absent.
    pub missing_nodes: u64,
    /// Reachable nodes that do not decode or do not hash to their key.
    pub corrupt_nodes: u64,
    /// Present nodes that no retained root reaches; absent unless asked for.
    pub leaked_nodes: Option<u64>,
    /// Rows whose key is not 32 bytes; absent after a sample.
    pub foreign_rows: Option<u64>,
    /// SHA-256 over the sorted hashes of the live nodes; absent after a sample.
    pub live_sha256: Option<String>,
    /// SHA-256 over the sorted hashes of the present nodes; absent after a sample.
    pub present_sha256: Option<String>,
    /// Nodes read and hashed again.
    pub nodes_read: u64,
    /// Random paths followed; absent after a full verification.
    pub sampled_paths: Option<u64>,
    /// The first faults.
    pub faults: Vec<FaultReport>,
    /// Wall time.
    pub seconds: f64,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.hash, self.what, Way(&self.path))
    }
}

impl VerifyReport {
    /// Whether nothing is missing or corrupt. Leaks waste space, they harm nothing.
    pub fn is_sound(&self) -> bool {
        self.missing_nodes == 0 && self.corrupt_nodes == 0
    }

    /// Faults that were counted and are not listed.
    pub fn unlisted_faults(&self) -> u64 {
        (self.missing_nodes + self.corrupt_nodes).saturating_sub(self.faults.len() as u64)
    }
}
