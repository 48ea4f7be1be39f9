//! How recovery stands, for whoever asks.

use serde::Serialize;

use super::{Attempt, BreakerState, saved::Saved};
use crate::{error::PruneError, phase::PrunePhase, records::Records};

/// Whether what failed is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryState {
    /// Nothing has failed, or enough cycles have finished since.
    Healthy,
    /// A phase is being tried again.
    Retrying,
    /// A phase was given up, and nothing has ended well since.
    Exhausted,
    /// Something ended well since; not enough cycles have finished yet.
    Recovering,
}

/// How the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BreakerStatus {
    /// Its state.
    pub state: BreakerState,
    /// Executions in a row that failed.
    pub failures: u32,
    /// What has to end well for it to close: the phase that failed last; `idle` means a whole cycle. Absent where nothing
    /// failed.
    pub closes_after: Option<PrunePhase>,
    /// Milliseconds until it lets one attempt through, while it is open.
    pub probe_in_ms: Option<u64>,
}

/// How recovery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryStatus {
    /// Whether what failed is over.
    pub state: RecoveryState,
    /// How the breaker stands.
    pub breaker: BreakerStatus,
    /// Cycles in a row that finished at once since something failed; counted until there are enough.
    pub healthy_cycles: u32,
    /// How many have to.
    pub min_healthy_cycles: u32,
    /// Stable word for the error that made a phase be given up last, until a cycle or a round ends well.
    pub exhausted_by: Option<String>,
    /// Retries since the process began.
    pub retries_total: u64,
    /// The newest attempts that failed, or ended well after failures; newest last.
    pub attempts: Vec<Attempt>,
}

impl RecoveryState {
    /// How it stands: executions that wait for their next attempt come first, then what was given up.
    pub(super) fn of(retrying: u32, exhausted_by: Option<&str>, recovering: Option<u32>) -> Self {
        match (retrying, exhausted_by, recovering) {
            (1.., _, _) => Self::Retrying,
            (0, Some(_), _) => Self::Exhausted,
            (0, None, Some(_)) => Self::Recovering,
            (0, None, None) => Self::Healthy,
        }
    }
}

impl RecoveryStatus {
    /// What is written down of it, for whoever asks from outside: an open breaker is open, since when is not known.
    ///
    /// Errors: a record that cannot be read.
    pub(crate) fn recorded(records: &dyn Records, min_healthy_cycles: u32) -> Result<Self, PruneError> {
        let Saved { breaker, recovering, exhausted_by } = Saved::load(records)?;
        let state = if breaker.openings > 0 { BreakerState::Open } else { BreakerState::Closed };
        Ok(Self {
            state: RecoveryState::of(0, exhausted_by.as_deref(), recovering),
            breaker: BreakerStatus {
                state,
                failures: breaker.failures,
                closes_after: breaker.failing,
                probe_in_ms: None,
            },
            healthy_cycles: recovering.map_or(0, |cycles| cycles),
            min_healthy_cycles,
            exhausted_by,
            retries_total: 0,
            attempts: Vec::new(),
        })
    }
}
