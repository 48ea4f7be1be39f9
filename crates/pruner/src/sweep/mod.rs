//! SweepExpired: removes what the sealed mark does not hold.
//!
//! Two strategies with one rule. By filter: one key range after another is rewritten through the compaction filter, so
//! deleting is freeing (L2). By delete batches under the commit gate: for small garbage, and where no filter can be
//! installed; batches leave tombstones, so a rewrite of the same ranges follows, unless the garbage is so small that
//! ordinary compaction absorbs it, which the report then says.
//!
//! Both keep a cursor; the work behind it is never done twice, the work at it may be, harmlessly (C2).

mod batches;
mod ranges;
mod room;
mod tombstones;

use std::{num::NonZeroUsize, sync::Arc};

use serde::{Deserialize, Serialize};
use state_store::{BarrierHold, Batch, Flow, KeyRange, Pace, Permit, Store, StoreError, View};
use state_tree::NodeHash;

use crate::{
    clock::Clock,
    config::SweepChoice,
    control::{Control, Observer, Progress, Stage},
    error::PruneError,
    mark::SealedMark,
};

pub(crate) use room::{check_room, free, least_need, reserve_kept, room};
pub use tombstones::Tombstones;
pub(crate) use tombstones::{next_range, rewrite};

/// The way that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepStrategy {
    /// Ranges rewritten through the compaction filter.
    Filter,
    /// Delete batches under the commit gate.
    Delete,
    /// Every node present is live.
    Nothing,
}

/// What a sweep did, or in a dry run would do. One that is tried again goes on with the report of the attempt before, so it
/// tells of all attempts of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// The way taken.
    pub strategy: SweepStrategy,
    /// Why that way.
    pub why: String,
    /// Nodes deleted. What the rewrite of a range had removed when it failed is not among them: nobody knows it. A filter
    /// counts one again that was deleted before, if the engine rewrites it without the tombstone, which lies in a newer file.
    pub deleted: u64,
    /// Bytes of the nodes deleted, before compression; absent where nobody saw them.
    pub deleted_bytes: Option<u64>,
    /// Rows of the node family that remain, counted from its files after the sweep, or row by row where its tombstones are left
    /// to compaction; absent of such a one that went on behind what an earlier process had counted.
    pub kept: Option<u64>,
    /// Versions outside the mark that were kept because they were created since the view. A filter counts one as often
    /// as the engine rewrites it.
    pub spared: u64,
    /// Rows met whose key is not 32 bytes: kept. A filter counts one as often as the engine rewrites it.
    pub foreign: u64,
    /// Ranges worked through, ranges of an earlier process not included.
    pub ranges: u64,
    /// Whether the space of the deleted rows was given back by this sweep.
    pub reclaimed: bool,
    /// Wall time.
    pub seconds: f64,
}

/// Remembers how far the sweep is, across restarts.
pub trait SweepCursor {
    /// A sweep by this way begins or goes on. A position that another way got to is forgotten (L12).
    fn begin(&mut self, strategy: SweepStrategy);

    /// First key that is not swept yet; nothing at the beginning.
    fn position(&self) -> Option<Vec<u8>>;

    /// Rows that save the position with the deletes they describe (I9), or nothing where they cannot share a batch.
    fn batch(&self, next: &[u8], deleted: u64) -> Result<Option<Batch>, PruneError>;

    /// Takes the position over; `saved` says whether the rows of [`SweepCursor::batch`] were written with the work.
    fn advance(&mut self, next: &[u8], deleted: u64, saved: Saved) -> Result<(), PruneError>;
}

/// Whether a position is on disk already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// In the batch of the work.
    WithTheWork,
    /// Not yet: the work was idempotent and is done.
    NotYet,
}

/// Everything one sweep needs.
pub struct SweepJob<'a> {
    /// The store.
    pub store: &'a Arc<Store>,
    /// The right to delete.
    pub permit: &'a Permit,
    /// What was created since the view of the mark.
    pub barrier: &'a BarrierHold,
    /// What to keep. Only a sealed mark has this type (I7).
    pub mark: &'a Arc<SealedMark>,
    /// What the way depends on.
    pub outlook: Outlook,
    /// Bytes of files per range.
    pub range_bytes: u64,
    /// Nodes per delete batch.
    pub delete_batch: NonZeroUsize,
    /// The brake.
    pub pace: Option<Arc<dyn Pace>>,
    /// Called between slices: renews the lock, and fails if it was lost.
    pub renew: &'a dyn Fn() -> Result<(), PruneError>,
    /// Pause and cancel.
    pub control: &'a Control,
    /// Who watches.
    pub observer: &'a dyn Observer,
    /// Measures wall time.
    pub clock: &'a dyn Clock,
}

/// What the way of a sweep depends on, known before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// Which way was asked for.
    pub choice: SweepChoice,
    /// Nodes that the mark keeps.
    pub live: u64,
    /// Nodes present when the mark was made, where it counted them.
    pub present: Option<u64>,
    /// Rows whose key is not 32 bytes, where the mark counted them.
    pub foreign: Option<u64>,
    /// Whether the store has the sweep filter.
    pub filter: bool,
    /// What becomes of the tombstones of little garbage.
    pub small_garbage: SmallGarbage,
}

/// What becomes of the tombstones of little garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmallGarbage {
    /// Ordinary compaction absorbs them: the store goes on being written.
    LeaveToCompaction,
    /// The same, where there is next to none; else a rewrite is worth its while.
    LeaveTraces,
    /// Nothing will compact the store after us: it is rewritten.
    Rewrite,
}

/// Garbage below these shares of the nodes present is deleted in batches and left to ordinary compaction, as the sweep between
/// cycles leaves all of its own. A tombstone makes the engine move a few times its row on its way to the bottom; a rewrite
/// moves every live row and holds the sweep between cycles up for as long as that takes.
const SMALL_GARBAGE: f64 = 0.25;
const TRACES: f64 = 0.005;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reclaim {
    Rewrite,
    LeaveToCompaction,
}

/// The way to go, and why.
struct Way {
    strategy: SweepStrategy,
    reclaim: Reclaim,
    why: String,
}

impl Way {
    fn new(strategy: SweepStrategy, reclaim: Reclaim, why: impl Into<String>) -> Self {
        Self { strategy, reclaim, why: why.into() }
    }

    fn report(self) -> SweepReport {
        SweepReport { strategy: self.strategy, why: self.why, ..SweepReport::begun() }
    }
}

impl SweepReport {
    /// A report of nothing done yet.
    pub fn begun() -> Self {
        Self {
            strategy: SweepStrategy::Nothing,
            why: String::new(),
            deleted: 0,
            deleted_bytes: None,
            kept: Some(0),
            spared: 0,
            foreign: 0,
            ranges: 0,
            reclaimed: false,
            seconds: 0.0,
        }
    }

    /// Another mark takes the place of the one that this tells of: what was deleted stays deleted, the rest is met again.
    pub(crate) fn begin_anew(&mut self) {
        (self.kept, self.foreign, self.reclaimed) = (Some(0), 0, false);
    }

    /// Bytes of the nodes deleted so far, if somebody saw all of them.
    fn bytes_so_far(&self) -> Option<u64> {
        if self.deleted == 0 { Some(0) } else { self.deleted_bytes }
    }
}

impl Outlook {
    fn way(&self) -> Way {
        let dead = self.present.map(|present| present.saturating_sub(self.live));
        match (self.choice, dead) {
            (_, Some(0)) => Way::new(SweepStrategy::Nothing, Reclaim::Rewrite, "every node present is live"),
            (SweepChoice::Delete, _) => Way::new(SweepStrategy::Delete, Reclaim::Rewrite, "asked for"),
            (SweepChoice::Filter | SweepChoice::Auto, _) if !self.filter => {
                Way::new(SweepStrategy::Delete, Reclaim::Rewrite, "the store was opened without the sweep filter")
            }
            (SweepChoice::Filter, _) => Way::new(SweepStrategy::Filter, Reclaim::Rewrite, "asked for"),
            (SweepChoice::Auto, Some(dead)) if self.is_small(dead) => {
                let present = self.nodes();
                let why = format!("{dead} of {present} nodes are dead: ordinary compaction absorbs their tombstones");
                Way::new(SweepStrategy::Delete, Reclaim::LeaveToCompaction, why)
            }
            (SweepChoice::Auto, _) => {
                let why = "rewriting moves fewer bytes than tombstones, and frees them at once";
                Way::new(SweepStrategy::Filter, Reclaim::Rewrite, why)
            }
        }
    }

    fn is_small(&self, dead: u64) -> bool {
        let share = match self.small_garbage {
            SmallGarbage::LeaveToCompaction => SMALL_GARBAGE,
            SmallGarbage::LeaveTraces => TRACES,
            SmallGarbage::Rewrite => return false,
        };
        (dead as f64) < self.nodes() as f64 * share
    }

    fn nodes(&self) -> u64 {
        self.present.map_or(0, |present| present)
    }

    fn rows(&self) -> u64 {
        self.nodes() + self.foreign.map_or(0, |foreign| foreign)
    }
}

impl SweepJob<'_> {
    /// Sweeps everything behind the cursor. The report goes on where an attempt before it ended, also after an error.
    ///
    /// Errors: a lost lock, a full barrier, no room, a cancel, a failed write, a mark that cannot be read. Whatever was deleted
    /// until then was dead.
    pub fn run(&self, cursor: &mut dyn SweepCursor, report: &mut SweepReport) -> Result<(), PruneError> {
        let start = self.clock.monotonic();
        let swept = self.sweep(cursor, report);
        report.seconds += self.clock.monotonic().saturating_sub(start).as_secs_f64();
        swept
    }

    fn sweep(&self, cursor: &mut dyn SweepCursor, report: &mut SweepReport) -> Result<(), PruneError> {
        let Way { strategy, reclaim, why } = self.outlook.way();
        (report.strategy, report.why) = (strategy, why);
        cursor.begin(strategy);
        if cursor.position().is_none() {
            report.kept = Some(0); // no row is behind it that somebody else counted
        }
        self.show(Stage::Sweep, 0, cursor.position().as_deref());
        match strategy {
            SweepStrategy::Filter => {
                ranges::sweep(self, cursor, report)?;
                report.reclaimed = true;
            }
            SweepStrategy::Delete => {
                batches::sweep(self, cursor, report)?;
                if reclaim == Reclaim::Rewrite {
                    ranges::reclaim(self)?;
                    report.reclaimed = true;
                }
            }
            SweepStrategy::Nothing => {}
        }
        self.give_back(report)?;
        match (strategy, reclaim) {
            (SweepStrategy::Nothing, _) => report.kept = Some(self.outlook.rows()),
            (SweepStrategy::Delete, Reclaim::LeaveToCompaction) => {} // counted row by row
            (SweepStrategy::Delete | SweepStrategy::Filter, _) => report.kept = Some(self.rows_in_files()?),
        }
        Ok(())
    }

    /// Whoever waits for the space gets that of earlier deletes, too.
    fn give_back(&self, report: &mut SweepReport) -> Result<(), PruneError> {
        let is_wanted = !report.reclaimed && self.outlook.small_garbage == SmallGarbage::LeaveTraces;
        if is_wanted && Tombstones::measure(self.store.backend())?.are_many() {
            ranges::reclaim(self)?;
            report.reclaimed = true;
            report.why.push_str("; the space of earlier deletes is given back");
        }
        Ok(())
    }

    fn rows_in_files(&self) -> Result<u64, PruneError> {
        self.store.backend().flush()?;
        Ok(self.store.backend().node_files()?.iter().map(|file| file.entries).sum())
    }

    /// What every slice asks before it begins.
    fn admit(&self) -> Result<(), PruneError> {
        self.control.checkpoint()?;
        (self.renew)()?;
        if !self.permit.is_current() {
            return Err(StoreError::PermitRevoked.into());
        }
        match self.barrier.overflow() {
            Some(limit) => Err(StoreError::BarrierFull { limit }.into()),
            None => Ok(()),
        }
    }

    /// `next` is the first key that is not handled yet; nothing at the beginning, empty at the end.
    fn show(&self, stage: Stage, done: u64, next: Option<&[u8]>) {
        self.observer.progress(Progress { stage, done, share: Some(next.map_or(0.0, share_of_keys)) });
    }
}

/// Rows between two looks at the control.
const PLAN_SLICE: u64 = 65_536;

/// What a sweep of the view would do, counted row by row and without touching anything.
///
/// Errors: a failed read, also of the mark; a cancel.
pub fn plan(
    view: &dyn View,
    mark: &SealedMark,
    outlook: &Outlook,
    control: &Control,
) -> Result<SweepReport, PruneError> {
    let (mut report, mut bytes, mut kept) = (outlook.way().report(), 0, 0);
    let mut live = mark.reader();
    visit_nodes(view, &KeyRange::ALL, |key, value| {
        let Ok(hash) = NodeHash::try_from(key) else {
            kept += 1; // not a node (I8)
            report.foreign += 1;
            return Ok(Flow::Continue(()));
        };
        if live.holds(&hash)? {
            kept += 1;
        } else {
            report.deleted += 1;
            bytes += value.len() as u64;
        }
        let slice = (report.deleted + kept).is_multiple_of(PLAN_SLICE);
        Ok(if slice && !control.goes_on() { Flow::Break(()) } else { Flow::Continue(()) })
    })?;
    (report.kept, report.deleted_bytes) = (Some(kept), Some(bytes));
    control.ended().map_or(Ok(report), Err)
}

/// Visits nodes in key order until the visitor breaks.
///
/// Errors: those of the visitor, which end the visit; a failed read.
pub(crate) fn visit_nodes(
    view: &dyn View,
    range: &KeyRange,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<Flow, PruneError>,
) -> Result<(), PruneError> {
    let mut failed = None;
    view.scan_nodes(range, &mut |key, value| {
        visit(key, value).unwrap_or_else(|error| {
            failed = Some(error);
            Flow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)
}

/// The share of the key space below `key`: keys are hashes, so they are uniform. The empty key means all of it.
fn share_of_keys(key: &[u8]) -> f64 {
    if key.is_empty() {
        return 1.0;
    }
    let mut top = [0u8; 8];
    key.iter().zip(top.iter_mut()).for_each(|(from, to)| *to = *from);
    u64::from_be_bytes(top) as f64 / u64::MAX as f64
}

/// The range from the cursor to the end of the keys; the empty position means that nothing is left.
fn rest_of_keys(cursor: &dyn SweepCursor) -> Option<KeyRange> {
    match cursor.position() {
        Some(position) if position.is_empty() => None,
        start => Some(KeyRange { start, end: None }),
    }
}
