//! What a cycle does for the counts of commits (rule 7): which state it traces, and what it leaves exact.

use state_store::Traced;
use state_tree::{Order, StateRoot};

use super::{CycleEnv, CycleOrder, Marked};
use crate::{error::PruneError, phase::PhaseRecord, roots::RetainedRoots, snapshot::SnapshotGuard};

/// The state whose shared nodes the counts of commits need.
pub(super) fn traced(roots: &RetainedRoots, counted: Option<Traced>) -> Option<(Order, StateRoot)> {
    let order = match counted? {
        Traced::OldestFrom(since) => roots.first.max(since),
        Traced::Newest => roots.head.order,
    };
    roots.roots.iter().find(|kept| kept.order == order).map(|kept| (order, kept.root))
}

/// The entries of the journal that the sweep has made up for go, and then the marks that nothing needs any more.
pub(super) fn settle(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    guard: &SnapshotGuard<'_>,
    (marked, record): (&Marked, &PhaseRecord),
) -> Result<(), PruneError> {
    let store = &env.parts.store;
    if store.head().is_none() {
        return Ok(()); // a store at rest has no journal
    }
    store.settle_journal(guard.permit(), Order::new(record.first_order))?;
    let Some((traced, shared)) = marked.traced.zip(marked.mark.shared()) else { return Ok(()) };
    let corrected = store.correct_marks(guard.permit(), (traced, record.cycle), shared, order.config.delete_batch)?;
    tracing::debug!(set = corrected.set, removed = corrected.removed, "shared nodes are marked exactly");
    Ok(())
}
