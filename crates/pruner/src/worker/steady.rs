//! The steady phase in the worker's loop: when a round of IncrementalSweep is due, how much it does, what it leaves.
//!
//! Paced by events: commits make rounds due, one each time the floor can move by a stride, and after each commit while
//! something waits; where no commit comes, what waits is worked off at once. A round that fails is tried again, later each
//! time; nothing else in the node waits for that.

mod state;
mod status;

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use state_store::{GoesOn, Indexed, StoreError};

use super::{
    Inner,
    ending::bug,
    serving::Outside,
    shared::{Life, Shared},
};
use crate::{
    clock::millis,
    control::{Control, Observer, Progress},
    cycle::CycleEnv,
    error::PruneError,
    events::{Event, RoundTally, RoundTold},
    incremental::{IncrementalSweep, Round, RoundEnd},
    metrics,
    outcome::Ended,
    phase::PrunePhase,
    quarantine::{Quarantine, SetAside},
    recovery::Came,
};
pub(super) use state::{SteadyShared, wait_after};
pub use status::{IncrementalStatus, Walking};

/// What waits while a cycle works is looked at again after so long.
const LOOK_APART: Duration = Duration::from_secs(1);

/// The journal is read to its end if that takes no longer.
const LONG_READ: Duration = Duration::from_secs(10);

/// A round that walks an older state asks between its batches whether a cycle is due, which time alone may have made so, and
/// tells what waits meanwhile (I13).
struct GiveWay(Arc<Inner>);

impl Observer for GiveWay {
    fn walks(&self, states: u64, newest: u64) {
        let now = self.0.parts.clock.monotonic();
        self.0.shared.lock().steady.walks(now, states, newest);
    }

    fn progress(&self, progress: Progress) {
        self.0.shared.lock().steady.walked(progress.done);
        self.0.look_around();
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
        let (head, began) = (self.shared.lock().head, self.parts.clock.monotonic());
        let mut done = Round::begun();
        let ended = catch_unwind(AssertUnwindSafe(|| self.round(steady, control, &mut done)));
        let took = self.parts.clock.monotonic().saturating_sub(began);
        self.reserve.take();
        if done.set_aside > 0 {
            self.look_at_quarantine(done.set_aside);
        }
        let lag = self.parts.store.lag(); // BEFORE the lock: it may wait for a commit
        let (pending, marks) = (self.parts.store.pending(), self.parts.store.marks());
        let stored = self.nodes_stored();
        let now = self.parts.clock.monotonic();
        let told = RoundTold::of(&ended, &done);
        match &ended {
            Ok(Ok(())) if done.end == RoundEnd::Done || done.slices > 0 => {
                self.recovery.succeeded(PrunePhase::IncrementalSweep, 0);
            }
            Ok(Err(error)) => {
                self.freeze_by(error, None);
            }
            Ok(Ok(())) | Err(_) => {}
        }
        metrics::round_ended(&done);
        let mut shared = self.shared.lock();
        shared.steady.control = None;
        shared.steady.did(&done);
        let mut failed = None;
        match ended {
            Ok(Ok(())) => shared.steady.ended(head, now, (&done, took)),
            Ok(Err(error)) => {
                let (failures, wait) = shared.steady.failed(now, &error);
                let came = match bug(&error) {
                    None => Came::Retry { wait_ms: millis(wait) },
                    Some(why) => {
                        shared.poisoned = Some(why);
                        Came::Stopped
                    }
                };
                if failures.is_power_of_two() {
                    let came = came.name();
                    tracing::warn!(%error, failures, came, "a round of the incremental sweep failed"); // O15
                }
                failed = Some((failures, error, came));
            }
            Err(_) => {
                tracing::error!("the incremental sweep panicked; the node serves, pruning has ended");
                let why = "the incremental sweep panicked; see the log".to_owned();
                failed = Some((1, PruneError::Invariant(why.clone()), Came::Panicked));
                shared.poisoned = Some(why);
            }
        }
        shared.steady.measure(now, lag, pending);
        stored.into_iter().for_each(|nodes| shared.coordinator.stored(nodes));
        shared.steady.status.marks = marks;
        let failures = shared.steady.failures;
        drop(shared);
        if let Some((failures, error, came)) = failed {
            self.recovery.round_failed(failures, &error, came);
        }
        self.rested.notify_all();
        told.tell(&*self.parts.events, (&mut steady.tally, now), failures);
    }

    /// One round; `done` has what was written of it, also where it fails.
    fn round(
        self: &Arc<Self>,
        steady: &mut Steady,
        control: &Arc<Control>,
        done: &mut Round,
    ) -> Result<(), PruneError> {
        if !steady.is_indexed {
            match self.index(&|| control.ended().is_some()) {
                Err(PruneError::Stopped) => {
                    done.end = RoundEnd::Paused;
                    return Ok(());
                }
                is_indexed => steady.is_indexed = is_indexed?,
            }
        }
        let env = CycleEnv {
            parts: self.snapshot_parts.clone(),
            snapshots: Arc::clone(&self.snapshots),
            layout: Arc::clone(&self.parts.layout),
            control: Arc::clone(control),
            observer: Arc::new(GiveWay(Arc::clone(self))),
        };
        self.parts.store.looked()?; // or nobody would hear of it (O10)
        let waiting = self.parts.store.lag().map_or(0, |lag| lag.nodes);
        let (first, quota) = {
            let pace = &self.shared.lock().steady.pace;
            (pace.size(), pace.quota(waiting))
        };
        let mut handled = 0;
        steady.sweep.go_on((&env, &self.config.cycle.state_dir), first, done, &mut |slice| {
            handled += slice.nodes + slice.passed;
            let mut shared = self.shared.lock();
            let pace = &mut shared.steady.pace;
            pace.took(slice.weight, slice.taking);
            if handled >= quota { ControlFlow::Break(()) } else { ControlFlow::Continue(pace.size()) }
        })
    }

    /// Reads the journal first: what commits create meanwhile would be taken for shared.
    pub(super) fn prepare(&self, steady: &mut Steady) {
        if self.config.incremental.is_none() || self.shared.lock().poisoned.is_some() {
            return;
        }
        match self.index(&|| false) {
            Ok(is_indexed) => steady.is_indexed = is_indexed,
            Err(PruneError::Stopped) => {} // the first round after a cycle, or the next start, reads it
            Err(error) => tracing::warn!(%error, "the journal could not be read; the first round tries again"),
        }
    }

    /// The same before a walk goes on: commits ask for it in the hours that takes.
    pub(super) fn prepare_to_walk(&self) {
        self.prepare(&mut Steady::default());
    }

    /// Reads what an earlier process left of the journal, unless it is told to end meanwhile, or that takes long and a cycle is due:
    /// the cycle settles most of it, and nobody who asks for one waits until all of it was read (P4).
    fn index(&self, is_ended: GoesOn<'_>) -> Result<bool, PruneError> {
        let look_at = Mutex::new(self.parts.clock.monotonic().saturating_add(LONG_READ));
        let indexed = match self.parts.store.index_journal(&|| !is_ended() && self.reads_on(&look_at)) {
            Err(StoreError::Cancelled) => return Err(PruneError::Stopped),
            indexed => indexed?,
        };
        let since = self.parts.clock.unix_ms();
        match indexed {
            Indexed::Whole { bad_rows } => {
                if !bad_rows.is_empty() {
                    let bad_rows = bad_rows.len();
                    tracing::error!(bad_rows, "journal rows cannot be read; a major cycle finds what they named");
                }
                let mut unlisted = self.unlisted.lock();
                unlisted.extend(bad_rows.into_iter().map(|row| SetAside::of_row(row, since)));
                self.set_aside("rows of the commit journal", &unlisted)?;
                unlisted.clear();
                Ok(true)
            }
            Indexed::Uncounted => Ok(false),
            Indexed::Gap(order) => {
                tracing::warn!(%order, "the journal has no row of an order; a major cycle has to come first");
                Ok(false)
            }
            Indexed::BadCursor(cursor) => {
                self.set_aside("how far the sweep between cycles is", &[SetAside::of_journal(None, since)])?;
                self.parts.store.pass_over(&cursor)?; // AFTER it is written down (P2)
                tracing::error!(
                    why = cursor.why,
                    "how far the sweep of the journal is cannot be read; a major cycle has to come first"
                );
                Ok(false)
            }
        }
    }

    /// Looks each second whether a cycle is due, once it reads for long: what commits bring back while the index is not read is taken
    /// for shared. A cycle that failed last is not given way to: it may fail again and again, and what is read here would never be
    /// swept.
    fn reads_on(&self, look_at: &Mutex<Duration>) -> bool {
        if self.shared.lock().life == Life::Stopping {
            return false;
        }
        let now = self.parts.clock.monotonic();
        {
            let mut look_at = look_at.lock();
            if now < *look_at {
                return true;
            }
            *look_at = now.saturating_add(LOOK_APART);
        }
        self.look_around();
        let outside = self.outside();
        let shared = self.shared.lock();
        let failed = shared.last.as_ref().is_some_and(|last| matches!(last.ended, Ended::Failed { .. }));
        failed || !shared.is_cycle_due(&outside)
    }

    /// Less is kept, and no commit may come for long; whether the worker does not know yet.
    pub(super) fn less_is_kept(&self) -> bool {
        let now = self.parts.clock.monotonic();
        self.shared.lock().steady.keeps_less(now)
    }

    /// Writes items down, BEFORE what is new of them is counted and told.
    fn set_aside(&self, what: &str, items: &[SetAside]) -> Result<(), PruneError> {
        if items.is_empty() {
            return Ok(());
        }
        let new = Quarantine::add(items.to_vec(), &*self.parts.records)?;
        self.look_at_quarantine(new);
        if new > 0 {
            metrics::set_aside(new);
            self.parts.events.emit(Event::PoisonItem { what: what.to_owned(), count: new });
        }
        Ok(())
    }

    /// What changes while something works for long: what waits for the sweep, and how much is free.
    pub(super) fn look_around(&self) {
        self.look_what_waits();
        self.measure_disk();
    }

    /// While a cycle works, or an older state is walked, the floor stands still, and so does the sweep: what waits is told by
    /// where the floor would be.
    fn look_what_waits(&self) {
        let now = self.parts.clock.monotonic();
        let Some(mut looked) = self.lag_looked.try_lock() else { return }; // another thread of the cycle looks
        if self.config.incremental.is_none() || looked.is_some_and(|at| now.saturating_sub(at) < LOOK_APART) {
            return;
        }
        *looked = Some(now);
        let lag = match self.snapshot_parts.policy.due_floor() {
            Ok(due) => due.and_then(|order| self.parts.store.lag_to(order)),
            Err(error) => return tracing::debug!(%error, "what waits for the sweep between cycles cannot be told"),
        };
        if let Some(lag) = lag {
            self.shared.lock().steady.beside_a_cycle(lag);
        }
    }

    /// Takes over what is written down of what was set aside, and counts what of it is new: nobody sees one without the other.
    /// Where it cannot be read, what is known stays.
    pub(super) fn look_at_quarantine(&self, new: u64) {
        let loaded = Quarantine::load(&*self.parts.records);
        let mut shared = self.shared.lock();
        shared.steady.set_aside(new);
        match loaded {
            Ok(quarantine) => shared.steady.quarantined(quarantine),
            Err(error) => tracing::warn!(%error, "what was set aside cannot be read; the status may be behind"),
        }
    }
}

impl Shared {
    /// Begins a round, unless one is not wanted.
    pub(super) fn begin_round(&mut self, now: Duration) -> Result<Arc<Control>, Option<Duration>> {
        if !self.lets_work_begin() {
            return Err(None);
        }
        self.steady.look(self.head, now)?;
        self.steady.begins();
        Ok(Arc::clone(self.steady.control.insert(Arc::default())))
    }

    /// A round at work ends at its next step if a cycle is due (P4).
    pub(super) fn give_way(&self, outside: &Outside) {
        if let Some(round) = &self.steady.control
            && self.is_cycle_due(outside)
        {
            round.cancel();
        }
    }

    fn is_cycle_due(&self, outside: &Outside) -> bool {
        self.coordinator.look(&self.facts(outside)).begin.is_some()
    }
}
