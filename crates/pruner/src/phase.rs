//! The phase machine: one persisted record, one function `next`.
//!
//! No event that reports a failure leads to a phase that deletes (S38). IncrementalSweep has its place between cycles: no event
//! leads there, because a round leaves no record of its own; it is named by the lock and the snapshot of one.

use serde::{Deserialize, Serialize};
use state_store::{
    StoreError,
    record::{self, Record},
};

use crate::{
    error::PruneError,
    events::{CycleEnd, Event},
    records::{self, Place, RecordKey, Records},
    sweep::SweepStrategy,
};

/// What the pruner is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrunePhase {
    /// Nothing.
    Idle,
    /// Marking what the retained roots reach.
    BuildReach,
    /// Removing what the sealed mark does not hold.
    SweepExpired,
    /// Removing what the commit journal shows to be dead.
    IncrementalSweep,
}

impl std::fmt::Display for PrunePhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::BuildReach => "build_reach",
            Self::SweepExpired => "sweep_expired",
            Self::IncrementalSweep => "incremental_sweep",
        })
    }
}

/// What may happen to a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseEvent {
    /// A cycle was asked for.
    Triggered,
    /// The mark is sealed.
    Sealed,
    /// Every range is swept.
    Swept,
    /// The process ended and began again.
    Restarted,
    /// The phase failed.
    Failed,
    /// The operator ended the cycle.
    Cancelled,
    /// The phase was given up: the one before it is safe.
    RolledBack,
}

impl std::fmt::Display for PhaseEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Triggered => "triggered",
            Self::Sealed => "sealed",
            Self::Swept => "swept",
            Self::Restarted => "restarted",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled_back",
        })
    }
}

/// Every event there is, for exhaustive tests.
pub const EVENTS: [PhaseEvent; 7] = [
    PhaseEvent::Triggered,
    PhaseEvent::Sealed,
    PhaseEvent::Swept,
    PhaseEvent::Restarted,
    PhaseEvent::Failed,
    PhaseEvent::Cancelled,
    PhaseEvent::RolledBack,
];

/// The phase after an event, or nothing where the event cannot happen.
pub fn next(phase: PrunePhase, event: PhaseEvent) -> Option<PrunePhase> {
    use PhaseEvent::{Cancelled, Failed, Restarted, RolledBack, Sealed, Swept, Triggered};
    use PrunePhase::{BuildReach, Idle, IncrementalSweep, SweepExpired};
    match (phase, event) {
        (Idle | IncrementalSweep, Triggered) => Some(BuildReach),
        (BuildReach, Sealed) => Some(SweepExpired),
        // Its mark is sealed and its barrier comes back from the journal, so a sweep goes on where it was (C6).
        (SweepExpired, Restarted) => Some(SweepExpired),
        // Back to marking, which deletes nothing: the mark or its snapshot is not to be trusted any more.
        (SweepExpired, RolledBack) => Some(BuildReach),
        (SweepExpired, Swept) | (_, Failed | Cancelled | Restarted) | (_, RolledBack) => Some(Idle),
        (BuildReach | SweepExpired, Triggered)
        | (Idle | SweepExpired | IncrementalSweep, Sealed)
        | (Idle | BuildReach | IncrementalSweep, Swept) => None,
    }
}

/// Where the current cycle is, as it survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// The cycle; ids are never reused.
    pub cycle: u64,
    /// Its phase.
    pub phase: PrunePhase,
    /// The snapshot it works on.
    pub snapshot_id: u64,
    /// Head order of that snapshot: what was created later is in the journal.
    pub head_order: u64,
    /// Oldest retained order of that snapshot.
    pub first_order: u64,
    /// Digest of the roots of the window.
    pub roots_digest: [u8; 32],
    /// Integrity hash of that snapshot: no phase works on another one of the same id.
    pub integrity_hash: [u8; 32],
    /// Digest of the sealed mark, once there is one.
    pub mark_digest: Option<[u8; 32]>,
    /// Fingerprint of the configuration the cycle began under (C9).
    pub config: [u8; 32],
    /// First key that is not swept yet; absent before the first range.
    pub cursor: Option<Vec<u8>>,
    /// The way the cursor got there: another way begins from the first key, so that none strands what one left (L12).
    pub swept_by: Option<SweepStrategy>,
    /// Nodes deleted so far.
    pub deleted: u64,
}

impl Record for PhaseRecord {
    const KIND: [u8; 4] = *b"PHAS";
    const VERSION: u16 = 2; // 1 had no integrity hash
}

/// Version 1 of the record. It does not say which content its snapshot had, so its cycle cannot go on, and is abandoned.
#[derive(Serialize, Deserialize)]
struct FirstRecord {
    cycle: u64,
    phase: PrunePhase,
    snapshot_id: u64,
    head_order: u64,
    first_order: u64,
    roots_digest: [u8; 32],
    mark_digest: Option<[u8; 32]>,
    config: [u8; 32],
    cursor: Option<Vec<u8>>,
    swept_by: Option<SweepStrategy>,
    deleted: u64,
}

impl Record for FirstRecord {
    const KIND: [u8; 4] = PhaseRecord::KIND;
    const VERSION: u16 = 1;
}

impl From<FirstRecord> for PhaseRecord {
    fn from(first: FirstRecord) -> Self {
        let FirstRecord { cycle, phase, snapshot_id, head_order, first_order, roots_digest, .. } = first;
        let FirstRecord { mark_digest, config, cursor, swept_by, deleted, .. } = first;
        Self {
            cycle,
            phase,
            snapshot_id,
            head_order,
            first_order,
            roots_digest,
            integrity_hash: [0; 32],
            mark_digest,
            config,
            cursor,
            swept_by,
            deleted,
        }
    }
}

impl PhaseRecord {
    /// The record of an interrupted cycle, or nothing when the last one ended.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        let name = records.place(RecordKey::Phase).to_string();
        records.load(RecordKey::Phase)?.map(|bytes| Self::decode(&name, &bytes)).transpose()
    }

    /// The same where no cycle is at work. One that is damaged is given up and told, and its cycle with it: whoever marks
    /// anew needs neither, and nothing could ever end with it (P2).
    pub(crate) fn load_or_give_up(
        records: &dyn Records,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Option<Self>, PruneError> {
        match Self::load(records) {
            Err(error @ PruneError::Store(StoreError::Record { .. })) => {
                let cycle = last_cycle(records)?; // a record of a phase is that of the newest one
                let place = records.place(RecordKey::Phase);
                tracing::warn!(cycle, %error, %place, "a record of a phase is given up; what an interrupted cycle had marked is marked again");
                records.remove(RecordKey::Phase)?;
                tell(Event::CycleEnded(CycleEnd::early((cycle, None), &error)));
                Ok(None)
            }
            read => read,
        }
    }

    /// The cycle, and what it has deleted, as its end tells.
    pub(crate) fn so_far(&self) -> (u64, Option<u64>) {
        (self.cycle, Some(self.deleted))
    }

    /// `name` is for the message.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, PruneError> {
        match record::decode::<Self>(name, bytes) {
            Ok(record) => Ok(record),
            Err(error) => {
                let Ok(first) = record::decode::<FirstRecord>(name, bytes) else { return Err(error.into()) };
                Ok(first.into())
            }
        }
    }

    /// Saves the record.
    pub fn save(&self, records: &dyn Records) -> Result<(), PruneError> {
        records.save(RecordKey::Phase, &record::encode(self)?)
    }
}

/// Goes back from a phase to the last safe one, durably: from a sweep to marking, with neither mark nor cursor nor a snapshot
/// to go on with, for what a walk had written down is no more to be trusted than its mark; from marking to nothing. Says from where and to where; nothing where no cycle is in that phase.
///
/// Errors: a record that cannot be read or saved.
pub(crate) fn roll_back(
    from: PrunePhase,
    records: &dyn Records,
) -> Result<Option<(u64, PrunePhase, PrunePhase)>, PruneError> {
    let Some(record) = PhaseRecord::load(records)?.filter(|record| record.phase == from) else { return Ok(None) };
    let cycle = record.cycle;
    let to = next(from, PhaseEvent::RolledBack)
        .ok_or_else(|| PruneError::Invariant(format!("there is no way back from {from}")))?;
    if to == PrunePhase::Idle {
        records.remove(RecordKey::Phase)?;
    } else {
        let nothing =
            PhaseRecord { mark_digest: None, cursor: None, swept_by: None, integrity_hash: [0; 32], ..record };
        PhaseRecord { phase: to, ..nothing }.save(records)?;
    }
    Ok(Some((cycle, from, to)))
}

#[derive(Serialize, Deserialize)]
struct LastCycle {
    id: u64,
}

impl Record for LastCycle {
    const KIND: [u8; 4] = *b"CYCL";
    const VERSION: u16 = 1;
}

/// Whether the bytes of the record of the last cycle are what was written.
pub(crate) fn check_last_cycle(bytes: &[u8]) -> Result<(), PruneError> {
    Ok(record::decode::<LastCycle>("last cycle", bytes).map(|_| ())?)
}

/// The newest cycle, or zero before the first.
pub(crate) fn last_cycle(records: &dyn Records) -> Result<u64, PruneError> {
    let last: Option<LastCycle> = match records::read(records, RecordKey::LastCycle) {
        Err(PruneError::Store(StoreError::Record { name, why })) if is_file(records, RecordKey::LastCycle) => {
            return Err(StoreError::Record { name, why: format!("{why}. {DAMAGED_LAST_CYCLE}") }.into());
        }
        read => read?,
    };
    Ok(last.map_or(0, |last| last.id))
}

fn is_file(records: &dyn Records, key: RecordKey) -> bool {
    matches!(records.place(key), Place::File(_))
}

/// What a count of cycles beside a store at rest that cannot be read means.
const DAMAGED_LAST_CYCLE: &str = "It says which cycle was the last, by which certificates are named and doubts are settled. Restore \
     this file; or read `health-check --db DIR`, and move the whole folder of it away: the next prune then counts cycles from 1, and \
     knows nothing of a freeze, a doubt or a floor that the folder told";

/// A cycle id that was never used before, saved before it is used.
pub fn new_cycle(records: &dyn Records) -> Result<u64, PruneError> {
    let id = last_cycle(records)? + 1;
    records.save(RecordKey::LastCycle, &record::encode(&LastCycle { id })?)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [PrunePhase; 4] =
        [PrunePhase::Idle, PrunePhase::BuildReach, PrunePhase::SweepExpired, PrunePhase::IncrementalSweep];

    #[test]
    fn no_failure_event_leads_to_a_deleting_phase() {
        for phase in PHASES {
            for event in [PhaseEvent::Failed, PhaseEvent::Cancelled] {
                assert_eq!(next(phase, event), Some(PrunePhase::Idle), "{phase:?} {event:?}");
            }
            let back = next(phase, PhaseEvent::RolledBack);
            let expected = if phase == PrunePhase::SweepExpired { PrunePhase::BuildReach } else { PrunePhase::Idle };
            assert_eq!(back, Some(expected), "{phase:?} rolls back");
        }
    }

    #[test]
    fn only_a_sealed_mark_or_a_restart_of_the_same_sweep_leads_to_the_sweep() {
        for phase in PHASES {
            for event in EVENTS {
                let sweeps = next(phase, event) == Some(PrunePhase::SweepExpired);
                let allowed = matches!(
                    (phase, event),
                    (PrunePhase::BuildReach, PhaseEvent::Sealed) | (PrunePhase::SweepExpired, PhaseEvent::Restarted)
                );
                assert_eq!(sweeps, allowed, "{phase:?} {event:?}");
            }
        }
    }

    /// The bytes that the code of version 1 was pinned to.
    #[test]
    fn a_phase_record_of_version_1_is_read_as_one_that_cannot_go_on() {
        let first = concat!(
            "535052315048415301009000000001000000000000000202000000000000000300000000000000040000000000000005",
            "050505050505050505050505050505050505050505050505050505050505050106060606060606060606060606060606",
            "060606060606060606060606060606060707070707070707070707070707070707070707070707070707070707070707",
            "0102080901010a00000000000000d2c68eb0",
        );
        assert!(PhaseRecord::decode("phase", &hex::decode(&first[2..]).unwrap()).is_err(), "a torn one is none");
        let record = PhaseRecord::decode("phase", &hex::decode(first).unwrap()).unwrap();
        assert_eq!((record.cycle, record.phase, record.snapshot_id), (1, PrunePhase::SweepExpired, 2));
        assert_eq!((record.integrity_hash, record.deleted), ([0; 32], 10));
    }

    /// Neither the mark nor the walk that made it, which may still be written down.
    #[test]
    fn a_sweep_that_goes_back_leaves_nothing_that_marking_could_go_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let records = crate::records::FolderRecords(dir.path().to_owned());
        let sweeping = PhaseRecord {
            cycle: 3,
            phase: PrunePhase::SweepExpired,
            snapshot_id: 2,
            head_order: 9,
            first_order: 5,
            roots_digest: [1; 32],
            integrity_hash: [2; 32],
            mark_digest: Some([3; 32]),
            config: [4; 32],
            cursor: Some(vec![5]),
            swept_by: Some(SweepStrategy::Delete),
            deleted: 6,
        };
        sweeping.save(&records).unwrap();
        assert!(roll_back(PrunePhase::SweepExpired, &records).unwrap().is_some());
        let nothing =
            PhaseRecord { integrity_hash: [0; 32], mark_digest: None, cursor: None, swept_by: None, ..sweeping };
        let expected = PhaseRecord { phase: PrunePhase::BuildReach, ..nothing };
        assert_eq!(PhaseRecord::load(&records).unwrap(), Some(expected));
    }

    #[test]
    fn cycle_ids_are_never_reused() {
        let dir = tempfile::tempdir().unwrap();
        let records = crate::records::FolderRecords(dir.path().to_owned());
        let first = new_cycle(&records).unwrap();
        assert_eq!(new_cycle(&records).unwrap(), first + 1);
    }
}
