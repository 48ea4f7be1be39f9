//! The word of each event: stable, and its heading in docs/operations.md.

use super::event::Event;

/// The word of an event that a newer program has written.
pub(super) const UNKNOWN: &str = "unknown";

impl Event {
    /// The word of every event there is, and the one that stands for those of a newer program.
    pub const CODES: [&str; 59] = [
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
        "request_dropped",
        "consumer_ahead",
        "rollback_failed",
        "log_cut",
        "engine_damaged",
        "engine_stopped",
        "damage_met",
        "production_ended",
        "commits_failing",
        "cycle_paused",
        "cycle_resumed",
        "quarantine_ended",
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
            Self::RequestDropped { .. } => "request_dropped",
            Self::ConsumerAhead { .. } => "consumer_ahead",
            Self::RollbackFailed { .. } => "rollback_failed",
            Self::LogCut { .. } => "log_cut",
            Self::EngineDamaged { .. } => "engine_damaged",
            Self::EngineStopped { .. } => "engine_stopped",
            Self::DamageMet { .. } => "damage_met",
            Self::ProductionEnded => "production_ended",
            Self::CommitsFailing { .. } => "commits_failing",
            Self::CyclePaused => "cycle_paused",
            Self::CycleResumed => "cycle_resumed",
            Self::QuarantineEnded { .. } => "quarantine_ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_of_an_event_is_in_the_list_of_them() {
        let (_, body) = include_str!("code.rs").split_once("fn code(&self)").unwrap();
        let (body, _) = body.split_once("\n    }").unwrap();
        let words: BTreeSet<&str> = body.split("=> \"").skip(1).map(|arm| arm.split('"').next().unwrap()).collect();
        let listed: BTreeSet<&str> = Event::CODES.into_iter().filter(|code| *code != UNKNOWN).collect();
        assert_eq!(words, listed);
        assert_eq!(Event::CODES.len(), listed.len() + 1);
    }
}
