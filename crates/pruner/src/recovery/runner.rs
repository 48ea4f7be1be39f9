//! How a thread that is not asynchronous runs phases: once, or under a recovery manager.

use tokio::runtime::Runtime;

use super::{ErrorRecoveryManager, execute::RenewedBy};
use crate::{control::Control, error::PruneError, phase::PrunePhase};

/// Runs the phases of a cycle.
#[derive(Debug, Clone, Copy)]
pub enum PhaseRunner<'a> {
    /// Each once: the first error ends the cycle.
    Once,
    /// Each as often as the manager says; this thread waits in between.
    Recovered {
        /// Who decides.
        manager: &'a ErrorRecoveryManager,
        /// What waits.
        runtime: &'a Runtime,
    },
}

impl PhaseRunner<'_> {
    /// Runs one phase to its end. Work that is done again on a new snapshot makes that snapshot itself.
    pub(crate) fn run<T>(
        &self,
        phase: PrunePhase,
        control: &Control,
        mut work: impl FnMut() -> Result<T, PruneError>,
    ) -> Result<T, PruneError> {
        match self {
            Self::Once => work(),
            Self::Recovered { manager, runtime } => {
                let work = || std::future::ready(work());
                runtime.block_on(manager.execute_renewed_by(RenewedBy::Attempt, (phase, control), work))
            }
        }
    }

    /// What led back to marking was counted as a failure, and may have opened the breaker: the run that it is part of goes on.
    pub(crate) fn back_to_marking(&self) {
        if let Self::Recovered { manager, .. } = self {
            manager.allow_probe();
        }
    }

    /// Whether a sweep whose mark or snapshot is damaged goes back to marking.
    pub(crate) fn goes_back(&self) -> bool {
        match self {
            Self::Once => false,
            Self::Recovered { manager, .. } => {
                let config = manager.config();
                config.enable_snapshot_recovery && config.enable_phase_rollback
            }
        }
    }
}
