//! What an operator may ask of a running pruner, and what it answers.

use serde::{Deserialize, Serialize};
use state_tree::Order;

use crate::{
    control::{Pause, Progress, Stage},
    error::PruneError,
    metrics,
    outcome::Outcome,
    phase::PrunePhase,
    quarantine::Quarantine,
    recovery::RecoveryStatus,
    snapshot::{LockRecord, SnapshotLock, SnapshotPath},
    trigger::TriggersStatus,
    worker::{IncrementalStatus, ReclaimStatus, ReserveStatus, SwitchedOff},
};

/// What an operator may ask of a running pruner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Begin a cycle now, or after the one that runs.
    Run,
    /// Hold the running cycle.
    Pause,
    /// Let it go on.
    Resume,
    /// Abandon it.
    Cancel,
    /// Allow deletes again after a freeze.
    Unfreeze,
    /// Switch pruning off, also for later processes.
    Disable,
    /// Switch it on again.
    Enable,
}

impl Command {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Run, Self::Pause, Self::Resume, Self::Cancel, Self::Unfreeze, Self::Disable, Self::Enable];

    /// Its word, in addresses and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Unfreeze => "unfreeze",
            Self::Disable => "disable",
            Self::Enable => "enable",
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It is being done.
    Accepted,
    /// A cycle runs, whose snapshot may be older than what was asked for: one more follows it.
    FollowUp,
    /// An earlier request waits for its cycle to begin; this one joins it.
    AlreadyRunning,
    /// A cycle has begun for a request of this id, so none begins for it again.
    AlreadyServed {
        /// The number of that run.
        run: u64,
    },
    /// It is so already: the cycle was told to hold before, or does not hold; pruning is off, or on.
    Unchanged,
    /// There is no cycle to pause, resume or cancel.
    NotRunning,
    /// The cycle ends before it could be held or cancelled.
    Ending,
    /// It cannot be done.
    Refused {
        /// Why.
        why: String,
    },
    /// It could not be written down, so it is not done.
    Unsaved {
        /// The code of what failed.
        code: String,
        /// What failed, for people.
        why: String,
    },
}

impl Reply {
    pub(super) fn unsaved(error: &PruneError) -> Self {
        Self::Unsaved { code: error.code().to_owned(), why: error.to_string() }
    }

    /// Its word, as in answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::FollowUp => "follow_up",
            Self::AlreadyRunning => "already_running",
            Self::AlreadyServed { .. } => "already_served",
            Self::Unchanged => "unchanged",
            Self::NotRunning => "not_running",
            Self::Ending => "ending",
            Self::Refused { .. } => "refused",
            Self::Unsaved { .. } => "unsaved",
        }
    }

    /// Why it cannot be done, if so.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { why } | Self::Unsaved { why, .. } => Some(why),
            Self::Accepted
            | Self::FollowUp
            | Self::AlreadyRunning
            | Self::AlreadyServed { .. }
            | Self::Unchanged
            | Self::NotRunning
            | Self::Ending => None,
        }
    }
}

/// How far the running stage is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageStatus {
    /// The stage.
    pub stage: Stage,
    /// Items done.
    pub done: u64,
    /// Share of the key space behind the work.
    pub share: Option<f64>,
}

impl StageStatus {
    /// What a phase shows: its own stages only. Until the first of them reports, what an earlier phase reported last is
    /// no answer.
    pub(super) fn within(phase: PrunePhase, progress: Progress) -> Option<Self> {
        let Progress { stage, done, share } = progress;
        let of = match stage {
            Stage::Scan | Stage::Mark => PrunePhase::BuildReach,
            Stage::Sweep | Stage::Reclaim => PrunePhase::SweepExpired,
            Stage::Verify | Stage::Count => PrunePhase::Idle, // the sweep has let its lock go
        };
        (of == phase).then_some(Self { stage, done, share })
    }
}

/// What the pruner does now and did last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrunerStatus {
    /// Whether a cycle runs.
    pub running: bool,
    /// Whether it was told to hold, and does: the batch or range at work is finished first.
    pub pause: Pause,
    /// The phase of the running cycle.
    pub phase: PrunePhase,
    /// The id of the running cycle, or of the last one that ended.
    pub cycle: Option<u64>,
    /// How far its stage is.
    pub progress: Option<StageStatus>,
    /// How the last cycle ended.
    pub last: Option<Outcome>,
    /// Cycles finished since the process began.
    pub cycles_finished: u64,
    /// Cycles failed since the process began.
    pub cycles_failed: u64,
    /// Cycles that an operator cancelled since the process began.
    pub cycles_cancelled: u64,
    /// Nodes deleted by cycles that finished, since the process began.
    pub deleted_total: u64,
    /// Orders retained.
    pub keep_last: u64,
    /// The order at which the next cycle begins.
    pub next_at_order: u64,
    /// What else makes one begin, what holds it back, and the last runs.
    pub triggers: TriggersStatus,
    /// The sweep between cycles, if there is one.
    pub incremental: Option<IncrementalStatus>,
    /// What that sweep has set aside, in this and earlier processes, and no later cycle has settled.
    pub quarantine: Option<Quarantine>,
    /// What deleted rows still take, and what of it was given back; absent without the sweep between cycles.
    pub reclaim: Option<ReclaimStatus>,
    /// Why deletes are frozen, while they are.
    pub frozen: Option<String>,
    /// Why the worker ended, if it did.
    pub poisoned: Option<String>,
    /// Since when an operator has switched pruning off, if one has.
    pub off: Option<SwitchedOff>,
    /// The lock on the current snapshot.
    pub lock: Option<SnapshotLock>,
    /// The lock that an earlier process left when it died; nobody obeys it.
    pub lock_left: Option<LockRecord>,
    /// Snapshots in a row that could not be taken.
    pub snapshot_failures: u32,
    /// How snapshots are treated.
    pub snapshot_path: SnapshotPath,
    /// What has failed, and what comes of it.
    pub recovery: RecoveryStatus,
    /// The room that is kept for a full device, if any is to be.
    pub reserve: Option<ReserveStatus>,
}

impl PrunerStatus {
    /// Sets the gauges to this status at a head. Call it whenever metrics are read.
    pub fn export(&self, head: Order) {
        metrics::status(self, head.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged is what is answered.
    #[test]
    fn the_name_of_a_reply_is_its_word_in_answers() {
        let why = "frozen".to_owned();
        use Reply::{Accepted, AlreadyRunning, AlreadyServed, Ending, FollowUp, NotRunning, Refused, Unchanged};
        let (served, unsaved) = (AlreadyServed { run: 1 }, Reply::unsaved(&PruneError::NoHead));
        for reply in
            [Accepted, FollowUp, AlreadyRunning, served, Unchanged, NotRunning, Ending, Refused { why }, unsaved]
        {
            assert_eq!(serde_json::to_value(&reply).unwrap()["reply"], reply.name());
        }
    }

    #[test]
    fn a_stage_of_another_phase_is_never_shown() {
        use PrunePhase::{BuildReach, Idle, SweepExpired};
        let rows = [
            (Stage::Scan, BuildReach),
            (Stage::Mark, BuildReach),
            (Stage::Sweep, SweepExpired),
            (Stage::Reclaim, SweepExpired),
            (Stage::Verify, Idle),
        ];
        for (stage, of) in rows {
            for phase in [Idle, BuildReach, SweepExpired, PrunePhase::IncrementalSweep] {
                let shown = StageStatus::within(phase, Progress { stage, done: 7, share: None });
                assert_eq!(shown.is_some(), phase == of, "{stage:?} in {phase:?}");
            }
        }
    }
}
