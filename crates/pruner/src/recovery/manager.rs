//! The manager: runs a phase, and meets its failures.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use state_store::Store;

use super::{
    Attempt, BreakerStatus, Came, RecoveryConfig, RecoveryMetrics, RecoveryState, RecoveryStatus, Remedy,
    attempt::History,
    breaker::{Breaker, BreakerState, Tripped},
    remedy,
    saved::Saved,
    telling::retried,
};
use crate::{
    clock::millis, control::Control, error::PruneError, events::Event, phase::PrunePhase,
    snapshot::AtomicSnapshotManager,
};

/// Runs phases and meets their failures.
pub struct ErrorRecoveryManager {
    pub(super) snapshots: Arc<AtomicSnapshotManager>,
    pub(super) store: Arc<Store>,
    pub(super) metrics: RecoveryMetrics,
    pub(super) config: RecoveryConfig,
    /// Ends every wait of this manager.
    pub(super) life: Control,
    pub(super) state: Mutex<State>,
}

impl std::fmt::Debug for ErrorRecoveryManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErrorRecoveryManager").field("config", &self.config).finish_non_exhaustive()
    }
}

pub(super) struct State {
    pub(super) breaker: Breaker,
    pub(super) history: History,
    /// Executions that wait for their next attempt.
    pub(super) retrying: u32,
    /// Attempts in a row that failed and were made again.
    pub(super) streak: u64,
    /// The phase whose attempt is under way.
    pub(super) at_work: Option<PrunePhase>,
    pub(super) retries: u64,
    /// Cycles in a row that finished at once since something failed, until there are enough.
    pub(super) recovering: Option<u32>,
    pub(super) run: RunSoFar,
    pub(super) exhausted_by: Option<String>,
}

/// What failed since a run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunSoFar {
    /// Nothing.
    Clean,
    /// Something that was got over, or that was no part of a phase.
    Marred,
    /// A phase, for good: the run fails with an error that is told already.
    GivenUp,
}

impl State {
    pub(super) fn mar(&mut self) {
        self.recovering = Some(0);
        if self.run == RunSoFar::Clean {
            self.run = RunSoFar::Marred;
        }
    }

    fn saved(&self) -> Saved {
        Saved { breaker: self.breaker.counted(), recovering: self.recovering, exhausted_by: self.exhausted_by.clone() }
    }
}

impl ErrorRecoveryManager {
    /// A manager over the snapshots of a store; absent configuration is the default one.
    pub fn new(
        snapshot_manager: Arc<AtomicSnapshotManager>,
        store: Arc<Store>,
        metrics: RecoveryMetrics,
        config: Option<RecoveryConfig>,
    ) -> Self {
        let config = config.map_or_else(RecoveryConfig::default, told);
        let state = State {
            breaker: Breaker::new(config.max_delay()),
            history: History::default(),
            retrying: 0,
            streak: 0,
            at_work: None,
            retries: 0,
            recovering: None,
            run: RunSoFar::Clean,
            exhausted_by: None,
        };
        let state = Mutex::new(state);
        Self { snapshots: snapshot_manager, store, metrics, config, life: Control::default(), state }
    }

    /// Goes on where an earlier process was: an open breaker stays open.
    ///
    /// Errors: a record that cannot be read; then nothing is known to have failed.
    pub fn initialize(&self) -> Result<(), PruneError> {
        let parts = self.snapshots.parts();
        let saved = Saved::load(&*parts.records)?;
        let mut state = self.state.lock();
        state.run = RunSoFar::Clean;
        state.breaker.recall(saved.breaker, parts.clock.monotonic());
        state.recovering = saved.recovering;
        state.exhausted_by = saved.exhausted_by;
        Ok(())
    }

    /// The same; a damaged record tells nothing, which stops nobody from pruning.
    pub(crate) fn initialize_or_tell(&self) -> Result<(), PruneError> {
        match self.initialize() {
            Err(error) if error.is_damaged_artefact() => {
                tracing::warn!(%error, "how recovery stood is not known; it begins anew");
                self.unsaved(&error);
                let anew = self.state.lock().saved();
                if let Err(error) = anew.save(&*self.snapshots.parts().records) {
                    tracing::warn!(%error, "how recovery stands could not be saved");
                }
                Ok(())
            }
            other => other,
        }
    }

    /// How failures are met.
    pub fn config(&self) -> &RecoveryConfig {
        &self.config
    }

    /// How recovery stands.
    pub fn status(&self) -> RecoveryStatus {
        let now = self.now();
        let state = self.state.lock();
        let breaker = state.breaker.state(now);
        RecoveryStatus {
            state: RecoveryState::of(state.retrying, state.exhausted_by.as_deref(), state.recovering),
            breaker: BreakerStatus {
                state: breaker,
                failures: state.breaker.counted().failures,
                closes_after: state.breaker.counted().failing,
                probe_in_ms: state
                    .breaker
                    .holds_until(now)
                    .filter(|_| breaker == BreakerState::Open)
                    .map(|until| millis(until.saturating_sub(now))),
            },
            healthy_cycles: state.recovering.map_or(0, |cycles| cycles),
            min_healthy_cycles: self.config.min_healthy_cycles,
            exhausted_by: state.exhausted_by.clone(),
            retries_total: state.retries,
            attempts: state.history.newest_last(),
        }
    }

    /// Ends every wait of this manager, for good: what is executed returns at once.
    pub fn stop(&self) {
        self.life.stop();
    }

    /// Until when the breaker lets nothing through, by the monotonic clock; nothing if it does.
    pub fn holds_until(&self) -> Option<Duration> {
        let now = self.now();
        self.state.lock().breaker.holds_until(now)
    }

    /// Lets the next attempt through an open breaker: an operator asked for it.
    pub fn allow_probe(&self) {
        let now = self.now();
        self.state.lock().breaker.allow_probe(now);
    }

    /// Says that a phase is not run any more, because it is switched off: it does not keep the breaker open for ever. Where
    /// it is the one that failed, the breaker rests as long as it would, and the next cycle that finishes closes it.
    pub fn no_longer_runs(&self, phase: PrunePhase) {
        self.state.lock().breaker.no_longer_runs(phase);
    }

    /// A run begins: what failed before it is no part of it.
    pub fn cycle_begins(&self) {
        self.state.lock().run = RunSoFar::Clean;
    }

    /// A cycle failed. What failed outside its phases, whatever was got over within them, is taken over here.
    pub fn cycle_failed(&self, error: &PruneError) {
        let so_far = self.state.lock().run;
        if so_far != RunSoFar::GivenUp && remedy(error) != Remedy::Ended {
            self.note_failure(PrunePhase::Idle, 1, error, Came::Stopped);
        }
        self.cycle_begins(); // it is over
    }

    /// Something that is no part of a phase could not be saved. It holds in this process, and is told.
    pub(crate) fn unsaved(&self, error: &PruneError) {
        let attempt = self.attempt(PrunePhase::Idle, 1, Some(error), Came::Unsaved);
        self.state.lock().history.add(attempt);
    }

    /// A cycle has finished: one of those in a row that it takes to count as recovered, if nothing failed in it.
    pub fn cycle_finished(&self) {
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.breaker.succeeded(PrunePhase::Idle); // what failed before the phases is over
            if state.breaker.is_clear() {
                state.exhausted_by = None;
            }
            if std::mem::replace(&mut state.run, RunSoFar::Clean) == RunSoFar::Clean {
                let cycles = state.recovering.map(|cycles| cycles + 1);
                state.recovering = cycles.filter(|cycles| *cycles < self.config.min_healthy_cycles);
            }
            (before, state.saved())
        };
        self.save_if_changed(before_and_after);
    }

    /// The record of a snapshot was damaged, and the next snapshot takes its place.
    pub(crate) fn snapshot_given_up(&self, error: &PruneError) {
        self.metrics.new_snapshots.increment(1);
        let came = Came::NewSnapshot { wait_ms: 0 };
        let attempt = self.attempt(PrunePhase::Idle, 1, Some(error), came);
        self.state.lock().history.add(attempt);
    }

    /// A round of the sweep between cycles failed, so many times so far. It is tried again by a schedule of its own, if at all.
    pub(crate) fn round_failed(&self, number: u32, error: &PruneError, came: Came) {
        if remedy(error) != Remedy::Ended {
            self.note_failure(PrunePhase::IncrementalSweep, number, error, came);
        }
    }

    /// Something outside the phases failed, and is tried again by a schedule of its own, so many times so far. It says
    /// nothing about the phases, so the breaker does not count it. Gives what is to be told, once nobody waits for the caller.
    #[must_use]
    pub(crate) fn outside_failed(&self, number: u32, error: &PruneError, wait: Duration) -> Event {
        let came = Came::Retry { wait_ms: millis(wait) };
        let attempt = self.attempt(PrunePhase::Idle, number, Some(error), came);
        let event = retried(&attempt, error, wait);
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.history.add(attempt);
            state.mar();
            if number > 1 {
                state.exhausted_by = Some(error.code().to_owned()); // it stays
            }
            (before, state.saved())
        };
        self.save_if_changed(before_and_after);
        event
    }

    /// The records of earlier processes could not be read, so many times so far. Nothing is saved over what is not known.
    /// Gives what is to be told, as above.
    #[must_use]
    pub(crate) fn unread(&self, number: u32, error: &PruneError, wait: Duration) -> Event {
        let came = Came::Retry { wait_ms: millis(wait) };
        let attempt = self.attempt(PrunePhase::Idle, number, Some(error), came);
        let event = retried(&attempt, error, wait);
        let mut state = self.state.lock();
        state.history.add(attempt);
        if number > 1 {
            state.exhausted_by = Some(error.code().to_owned()); // it stays
        }
        event
    }

    /// It succeeded, after so many failures.
    pub(crate) fn outside_succeeded(&self, failed: u32) {
        let attempt = self.attempt(PrunePhase::Idle, failed + 1, None, Came::Success);
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.history.add(attempt);
            if state.breaker.is_clear() {
                state.exhausted_by = None;
            }
            (before, state.saved())
        };
        self.save_if_changed(before_and_after);
    }

    /// A phase panicked, and nothing is tried any more in this process.
    pub(crate) fn panicked(&self, error: &PruneError) {
        let phase = self.state.lock().at_work.take().map_or(PrunePhase::Idle, |phase| phase);
        self.note_failure(phase, 1, error, Came::Panicked);
    }

    /// Takes over that a phase ended well, after so many attempts that failed.
    pub(crate) fn succeeded(&self, phase: PrunePhase, failed: u32) {
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.breaker.succeeded(phase);
            state.streak = 0;
            if state.run == RunSoFar::GivenUp {
                state.run = RunSoFar::Marred; // it was got over
            }
            if state.breaker.is_clear() {
                state.exhausted_by = None;
            }
            if failed > 0 {
                state.history.add(self.attempt(phase, failed + 1, None, Came::Success));
            }
            (before, state.saved())
        };
        self.save_if_changed(before_and_after);
    }

    /// Takes over that something failed that is not tried again here.
    pub(super) fn note_failure(&self, phase: PrunePhase, number: u32, error: &PruneError, came: Came) {
        let now = self.now();
        let (opened, before_and_after) = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.history.add(self.attempt(phase, number, Some(error), came));
            let tripped = if counts(error) { state.breaker.failed(phase, now) } else { Tripped::No };
            if counts(error) {
                state.mar();
                state.exhausted_by = Some(error.code().to_owned());
            } else {
                state.breaker.ended();
            }
            let openings = (tripped == Tripped::Opened).then(|| state.breaker.counted().openings);
            (openings, (before, state.saved()))
        };
        if let Some(openings) = opened {
            self.metrics.openings.increment(1);
            if openings.is_power_of_two() {
                tracing::error!(%phase, openings, "failures follow each other: the breaker is open, nothing is tried for a while"); // O15
            }
        }
        self.save_if_changed(before_and_after);
    }

    /// What cannot be saved holds in this process: a restart begins with a closed breaker then.
    fn save_if_changed(&self, (before, after): (Saved, Saved)) {
        self.tell_breaker(&before, &after);
        if before != after
            && let Err(error) = after.save(&*self.snapshots.parts().records)
        {
            tracing::warn!(%error, "how recovery stands could not be saved");
        }
    }

    pub(super) fn attempt(&self, phase: PrunePhase, number: u32, error: Option<&PruneError>, came: Came) -> Attempt {
        Attempt {
            at: self.snapshots.parts().clock.unix_ms(),
            phase,
            number,
            code: error.map(|error| error.code().to_owned()),
            message: error.map(ToString::to_string),
            disposition: error.map(PruneError::disposition),
            came,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.snapshots.parts().clock.monotonic()
    }
}

/// An embedder that did not ask is told what is wrong with its configuration.
fn told(config: RecoveryConfig) -> RecoveryConfig {
    for (key, why) in config.problems() {
        tracing::error!(key, why, "the configuration of recovery makes no sense");
    }
    config
}

/// Whether a failure says something about the store or the pruner: input that cannot be served says nothing, and a
/// freeze stops everything already.
fn counts(error: &PruneError) -> bool {
    use state_store::Disposition::{Bug, Corrupt, Input, Resource, Transient};
    match error.disposition() {
        Resource if matches!(error, PruneError::BreakerOpen { .. }) => false,
        Transient | Resource | Bug => true,
        Corrupt => !error.is_live_fault() && !matches!(error, PruneError::Frozen { .. }),
        Input => false,
    }
}
