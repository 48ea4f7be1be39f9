//! What can happen, as one type: each kind with its word and its fields.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{certificate::Trigger, outcome::Ended, phase::PrunePhase, trigger::Run};

/// What a circuit breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One attempt, to see.
    HalfOpen,
}

/// What a request for a cycle joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joined {
    /// A request that waits already.
    Request,
    /// A cycle that runs: one more follows it.
    Cycle,
}

/// One thing that happened. Records name a variant by its place, so new ones come at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant has its heading in docs/operations.md, its fields say what they are")]
pub enum Event {
    Started { version: String, pid: u32, damaged: u64, torn_bytes: u64 },
    Stopped { lost: u64 },
    CycleBegun { cycle: u64, trigger: Trigger },
    CycleEnded(CycleEnd),
    PhaseEntered { cycle: u64, phase: PrunePhase },
    PhaseLeft { cycle: u64, phase: PrunePhase, outcome: String, millis: u64 },
    LockTaken { phase: PrunePhase, snapshot: u64 },
    LockTakenOver { phase: PrunePhase, from: PrunePhase, unrenewed_ms: u64 },
    LockWaited { phase: PrunePhase, holder: PrunePhase, waited_ms: u64 },
    LockRefused { phase: PrunePhase, holder: PrunePhase, held_ms: u64 },
    LockReleased { phase: PrunePhase },
    SnapshotCreated { snapshot: u64, phase: PrunePhase, first_order: u64, head_order: u64 },
    SnapshotFailed { phase: PrunePhase, error: String, message: String },
    DeletesFrozen { cycle: Option<u64>, why: String },
    DeletesUnfrozen,
    PinAdded { name: String, owner: String, order: u64, ttl_ms: Option<u64> },
    PinRemoved { name: String, order: u64 },
    PinExpired { name: String, owner: String, order: u64 },
    ConsumerAdded { name: String, order: u64, ttl_ms: u64 },
    ConsumerRemoved { name: String, order: u64 },
    ConsumerWentSilent { name: String, order: u64 },
    TriggerFired { trigger: Trigger, run: u64, head_order: u64 },
    TriggerCoalesced { joined: Joined },
    RoundsSwept(RoundTotals),
    RoundFailed { error: String, message: String, failures: u32 },
    RolledBack { from: u64, to: u64 },
    ConfigChanged { what: String },
    PoisonItem { what: String, count: u64 },
    WorkerPanicked { why: String },
    RetryAttempted { what: String, attempt: u32, delay_ms: u64, error: String },
    RetryGivenUp { what: String, attempts: u32, error: String },
    BreakerChanged { state: Breaker },
    PhaseRolledBack { cycle: u64, from: PrunePhase, to: PrunePhase, error: String },
    EventsLost { count: u64 },
    JournalCompacted { dropped: u64, bytes_before: u64, bytes_after: u64 },
    ReaderTooOld { order: u64, owner: String, since_order: u64, alone_ms: u64 },
    ReaderLetGo { order: u64, owner: String },
    ReserveLetGo { bytes: u64 },
    ReserveTaken { bytes: u64 },
    CatalogSnapshotMade { id: String, catalog: String, bytes: u64, removed: u64 },
    CatalogSnapshotRefused { catalog: String, error: String, message: String },
    Validated { passed: u64, skipped: u64, failed: Vec<String> },
    PhaseGivenUp { what: String, attempts: u32, error: String },
    CountsLost { why: String, order: u64 },
    SpaceReclaimed(Reclaimed),
    RunEnded(RunEnd),
}

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
    /// Nodes deleted, where it finished.
    pub deleted: Option<u64>,
    /// Nodes that its mark found live, where it finished.
    pub live: Option<u64>,
    /// Bytes of the store before, where known.
    pub bytes_before: Option<u64>,
    /// Bytes of the store after, where it finished.
    pub bytes_after: Option<u64>,
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

impl Event {
    /// The word of every event there is, and the one that stands for those of a newer program.
    pub const CODES: [&str; 47] = [
        "started",
        "stopped",
        "cycle_begun",
        "cycle_ended",
        "phase_entered",
        "phase_left",
        "lock_taken",
        "lock_taken_over",
        "lock_waited",
        "lock_refused",
        "lock_released",
        "snapshot_created",
        "snapshot_failed",
        "deletes_frozen",
        "deletes_unfrozen",
        "pin_added",
        "pin_removed",
        "pin_expired",
        "consumer_added",
        "consumer_removed",
        "consumer_went_silent",
        "trigger_fired",
        "trigger_coalesced",
        "rounds_swept",
        "round_failed",
        "rolled_back",
        "config_changed",
        "poison_item",
        "worker_panicked",
        "retry_attempted",
        "retry_given_up",
        "breaker_changed",
        "phase_rolled_back",
        "events_lost",
        "journal_compacted",
        "reader_too_old",
        "reader_let_go",
        "reserve_let_go",
        "reserve_taken",
        "catalog_snapshot_made",
        "catalog_snapshot_refused",
        "validated",
        "phase_given_up",
        "counts_lost",
        "space_reclaimed",
        "run_ended",
        UNKNOWN,
    ];

    /// A word that events have.
    ///
    /// Errors: no event has it; the text says which there are.
    pub fn known_code(word: &str) -> Result<String, String> {
        let is_known = Self::CODES.contains(&word);
        is_known
            .then(|| word.to_owned())
            .ok_or_else(|| format!("no event has the code {word:?}; there are {}", Self::CODES.join(", ")))
    }

    /// Its word: stable, and its heading in docs/operations.md.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped { .. } => "stopped",
            Self::CycleBegun { .. } => "cycle_begun",
            Self::CycleEnded(_) => "cycle_ended",
            Self::PhaseEntered { .. } => "phase_entered",
            Self::PhaseLeft { .. } => "phase_left",
            Self::LockTaken { .. } => "lock_taken",
            Self::LockTakenOver { .. } => "lock_taken_over",
            Self::LockWaited { .. } => "lock_waited",
            Self::LockRefused { .. } => "lock_refused",
            Self::LockReleased { .. } => "lock_released",
            Self::SnapshotCreated { .. } => "snapshot_created",
            Self::SnapshotFailed { .. } => "snapshot_failed",
            Self::DeletesFrozen { .. } => "deletes_frozen",
            Self::DeletesUnfrozen => "deletes_unfrozen",
            Self::PinAdded { .. } => "pin_added",
            Self::PinRemoved { .. } => "pin_removed",
            Self::PinExpired { .. } => "pin_expired",
            Self::ConsumerAdded { .. } => "consumer_added",
            Self::ConsumerRemoved { .. } => "consumer_removed",
            Self::ConsumerWentSilent { .. } => "consumer_went_silent",
            Self::TriggerFired { .. } => "trigger_fired",
            Self::TriggerCoalesced { .. } => "trigger_coalesced",
            Self::RoundsSwept(_) => "rounds_swept",
            Self::RoundFailed { .. } => "round_failed",
            Self::RolledBack { .. } => "rolled_back",
            Self::ConfigChanged { .. } => "config_changed",
            Self::PoisonItem { .. } => "poison_item",
            Self::WorkerPanicked { .. } => "worker_panicked",
            Self::RetryAttempted { .. } => "retry_attempted",
            Self::RetryGivenUp { .. } => "retry_given_up",
            Self::BreakerChanged { .. } => "breaker_changed",
            Self::PhaseRolledBack { .. } => "phase_rolled_back",
            Self::EventsLost { .. } => "events_lost",
            Self::JournalCompacted { .. } => "journal_compacted",
            Self::ReaderTooOld { .. } => "reader_too_old",
            Self::ReaderLetGo { .. } => "reader_let_go",
            Self::ReserveLetGo { .. } => "reserve_let_go",
            Self::ReserveTaken { .. } => "reserve_taken",
            Self::CatalogSnapshotMade { .. } => "catalog_snapshot_made",
            Self::CatalogSnapshotRefused { .. } => "catalog_snapshot_refused",
            Self::Validated { .. } => "validated",
            Self::PhaseGivenUp { .. } => "phase_given_up",
            Self::CountsLost { .. } => "counts_lost",
            Self::SpaceReclaimed { .. } => "space_reclaimed",
            Self::RunEnded(_) => "run_ended",
        }
    }
}

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Rises by one from event to event; a gap means that something was lost.
    pub seq: u64,
    /// Milliseconds since 1970 by the wall clock, which may step.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

/// An event as it is told to people and scripts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the journal.
    pub seq: u64,
    /// Milliseconds since 1970 by the wall clock.
    pub at_ms: u64,
    /// Its word.
    pub code: String,
    /// Its fields.
    pub data: Map<String, Value>,
}

/// The word of an event that a newer program has written.
pub(super) const UNKNOWN: &str = "unknown";

impl Entry {
    /// An event that this program does not know.
    pub(super) fn unknown(seq: u64, at_ms: u64) -> Self {
        Self { seq, at_ms, code: UNKNOWN.to_owned(), data: Map::new() }
    }
}

impl From<&Happened> for Entry {
    fn from(happened: &Happened) -> Self {
        let Happened { seq, at_ms, event } = happened;
        let fields = match serde_json::to_value(event) {
            Ok(Value::Object(tagged)) => tagged.into_iter().next().map(|(_, fields)| fields),
            Ok(_) | Err(_) => None, // one without fields is its word alone
        };
        let data = match fields {
            Some(Value::Object(data)) => data,
            Some(_) | None => Map::new(),
        };
        Self { seq: *seq, at_ms: *at_ms, code: event.code().to_owned(), data }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_of_an_event_is_in_the_list_of_them() {
        let (_, body) = include_str!("event.rs").split_once("fn code(&self)").unwrap();
        let (body, _) = body.split_once("\n    }").unwrap();
        let words: BTreeSet<&str> = body.split("=> \"").skip(1).map(|arm| arm.split('"').next().unwrap()).collect();
        let listed: BTreeSet<&str> = Event::CODES.into_iter().filter(|code| *code != UNKNOWN).collect();
        assert_eq!(words, listed);
        assert_eq!(Event::CODES.len(), listed.len() + 1);
    }
}
