//! Where the pruner keeps its records: in the store's own tables, or in a folder beside a store that is not ours.

use std::{path::PathBuf, sync::Arc};

use state_store::{
    Batch, Durability, Store, StoreError, Table, View,
    record::{self, Record},
};

use crate::{error::PruneError, files, validate::check_record};

/// The name of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey {
    /// The phase record: which cycle is where.
    Phase,
    /// The last cycle id given out.
    LastCycle,
    /// Why deletes are frozen, while they are.
    Freeze,
    /// The outcome of the last finished cycle.
    LastOutcome,
    /// What was retained and how it was marked, for the certificate of the cycle in its sweep.
    Reports,
    /// The current snapshot.
    Snapshot,
    /// The oldest order that prunes of a store at rest left whole.
    Floor,
    /// Named pins and consumers.
    Holds,
    /// The policy in force, and when the floor moved.
    RetentionLog,
    /// What triggers counted, which run they began last, and how the last ones ended.
    Triggers,
    /// What the last validation came to.
    Validation,
    /// The breaker, and what was given up.
    Recovery,
    /// Who holds the snapshot.
    Lock,
    /// Whether an operator has switched pruning off.
    Switch,
    /// Snapshots in a row that could not be taken.
    SnapshotFailures,
    /// The last fault that was found in live nodes, until a cycle has finished since.
    Doubt,
    /// What the sweep between cycles has passed over, until a cycle has finished since.
    Quarantine,
    /// What a damaged write-ahead log took with it, until an operator has seen to it.
    LogCut,
}

impl RecordKey {
    /// Every name.
    pub const ALL: [Self; 18] = [
        Self::Phase,
        Self::LastCycle,
        Self::Freeze,
        Self::LastOutcome,
        Self::Reports,
        Self::Snapshot,
        Self::Floor,
        Self::Holds,
        Self::RetentionLog,
        Self::Triggers,
        Self::Validation,
        Self::Recovery,
        Self::Lock,
        Self::Switch,
        Self::SnapshotFailures,
        Self::Doubt,
        Self::Quarantine,
        Self::LogCut,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Phase => "phase",
            Self::LastCycle => "last_cycle",
            Self::Freeze => "freeze",
            Self::LastOutcome => "last_outcome",
            Self::Reports => "reports",
            Self::Snapshot => "snapshot",
            Self::Floor => "floor",
            Self::Holds => "holds",
            Self::RetentionLog => "retention",
            Self::Triggers => "triggers",
            Self::Validation => "validation",
            Self::Recovery => "recovery",
            Self::Lock => "lock",
            Self::Switch => "switch",
            Self::SnapshotFailures => "snapshot_failures",
            Self::Doubt => "doubt",
            Self::Quarantine => "quarantine",
            Self::LogCut => "log_cut",
        }
    }

    /// The row that keeps it in a store of our own.
    pub(crate) fn row(self) -> (Table, Vec<u8>) {
        (self.table(), self.name().into())
    }

    fn table(self) -> Table {
        match self {
            Self::Snapshot => Table::SNAPSHOT,
            Self::Phase
            | Self::LastCycle
            | Self::Freeze
            | Self::LastOutcome
            | Self::Reports
            | Self::Floor
            | Self::Holds
            | Self::RetentionLog
            | Self::Triggers
            | Self::Recovery
            | Self::Lock
            | Self::Switch
            | Self::SnapshotFailures
            | Self::Doubt
            | Self::Quarantine
            | Self::LogCut
            | Self::Validation => Table::META,
        }
    }
}

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Among the rows of the store, under this name.
    Row(&'static str),
    /// In this file.
    File(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Keeps small records durably.
pub trait Records: Send + Sync + std::fmt::Debug {
    /// Where a record lies, or would lie.
    fn place(&self, key: RecordKey) -> Place;

    /// The bytes of a record, or nothing when it was never saved. A failed read is an error (S14).
    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError>;

    /// Saves a record, synced.
    fn save(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError>;

    /// Saves a record so that it is durable once a later `save` returns: nothing waits for the disk here.
    fn stage(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError>;

    /// Removes a record.
    fn remove(&self, key: RecordKey) -> Result<(), PruneError>;

    /// A batch that saves the record together with the work it describes (I9), or nothing where records live outside
    /// the store: then the work comes first and is idempotent, and the record follows (C2).
    fn batch(&self, key: RecordKey, bytes: &[u8]) -> Option<Batch>;
}

/// Records in the store's own tables.
#[derive(Debug)]
pub struct StoreRecords(pub Arc<Store>);

impl Records for StoreRecords {
    fn place(&self, key: RecordKey) -> Place {
        Place::Row(key.name())
    }

    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError> {
        ViewRecords(&*self.0.view()?).load(key)
    }

    fn save(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        Ok(self.0.write_rows(&row(key, bytes), Durability::Synced)?)
    }

    fn stage(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        Ok(self.0.write_rows(&row(key, bytes), Durability::Logged)?)
    }

    fn remove(&self, key: RecordKey) -> Result<(), PruneError> {
        let mut batch = Batch::new();
        batch.delete(key.table(), key.name());
        Ok(self.0.write_rows(&batch, Durability::Synced)?)
    }

    fn batch(&self, key: RecordKey, bytes: &[u8]) -> Option<Batch> {
        Some(row(key, bytes))
    }
}

fn row(key: RecordKey, bytes: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.table(), key.name(), bytes);
    batch
}

/// The records in one view of a store, to be read.
pub(crate) struct ViewRecords<'a>(pub(crate) &'a dyn View);

impl std::fmt::Debug for ViewRecords<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ViewRecords")
    }
}

impl Records for ViewRecords<'_> {
    fn place(&self, key: RecordKey) -> Place {
        Place::Row(key.name())
    }

    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError> {
        Ok(self.0.row(&key.table(), key.name().as_bytes())?)
    }

    fn save(&self, _key: RecordKey, _bytes: &[u8]) -> Result<(), PruneError> {
        Err(StoreError::ReadOnly.into())
    }

    fn stage(&self, _key: RecordKey, _bytes: &[u8]) -> Result<(), PruneError> {
        Err(StoreError::ReadOnly.into())
    }

    fn remove(&self, _key: RecordKey) -> Result<(), PruneError> {
        Err(StoreError::ReadOnly.into())
    }

    fn batch(&self, _key: RecordKey, _bytes: &[u8]) -> Option<Batch> {
        None
    }
}

/// Records as files in a folder.
#[derive(Debug)]
pub struct FolderRecords(pub PathBuf);

impl FolderRecords {
    fn path(&self, key: RecordKey) -> PathBuf {
        self.0.join(format!("{}.record", key.name()))
    }

    /// Gives the file of a record another name, durably, and says which.
    pub(crate) fn set_aside(&self, key: RecordKey, ending: &str) -> Result<PathBuf, PruneError> {
        let kept = self.0.join(format!("{}.record.{ending}", key.name()));
        files::rename(&self.path(key), &kept)?;
        files::sync_folder(&self.0)?;
        Ok(kept)
    }
}

impl Records for FolderRecords {
    fn place(&self, key: RecordKey) -> Place {
        Place::File(self.path(key))
    }

    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError> {
        files::read(&self.path(key))
    }

    fn save(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        files::replace(&self.path(key), bytes)
    }

    fn stage(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        self.save(key, bytes)
    }

    fn remove(&self, key: RecordKey) -> Result<(), PruneError> {
        files::remove(&self.path(key))
    }

    fn batch(&self, _key: RecordKey, _bytes: &[u8]) -> Option<Batch> {
        None
    }
}

/// Reads a record; one that is unusable is named by where it lies.
///
/// Errors: a failed read, [`StoreError::Record`], [`StoreError::Newer`].
pub(crate) fn read<R: Record>(records: &dyn Records, key: RecordKey) -> Result<Option<R>, PruneError> {
    let Some(bytes) = records.load(key)? else { return Ok(None) };
    Ok(Some(record::decode(&records.place(key).to_string(), &bytes)?))
}

/// Looks for records of a newer program, which may mean what this one does not know: a hold, a floor, a cursor (C17). What
/// is unusable for another reason is told by whoever needs it.
///
/// Errors: [`StoreError::Newer`], a failed read.
pub(crate) fn refuse_newer(records: &dyn Records) -> Result<(), PruneError> {
    for key in RecordKey::ALL {
        let Some(bytes) = records.load(key)? else { continue };
        if let Err(error @ PruneError::Store(StoreError::Newer { .. })) = check_record(key, &bytes) {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome::{Ended, Freeze, Outcome, RestFloor},
        phase::{PhaseRecord, PrunePhase, new_cycle},
        sweep::SweepStrategy,
    };

    #[test]
    fn every_record_is_among_all_of_them_once() {
        let (_, names) = include_str!("records.rs").split_once("pub enum RecordKey {").unwrap();
        let (names, _) = names.split_once("\n}").unwrap();
        let names: Vec<&str> = names.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
        assert_eq!(RecordKey::ALL.map(|key| format!("{key:?}")).as_slice(), names);
    }

    #[test]
    fn the_bytes_of_the_pruner_records_are_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        new_cycle(&records).unwrap();
        let phase = PhaseRecord {
            cycle: 1,
            phase: PrunePhase::SweepExpired,
            snapshot_id: 2,
            head_order: 3,
            first_order: 4,
            roots_digest: [5; 32],
            integrity_hash: [11; 32],
            mark_digest: Some([6; 32]),
            config: [7; 32],
            cursor: Some(vec![8, 9]),
            swept_by: Some(SweepStrategy::Delete),
            deleted: 10,
        };
        let freeze = Freeze { cycle: 1, at: 2, why: "why".to_owned() };
        let ended = Ended::Failed { code: "io".to_owned(), message: "no".to_owned() };
        let failed = Outcome { cycle: Some(1), at: 2, head_order: None, ended };
        let ended = Ended::Finished {
            deleted: 3,
            first_order: 4,
            live_nodes: 5,
            bytes_before: Some(6),
            bytes_after: 7,
            certificate: "c".to_owned(),
        };
        let finished = Outcome { cycle: Some(1), at: 2, head_order: Some(8), ended };
        let cancelled = Outcome { cycle: Some(1), at: 2, head_order: Some(8), ended: Ended::Cancelled };
        let found = [
            hex::encode(records.load(RecordKey::LastCycle).unwrap().unwrap()),
            hex::encode(record::encode(&phase).unwrap()),
            hex::encode(record::encode(&freeze).unwrap()),
            hex::encode(record::encode(&failed).unwrap()),
            hex::encode(record::encode(&finished).unwrap()),
            hex::encode(record::encode(&cancelled).unwrap()),
            hex::encode(record::encode(&RestFloor { order: 4 }).unwrap()),
        ];
        let pinned = [
            "535052314359434c010008000000010000000000000013488214",
            concat!(
                "53505231504841530200b000000001000000000000000202000000000000000300000000000000040000000000000005",
                "050505050505050505050505050505050505050505050505050505050505050b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
                "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b010606060606060606060606060606060606060606060606060606060606060606",
                "07070707070707070707070707070707070707070707070707070707070707070102080901010a000000000000003f0f",
                "7bd5",
            ),
            "535052314652455a0100140000000100000000000000020000000000000003776879fd480fb1",
            "535052314f5554430200190000000101000000000000000200000000000000000102696f026e6fc6dd39ad",
            concat!(
                "535052314f55544302004600000001010000000000000002000000000000000108000000000000000003000000000000",
                "000400000000000000050000000000000001060000000000000007000000000000000163221646fd",
            ),
            "535052314f55544302001b00000001010000000000000002000000000000000108000000000000000205e0a0d3",
            "5350523152464c52010008000000040000000000000026e6bb6b",
        ];
        assert_eq!(found, pinned);
    }
}
