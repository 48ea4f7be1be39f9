//! Captures in a row that failed, as they are written down: whoever looks from outside knows them too, and so does the next
//! process. They decide nothing.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::{AtomicSnapshotManager, settle_left_lock};
use crate::{
    error::PruneError,
    records::{self, Place, RecordKey, Records},
};

/// The record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotFailures {
    pub(crate) in_a_row: u32,
}

impl Record for SnapshotFailures {
    const KIND: [u8; 4] = *b"SNFL";
    const VERSION: u16 = 1;
}

impl SnapshotFailures {
    /// Captures in a row that failed, as far as it could be written down.
    ///
    /// Errors: a record that cannot be read.
    pub(crate) fn load(records: &dyn Records) -> Result<u32, PruneError> {
        let failures: Option<Self> = records::read(records, RecordKey::SnapshotFailures)?;
        Ok(failures.map_or(0, |failures| failures.in_a_row))
    }

    fn save(self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::SnapshotFailures, &record::encode(&self)?)
    }

    /// The same for a process that begins: what cannot be read is counted anew, and returned to be told.
    pub(super) fn load_or_begin(records: &dyn Records) -> (u32, Option<PruneError>) {
        Self::load(records).map_or_else(|error| (0, Some(error)), |failures| (failures, None))
    }
}

impl AtomicSnapshotManager {
    /// One more capture has failed.
    pub(super) fn count_failure(&self) {
        let in_a_row = {
            let mut state = self.state.lock();
            state.failures = state.failures.saturating_add(1);
            state.failures
        };
        self.note_failures(in_a_row);
    }

    /// A capture ended well.
    pub(super) fn forget_failures(&self) {
        let failed = std::mem::take(&mut self.state.lock().failures);
        if failed > 0 {
            self.note_failures(0);
        }
    }

    /// The store was taken over: whoever looks from outside finds neither the lock of a process that has ended nor a record that
    /// tells nothing. What was left is told by this process.
    pub(crate) fn settle_left(&self) {
        let (records, (last_id, failures)) = (&*self.parts.records, {
            let state = self.state.lock();
            (state.last_id, state.failures)
        });
        settle_left_lock(records, last_id);
        if SnapshotFailures::load(records).is_err_and(|error| error.is_damaged_artefact()) {
            self.note_failures(failures);
        }
    }

    /// Writes them down. What cannot be is known to this process all the same.
    fn note_failures(&self, in_a_row: u32) {
        if !self.config.enable_persistence {
            return;
        }
        let records = &*self.parts.records;
        let saved = match records.place(RecordKey::SnapshotFailures) {
            Place::Row(_) => SnapshotFailures { in_a_row }.save(records),
            Place::File(_) => Ok(()), // a prune at rest takes one snapshot, and its outcome tells
        };
        if let Err(error) = saved {
            tracing::warn!(%error, in_a_row, "failures of snapshots cannot be written down; nobody outside knows them");
        }
    }
}
