//! Whether the next cycle has room, and whether the last validation found anything.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use super::{Facts, Reason, Verdict, reason};
use crate::{
    error::{PruneError, iec},
    records::{self, RecordKey, Records},
};

/// Free space, and what the next cycle needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes free on the device of the store.
    pub free: u64,
    /// Bytes that its largest range needs, as the sweep will ask before that range (C13).
    pub need: u64,
}

/// What the last validation came to; kept durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that could not run.
    pub skipped: u64,
    /// Checks that failed, each with what it found.
    pub failed: Vec<String>,
}

impl Record for Validated {
    const KIND: [u8; 4] = *b"VALI";
    const VERSION: u16 = 1;
}

impl Validated {
    /// The last one, if there was one.
    ///
    /// Errors: a record that cannot be read.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::Validation)
    }

    /// Keeps it.
    ///
    /// Errors: a failed write.
    pub fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Validation, &record::encode(self)?)
    }
}

pub(super) fn cycle_room(facts: &Facts) -> Option<Reason> {
    let Room { free, need } = facts.room.filter(|room| room.free < room.need)?;
    let message = format!(
        "the next cycle needs {} for its largest range and {} are free: it would be refused (no_room); make room, or \
         give the store a larger device",
        iec(need),
        iec(free)
    );
    Some(reason(Verdict::Degraded, "cycle_room", message))
}

pub(super) fn validation_failed(facts: &Facts) -> Option<Reason> {
    let failed = &facts.validation.as_ref()?.failed;
    let message = format!(
        "the last validation failed: {}. Mend what it names, then run `state-node validate` again",
        failed.join("; ")
    );
    (!failed.is_empty()).then(|| reason(Verdict::Degraded, "validation_failed", message))
}
