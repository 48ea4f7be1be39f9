//! That every phase of a cycle works on one snapshot, under one retention.

use super::{CycleEnv, CycleOrder, not_resumable};
use crate::{config, error::PruneError, phase::PhaseRecord, snapshot::SnapshotGuard};

/// Holds what a phase has locked against what its cycle began with. Call BEFORE its first delete. Age, integrity hash and
/// history of the snapshot were checked when it was locked.
///
/// Errors: another snapshot, whose barrier began later than the view of the mark, so that what was created in between is in
/// neither (I5); the same id with another content; a retention that was changed since (C9).
pub(super) fn agree(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    guard: &SnapshotGuard<'_>,
    record: &PhaseRecord,
) -> Result<(), PruneError> {
    let refuse = |why: &str| Err(not_resumable(record.cycle, why));
    if guard.snapshot_id != record.snapshot_id {
        return refuse("another snapshot took the place of its own");
    }
    if guard.integrity_hash.0 != record.integrity_hash {
        return refuse("its snapshot is not the one that it was marked from");
    }
    if record.config != config::fingerprint(order.keep_last, &*env.parts.policy)? {
        return refuse("the retention was changed");
    }
    Ok(())
}
