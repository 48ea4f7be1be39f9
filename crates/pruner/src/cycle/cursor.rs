//! The sweep's cursor, kept inside the phase record.

use state_store::{Batch, record};

use crate::{
    control::Observer,
    error::PruneError,
    phase::PhaseRecord,
    records::{RecordKey, Records},
    sweep::{Saved, SweepCursor, SweepStrategy},
};

/// The sweep's cursor inside the phase record.
pub(super) struct RecordCursor<'a> {
    pub(super) records: &'a dyn Records,
    pub(super) record: PhaseRecord,
    /// Nodes that earlier processes deleted.
    pub(super) deleted_before: u64,
    /// Hears what this process deletes, whatever becomes of the cycle, and has heard of so many nodes.
    pub(super) observer: &'a dyn Observer,
    pub(super) told: &'a mut u64,
}

impl RecordCursor<'_> {
    /// Tells what was deleted since it was told, of so many by this process.
    pub(super) fn tell(&mut self, deleted: u64) {
        self.observer.deleted(deleted.saturating_sub(*self.told));
        *self.told = deleted;
    }

    fn at(&self, next: &[u8], deleted: u64) -> PhaseRecord {
        PhaseRecord { cursor: Some(next.to_vec()), deleted: self.deleted_before + deleted, ..self.record.clone() }
    }
}

impl SweepCursor for RecordCursor<'_> {
    fn begin(&mut self, strategy: SweepStrategy) {
        if self.record.swept_by != Some(strategy) {
            (self.record.cursor, self.record.swept_by) = (None, Some(strategy));
        }
    }

    fn position(&self) -> Option<Vec<u8>> {
        self.record.cursor.clone()
    }

    fn batch(&self, next: &[u8], deleted: u64) -> Result<Option<Batch>, PruneError> {
        Ok(self.records.batch(RecordKey::Phase, &record::encode(&self.at(next, deleted))?))
    }

    fn advance(&mut self, next: &[u8], deleted: u64, saved: Saved) -> Result<(), PruneError> {
        self.tell(deleted);
        self.record = self.at(next, deleted);
        match saved {
            Saved::WithTheWork => Ok(()),
            Saved::NotYet => self.record.save(self.records),
        }
    }
}
