//! An interrupted sweep, taken up again by a later process.

use std::sync::Arc;

use state_tree::Order;

use super::{CycleEnv, CycleOrder, Marked, not_resumable, reports::Reports};
use crate::{
    config,
    doubt::Doubt,
    error::PruneError,
    mark::{MarkIdentity, SealedMark},
    phase::PhaseRecord,
    roots,
    snapshot::AtomicSnapshot,
};

/// The snapshot of an interrupted cycle, if it is still the one and the retention is as it was.
pub(super) fn snapshot_of(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    record: &PhaseRecord,
) -> Result<AtomicSnapshot, PruneError> {
    let refuse = |why: &str| not_resumable(record.cycle, why);
    if record.config != config::fingerprint(order.keep_last, &*env.parts.policy)? {
        return Err(refuse("the retention was changed")); // C9
    }
    let snapshot = env.snapshots.status().snapshot.ok_or_else(|| refuse("its snapshot is gone"))?;
    if snapshot.snapshot_id != record.snapshot_id {
        return Err(refuse("another snapshot was taken since"));
    }
    if snapshot.integrity_hash.0 != record.integrity_hash {
        return Err(refuse("its snapshot is not the one that it was marked from"));
    }
    Ok(snapshot)
}

/// Takes an interrupted sweep up again, if everything its mark was made from is still so.
pub(crate) fn reopen(env: &CycleEnv, order: &CycleOrder<'_>, record: &PhaseRecord) -> Result<Marked, PruneError> {
    let refuse = |why: &str| not_resumable(record.cycle, why);
    snapshot_of(env, order, record)?;
    let (first, head) = (Order::new(record.first_order), Order::new(record.head_order));
    let view = env.parts.store.view()?;
    if roots::digest_between(&*env.parts.chain, &*view, first, head)? != record.roots_digest {
        return Err(refuse("the retained roots are not those it was marked from"));
    }
    let mark =
        SealedMark::open(&order.config.state_dir, MarkIdentity { cycle: record.cycle, roots: record.roots_digest })?;
    if Some(mark.live_digest()) != record.mark_digest {
        return Err(refuse("the mark file is not the one it sealed")); // S18
    }
    let reports = Reports::load(record.cycle, &*env.parts.records)?;
    if Doubt::was_believed_by(&reports.mark, &*env.parts.records)? {
        return Err(refuse("a node may hash to another key, and its mark hashed some of them only")); // I11
    }
    Ok(Marked { mark: Arc::new(mark), reports, resumed: true })
}
