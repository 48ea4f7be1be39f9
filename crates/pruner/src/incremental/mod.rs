//! IncrementalSweep: the steady phase, which keeps the disk flat between major cycles without reading the store.
//!
//! A round moves the floor, takes a snapshot and its lock like any other phase, and deletes in slices what the commit
//! journal says the window has lost since. Which nodes those are is the store's to decide ([`state_store::Store::expire`]);
//! this is when, how many at a time, and on whose authority.
//!
//! Order that must not change: the floor moves BEFORE the snapshot, which says so, BEFORE the first slice (S27, S41); what
//! older states that are still kept may hold is known BEFORE a slice is taken (S58), and what the slice passes over because it
//! cannot be used is in quarantine by then (P2). Floor, quarantine and deletes go through one log, so none waits for the disk.
//!
//! Costs: per node one read of it and one delete; per round one snapshot record and two of its lock. Where orders below the
//! floor are kept, one walk of their states each time another one is.

mod growth;
mod held;
mod load;
mod pace;

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, time::Duration};

use serde::Serialize;
use state_store::{Backlog, Durability, Expired, Idle, Judging, Slice, SliceLimit, StoreError};

use crate::{
    cycle::{CycleEnv, refuse_if_frozen},
    error::PruneError,
    phase::{PhaseRecord, PrunePhase},
    quarantine::{Quarantine, SetAside},
    snapshot::SnapshotGuard,
};
pub use growth::{LagGrowth, Waiting};
use held::HeldStates;
pub use load::Load;
pub use pace::SlicePace;

/// What one slice did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceReport {
    /// Nodes deleted.
    pub nodes: u64,
    /// Nodes passed over: shared, created since, held by an older state, or not stored.
    pub passed: u64,
    /// Its nodes, and the children that were found below them: what its time under the gate goes by.
    pub weight: u64,
    /// Time to read it, without any lock.
    pub reading: Duration,
    /// Time for which it held the commit gate: no commit waited longer for it (I12).
    pub taking: Duration,
    /// Of that, time on a processor.
    pub worked: Duration,
}

/// Why a round ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RoundEnd {
    /// Every entry at or below the floor is dealt with.
    Done,
    /// There is more; the caller ended it.
    Paused,
    /// A major cycle has to make counts exact first, or to finish under them.
    Uncounted,
    /// An interrupted major cycle goes first.
    CycleOpen,
    /// A reader or a kept order may have what would go next.
    Waits {
        /// The order.
        order: u64,
        /// Who holds it.
        owner: String,
    },
}

/// What a round did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Slices taken.
    pub slices: u64,
    /// Nodes deleted.
    pub nodes: u64,
    /// Nodes passed over.
    pub passed: u64,
    /// Nodes, journal rows and cursors that could not be used and are in quarantine since, left to a major cycle (P2).
    pub set_aside: u64,
    /// Time at work, reading and taking, without what it waits for: the gate, its lock, a reader.
    pub working: Duration,
    /// The longest time for which a slice held the commit gate.
    pub longest: Duration,
    /// The longest time for which one was on a processor meanwhile.
    pub longest_work: Duration,
    /// Slices that held it for longer than [`SlicePace::MOST_TAKING`].
    pub slices_over: u64,
    /// Slices that were on a processor for longer than that meanwhile.
    pub slices_overworked: u64,
    /// Why it ended.
    pub end: RoundEnd,
}

impl Round {
    pub(crate) fn begun() -> Self {
        Self {
            slices: 0,
            nodes: 0,
            passed: 0,
            set_aside: 0,
            working: Duration::ZERO,
            longest: Duration::ZERO,
            longest_work: Duration::ZERO,
            slices_over: 0,
            slices_overworked: 0,
            end: RoundEnd::Done,
        }
    }

    /// Adds a slice that is written.
    fn count(&mut self, slice: &SliceReport) {
        self.slices += 1;
        self.nodes += slice.nodes;
        self.passed += slice.passed;
        self.working += slice.reading + slice.taking;
        self.longest = self.longest.max(slice.taking);
        self.longest_work = self.longest_work.max(slice.worked);
        self.slices_over += u64::from(slice.taking > SlicePace::MOST_TAKING);
        self.slices_overworked += u64::from(slice.worked > SlicePace::MOST_TAKING);
    }
}

/// Says how large the next slice is, after it was told of the last one; ends the round by a break.
pub type Between<'a> = dyn FnMut(&SliceReport) -> ControlFlow<(), NonZeroUsize> + 'a;

/// The sweep of the commit journal, from round to round.
#[derive(Debug, Default)]
pub struct IncrementalSweep {
    backlog: Backlog,
    held: HeldStates,
}

impl IncrementalSweep {
    /// One round, beginning with a slice of at most `first` nodes; `dir` is the folder of mark files. A cancel or stop ends
    /// it at the next slice, or in a walk of older states at the next batch of nodes.
    ///
    /// Errors: frozen deletes, a lock that another phase holds, a failed read or write. What was deleted until then was
    /// dead.
    pub fn round(
        &mut self,
        env: &CycleEnv,
        dir: &Path,
        first: NonZeroUsize,
        between: &mut Between<'_>,
    ) -> Result<Round, PruneError> {
        let mut round = Round::begun();
        self.go_on((env, dir), first, &mut round, between)?;
        Ok(round)
    }

    /// The same; what is done is in `round`, also after an error.
    pub(crate) fn go_on(
        &mut self,
        (env, dir): (&CycleEnv, &Path),
        first: NonZeroUsize,
        round: &mut Round,
        between: &mut Between<'_>,
    ) -> Result<(), PruneError> {
        refuse_if_frozen(&*env.parts.records)?;
        if PhaseRecord::load(&*env.parts.records)?.is_some() {
            round.end = RoundEnd::CycleOpen;
            return Ok(());
        }
        env.parts.policy.advance_under(Durability::Logged)?;
        let mut working = Working { sweep: self, env, dir, round };
        let Some(read) = working.read(first)? else { return Ok(()) };
        env.snapshots.create_snapshot(PrunePhase::IncrementalSweep)?;
        let guard = env.snapshots.lock_snapshot(PrunePhase::IncrementalSweep);
        env.snapshots.end_cycle(); // the index stands for view and barrier: neither is held (L4)
        let guard = guard?;
        working.slices(&guard, (read, first), between)
    }
}

/// A slice with the time it took to read.
struct Read {
    slice: Slice,
    reading: Duration,
}

/// One round at work.
struct Working<'a> {
    sweep: &'a mut IncrementalSweep,
    env: &'a CycleEnv,
    dir: &'a Path,
    round: &'a mut Round,
}

impl Working<'_> {
    /// Reads the next slice; without one the round has an end.
    fn read(&mut self, most: NonZeroUsize) -> Result<Option<Read>, PruneError> {
        let (store, clock) = (&self.env.parts.store, &*self.env.parts.clock);
        let begun = clock.monotonic();
        let (mut bad_rows, since) = (Vec::new(), clock.unix_ms());
        let goes_on = || clock.monotonic().saturating_sub(begun) <= SlicePace::MOST_READING / 2;
        let limit = SliceLimit { most, goes_on: &goes_on };
        let next = store.next_slice(&mut self.sweep.backlog, limit, &*self.env.layout, &mut |order, error| {
            bad_rows.push(SetAside::of_journal(Some(order), since));
            tracing::error!(%error, "a row of the journal is passed over; the next major cycle finds what it named");
        });
        self.quarantine(bad_rows)?; // also where reading failed: each is met once
        self.round.end = match next? {
            Ok(slice) => return Ok(Some(Read { slice, reading: clock.monotonic().saturating_sub(begun) })),
            Err(Idle::Done) => RoundEnd::Done,
            Err(Idle::Uncounted) => RoundEnd::Uncounted,
            Err(Idle::BadCursor(cursor)) => {
                self.quarantine(vec![SetAside::of_journal(None, since)])?;
                store.pass_over(&cursor)?; // AFTER it is written down (P2)
                tracing::error!(
                    why = cursor.why,
                    "how far the sweep of the journal is cannot be used; the next major cycle finds what is left"
                );
                RoundEnd::Uncounted
            }
        };
        Ok(None)
    }

    /// Writes down what is passed over, BEFORE it is. What cannot be written down is not: the next round reads it again.
    fn quarantine(&mut self, items: Vec<SetAside>) -> Result<(), PruneError> {
        let added = Quarantine::add(items, &*self.env.parts.records);
        if added.is_err() {
            self.sweep.backlog = Backlog::default();
        }
        self.round.set_aside += added?;
        Ok(())
    }

    fn slices(
        &mut self,
        guard: &SnapshotGuard<'_>,
        (first, mut most): (Read, NonZeroUsize),
        between: &mut Between<'_>,
    ) -> Result<(), PruneError> {
        let mut next = Some(first);
        while let Some(read) = next {
            guard.renew()?;
            match self.take_or_end(guard, &read)? {
                Taken::Slice(report) => {
                    self.round.count(&report);
                    for (_, error) in read.slice.set_aside() {
                        tracing::error!(%error, "a dead node is passed over; the next major cycle finds out");
                    }
                    match between(&report) {
                        ControlFlow::Continue(size) => most = size,
                        ControlFlow::Break(()) => {
                            self.round.end = RoundEnd::Paused;
                            return Ok(());
                        }
                    }
                }
                Taken::Nothing => {}
                Taken::Ended(end) => {
                    self.round.end = end;
                    return Ok(());
                }
            }
            next = self.read(most)?;
        }
        Ok(())
    }

    fn take_or_end(&mut self, guard: &SnapshotGuard<'_>, read: &Read) -> Result<Taken, PruneError> {
        match self.env.control.checkpoint().and_then(|()| self.take(guard, read)) {
            Err(PruneError::Cancelled | PruneError::Stopped) => Ok(Taken::Ended(RoundEnd::Paused)),
            taken => taken,
        }
    }

    fn take(&mut self, guard: &SnapshotGuard<'_>, read: &Read) -> Result<Taken, PruneError> {
        let (store, clock) = (&self.env.parts.store, &*self.env.parts.clock);
        let (order, since) = (read.slice.last(), clock.unix_ms());
        let nodes = read.slice.set_aside().iter().map(|node| SetAside::of_node(node, order, since));
        self.quarantine(nodes.collect())?;
        let IncrementalSweep { backlog, held } = self.sweep;
        let by = Judging { held, now: &|| clock.monotonic() };
        let expired = store.expire(guard.permit(), backlog, &read.slice, by);
        held.forget_what_failed();
        match expired {
            Ok(Expired { nodes, passed, weight, looked, held: taking, worked }) => {
                Ok(Taken::Slice(SliceReport { nodes, passed, weight, reading: read.reading + looked, taking, worked }))
            }
            Err(StoreError::Superseded) => Ok(Taken::Nothing),
            Err(StoreError::HeldByReader { order, .. }) if held.learn((self.env, self.dir), (guard, order))? => {
                Ok(Taken::Nothing)
            }
            Err(StoreError::HeldByReader { order, owner }) => {
                Ok(Taken::Ended(RoundEnd::Waits { order: order.get(), owner }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

enum Taken {
    Slice(SliceReport),
    /// It has to be read anew.
    Nothing,
    Ended(RoundEnd),
}
