//! What is told of a run that ended.

use super::Run;
use crate::{
    events::{Event, RunEnd},
    metrics,
};

impl Run {
    /// Counts its end and logs it. The event is for whoever may wait for the journal.
    pub(crate) fn told(&self) -> Event {
        metrics::run_ended(self);
        let end = RunEnd::from(self);
        let RunEnd { run, trigger, duration_ms, counted, outcome, .. } = &end;
        tracing::info!(run, trigger = trigger.label(), ended = outcome, duration_ms, counted, "pruning run ended");
        Event::RunEnded(end)
    }
}
