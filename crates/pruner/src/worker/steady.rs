//! The steady phase in the worker's loop: when a round of IncrementalSweep is due, how much it does, what it leaves.
//!
//! Paced by events: commits make rounds due, one each time the floor can move by a stride, and after each commit while
//! something waits; where no commit comes, what waits is worked off at once. A round that fails is tried again, later each
//! time; nothing else in the node waits for that.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use state_store::{Indexed, Lag};

use super::{
    Inner,
    counts::Uncounted,
    serving::Outside,
    shared::{Life, Shared},
};
use crate::{
    config::IncrementalConfig,
    control::{Control, Observer, Progress},
    cycle::CycleEnv,
    error::PruneError,
    events::{Event, RoundTally, RoundTold},
    incremental::{IncrementalSweep, Load, Round, RoundEnd, SlicePace},
    metrics,
    phase::PrunePhase,
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
pub(super) fn wait_after(failures: u32) -> Duration {
    LOOK_AGAIN.saturating_mul(1 << failures.min(6)).min(LONGEST_WAIT)
}

/// What the sweep between cycles does now and did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IncrementalStatus {
    /// How its last round ended; absent before the first.
    pub last: Option<RoundEnd>,
    /// Why nothing can be deleted, if so.
    pub uncounted: Option<Uncounted>,
    /// Why the last round failed, if it did.
    pub failure: Option<String>,
    /// Orders at or below the floor whose journal entries still name nodes.
    pub lag_orders: Option<u64>,
    /// Nodes that they name.
    pub lag_nodes: Option<u64>,
    /// Milliseconds of chain time that they cover.
    pub lag_ms: Option<u64>,
    /// Nodes deleted since the process began.
    pub deleted_total: u64,
    /// Nodes passed over: shared, created since, held by an older state, or not stored.
    pub passed_total: u64,
    /// Nodes and journal rows that could not be read, left to a major cycle.
    pub set_aside_total: u64,
    /// Nodes that the index of the journal had no place for, left to a major cycle.
    pub unindexed_total: u64,
    /// Nodes marked as shared, which wait for a cycle when they are lost; absent where they are too many to be held.
    pub marks: Option<u64>,
    /// Slices taken.
    pub slices_total: u64,
    /// Nodes in the next slice, at most.
    pub slice_nodes: u64,
    /// The longest time for which a slice held the commit gate, in milliseconds: no commit waited longer for one.
    pub longest_slice_ms: f64,
    /// Time at work, in seconds.
    pub working_seconds: f64,
    /// Nodes per second of working time that it deals with, once measured.
    pub capacity_per_second: Option<f64>,
    /// Nodes per second that commits make it deal with, once measured.
    pub production_per_second: Option<f64>,
}

/// What commits and worker share of it.
pub(super) struct SteadyShared {
    config: Option<IncrementalConfig>,
    pub(super) control: Option<Arc<Control>>,
    pace: SlicePace,
    load: Load,
    /// The head at which the floor can move far enough for a round.
    next_at: u64,
    /// The head that the last whole round saw.
    swept: u64,
    /// Something waits; from this moment on the next round is due without a commit.
    waiting_from: Option<Duration>,
    /// Nothing is tried before.
    not_before: Duration,
    failures: u32,
    last_commit: Duration,
    status: IncrementalStatus,
}

impl SteadyShared {
    pub(super) fn new(config: Option<IncrementalConfig>) -> Self {
        let status = IncrementalStatus {
            last: None,
            uncounted: None,
            failure: None,
            lag_orders: None,
            lag_nodes: None,
            lag_ms: None,
            deleted_total: 0,
            passed_total: 0,
            set_aside_total: 0,
            unindexed_total: 0,
            marks: None,
            slices_total: 0,
            slice_nodes: 0,
            longest_slice_ms: 0.0,
            working_seconds: 0.0,
            capacity_per_second: None,
            production_per_second: None,
        };
        Self {
            config,
            control: None,
            pace: SlicePace::new(),
            load: Load::default(),
            next_at: 0,
            swept: 0,
            waiting_from: None,
            not_before: Duration::ZERO,
            failures: 0,
            last_commit: Duration::ZERO,
            status,
        }
    }

    /// A commit came, and took so long if its maker tells.
    pub(super) fn committed(&mut self, now: Duration, took: Option<Duration>) {
        self.last_commit = now;
        self.waiting_from = self.waiting_from.map(|_| now);
        if let Some(took) = took {
            self.pace.committed(took);
        }
    }

    /// Whether a round is due at a head, or when one will be if nothing happens.
    pub(super) fn look(&self, head: u64, now: Duration) -> Result<(), Option<Duration>> {
        if self.config.is_none() {
            return Err(None);
        }
        let idle_from = (head > self.swept).then(|| self.last_commit.saturating_add(IDLE));
        let from = if head >= self.next_at {
            Some(Duration::ZERO)
        } else {
            [self.waiting_from, idle_from].into_iter().flatten().min()
        };
        let from = from.map(|from| from.max(self.not_before));
        if from.is_some_and(|from| from <= now) { Ok(()) } else { Err(from) }
    }

    /// Nodes that it is about to delete, as its last round left it: none where there is no such sweep.
    pub(super) fn waiting(&self) -> Option<u64> {
        if self.config.is_some() { self.status.lag_nodes } else { Some(0) }
    }

    /// What waited before it was settled, and what has waited for its end is not known: the next round tells.
    pub(super) fn cycle_ended(&mut self) {
        self.swept = 0;
        let status = &mut self.status;
        (status.lag_orders, status.lag_nodes, status.lag_ms) = (None, None, None);
    }

    pub(super) fn status(&self) -> Option<IncrementalStatus> {
        self.config.is_some().then(|| self.status.clone())
    }

    pub(super) fn is_too_much(&self, now: Duration) -> bool {
        self.load.is_too_much(now)
    }

    fn ended(&mut self, head: u64, now: Duration, round: &Round) {
        let stride = self.config.map_or(1, |config| config.stride.get());
        self.failures = 0;
        self.status.failure = None;
        (self.next_at, self.waiting_from, self.not_before) = (head.saturating_add(stride), None, Duration::ZERO);
        match &round.end {
            RoundEnd::Done => self.swept = head,
            RoundEnd::Paused => self.waiting_from = Some(now.saturating_add(BREATH)),
            RoundEnd::Uncounted | RoundEnd::CycleOpen | RoundEnd::Waits { .. } => {
                self.not_before = now.saturating_add(LOOK_AGAIN);
            }
        }
        let status = &mut self.status;
        status.deleted_total += round.nodes;
        status.passed_total += round.passed;
        status.set_aside_total += round.set_aside;
        status.slices_total += round.slices;
        status.longest_slice_ms = status.longest_slice_ms.max(round.longest.as_secs_f64() * 1000.0);
        status.working_seconds += round.working.as_secs_f64();
        status.last = Some(round.end.clone());
    }

    /// The chain went back to an order: what was swept above it comes anew.
    pub(super) fn rolled_back(&mut self, to: u64) {
        (self.swept, self.next_at) = (self.swept.min(to), self.next_at.min(to));
    }

    fn failed(&mut self, now: Duration, error: &PruneError) -> (u32, Duration) {
        self.failures += 1;
        let wait = wait_after(self.failures);
        self.not_before = now.saturating_add(wait);
        self.status.failure = Some(error.to_string());
        (self.failures, wait)
    }
}

/// A round that walks an older state asks between its batches whether a cycle is due, which time alone may have made so.
struct GiveWay(Arc<Inner>);

impl Observer for GiveWay {
    fn progress(&self, _progress: Progress) {
        self.0.measure_disk();
        let outside = self.0.outside();
        self.0.shared.lock().give_way(&outside);
    }
}

/// What the worker keeps of it from round to round.
#[derive(Default)]
pub(super) struct Steady {
    sweep: IncrementalSweep,
    /// Rounds that were not told yet.
    pub(super) tally: RoundTally,
    /// Whether the journal of an earlier process was read.
    is_indexed: bool,
}

impl Inner {
    /// One round, and what it changes.
    pub(super) fn sweep(self: &Arc<Self>, steady: &mut Steady, control: &Arc<Control>) {
        let head = self.shared.lock().head;
        let ended = catch_unwind(AssertUnwindSafe(|| self.round(steady, control)));
        self.take_reserve();
        let lag = self.parts.store.lag(); // BEFORE the lock: it may wait for a commit
        let (pending, marks) = (self.parts.store.pending(), self.parts.store.marks());
        let stored = self.nodes_stored();
        let now = self.parts.clock.monotonic();
        let told = RoundTold::of(&ended);
        let freeze = match &ended {
            Ok(Ok(round)) => {
                metrics::round_ended(round);
                if round.end == RoundEnd::Done || round.slices > 0 {
                    self.recovery.succeeded(PrunePhase::IncrementalSweep, 0);
                }
                None
            }
            Ok(Err(error)) => self.freeze_by(error),
            Err(_) => None,
        };
        let mut shared = self.shared.lock();
        shared.steady.control = None;
        let mut failed = None;
        match ended {
            Ok(Ok(round)) => shared.steady.ended(head, now, &round),
            Ok(Err(error)) => {
                let (failures, wait) = shared.steady.failed(now, &error);
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "a round of the incremental sweep failed; it is tried again"); // O15
                }
                failed = Some((failures, error, wait));
            }
            Err(_) => {
                tracing::error!("the incremental sweep panicked; the node serves, pruning has ended");
                let why = "the incremental sweep panicked; see the log".to_owned();
                failed = Some((1, PruneError::Invariant(why.clone()), Duration::ZERO));
                shared.poisoned = Some(why);
            }
        }
        shared.freeze = freeze.or(shared.freeze.take());
        shared.measure(now, lag, pending);
        stored.into_iter().for_each(|nodes| shared.coordinator.stored(nodes));
        shared.steady.status.marks = marks;
        let failures = shared.steady.failures;
        drop(shared);
        if let Some((failures, error, wait)) = failed {
            self.recovery.round_failed(failures, &error, wait);
        }
        self.rested.notify_all();
        told.tell(&*self.parts.events, (&mut steady.tally, now), failures);
    }

    fn round(self: &Arc<Self>, steady: &mut Steady, control: &Arc<Control>) -> Result<Round, PruneError> {
        if !steady.is_indexed {
            steady.is_indexed = self.index()?;
        }
        let env = CycleEnv {
            parts: self.snapshot_parts.clone(),
            snapshots: Arc::clone(&self.snapshots),
            layout: Arc::clone(&self.parts.layout),
            control: Arc::clone(control),
            observer: Arc::new(GiveWay(Arc::clone(self))),
        };
        let waiting = self.parts.store.lag().map_or(0, |lag| lag.nodes);
        let (first, quota) = {
            let pace = &self.shared.lock().steady.pace;
            (pace.size(), pace.quota(waiting))
        };
        let mut handled = 0;
        steady.sweep.round(&env, &self.config.cycle.state_dir, first, &mut |slice| {
            handled += slice.nodes + slice.passed;
            let mut shared = self.shared.lock();
            let pace = &mut shared.steady.pace;
            pace.took(slice.nodes + slice.passed, slice.taking, slice.reading + slice.taking);
            if handled >= quota { ControlFlow::Break(()) } else { ControlFlow::Continue(pace.size()) }
        })
    }

    /// Reads the journal first: what commits create meanwhile would be taken for shared.
    pub(super) fn prepare(&self, steady: &mut Steady) {
        if self.config.incremental.is_none() || self.shared.lock().poisoned.is_some() {
            return;
        }
        match self.index() {
            Ok(is_indexed) => steady.is_indexed = is_indexed,
            Err(error) => tracing::warn!(%error, "the journal could not be read; the first round tries again"),
        }
    }

    /// Reads what an earlier process left of the journal.
    fn index(&self) -> Result<bool, PruneError> {
        match self.parts.store.index_journal()? {
            Indexed::Whole { bad_rows } => {
                if bad_rows > 0 {
                    tracing::error!(bad_rows, "journal rows cannot be read; a major cycle finds what they named");
                    let what = "rows of the commit journal".to_owned();
                    self.parts.events.emit(Event::PoisonItem { what, count: bad_rows });
                }
                Ok(true)
            }
            Indexed::Uncounted => Ok(false),
            Indexed::Gap(order) => {
                tracing::warn!(%order, "the journal has no row of an order; a major cycle has to come first");
                Ok(false)
            }
            Indexed::BadCursor { why } => {
                tracing::error!(
                    why,
                    "how far the sweep of the journal is cannot be read; a major cycle has to come first"
                );
                self.shared.lock().steady.status.set_aside_total += 1;
                Ok(false)
            }
        }
    }
}

impl Shared {
    /// Begins a round, unless one is not wanted.
    pub(super) fn begin_round(&mut self, now: Duration) -> Result<Arc<Control>, Option<Duration>> {
        let may = self.poisoned.is_none() && self.freeze.is_none() && self.off.is_none();
        if self.life != Life::Serving || !may {
            return Err(None);
        }
        self.steady.look(self.head, now)?;
        Ok(Arc::clone(self.steady.control.insert(Arc::default())))
    }

    /// A round at work ends at its next step if a cycle is due (P4).
    pub(super) fn give_way(&self, outside: &Outside) {
        if let Some(round) = &self.steady.control
            && self.coordinator.look(&self.facts(outside)).begin.is_some()
        {
            round.cancel();
        }
    }

    fn measure(&mut self, now: Duration, lag: Option<Lag>, pending: Option<state_store::PendingCounts>) {
        let steady = &mut self.steady;
        let capacity = steady.pace.capacity();
        if let Some(pending) = pending {
            steady.load.measure(now, pending.named, capacity);
            steady.status.unindexed_total = pending.unindexed;
        }
        let status = &mut steady.status;
        status.lag_orders = lag.map(|lag| lag.orders);
        status.lag_nodes = lag.map(|lag| lag.nodes);
        status.lag_ms = lag.map(|lag| lag.chain_ms);
        (status.capacity_per_second, status.production_per_second) = (capacity, steady.load.production());
        status.slice_nodes = steady.pace.size().get() as u64;
    }
}
