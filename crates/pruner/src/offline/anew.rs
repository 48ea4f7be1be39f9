//! What a prune of a store at rest begins anew: records that it can do without, because it marks again.
//!
//! Promise: nothing is deleted on the strength of a record that is unusable (I8). One that says what no mark can tell ends the
//! prune; whether deletes are frozen, until the operator says that they are not.

use crate::{
    error::PruneError,
    events::{CycleEnd, Event},
    phase::PhaseRecord,
    records::{RecordKey, Records},
    snapshot::AtomicSnapshotManager,
};

/// Goes on with the snapshot of an earlier prune, or without it where its record is unusable.
///
/// Errors: a failed read or write; what a newer program wrote.
pub(super) fn take_up(snapshots: &AtomicSnapshotManager) -> Result<(), PruneError> {
    let records = &*snapshots.parts().records;
    match snapshots.take_up() {
        Err(error) if error.is_damaged_artefact() => {
            tell(records, RecordKey::Snapshot, &error);
            let emit = |event| snapshots.parts().events.emit(event);
            if let Some(abandoned) = PhaseRecord::load_or_give_up(records, &mut |event| emit(event))? {
                emit(Event::CycleEnded(CycleEnd::early(abandoned.so_far(), &error)));
            }
            records.remove(RecordKey::Phase)?; // BEFORE the other: no cycle goes on with a snapshot that has its number
            records.remove(RecordKey::Snapshot)
        }
        taken => taken,
    }
}

fn tell(records: &dyn Records, key: RecordKey, error: &PruneError) {
    tracing::warn!(%error, "{} is given up; what an interrupted prune had marked is marked again", records.place(key));
}
