//! Who holds a lock: as it is shown, as it is written down, and as the reason why somebody else may not enter.

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};

use crate::{
    error::PruneError,
    phase::PrunePhase,
    records::{self, RecordKey, Records},
    when::{Span, When},
};

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// The process.
    pub pid: u32,
    /// The name of its thread.
    pub role: String,
}

impl LockOwner {
    /// The thread that asks.
    pub(super) fn here() -> Self {
        let thread = std::thread::current();
        let role = thread.name().map_or_else(|| "a thread without a name".to_owned(), ToOwned::to_owned);
        Self { pid: std::process::id(), role }
    }
}

impl std::fmt::Display for LockOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.role)
    }
}

/// A lock as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// Who took it.
    pub owner: LockOwner,
    /// For what.
    pub phase: PrunePhase,
    /// On which snapshot.
    pub snapshot_id: u64,
    /// The generation of its permit, in its process.
    pub generation: u64,
    /// Milliseconds since 1970 when it was taken.
    pub since: u64,
}

impl std::fmt::Display for LockRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owner, phase, snapshot_id, since, .. } = self;
        write!(f, "{owner} took snapshot {snapshot_id} for {phase} at {}", When(*since))
    }
}

/// The place of the one lock there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockSlot {
    /// Whose it is, while it is somebody's.
    pub(super) held: Option<LockRecord>,
    /// The largest id of a snapshot that was ever locked.
    pub(super) last_snapshot: u64,
}

impl Record for LockSlot {
    const KIND: [u8; 4] = *b"LOCK";
    const VERSION: u16 = 1;
}

impl LockSlot {
    pub(super) fn load(records: &dyn Records) -> Result<Self, PruneError> {
        Ok(records::read(records, RecordKey::Lock)?.unwrap_or_else(Self::default))
    }

    /// The same, with what is wrong with a damaged record: it tells nothing, and nobody obeys it anyway.
    pub(super) fn load_past_damage(records: &dyn Records) -> Result<(Self, Option<PruneError>), PruneError> {
        match Self::load(records) {
            Err(error) if error.is_damaged_artefact() => Ok((Self::default(), Some(error))),
            other => Ok((other?, None)),
        }
    }
}

/// Writes down that nobody holds the lock, where a process left one that has ended, or a record that tells nothing: whoever calls
/// has taken the store over. `last_snapshot` is the largest id that the caller knows of.
pub(crate) fn settle_left_lock(records: &dyn Records, last_snapshot: u64) {
    let settled = LockSlot::load_past_damage(records).and_then(|(slot, unknown)| {
        if slot.held.is_none() && unknown.is_none() {
            return Ok(());
        }
        let slot = LockSlot { held: None, last_snapshot: slot.last_snapshot.max(last_snapshot) };
        records.stage(RecordKey::Lock, &record::encode(&slot)?)
    });
    if let Err(error) = settled {
        tracing::warn!(%error, "that nobody holds the snapshot could not be written down; whoever looks from outside may see a lock");
    }
}

/// The lock as it is written down, while somebody holds it.
///
/// Errors: a record that cannot be read.
pub(crate) fn recorded_lock(records: &dyn Records) -> Result<Option<LockRecord>, PruneError> {
    Ok(LockSlot::load(records)?.held)
}

/// Whether the bytes of the record are what was written.
pub(crate) fn check_lock(bytes: &[u8]) -> Result<(), PruneError> {
    Ok(record::decode::<LockSlot>("lock", bytes).map(|_| ())?)
}

/// The lock on a snapshot, as shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotLock {
    /// The snapshot.
    pub snapshot_id: u64,
    /// The phase that holds it.
    pub locked_by_phase: PrunePhase,
    /// Who holds it.
    pub owner: LockOwner,
    /// The generation of its permit.
    pub generation: u64,
    /// Milliseconds since 1970 when it was taken.
    pub locked_at: u64,
    /// For how many milliseconds it has been held.
    pub held_for_ms: u64,
    /// Milliseconds since its phase said that it makes progress.
    pub unrenewed_ms: u64,
    /// After so many milliseconds without renewal another phase may take it.
    pub timeout_ms: u64,
    /// Whether the timeout has not passed.
    pub is_valid: bool,
}

/// Why a phase may not enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// Another phase holds the lock.
    Held(SnapshotLock),
    /// There is no snapshot to lock.
    NoSnapshot,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held(SnapshotLock {
                owner,
                locked_by_phase,
                locked_at,
                held_for_ms,
                unrenewed_ms,
                timeout_ms,
                ..
            }) => {
                write!(
                    f,
                    "{owner} holds the snapshot for {locked_by_phase}, for {}, since {}; it was renewed {} ago and times out \
                     after {}",
                    Span(*held_for_ms),
                    When(*locked_at),
                    Span(*unrenewed_ms),
                    Span(*timeout_ms)
                )
            }
            Self::NoSnapshot => f.write_str("there is no snapshot; create one first"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_lock_record_are_pinned() {
        let owner = LockOwner { pid: 7, role: "pruner".to_owned() };
        let held = LockRecord { owner, phase: PrunePhase::SweepExpired, snapshot_id: 3, generation: 5, since: 9 };
        let bytes = record::encode(&LockSlot { held: Some(held), last_snapshot: 4 }).unwrap();
        let payload = hex::encode(&bytes[14..bytes.len() - 4]);
        let expected =
            concat!("0107000000067072756e657202", "0300000000000000", "0500000000000000", "0900000000000000");
        assert_eq!(payload, [expected, "0400000000000000"].concat());
    }
}
