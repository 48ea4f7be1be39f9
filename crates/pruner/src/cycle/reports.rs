//! What BuildReach found, kept for the certificate across a restart.

use serde::{Deserialize, Serialize};
use state_store::{
    Point, reached,
    record::{self, Record},
};

use crate::{
    certificate::{FileBytes, RetainedReport},
    error::PruneError,
    mark::MarkReport,
    records::{RecordKey, Records},
};

/// What BuildReach tells the certificate; kept in the phase record, so that a resumed cycle certifies all of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reports {
    pub(super) retained: RetainedReport,
    pub(super) mark: MarkReport,
    pub(super) bytes_before: FileBytes,
    pub(super) snapshot_seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct StoredReports {
    cycle: u64,
    json: Vec<u8>,
}

impl Record for StoredReports {
    const KIND: [u8; 4] = *b"REPO";
    const VERSION: u16 = 1;
}

impl Reports {
    /// Durable with the phase record that is saved next.
    pub(super) fn save(&self, cycle: u64, records: &dyn Records) -> Result<(), PruneError> {
        let json = serde_json::to_vec(self)
            .map_err(|error| PruneError::Invariant(format!("a report does not encode: {error}")))?;
        records.stage(RecordKey::Reports, &record::encode(&StoredReports { cycle, json })?)?;
        reached(Point::SweepPlanned);
        Ok(())
    }

    pub(super) fn load(cycle: u64, records: &dyn Records) -> Result<Self, PruneError> {
        let refuse = |why: &str| PruneError::NotResumable { cycle, why: why.to_owned() };
        let bytes = records.load(RecordKey::Reports)?.ok_or_else(|| refuse("its reports are gone"))?;
        let stored: StoredReports = record::decode("reports", &bytes)?;
        if stored.cycle != cycle {
            return Err(refuse("its reports are those of another cycle"));
        }
        serde_json::from_slice(&stored.json).map_err(|_| refuse("its reports are unreadable"))
    }
}

/// Whether the bytes of the record are what was written.
pub(crate) fn check_reports(bytes: &[u8]) -> Result<(), PruneError> {
    let stored: StoredReports = record::decode("reports", bytes)?;
    let unreadable = |_| PruneError::NotResumable { cycle: stored.cycle, why: "its reports are unreadable".to_owned() };
    serde_json::from_slice::<Reports>(&stored.json).map(|_| ()).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_reports_record_are_pinned() {
        let bytes = record::encode(&StoredReports { cycle: 1, json: b"{}".to_vec() }).unwrap();
        assert_eq!(hex::encode(bytes), "535052315245504f01000b0000000100000000000000027b7df897ed97");
    }
}
