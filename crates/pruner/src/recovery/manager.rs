//! The manager: runs a phase, and meets its failures.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use state_store::Store;

use super::{
    Attempt, BreakerStatus, Came, RecoveryConfig, RecoveryMetrics, RecoveryState, RecoveryStatus, Remedy,
    attempt::History,
    breaker::{Breaker, BreakerState, Tripped},
    remedy,
    retry::{self, Waits},
    saved::Saved,
};
use crate::{
    control::Control,
    error::PruneError,
    phase::{self, PrunePhase},
    snapshot::AtomicSnapshotManager,
};

/// Runs phases and meets their failures.
pub struct ErrorRecoveryManager {
    snapshots: Arc<AtomicSnapshotManager>,
    store: Arc<Store>,
    metrics: RecoveryMetrics,
    config: RecoveryConfig,
    /// Ends every wait of this manager.
    life: Control,
    state: Mutex<State>,
}

impl std::fmt::Debug for ErrorRecoveryManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErrorRecoveryManager").field("config", &self.config).finish_non_exhaustive()
    }
}

struct State {
    breaker: Breaker,
    history: History,
    /// Executions that wait for their next attempt.
    retrying: u32,
    /// The phase whose attempt is under way.
    at_work: Option<PrunePhase>,
    retries: u64,
    /// Cycles in a row that finished at once since something failed, until there are enough.
    recovering: Option<u32>,
    /// Whether anything failed since the last cycle ended.
    is_marred: bool,
    exhausted_by: Option<String>,
}

impl State {
    fn mar(&mut self) {
        (self.recovering, self.is_marred) = (Some(0), true);
    }

    fn saved(&self) -> Saved {
        Saved { breaker: self.breaker.counted(), recovering: self.recovering, exhausted_by: self.exhausted_by.clone() }
    }
}

/// One execution of a phase: its attempts so far.
struct Execution<'a> {
    phase: PrunePhase,
    control: &'a Control,
    waits: Waits,
    /// Attempts that failed.
    failed: u32,
    /// When the first of those failed for damage that a new snapshot may end.
    damaged_since: Option<Duration>,
}

/// What to do after a failed attempt.
enum Then {
    /// Wait, and try again on what is there.
    Again(Duration),
    /// Wait, and try again when there is room.
    AwaitRoom(Duration, Option<u64>),
    /// Wait, and try again on a new snapshot.
    NewSnapshot(Duration),
    /// Give up.
    GiveUp(Came),
    /// Nothing is wrong.
    Ended,
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
            at_work: None,
            retries: 0,
            recovering: None,
            is_marred: false,
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
        state.is_marred = false;
        state.breaker.recall(saved.breaker, parts.clock.monotonic());
        state.recovering = saved.recovering;
        state.exhausted_by = saved.exhausted_by;
        Ok(())
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
            state: match (state.retrying, &state.exhausted_by, state.recovering) {
                (1.., _, _) => RecoveryState::Retrying,
                (0, Some(_), _) => RecoveryState::Exhausted,
                (0, None, Some(_)) => RecoveryState::Recovering,
                (0, None, None) => RecoveryState::Healthy,
            },
            breaker: BreakerStatus {
                state: breaker,
                failures: state.breaker.counted().failures,
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

    /// Runs a phase until it ends well, nothing can help it, or it was tried often enough.
    ///
    /// Errors: the last one of the phase; an open breaker; a cancel or a stop. After an error that gave the phase up it
    /// is back at the last safe one, unless that is switched off.
    pub async fn execute_phase_with_recovery<T, F, Fut>(&self, phase: PrunePhase, operation: F) -> Result<T, PruneError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, PruneError>>,
    {
        self.execute(phase, &Control::default(), operation).await
    }

    /// The same; the end of the control ends it, too, also while it waits.
    ///
    /// Errors: as above.
    pub async fn execute<T, F, Fut>(
        &self,
        phase: PrunePhase,
        control: &Control,
        mut operation: F,
    ) -> Result<T, PruneError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, PruneError>>,
    {
        self.admit(phase)?;
        let waits = Waits::new(&self.config);
        let mut execution = Execution { phase, control, waits, failed: 0, damaged_since: None };
        loop {
            self.state.lock().at_work = Some(phase);
            let ended = operation().await;
            self.state.lock().at_work = None;
            let error = match ended {
                Ok(done) => {
                    self.succeeded(phase, execution.failed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            execution.failed += 1;
            let then = self.judge(&mut execution, &error);
            if let Some(end) = self.follow(&execution, then, &error).await {
                return Err(end.map_or(error, |end| end));
            }
        }
    }

    /// A cycle has finished: one of those in a row that it takes to count as recovered, if nothing failed in it.
    pub fn cycle_finished(&self) {
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            if !std::mem::take(&mut state.is_marred) {
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

    /// A round of the sweep between cycles failed; it is tried again by its own schedule, so many times so far.
    pub(crate) fn round_failed(&self, number: u32, error: &PruneError, wait: Duration) {
        if remedy(error) != Remedy::Ended {
            self.note_failure(PrunePhase::IncrementalSweep, number, error, Came::Retry { wait_ms: millis(wait) });
        }
    }

    /// A phase panicked, and nothing is tried any more in this process.
    pub(crate) fn panicked(&self, error: &PruneError) {
        let phase = self.state.lock().at_work.take().map_or(PrunePhase::Idle, |phase| phase);
        self.note_failure(phase, 1, error, Came::Panicked);
    }

    /// Says whether an attempt may be made now.
    fn admit(&self, phase: PrunePhase) -> Result<(), PruneError> {
        let now = self.now();
        let mut state = self.state.lock();
        let Err(until) = state.breaker.admit(now) else { return Ok(()) };
        let wait_ms = millis(until.saturating_sub(now));
        let error = PruneError::BreakerOpen { failures: state.breaker.counted().failures, wait_ms };
        state.history.add(self.attempt(phase, 1, Some(&error), Came::HeldBack));
        Err(error)
    }

    /// What to do about an error. Changes nothing but the execution.
    fn judge(&self, execution: &mut Execution<'_>, error: &PruneError) -> Then {
        let remedy = remedy(error);
        let is_left = execution.failed <= self.config.max_phase_retries;
        match remedy {
            Remedy::Ended => Then::Ended,
            Remedy::Stop => Then::GiveUp(Came::Stopped),
            Remedy::NewSnapshot if !self.may_renew(execution) => Then::GiveUp(Came::Stopped),
            Remedy::Retry | Remedy::AwaitRoom { .. } | Remedy::NewSnapshot if !is_left => Then::GiveUp(Came::Exhausted),
            Remedy::Retry => Then::Again(execution.waits.next()),
            Remedy::AwaitRoom { need } => Then::AwaitRoom(execution.waits.next(), need),
            Remedy::NewSnapshot => Then::NewSnapshot(execution.waits.next()),
        }
    }

    /// A sweep goes by the mark of its own snapshot: it goes back to marking instead.
    fn may_renew(&self, execution: &mut Execution<'_>) -> bool {
        let now = self.now();
        let since = *execution.damaged_since.get_or_insert(now);
        let is_late = now.saturating_sub(since) > self.config.snapshot_recovery_timeout();
        self.config.enable_snapshot_recovery && execution.phase != PrunePhase::SweepExpired && !is_late
    }

    /// Does it. Nothing to return: the next attempt follows. Else the end, with another error than the phase's where
    /// something else ended it.
    async fn follow(&self, execution: &Execution<'_>, then: Then, error: &PruneError) -> Option<Option<PruneError>> {
        let (wait, came) = match then {
            Then::Ended => {
                self.state.lock().breaker.ended();
                return Some(None);
            }
            Then::GiveUp(came) => {
                self.gave_up(execution.phase, execution.failed, error, came);
                return Some(None);
            }
            Then::Again(wait) => (wait, Came::Retry { wait_ms: millis(wait) }),
            Then::AwaitRoom(wait, need) => (wait, Came::AwaitedRoom { need }),
            Then::NewSnapshot(wait) => (wait, Came::NewSnapshot { wait_ms: millis(wait) }),
        };
        self.begin_retry(execution, error, came.clone());
        let waited = self.wait(execution, wait, &came).await;
        self.state.lock().retrying -= 1;
        if let Err(ended) = waited {
            self.state.lock().breaker.ended();
            return Some(Some(ended));
        }
        if let Came::NewSnapshot { .. } = came {
            self.renew_snapshot(execution.phase);
        }
        None
    }

    async fn wait(&self, execution: &Execution<'_>, wait: Duration, came: &Came) -> Result<(), PruneError> {
        let clock = &*self.snapshots.parts().clock;
        let controls = [execution.control, &self.life];
        retry::wait(clock, wait, controls).await?;
        let Came::AwaitedRoom { need: Some(need) } = came else { return Ok(()) };
        let begun = clock.monotonic();
        while self.is_short_of(*need) && clock.monotonic().saturating_sub(begun) < self.config.max_delay() {
            retry::wait(clock, self.config.base_delay(), controls).await?;
        }
        Ok(())
    }

    /// A device that does not tell is asked by trying.
    fn is_short_of(&self, need: u64) -> bool {
        matches!(self.store.backend().free_bytes(), Ok(Some(free)) if free < need)
    }

    /// A failure to do so is met like any other of the phase: its next attempt finds it.
    fn renew_snapshot(&self, phase: PrunePhase) {
        match self.snapshots.create_snapshot(phase) {
            Ok(snapshot) => {
                self.metrics.new_snapshots.increment(1);
                tracing::warn!(%phase, snapshot = snapshot.snapshot_id, "a new snapshot takes the place of a damaged one");
            }
            Err(error) => tracing::warn!(%phase, %error, "a damaged snapshot could not be replaced"),
        }
    }

    fn begin_retry(&self, execution: &Execution<'_>, error: &PruneError, came: Came) {
        let (phase, number) = (execution.phase, execution.failed);
        self.metrics.retries.increment(1);
        let attempt = self.attempt(phase, number, Some(error), came);
        tracing::warn!(%phase, attempt = number, %error, came = ?attempt.came, "a phase failed and is tried again");
        let mut state = self.state.lock();
        state.retries += 1;
        state.retrying += 1;
        state.mar();
        state.history.add(attempt);
    }

    /// Takes over that a phase ended well, after so many attempts that failed.
    pub(crate) fn succeeded(&self, phase: PrunePhase, failed: u32) {
        let before_and_after = {
            let mut state = self.state.lock();
            let before = state.saved();
            state.breaker.succeeded(phase);
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

    fn gave_up(&self, phase: PrunePhase, number: u32, error: &PruneError, came: Came) {
        if came == Came::Exhausted {
            self.metrics.exhausted.increment(1);
        }
        self.note_failure(phase, number, error, came);
        if self.config.enable_phase_rollback {
            self.roll_back(phase);
        }
    }

    /// Goes back to the last safe phase; never forward (S38).
    fn roll_back(&self, phase: PrunePhase) {
        match phase::roll_back(phase, &*self.snapshots.parts().records) {
            Ok(None) => {}
            Ok(Some((from, to))) => {
                self.metrics.rollbacks.increment(1);
                tracing::warn!(%from, %to, "the phase was given up and went back");
            }
            Err(error) => {
                tracing::warn!(%error, "the phase could not go back; the end of its cycle, or a start, does it")
            }
        }
    }

    /// Takes over that something failed that is not tried again here.
    fn note_failure(&self, phase: PrunePhase, number: u32, error: &PruneError, came: Came) {
        let now = self.now();
        let (tripped, before_and_after) = {
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
            (tripped, (before, state.saved()))
        };
        if tripped == Tripped::Opened {
            self.metrics.openings.increment(1);
            tracing::error!(%phase, "failures follow each other: the breaker is open, nothing is tried for a while");
        }
        self.save_if_changed(before_and_after);
    }

    /// What cannot be saved holds in this process: a restart begins with a closed breaker then.
    fn save_if_changed(&self, (before, after): (Saved, Saved)) {
        if before != after
            && let Err(error) = after.save(&*self.snapshots.parts().records)
        {
            tracing::warn!(%error, "how recovery stands could not be saved");
        }
    }

    fn attempt(&self, phase: PrunePhase, number: u32, error: Option<&PruneError>, came: Came) -> Attempt {
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

    fn now(&self) -> Duration {
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
        Transient | Resource | Bug => true,
        Corrupt => !error.is_live_fault() && !matches!(error, PruneError::Frozen { .. }),
        Input => false,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(u64::MAX, |millis| millis)
}
