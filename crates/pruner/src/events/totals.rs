//! What events tell of things that went on for a while: how they ended, and what they came to.

use serde::{Deserialize, Serialize};

use crate::{certificate::Trigger, error::PruneError, outcome::Ended, trigger::Run};

/// How a run that a trigger set off ended. What its cycle did is told by the cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Its number.
    pub run: u64,
    /// What set it off.
    pub trigger: Trigger,
    /// How long it took; absent where its process ended first.
    pub duration_ms: Option<u64>,
    /// Orders that it counted.
    pub counted: u64,
    /// Its cycle; absent where it failed before there was one, or its process ended first.
    pub cycle: Option<u64>,
    /// Finished, cancelled, interrupted, or the code of what ended it.
    pub outcome: String,
    /// What ended it, if it failed.
    pub message: Option<String>,
}

impl From<&Run> for RunEnd {
    fn from(run: &Run) -> Self {
        let outcome = run.outcome.as_ref();
        let message = outcome.and_then(|outcome| match &outcome.ended {
            Ended::Failed { message, .. } => Some(message.clone()),
            Ended::Finished { .. } | Ended::Cancelled => None,
        });
        Self {
            run: run.number,
            trigger: run.trigger,
            duration_ms: run.duration_ms,
            counted: run.counted,
            cycle: outcome.and_then(|outcome| outcome.cycle),
            outcome: outcome.map_or("interrupted", |outcome| outcome.ended.label()).to_owned(),
            message,
        }
    }
}

/// How a cycle ended, with its totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CycleEnd {
    /// The cycle.
    pub cycle: u64,
    /// Finished, or the code of what ended it.
    pub outcome: String,
    /// What ended it, if it did not finish.
    pub message: Option<String>,
    /// Nodes deleted; of a cycle that did not finish by then, where its record was there to tell.
    pub deleted: Option<u64>,
    /// Nodes that its mark found live, where it finished.
    pub live: Option<u64>,
    /// Bytes of the store before, where known.
    pub bytes_before: Option<u64>,
    /// Bytes of the store after, where it finished.
    pub bytes_after: Option<u64>,
}

impl CycleEnd {
    /// Of a cycle that did not finish, with what it had deleted where that is known.
    pub(crate) fn early((cycle, deleted): (u64, Option<u64>), error: &PruneError) -> Self {
        Self {
            cycle,
            outcome: error.code().to_owned(),
            message: Some(error.to_string()),
            deleted,
            live: None,
            bytes_before: None,
            bytes_after: None,
        }
    }
}

/// What a pass over the deleted rows of an idle chain gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reclaimed {
    /// Ranges rewritten.
    pub ranges: u64,
    /// Deletes in the files of the nodes before.
    pub deletes_before: u64,
    /// The same after.
    pub deletes_after: u64,
    /// Bytes of those files before.
    pub bytes_before: u64,
    /// The same after.
    pub bytes_after: u64,
    /// Time at work, in milliseconds.
    pub working_ms: u64,
}

/// What rounds of the sweep between cycles did together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoundTotals {
    /// Rounds.
    pub rounds: u64,
    /// Slices taken.
    pub slices: u64,
    /// Nodes deleted.
    pub deleted: u64,
    /// Nodes passed over.
    pub passed: u64,
    /// Time at work, in milliseconds.
    pub working_ms: u64,
    /// The longest time for which a slice held the commit gate, in microseconds.
    pub longest_slice_us: u64,
}
