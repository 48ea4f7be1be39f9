//! What was tried and what came of it, newest last, as many as an operator wants to read.

use std::collections::VecDeque;

use serde::Serialize;
use state_store::Disposition;

use crate::phase::PrunePhase;

/// Attempts remembered.
const KEPT: usize = 64;

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "came", rename_all = "snake_case")]
pub enum Came {
    /// It ended well, after failures: attempts that succeed at once are not kept.
    Success,
    /// It is tried again after a wait.
    Retry {
        /// Milliseconds until then.
        wait_ms: u64,
    },
    /// It is tried again when there is room on the device.
    AwaitedRoom {
        /// Bytes that have to be free; absent where nobody knows.
        need: Option<u64>,
    },
    /// It is tried again on a new snapshot.
    NewSnapshot {
        /// Milliseconds until then.
        wait_ms: u64,
    },
    /// It was given up after as many retries as there may be.
    Exhausted,
    /// No retry could help.
    Stopped,
    /// The breaker held it back.
    HeldBack,
    /// It is no attempt: what it tells could not be saved, and holds in this process only.
    Unsaved,
    /// It panicked.
    Panicked,
}

impl Came {
    /// Whether something was tried, and failed.
    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Retry { .. }
            | Self::AwaitedRoom { .. }
            | Self::NewSnapshot { .. }
            | Self::Exhausted
            | Self::Stopped
            | Self::Panicked => true,
            Self::Success | Self::HeldBack | Self::Unsaved => false,
        }
    }

    /// Its word, as in the status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Retry { .. } => "retry",
            Self::AwaitedRoom { .. } => "awaited_room",
            Self::NewSnapshot { .. } => "new_snapshot",
            Self::Exhausted => "exhausted",
            Self::Stopped => "stopped",
            Self::HeldBack => "held_back",
            Self::Unsaved => "unsaved",
            Self::Panicked => "panicked",
        }
    }
}

/// One attempt at a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Milliseconds since 1970 when it ended.
    #[serde(rename = "at_ms")]
    pub at: u64,
    /// The phase.
    pub phase: PrunePhase,
    /// Its number within its execution, from 1.
    pub number: u32,
    /// Stable word for the error; absent for a success.
    pub code: Option<String>,
    /// The error; absent for a success.
    pub message: Option<String>,
    /// What the error asked for; absent for a success.
    #[serde(serialize_with = "word")]
    pub disposition: Option<Disposition>,
    /// What came of it.
    #[serde(flatten)]
    pub came: Came,
}

fn word<S: serde::Serializer>(disposition: &Option<Disposition>, to: S) -> Result<S::Ok, S::Error> {
    disposition.map(label).serialize(to)
}

fn label(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Transient => "transient",
        Disposition::Resource => "resource",
        Disposition::Corrupt => "corrupt",
        Disposition::Input => "input",
        Disposition::Bug => "bug",
    }
}

/// The newest attempts.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Attempt>);

impl History {
    pub(super) fn add(&mut self, attempt: Attempt) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(attempt);
    }

    pub(super) fn newest_last(&self) -> Vec<Attempt> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged is what the status shows.
    #[test]
    fn the_name_of_what_came_of_an_attempt_is_its_word_in_the_status() {
        let waits = [Came::Retry { wait_ms: 1 }, Came::NewSnapshot { wait_ms: 1 }, Came::AwaitedRoom { need: None }];
        let ends = [Came::Success, Came::Exhausted, Came::Stopped, Came::HeldBack, Came::Unsaved, Came::Panicked];
        for came in waits.iter().chain(&ends) {
            assert_eq!(serde_json::to_value(came).unwrap()["came"], came.name());
        }
    }
}
