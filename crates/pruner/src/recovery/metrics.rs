//! Counters of recovery, taken once from the recorder in force.

use metrics::{Counter, counter};

/// Handles of what recovery counts. Clones count together.
#[derive(Clone)]
pub struct RecoveryMetrics {
    /// Attempts that are made again.
    pub(super) retries: Counter,
    /// Phases that were given up after all their retries.
    pub(super) exhausted: Counter,
    /// Snapshots made anew because of damage.
    pub(super) new_snapshots: Counter,
    /// Phases that went back to an earlier one.
    pub(super) rollbacks: Counter,
    /// Times the breaker opened.
    pub(super) openings: Counter,
}

impl std::fmt::Debug for RecoveryMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryMetrics")
    }
}

impl RecoveryMetrics {
    /// Takes the handles from the recorder of this thread or process; without one they count nowhere.
    pub fn new() -> Self {
        let from_zero = |counter: Counter| {
            counter.increment(0);
            counter
        };
        Self {
            retries: from_zero(counter!("state_pruner_phase_retries_total")),
            exhausted: from_zero(counter!("state_pruner_recovery_exhausted_total")),
            new_snapshots: from_zero(counter!("state_pruner_snapshot_recreations_total")),
            rollbacks: from_zero(counter!("state_pruner_phase_rollbacks_total")),
            openings: from_zero(counter!("state_pruner_breaker_openings_total")),
        }
    }
}

impl Default for RecoveryMetrics {
    fn default() -> Self {
        Self::new()
    }
}
