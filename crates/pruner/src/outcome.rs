//! What the last cycle came to, and why deletes are frozen while they are: two small durable records.

use std::path::Path;

use serde::{Deserialize, Serialize};
use state_store::{
    StoreError,
    record::{self, Record},
};

use crate::{
    certificate::Certificate,
    doubt::Doubt,
    error::PruneError,
    events::Event,
    records::{self, FolderRecords, RecordKey, Records},
};

/// How a cycle ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It finished, and was verified.
    Finished {
        /// Nodes deleted.
        deleted: u64,
        /// Oldest order of the window that was retained.
        first_order: u64,
        /// Nodes kept by the mark.
        live_nodes: u64,
        /// Bytes on disk before, unless the cycle was resumed.
        bytes_before: Option<u64>,
        /// Bytes on disk after.
        bytes_after: u64,
        /// Where its certificate is.
        certificate: String,
    },
    /// It failed; nothing live was deleted.
    Failed {
        /// Stable word for the error.
        code: String,
        /// The error.
        message: String,
    },
    /// An operator ended it; nothing live was deleted.
    Cancelled,
}

impl Ended {
    /// The word for it in logs: finished, cancelled, or the code of an error.
    pub fn label(&self) -> &str {
        match self {
            Self::Finished { .. } => "finished",
            Self::Failed { code, .. } => code,
            Self::Cancelled => "cancelled",
        }
    }
}

/// The outcome of one cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The cycle; absent if it failed before it had an id.
    pub cycle: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(rename = "at_ms")]
    pub at: u64,
    /// Head order of its snapshot; absent if it failed before it had one.
    pub head_order: Option<u64>,
    /// How it ended.
    pub ended: Ended,
}

impl Record for Outcome {
    const KIND: [u8; 4] = *b"OUTC";
    const VERSION: u16 = 2; // 1 had no cancel
}

impl Outcome {
    pub(crate) fn finished(certificate: &Certificate, path: &Path) -> Self {
        Self {
            cycle: Some(certificate.cycle),
            at: certificate.finished_at,
            head_order: Some(certificate.retained.last_order),
            ended: Ended::Finished {
                deleted: certificate.deleted,
                first_order: certificate.retained.first_order,
                live_nodes: certificate.live_nodes,
                bytes_before: certificate.bytes_before.map(|bytes| bytes.total),
                bytes_after: certificate.bytes_after.total,
                certificate: path.display().to_string(),
            },
        }
    }

    /// A cycle that ended early.
    pub(crate) fn failed(cycle: Option<u64>, at: u64, error: &PruneError) -> Self {
        let ended = if matches!(error, PruneError::Cancelled) {
            Ended::Cancelled
        } else {
            Ended::Failed { code: error.code().to_owned(), message: error.to_string() }
        };
        Self { cycle, at, head_order: None, ended }
    }

    /// The last outcome, if any cycle ended yet.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::LastOutcome)
    }

    pub(crate) fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::LastOutcome, &record::encode(self)?)
    }
}

/// Below this order states of a store at rest are gone, on purpose: what is missing there is no damage (S54). A node's
/// own store keeps its floor itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestFloor {
    /// Oldest order that is whole.
    pub(crate) order: u64,
}

impl Record for RestFloor {
    const KIND: [u8; 4] = *b"RFLR";
    const VERSION: u16 = 1;
}

impl RestFloor {
    /// The floor of earlier prunes, if there were any.
    ///
    /// Errors: a record that cannot be read; what that means is told, and what to do.
    pub(crate) fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        match records::read(records, RecordKey::Floor) {
            Err(PruneError::Store(StoreError::Record { name, why })) => {
                let why = format!("{why}. {DAMAGED_FLOOR}");
                Err(StoreError::Record { name, why }.into())
            }
            read => read,
        }
    }

    /// A record that is damaged gets another name before a new one takes its place, so that nobody loses it unseen.
    ///
    /// Errors: a failed read or rename; what a newer program wrote.
    pub(crate) fn set_damaged_aside(cycle: u64, records: &FolderRecords) -> Result<(), PruneError> {
        match Self::load(records) {
            Ok(_) => Ok(()),
            Err(error @ PruneError::Store(StoreError::Record { .. })) => {
                let kept = records.set_aside(RecordKey::Floor, &format!("damaged-{cycle}"))?;
                tracing::warn!(%error, "set aside as {}; this prune writes a new one", kept.display());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the floor, durably, to the oldest order that a complete mark has just reached: every state from there on is
    /// whole, whatever an interrupted prune of a shorter window had begun. Call BEFORE the first delete below it.
    pub(crate) fn set(order: u64, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Floor, &record::encode(&Self { order })?)
    }
}

/// What a floor that cannot be read means.
const DAMAGED_FLOOR: &str = "It says below which order earlier prunes deleted; without it that cannot be told from damage. \
     `prune` marks anew, deletes nothing that the window reaches, keeps this file under another name and writes a new one: \
     run it with the window of the last prune, or a shorter one";

/// Why deletes are frozen (I11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// The cycle that found the fault; zero if it had no id yet.
    pub cycle: u64,
    /// Milliseconds since 1970.
    pub at: u64,
    /// The fault, with the path to it.
    pub why: String,
}

impl Record for Freeze {
    const KIND: [u8; 4] = *b"FREZ";
    const VERSION: u16 = 1;
}

impl Freeze {
    /// The freeze in force, if any. An unreadable record counts as one: the caller gets the error.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        records::read(records, RecordKey::Freeze)
    }

    /// What an error asks for that may lie in live data (I11); nothing for any other.
    pub(crate) fn by(error: &PruneError, cycle: Option<u64>, at: u64) -> Option<Self> {
        let cycle = cycle.map_or(0, |cycle| cycle); // zero: it had no id yet
        error.is_live_fault().then(|| Self { cycle, at, why: error.to_string() })
    }

    /// The same, saved, where none is in force; it holds also where it could not be saved. One in force is not replaced, and
    /// what this one is for is in doubt.
    pub(crate) fn imposed_by(error: &PruneError, cycle: Option<u64>, at: u64, records: &dyn Records) -> Option<Self> {
        let freeze = Self::by(error, cycle, at)?;
        let is_new = !matches!(Self::load(records), Ok(Some(_)));
        if let Err(unsaved) = freeze.keep(records) {
            tracing::error!(%unsaved, "the freeze could not be saved; it holds until this process ends");
        }
        if let Err(unsaved) = Doubt::remember(error, records) {
            tracing::error!(%unsaved, "that live nodes may be damaged could not be saved");
        }
        is_new.then_some(freeze)
    }

    /// As it is told, once it is in force.
    pub(crate) fn told(&self) -> Event {
        let cycle = (self.cycle > 0).then_some(self.cycle); // zero: it had no id yet
        Event::DeletesFrozen { cycle, why: self.why.clone() }
    }

    pub(crate) fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Freeze, &record::encode(self)?)
    }

    /// Saves it, unless one is on record already.
    ///
    /// Errors: a failed read or write.
    pub(crate) fn keep(&self, records: &dyn Records) -> Result<(), PruneError> {
        Self::load(records)?.map_or_else(|| self.save(records), |_| Ok(()))
    }

    /// Lets deletes go on: the operator has looked. The doubt stays until a cycle has settled it.
    ///
    /// Errors: a failed read or write; deletes are frozen as before then.
    pub fn lift(&self, records: &dyn Records) -> Result<(), PruneError> {
        Self::lift_for(&self.why, records)
    }

    /// Lifts the one on record, also where the record is unusable: then nobody knows what it was for, and what is in doubt is
    /// that. Tells what deletes were frozen by.
    ///
    /// Errors: as above; a record of a newer program (C17).
    pub(crate) fn lift_recorded(records: &dyn Records) -> Result<Option<String>, PruneError> {
        let why = match Self::load(records) {
            Ok(None) => return Ok(None),
            Ok(Some(freeze)) => freeze.why,
            Err(unusable @ PruneError::Store(StoreError::Record { .. })) => unusable.to_string(),
            Err(error) => return Err(error),
        };
        Self::lift_for(&why, records).map(|()| Some(why))
    }

    fn lift_for(why: &str, records: &dyn Records) -> Result<(), PruneError> {
        Doubt::remember_freeze(why, records)?; // BEFORE it goes
        records.remove(RecordKey::Freeze)
    }
}
