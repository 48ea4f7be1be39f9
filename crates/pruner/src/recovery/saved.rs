//! What recovery keeps over a restart.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::breaker::Counted;
use crate::{
    error::PruneError,
    records::{RecordKey, Records},
};

/// What recovery keeps over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) breaker: Counted,
    /// Cycles in a row that finished at once since something failed, until there are enough.
    pub(super) recovering: Option<u32>,
    /// Stable word for what was given up last, until something ends well.
    pub(super) exhausted_by: Option<String>,
}

impl Record for Saved {
    const KIND: [u8; 4] = *b"RCVR";
    const VERSION: u16 = 1;
}

impl Saved {
    /// What an earlier process left, or nothing.
    pub(super) fn load(records: &dyn Records) -> Result<Self, PruneError> {
        let Some(bytes) = records.load(RecordKey::Recovery)? else { return Ok(Self::default()) };
        Ok(record::decode("recovery", &bytes)?)
    }

    /// Saves it; it is durable with what is synced next.
    pub(super) fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.stage(RecordKey::Recovery, &record::encode(self)?)
    }
}

/// Whether the bytes of the record are what was written.
pub(crate) fn check_saved(bytes: &[u8]) -> Result<(), PruneError> {
    Ok(record::decode::<Saved>("recovery", bytes).map(|_| ())?)
}

/// A record with every field set, for tests of what reads its bytes.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let breaker = Counted { failures: 3, openings: 1, failing: Some(crate::phase::PrunePhase::SweepExpired) };
    record::encode(&Saved { breaker, recovering: Some(2), exhausted_by: Some("io".to_owned()) }).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::PrunePhase;

    #[test]
    fn the_bytes_of_the_recovery_record_are_pinned() {
        let bytes = sample();
        assert_eq!(hex::encode(&bytes[14..bytes.len() - 4]), "0300000001000000010201020000000102696f");
        let saved = record::decode::<Saved>("recovery", &bytes).unwrap();
        assert_eq!((saved.breaker.failing, saved.recovering), (Some(PrunePhase::SweepExpired), Some(2)));
    }
}
