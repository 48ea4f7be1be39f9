//! What commits and worker share of the sweep between cycles: when its next round is due, and what the rounds measured.

use std::{sync::Arc, time::Duration};

use state_store::{Lag, PendingCounts};

use super::status::{IncrementalStatus, Walking};
use crate::{
    config::IncrementalConfig,
    control::Control,
    error::PruneError,
    incremental::{LagGrowth, Load, Round, RoundEnd, SlicePace, Waiting},
    quarantine::Quarantine,
};

/// A chain without commits for so long is idle.
const IDLE: Duration = Duration::from_secs(1);
/// While something waits and no commit comes, the next round begins after so long.
const BREATH: Duration = Duration::from_millis(5);
/// What stands in the way is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What failed so many times in a row is tried again after so long.
pub(in crate::worker) fn wait_after(failures: u32) -> Duration {
    LOOK_AGAIN.saturating_mul(1 << failures.min(6)).min(LONGEST_WAIT)
}

/// What commits and worker share of it.
pub(in crate::worker) struct SteadyShared {
    config: Option<IncrementalConfig>,
    pub(in crate::worker) control: Option<Arc<Control>>,
    pub(super) pace: SlicePace,
    load: Load,
    waiting: Waiting,
    /// The head at which the floor can move far enough for a round.
    next_at: u64,
    /// The head that the last whole round saw.
    swept: u64,
    /// Something waits; from this moment on the next round is due without a commit.
    waiting_from: Option<Duration>,
    /// Less is kept than the last round saw; from this moment on the next one is due where no commit comes.
    less_from: Option<Duration>,
    /// Nothing is tried before.
    not_before: Duration,
    pub(super) failures: u32,
    last_commit: Duration,
    pub(in crate::worker) status: IncrementalStatus,
    /// Since when, and what.
    walking: Option<(Duration, Walking)>,
    pub(in crate::worker) quarantine: Option<Quarantine>,
}

impl SteadyShared {
    pub(in crate::worker) fn new(config: Option<IncrementalConfig>) -> Self {
        Self {
            config,
            control: None,
            pace: SlicePace::new(),
            load: Load::default(),
            waiting: Waiting::default(),
            next_at: 0,
            swept: 0,
            waiting_from: None,
            less_from: None,
            not_before: Duration::ZERO,
            failures: 0,
            last_commit: Duration::ZERO,
            status: IncrementalStatus::default(),
            walking: None,
            quarantine: None,
        }
    }

    /// A commit came, and took so long if its maker tells.
    pub(in crate::worker) fn committed(&mut self, now: Duration, took: Option<Duration>) {
        self.last_commit = now;
        self.waiting_from = self.waiting_from.map(|_| now);
        if let Some(took) = took {
            self.pace.committed(took);
        }
    }

    /// Less is kept than before, without a commit; whether that is new. Who says so again and again makes one round due for
    /// each time that a chain needs to be idle.
    pub(in crate::worker) fn keeps_less(&mut self, now: Duration) -> bool {
        let is_new = self.config.is_some() && self.less_from.is_none();
        if is_new {
            self.less_from = Some(now.saturating_add(IDLE));
        }
        is_new
    }

    /// A round begins, which sees what is kept; one that fails has it to do again.
    pub(super) fn begins(&mut self) {
        self.waiting_from = self.waiting_from.or(self.less_from.take());
    }

    /// Whether a round is due at a head, or when one will be if nothing happens.
    pub(in crate::worker) fn look(&self, head: u64, now: Duration) -> Result<(), Option<Duration>> {
        if self.config.is_none() {
            return Err(None);
        }
        let idle = self.last_commit.saturating_add(IDLE);
        let idle_from = (head > self.swept).then_some(idle);
        let less_from = self.less_from.map(|from| from.max(idle));
        let from = if head >= self.next_at {
            Some(Duration::ZERO)
        } else {
            [self.waiting_from, idle_from, less_from].into_iter().flatten().min()
        };
        let from = from.map(|from| from.max(self.not_before));
        if from.is_some_and(|from| from <= now) { Ok(()) } else { Err(from) }
    }

    /// Nodes that it is about to delete, as its last round left it: none where there is no such sweep.
    pub(in crate::worker) fn waiting(&self) -> Option<u64> {
        if self.config.is_some() { self.status.lag_nodes } else { Some(0) }
    }

    /// What waited before it was settled, and what has waited for its end is not known: the next round tells.
    pub(in crate::worker) fn cycle_ended(&mut self) {
        self.swept = 0;
        self.waiting.settled();
        self.status.lag(None);
    }

    /// Something could not be read and was passed over: a cycle finds what it named.
    pub(super) fn set_aside(&mut self, items: u64) {
        self.status.set_aside_total += items;
    }

    /// What is set aside and no cycle has settled, as it is written down.
    pub(in crate::worker) fn quarantined(&mut self, quarantine: Option<Quarantine>) {
        self.status.poison_items = quarantine.as_ref().map_or(0, |known| known.total);
        self.quarantine = quarantine;
    }

    pub(in crate::worker) fn status(&self, now: Duration) -> Option<IncrementalStatus> {
        let (capacity_per_second, production_per_second) = (self.load.capacity(), self.load.production(now));
        let walking = self
            .walking
            .map(|(since, walking)| Walking { seconds: now.saturating_sub(since).as_secs_f64(), ..walking });
        let status =
            || IncrementalStatus { walking, capacity_per_second, production_per_second, ..self.status.clone() };
        self.config.is_some().then(status)
    }

    /// States that are kept below the floor are read.
    pub(super) fn walks(&mut self, now: Duration, states: u64, newest: u64) {
        self.walking = Some((now, Walking { states, newest, nodes: 0, seconds: 0.0 }));
    }

    /// So many nodes of them were read.
    pub(super) fn walked(&mut self, nodes: u64) {
        if let Some((_, walking)) = &mut self.walking {
            walking.nodes = nodes;
        }
    }

    pub(in crate::worker) fn is_too_much(&self, now: Duration) -> bool {
        self.load.is_too_much(now)
    }

    /// What has grown although it should not, if something has.
    pub(in crate::worker) fn growth(&self, now: Duration) -> (Option<LagGrowth>, Option<u64>) {
        (self.waiting.grown(now), self.waiting.without_place(now))
    }

    pub(super) fn ended(&mut self, head: u64, now: Duration, (round, took): (&Round, Duration)) {
        let stride = self.config.map_or(1, |config| config.stride.get());
        self.failures = 0;
        self.status.failure = None;
        (self.next_at, self.waiting_from, self.not_before) = (head.saturating_add(stride), None, Duration::ZERO);
        match &round.end {
            RoundEnd::Done => self.swept = head,
            RoundEnd::Paused => self.waiting_from = Some(now.saturating_add(BREATH)),
            RoundEnd::Uncounted | RoundEnd::CycleOpen | RoundEnd::Waits { .. } => {
                let again = now.saturating_add(LOOK_AGAIN); // by time: the next stride may be far away
                (self.not_before, self.waiting_from) = (again, Some(again));
            }
        }
        self.load.worked(round.nodes + round.passed, took);
        self.status.last = Some(round.end.clone());
    }

    /// What a round did, however it ended (O2); what it set aside is counted with the quarantine.
    pub(super) fn did(&mut self, round: &Round) {
        self.walking = None;
        let status = &mut self.status;
        status.deleted_total += round.nodes;
        status.passed_total += round.passed;
        status.slices_total += round.slices;
        status.slices_over_total += round.slices_over;
        status.slices_overworked_total += round.slices_overworked;
        status.longest_slice_ms = status.longest_slice_ms.max(round.longest.as_secs_f64() * 1000.0);
        status.longest_slice_work_ms = status.longest_slice_work_ms.max(round.longest_work.as_secs_f64() * 1000.0);
        status.working_seconds += round.working.as_secs_f64();
    }

    /// The chain went back to an order: what was swept above it comes anew.
    pub(in crate::worker) fn rolled_back(&mut self, to: u64) {
        (self.swept, self.next_at) = (self.swept.min(to), self.next_at.min(to));
    }

    pub(super) fn failed(&mut self, now: Duration, error: &PruneError) -> (u32, Duration) {
        self.failures += 1;
        let wait = wait_after(self.failures);
        self.not_before = now.saturating_add(wait);
        self.status.failure = Some(error.to_string());
        (self.failures, wait)
    }

    /// What waits while a cycle works. That it grows says nothing: the sweep stands still.
    pub(in crate::worker) fn beside_a_cycle(&mut self, lag: Lag) {
        self.status.lag(Some(lag));
    }

    /// What waits after a round, and what was named until then.
    pub(super) fn measure(&mut self, now: Duration, lag: Option<Lag>, pending: Option<PendingCounts>) {
        if let Some(pending) = pending {
            self.load.measure(now, pending.named);
            self.waiting.unindexed(now, pending.unindexed);
            self.status.unindexed_total = pending.unindexed;
        }
        match lag {
            Some(lag) => self.waiting.lag(now, (lag.orders, lag.nodes)),
            None => self.waiting.settled(),
        }
        self.status.lag(lag);
        self.status.slice_nodes = self.pace.size().get() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// What stands in the way may be gone a moment later, and the next stride may be hours away.
    #[test]
    fn what_stands_in_the_way_is_looked_at_again_by_time_while_commits_come() {
        for end in [RoundEnd::Waits { order: 1, owner: "a reader".to_owned() }, RoundEnd::CycleOpen] {
            let mut steady = SteadyShared::new(Some(IncrementalConfig { stride: NonZeroU64::new(1000).unwrap() }));
            assert_eq!(steady.look(50, Duration::ZERO), Ok(()));
            let round = Round { end, ..Round::begun() };
            steady.ended(50, Duration::ZERO, (&round, MS));
            for tick in 0..1000u32 {
                steady.committed(tick * MS, None);
                assert_eq!(steady.look(51, tick * MS), Err(Some(LOOK_AGAIN)), "{tick}: {round:?}");
            }
            assert_eq!(steady.look(51, LOOK_AGAIN), Ok(()), "{round:?}");
            steady.ended(51, LOOK_AGAIN, (&Round::begun(), MS));
            steady.committed(LOOK_AGAIN + MS, None);
            assert_eq!(
                steady.look(52, LOOK_AGAIN + MS),
                Err(Some(2 * LOOK_AGAIN + MS)),
                "done: a stride, or an idle chain"
            );
        }
    }

    /// Whoever says it again and again makes one round due, where no commit comes; one that fails is made up for.
    #[test]
    fn what_is_kept_less_makes_one_round_due_once_the_chain_is_idle() {
        let mut steady = SteadyShared::new(Some(IncrementalConfig { stride: NonZeroU64::new(1000).unwrap() }));
        steady.ended(50, Duration::ZERO, (&Round::begun(), MS));
        assert_eq!(steady.look(50, MS), Err(None));
        assert!(steady.keeps_less(MS) && !steady.keeps_less(2 * MS), "the worker is woken once");
        assert_eq!(steady.look(50, MS), Err(Some(IDLE + MS)));
        steady.committed(500 * MS, None);
        assert_eq!(steady.look(50, IDLE + MS), Err(Some(IDLE + 500 * MS)), "commits go first");
        assert_eq!(steady.look(50, IDLE + 500 * MS), Ok(()));
        steady.begins();
        let (_, wait) = steady.failed(2 * IDLE, &PruneError::NoHead);
        assert_eq!(steady.look(50, 2 * IDLE), Err(Some(2 * IDLE + wait)));
        assert_eq!(steady.look(50, 2 * IDLE + wait), Ok(()));
        steady.begins();
        steady.ended(50, 2 * IDLE + wait, (&Round::begun(), MS));
        assert_eq!(steady.look(50, 9 * IDLE), Err(None));
        assert!(steady.keeps_less(9 * IDLE), "what came after a round has begun makes another one due");
        assert!(!SteadyShared::new(None).keeps_less(MS), "cycles alone take it");
    }
}
