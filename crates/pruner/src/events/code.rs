//! The word of each event: stable, and its heading in docs/operations.md.

use super::event::Event;

/// The word of an event that a newer program has written.
pub(super) const UNKNOWN: &str = "unknown";

macro_rules! words {
    ($($event:pat => $word:literal,)+) => {
        impl Event {
            /// The word of every event there is, and the one that stands for those of a newer program.
            pub const CODES: &[&str] = &[$($word,)+ UNKNOWN];

            /// Its word: stable, and its heading in docs/operations.md.
            pub fn code(&self) -> &'static str {
                match self {
                    $($event => $word,)+
                }
            }
        }
    };
}

words! {
    Event::Started { .. } => "started",
    Event::Stopped { .. } => "stopped",
    Event::CycleBegun { .. } => "cycle_begun",
    Event::CycleEnded(_) => "cycle_ended",
    Event::PhaseEntered { .. } => "phase_entered",
    Event::PhaseLeft { .. } => "phase_left",
    Event::LockTaken { .. } => "lock_taken",
    Event::LockTakenOver { .. } => "lock_taken_over",
    Event::LockWaited { .. } => "lock_waited",
    Event::LockRefused { .. } => "lock_refused",
    Event::LockReleased { .. } => "lock_released",
    Event::SnapshotCreated { .. } => "snapshot_created",
    Event::SnapshotFailed { .. } => "snapshot_failed",
    Event::DeletesFrozen { .. } => "deletes_frozen",
    Event::DeletesUnfrozen => "deletes_unfrozen",
    Event::PinAdded { .. } => "pin_added",
    Event::PinRemoved { .. } => "pin_removed",
    Event::PinExpired { .. } => "pin_expired",
    Event::ConsumerAdded { .. } => "consumer_added",
    Event::ConsumerRemoved { .. } => "consumer_removed",
    Event::ConsumerWentSilent { .. } => "consumer_went_silent",
    Event::TriggerFired { .. } => "trigger_fired",
    Event::TriggerCoalesced { .. } => "trigger_coalesced",
    Event::RoundsSwept(_) => "rounds_swept",
    Event::RoundFailed { .. } => "round_failed",
    Event::RolledBack { .. } => "rolled_back",
    Event::ConfigChanged { .. } => "config_changed",
    Event::PoisonItem { .. } => "poison_item",
    Event::WorkerPanicked { .. } => "worker_panicked",
    Event::RetryAttempted { .. } => "retry_attempted",
    Event::RetryGivenUp { .. } => "retry_given_up",
    Event::BreakerChanged { .. } => "breaker_changed",
    Event::PhaseRolledBack { .. } => "phase_rolled_back",
    Event::EventsLost { .. } => "events_lost",
    Event::JournalCompacted { .. } => "journal_compacted",
    Event::ReaderTooOld { .. } => "reader_too_old",
    Event::ReaderLetGo { .. } => "reader_let_go",
    Event::ReserveLetGo { .. } => "reserve_let_go",
    Event::ReserveTaken { .. } => "reserve_taken",
    Event::CatalogSnapshotMade { .. } => "catalog_snapshot_made",
    Event::CatalogSnapshotRefused { .. } => "catalog_snapshot_refused",
    Event::Validated { .. } => "validated",
    Event::PhaseGivenUp { .. } => "phase_given_up",
    Event::CountsLost { .. } => "counts_lost",
    Event::SpaceReclaimed { .. } => "space_reclaimed",
    Event::RunEnded(_) => "run_ended",
    Event::RequestDropped { .. } => "request_dropped",
    Event::ConsumerAhead { .. } => "consumer_ahead",
    Event::RollbackFailed { .. } => "rollback_failed",
    Event::LogCut { .. } => "log_cut",
    Event::EngineDamaged { .. } => "engine_damaged",
    Event::EngineStopped { .. } => "engine_stopped",
    Event::DamageMet { .. } => "damage_met",
    Event::ProductionEnded => "production_ended",
    Event::CommitsFailing { .. } => "commits_failing",
    Event::CyclePaused => "cycle_paused",
    Event::CycleResumed => "cycle_resumed",
    Event::QuarantineEnded { .. } => "quarantine_ended",
}

impl Event {
    /// A word that events have.
    ///
    /// Errors: no event has it; the text says which there are.
    pub fn known_code(word: &str) -> Result<String, String> {
        let is_known = Self::CODES.contains(&word);
        is_known
            .then(|| word.to_owned())
            .ok_or_else(|| format!("no event has the code {word:?}; there are {}", Self::CODES.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_events_have_one_word() {
        let words: BTreeSet<&str> = Event::CODES.iter().copied().collect();
        assert_eq!(words.len(), Event::CODES.len());
    }
}
