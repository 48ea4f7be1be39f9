//! The breaker: after failures in a row nothing is tried for a while, then one attempt is, alone.
//!
//! Pure: it is told the time. Monotonic times of an earlier process mean nothing, so one that comes back open waits its
//! whole time again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::phase::PrunePhase;

/// Executions in a row that have to fail before it opens.
const OPENS_AFTER: u32 = 3;

/// Each opening in a row lasts twice as long as the one before, up to this many doublings.
const MOST_DOUBLINGS: u32 = 6;

/// Whether attempts are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// All are.
    Closed,
    /// None is.
    Open,
    /// One is, or is under way.
    HalfOpen,
}

/// What survives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Executions in a row that failed.
    pub(super) failures: u32,
    /// Openings in a row; zero while closed.
    pub(super) openings: u32,
    /// The phase that failed last: a cycle that marks well and cannot sweep has not recovered.
    pub(super) failing: Option<PrunePhase>,
}

/// Whether the probe of an open breaker is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    UnderWay,
}

/// The breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    /// The first opening lasts so long.
    rest: Duration,
    counted: Counted,
    /// While open: when it lets an attempt through.
    until: Duration,
    probe: Probe,
}

/// What a failure did to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tripped {
    No,
    Opened,
}

impl Breaker {
    pub(super) fn new(rest: Duration) -> Self {
        Self { rest, counted: Counted::default(), until: Duration::ZERO, probe: Probe::None }
    }

    /// Goes on with what an earlier process counted.
    pub(super) fn recall(&mut self, counted: Counted, now: Duration) {
        self.counted = counted;
        self.until = now.saturating_add(self.lasts());
    }

    pub(super) fn counted(&self) -> Counted {
        self.counted
    }

    pub(super) fn state(&self, now: Duration) -> BreakerState {
        match (self.counted.openings, self.probe) {
            (0, _) => BreakerState::Closed,
            (_, Probe::UnderWay) => BreakerState::HalfOpen,
            (_, Probe::None) if now >= self.until => BreakerState::HalfOpen,
            (_, Probe::None) => BreakerState::Open,
        }
    }

    /// When the next attempt may be made, if none may now.
    pub(super) fn holds_until(&self, now: Duration) -> Option<Duration> {
        match self.state(now) {
            BreakerState::Closed => None,
            BreakerState::Open => Some(self.until),
            BreakerState::HalfOpen => (self.probe == Probe::UnderWay).then(|| now.saturating_add(self.rest)),
        }
    }

    /// Lets an attempt through, or says when one may be made.
    pub(super) fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        if let Some(until) = self.holds_until(now) {
            return Err(until);
        }
        if self.counted.openings > 0 {
            self.probe = Probe::UnderWay;
        }
        Ok(())
    }

    /// Makes the next attempt the probe, however long that would have taken: somebody asked for it.
    pub(super) fn allow_probe(&mut self, now: Duration) {
        self.until = self.until.min(now);
    }

    /// A phase ended well. It closes the breaker if it is the one that failed; the probe goes on with the next phase else.
    pub(super) fn succeeded(&mut self, phase: PrunePhase) {
        self.probe = Probe::None;
        if self.counted.failing.is_none_or(|failing| failing == phase) {
            self.counted = Counted::default();
        }
    }

    /// A phase is not run any more: if it is the one that failed, nothing can tell whether that is over, and a whole cycle
    /// that finishes closes the breaker instead.
    pub(super) fn no_longer_runs(&mut self, phase: PrunePhase) {
        if self.counted.failing == Some(phase) {
            self.counted.failing = Some(PrunePhase::Idle);
        }
    }

    /// Whether no failure is counted.
    pub(super) fn is_clear(&self) -> bool {
        self.counted == Counted::default()
    }

    /// What was let through ended without telling anything: it was stopped.
    pub(super) fn ended(&mut self) {
        self.probe = Probe::None;
    }

    pub(super) fn failed(&mut self, phase: PrunePhase, now: Duration) -> Tripped {
        (self.probe, self.counted.failing) = (Probe::None, Some(phase));
        self.counted.failures = self.counted.failures.saturating_add(1);
        if self.counted.failures < OPENS_AFTER && self.counted.openings == 0 {
            return Tripped::No;
        }
        self.counted.openings = self.counted.openings.saturating_add(1);
        self.until = now.saturating_add(self.lasts());
        Tripped::Opened
    }

    fn lasts(&self) -> Duration {
        let doublings = self.counted.openings.saturating_sub(1).min(MOST_DOUBLINGS);
        self.rest.saturating_mul(1 << doublings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(30);
    const SWEEP: PrunePhase = PrunePhase::SweepExpired;

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(REST);
        for failure in 1..=OPENS_AFTER {
            assert_eq!(breaker.admit(Duration::ZERO), Ok(()), "failure {failure}");
            let tripped = breaker.failed(SWEEP, Duration::ZERO);
            assert_eq!(tripped == Tripped::Opened, failure == OPENS_AFTER, "failure {failure}");
        }
        breaker
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(REST - Duration::from_millis(1)), Err(REST));
        assert_eq!(breaker.admit(REST), Ok(()));
        assert_eq!(breaker.state(REST), BreakerState::HalfOpen);
        assert!(breaker.admit(REST).is_err(), "one probe, not two");
        breaker.succeeded(SWEEP);
        assert_eq!((breaker.state(REST), breaker.admit(REST)), (BreakerState::Closed, Ok(())));
    }

    #[test]
    fn a_cycle_that_marks_well_and_cannot_sweep_has_not_recovered() {
        let mut breaker = opened();
        breaker.succeeded(PrunePhase::BuildReach);
        assert_eq!(breaker.state(Duration::ZERO), BreakerState::Open);
        assert_eq!(breaker.admit(REST), Ok(()));
        breaker.succeeded(PrunePhase::BuildReach);
        assert_eq!(breaker.admit(REST), Ok(()), "the sweep after it belongs to the probe");
        assert_eq!(breaker.failed(SWEEP, REST), Tripped::Opened);
    }

    #[test]
    fn a_phase_that_is_not_run_any_more_is_stood_for_by_a_whole_cycle() {
        let mut breaker = opened();
        breaker.no_longer_runs(PrunePhase::IncrementalSweep);
        assert_eq!(breaker.counted().failing, Some(SWEEP), "another one is not meant");
        breaker.no_longer_runs(SWEEP);
        assert_eq!(breaker.state(Duration::ZERO), BreakerState::Open, "it rests all the same");
        assert_eq!(breaker.admit(REST), Ok(()));
        breaker.succeeded(PrunePhase::BuildReach);
        assert_eq!(breaker.state(REST), BreakerState::HalfOpen);
        breaker.succeeded(PrunePhase::Idle);
        assert_eq!(breaker.state(REST), BreakerState::Closed);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut breaker = Breaker::new(REST);
        for _ in 0..10 {
            assert_eq!(breaker.failed(SWEEP, Duration::ZERO), Tripped::No);
            assert_eq!(breaker.failed(SWEEP, Duration::ZERO), Tripped::No);
            breaker.succeeded(SWEEP);
        }
        assert_eq!(breaker.state(Duration::ZERO), BreakerState::Closed);
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_a_bound() {
        let mut breaker = opened();
        let mut now = REST;
        for doubling in 1..12u32 {
            assert_eq!(breaker.admit(now), Ok(()));
            assert_eq!(breaker.failed(SWEEP, now), Tripped::Opened);
            let until = now + REST * (1 << doubling.min(MOST_DOUBLINGS));
            assert_eq!(breaker.admit(now), Err(until), "doubling {doubling}");
            now = until;
        }
    }

    #[test]
    fn a_breaker_that_comes_back_open_waits_its_whole_time_again() {
        let mut breaker = Breaker::new(REST);
        breaker.recall(opened().counted(), Duration::from_secs(5));
        assert_eq!(breaker.admit(Duration::from_secs(5)), Err(Duration::from_secs(35)));
        breaker.allow_probe(Duration::from_secs(6));
        assert_eq!(breaker.admit(Duration::from_secs(6)), Ok(()));
        breaker.ended();
        assert_eq!(breaker.state(Duration::from_secs(6)), BreakerState::HalfOpen, "nothing was found out");
    }
}
