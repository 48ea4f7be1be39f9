//! Rounds of the sweep between cycles come after each commit: they are told together, not one by one.

use std::{any::Any, time::Duration};

use super::{EventSink, event::Event, totals::RoundTotals};
use crate::{clock::millis, error::PruneError, incremental::Round};

/// Rounds are told after so long.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What rounds did since they were told last.
#[derive(Debug, Default)]
pub(crate) struct RoundTally {
    totals: RoundTotals,
    working: Duration,
    told: Duration,
}

impl RoundTally {
    /// Adds a round; gives what is to be told, if it is time.
    pub(crate) fn add(&mut self, round: &Round, now: Duration) -> Option<Event> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).map_or(u64::MAX, |us| us);
        let totals = &mut self.totals;
        totals.rounds += 1;
        totals.slices += round.slices;
        totals.deleted += round.nodes;
        totals.passed += round.passed;
        self.working += round.working;
        totals.working_ms = millis(self.working);
        totals.longest_slice_us = totals.longest_slice_us.max(micros(round.longest));
        if now.saturating_sub(self.told) < TELL_EVERY { None } else { self.rest(now) }
    }

    /// Gives what was not told yet, if it is anything: rounds that found nothing to do are nothing to tell.
    pub(crate) fn rest(&mut self, now: Duration) -> Option<Event> {
        (self.told, self.working) = (now, Duration::ZERO);
        let totals = std::mem::take(&mut self.totals);
        (totals.slices > 0).then_some(Event::RoundsSwept(totals))
    }
}

/// What one round did and how it ended, as far as it is told.
pub(crate) struct RoundTold {
    done: Round,
    ended: RoundEnded,
}

enum RoundEnded {
    /// By itself.
    Whole,
    /// With an error. Whoever froze deletes by it has told that.
    Failed {
        error: String,
        message: String,
    },
    Panicked,
    /// Somebody wanted it to end.
    Interrupted,
}

impl RoundTold {
    pub(crate) fn of(ended: &Result<Result<(), PruneError>, Box<dyn Any + Send>>, done: &Round) -> Self {
        let ended = match ended {
            Ok(Ok(())) => RoundEnded::Whole,
            Ok(Err(PruneError::Stopped | PruneError::Cancelled)) => RoundEnded::Interrupted,
            Ok(Err(error)) => RoundEnded::Failed { error: error.code().to_owned(), message: error.to_string() },
            Err(_) => RoundEnded::Panicked,
        };
        Self { done: done.clone(), ended }
    }

    /// Tells it; failures in a row are told at growing distances.
    pub(crate) fn tell(self, events: &dyn EventSink, (tally, now): (&mut RoundTally, Duration), failures: u32) {
        let Self { done, ended } = self;
        if done.set_aside > 0 {
            let what = "nodes and rows that the sweep between cycles could not read".to_owned();
            events.emit(Event::PoisonItem { what, count: done.set_aside });
        }
        if matches!(ended, RoundEnded::Whole) || done.slices > 0 {
            tally.add(&done, now).into_iter().for_each(|event| events.emit(event));
        }
        match ended {
            RoundEnded::Failed { error, message } if failures.is_power_of_two() => {
                events.emit(Event::RoundFailed { error, message, failures }); // O15
            }
            RoundEnded::Panicked => {
                events.emit(Event::WorkerPanicked { why: "the incremental sweep panicked; see the log".to_owned() });
            }
            RoundEnded::Whole | RoundEnded::Failed { .. } | RoundEnded::Interrupted => {}
        }
    }
}
