//! What a cycle does for the counts of commits (rule 7): which state it traces, and what it leaves exact.

use std::ops::ControlFlow;

use state_store::{Correction, Traced};
use state_tree::{Order, StateRoot};

use super::{CycleEnv, CycleOrder};
use crate::{error::PruneError, mark::SealedMark, phase::PhaseRecord, roots::RetainedRoots, snapshot::SnapshotGuard};

/// Begins to count commits, where there are any, unless the cycle is told to end meanwhile.
pub(super) fn begin(env: &CycleEnv) -> Result<Option<Traced>, PruneError> {
    if env.parts.store.head().is_none() {
        return Ok(None);
    }
    let begun = env.parts.store.begin_counting(&|| env.control.goes_on());
    begun.map(Some).map_err(|error| env.control.unless_ended(error))
}

/// The same for a cycle that goes on: commits are counted exactly, or its mark makes nothing exact.
pub(super) fn counted(env: &CycleEnv) -> Result<Option<Traced>, PruneError> {
    let since = env.parts.store.counted_since(&|| env.control.goes_on());
    since.map(|since| since.map(Traced::OldestFrom)).map_err(|error| env.control.unless_ended(error))
}

/// The state whose shared nodes the counts of commits need.
pub(super) fn traced(roots: &RetainedRoots, counted: Option<Traced>) -> Option<(Order, StateRoot)> {
    let order = match counted? {
        Traced::OldestFrom(since) => roots.first.max(since),
        Traced::Newest => roots.head.order,
    };
    roots.roots.iter().find(|kept| kept.order == order).map(|kept| (order, kept.root))
}

/// The entries at or below the window go: what they name is for the sweep. Call BEFORE the first delete, with a synced write
/// after it: a sweep goes by keys and may end early, and an entry whose tree it has thinned out names what may come back
/// without being marked (S21).
pub(super) fn settle(env: &CycleEnv, guard: &SnapshotGuard<'_>, record: &PhaseRecord) -> Result<(), PruneError> {
    match env.parts.store.head() {
        Some(_) => Ok(env.parts.store.settle_journal(guard.permit(), Order::new(record.first_order))?),
        None => Ok(()), // a store at rest has no journal
    }
}

/// The marks that nothing needs any more go, AFTER the entries that stood on them and BEFORE the record names the mark: a sweep that
/// is resumed could not tell them.
pub(super) fn correct(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    guard: &SnapshotGuard<'_>,
    (traced, mark): (Option<Order>, &mut SealedMark),
) -> Result<(), PruneError> {
    let Some((traced, shared)) = traced.zip(mark.take_shared()) else { return Ok(()) };
    let mut correction = Correction::new(traced, &shared);
    let corrected = loop {
        env.control.checkpoint()?;
        guard.renew()?; // P12
        let step = env.parts.store.correct_marks(guard.permit(), &mut correction, order.config.delete_batch)?;
        if let ControlFlow::Break(corrected) = step {
            break corrected;
        }
    };
    tracing::debug!(set = corrected.set, removed = corrected.removed, "shared nodes are marked exactly");
    Ok(())
}
