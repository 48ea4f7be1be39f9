//! One execution of a phase: attempt, judgement, wait, next attempt.

use std::time::Duration;

use super::{
    BreakerState, Came, ErrorRecoveryManager, Remedy,
    manager::RunSoFar,
    remedy,
    retry::{self, Waits},
};
use crate::{
    clock::millis,
    control::Control,
    error::PruneError,
    phase::{self, PrunePhase},
};

/// Who makes the new snapshot that takes the place of a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenewedBy {
    /// The manager, before the next attempt.
    Manager,
    /// The next attempt, which begins with a snapshot of its own.
    Attempt,
}

/// One execution of a phase: its attempts so far.
struct Execution<'a> {
    phase: PrunePhase,
    control: &'a Control,
    renewed_by: RenewedBy,
    /// The snapshot that the attempt under way is to replace.
    damaged: Option<u64>,
    waits: Waits,
    /// Attempts that failed.
    failed: u32,
    /// When the first of those failed for damage that a new snapshot may end.
    damaged_since: Option<Duration>,
}

/// An execution is under way. One that its caller drops, or that panics, was no probe and waits for nothing.
struct UnderWay<'a>(&'a ErrorRecoveryManager);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().breaker.ended();
    }
}

/// A wait for the next attempt is under way.
struct Waiting<'a>(&'a ErrorRecoveryManager);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().retrying -= 1;
    }
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
    pub async fn execute<T, F, Fut>(&self, phase: PrunePhase, control: &Control, operation: F) -> Result<T, PruneError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, PruneError>>,
    {
        self.execute_renewed_by(RenewedBy::Manager, (phase, control), operation).await
    }

    pub(super) async fn execute_renewed_by<T, F, Fut>(
        &self,
        renewed_by: RenewedBy,
        (phase, control): (PrunePhase, &Control),
        mut operation: F,
    ) -> Result<T, PruneError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, PruneError>>,
    {
        self.admit(phase)?;
        let _under_way = UnderWay(self);
        let waits = Waits::new(&self.config);
        let mut execution =
            Execution { phase, control, renewed_by, damaged: None, waits, failed: 0, damaged_since: None };
        loop {
            self.state.lock().at_work = Some(phase);
            let ended = operation().await;
            self.state.lock().at_work = None;
            self.note_renewed(&mut execution);
            let error = match ended {
                Ok(done) => {
                    self.succeeded(phase, execution.failed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            execution.failed += 1;
            let then = self.judge(&mut execution, &error);
            if let Some(end) = self.follow(&mut execution, then, &error).await {
                return Err(end.map_or(error, |end| end));
            }
        }
    }

    /// Says whether an attempt may be made now.
    fn admit(&self, phase: PrunePhase) -> Result<(), PruneError> {
        let now = self.now();
        let mut state = self.state.lock();
        let Err(until) = state.breaker.admit(now) else {
            let is_probe = state.breaker.state(now) == BreakerState::HalfOpen;
            drop(state);
            if is_probe {
                self.tell_probe();
            }
            return Ok(());
        };
        let wait_ms = millis(until.saturating_sub(now));
        let error = PruneError::BreakerOpen { failures: state.breaker.counted().failures, wait_ms };
        state.history.add(self.attempt(phase, 1, Some(&error), Came::HeldBack));
        state.run = RunSoFar::GivenUp;
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
    async fn follow(
        &self,
        execution: &mut Execution<'_>,
        then: Then,
        error: &PruneError,
    ) -> Option<Option<PruneError>> {
        let (wait, came) = match then {
            Then::Ended => return Some(None),
            Then::GiveUp(came) => {
                self.gave_up(execution.phase, execution.failed, error, came);
                return Some(None);
            }
            Then::Again(wait) => (wait, Came::Retry { wait_ms: millis(wait) }),
            Then::AwaitRoom(wait, need) => (wait, Came::AwaitedRoom { need }),
            Then::NewSnapshot(wait) => (wait, Came::NewSnapshot { wait_ms: millis(wait) }),
        };
        self.begin_retry(execution, error, came.clone(), wait);
        let waiting = Waiting(self);
        if let Err(ended) = self.wait(execution, wait, &came).await {
            return Some(Some(ended));
        }
        drop(waiting);
        if let Came::NewSnapshot { .. } = came {
            execution.damaged = self.snapshot_id();
            if execution.renewed_by == RenewedBy::Manager {
                self.renew_snapshot(execution);
            }
        }
        None
    }

    async fn wait(&self, execution: &Execution<'_>, wait: Duration, came: &Came) -> Result<(), PruneError> {
        let clock = &*self.snapshots.parts().clock;
        let controls = [execution.control, &self.life];
        if let (Came::AwaitedRoom { .. }, Some(reserve)) = (came, self.store.reserve()) {
            reserve.let_go_or_tell(); // what is tried again has it (C12)
        }
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
    fn renew_snapshot(&self, execution: &mut Execution<'_>) {
        let phase = execution.phase;
        match self.snapshots.create_snapshot(phase) {
            Ok(_) => self.note_renewed(execution),
            Err(error) => tracing::warn!(%phase, %error, "a damaged snapshot could not be replaced"),
        }
    }

    /// Counts a new snapshot once it is there, whoever made it (O2).
    fn note_renewed(&self, execution: &mut Execution<'_>) {
        let Some(damaged) = execution.damaged.take() else { return };
        if let Some(snapshot) = self.snapshot_id().filter(|id| *id != damaged) {
            self.metrics.new_snapshots.increment(1);
            tracing::warn!(phase = %execution.phase, snapshot, "a new snapshot takes the place of a damaged one");
        }
    }

    fn snapshot_id(&self) -> Option<u64> {
        self.snapshots.status().snapshot.map(|snapshot| snapshot.snapshot_id)
    }

    fn begin_retry(&self, execution: &Execution<'_>, error: &PruneError, came: Came, wait: Duration) {
        let (phase, number) = (execution.phase, execution.failed);
        self.metrics.retries.increment(1);
        let attempt = self.attempt(phase, number, Some(error), came);
        self.tell_retry(&attempt, error, wait);
        let mut state = self.state.lock();
        state.retries += 1;
        state.retrying += 1;
        state.mar();
        state.streak += 1;
        if state.streak.is_power_of_two() {
            let (came, streak) = (attempt.came.name(), state.streak);
            tracing::warn!(%phase, attempt = number, %error, came, streak, "a phase failed and is tried again"); // O15
        }
        state.history.add(attempt);
    }

    fn gave_up(&self, phase: PrunePhase, number: u32, error: &PruneError, came: Came) {
        if came == Came::Exhausted {
            self.metrics.exhausted.increment(1);
        }
        self.tell_given_up(phase, number, error, &came);
        self.note_failure(phase, number, error, came);
        self.state.lock().run = RunSoFar::GivenUp;
        if self.config.enable_phase_rollback {
            self.roll_back(phase, error);
        }
    }

    /// Goes back to the last safe phase; never forward (S38).
    fn roll_back(&self, phase: PrunePhase, error: &PruneError) {
        match phase::roll_back(phase, &*self.snapshots.parts().records) {
            Ok(None) => {}
            Ok(Some((cycle, from, to))) => {
                self.metrics.rollbacks.increment(1);
                self.tell_rolled_back(cycle, (from, to), error);
                tracing::warn!(%from, %to, "the phase was given up and went back");
            }
            Err(error) => {
                tracing::warn!(%error, "the phase could not go back; the end of its cycle, or a start, does it")
            }
        }
    }
}
