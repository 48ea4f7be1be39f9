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
    /// Counts what this process deletes, whatever becomes of the cycle.
    pub(super) observer: &'a dyn Observer,
}

impl RecordCursor<'_> {
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
        let passed = self.at(next, deleted);
        self.observer.deleted(passed.deleted.saturating_sub(self.record.deleted));
        self.record = passed;
        match saved {
            Saved::WithTheWork => Ok(()),
            Saved::NotYet => self.record.save(self.records),
        }
    }
}
