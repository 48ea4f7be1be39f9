//! What is told of recovery, never under its lock: whoever takes events may wait for a disk.

use std::time::Duration;

use super::{Attempt, Came, ErrorRecoveryManager, saved::Saved};
use crate::{
    clock::millis,
    error::PruneError,
    events::{Breaker, Event},
    phase::PrunePhase,
};

/// What is tried again after a wait.
pub(super) fn retried(attempt: &Attempt, error: &PruneError, wait: Duration) -> Event {
    Event::RetryAttempted {
        what: attempt.phase.to_string(),
        attempt: attempt.number,
        delay_ms: millis(wait),
        error: error.code().to_owned(),
    }
}

impl ErrorRecoveryManager {
    fn tell(&self, event: Event) {
        self.snapshots.parts().events.emit(event);
    }

    /// A phase failed and is tried again.
    pub(super) fn tell_retry(&self, attempt: &Attempt, error: &PruneError, wait: Duration) {
        self.tell(retried(attempt, error, wait));
    }

    /// A phase was tried often enough, or no attempt more could help.
    pub(super) fn tell_given_up(&self, phase: PrunePhase, attempts: u32, error: &PruneError, came: &Came) {
        let (what, error) = (phase.to_string(), error.code().to_owned());
        if *came == Came::Exhausted {
            self.tell(Event::RetryGivenUp { what, attempts, error });
        } else {
            self.tell(Event::PhaseGivenUp { what, attempts, error });
        }
    }

    pub(super) fn tell_rolled_back(&self, cycle: u64, (from, to): (PrunePhase, PrunePhase), error: &PruneError) {
        self.tell(Event::PhaseRolledBack { cycle, from, to, error: error.code().to_owned() });
    }

    /// The one attempt that an open breaker lets through.
    pub(super) fn tell_probe(&self) {
        self.tell(Event::BreakerChanged { state: Breaker::HalfOpen });
    }

    /// Tells of a breaker that opened, once more or for the first time, or closed.
    pub(super) fn tell_breaker(&self, before: &Saved, after: &Saved) {
        let state = match (before.breaker.openings, after.breaker.openings) {
            (before, after) if after > before => Breaker::Open,
            (1.., 0) => Breaker::Closed,
            _ => return,
        };
        self.tell(Event::BreakerChanged { state });
    }
}
