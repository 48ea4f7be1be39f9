//! Validating a store from outside: at one instant, without writing to it.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{Reserve, RocksBackend, Store, StoreError, Table, lock_holder};

use super::{
    AT_REST, StoreLayout,
    folder::{canonical, kept_dir},
    health::reserve_of,
};
use crate::{
    clock::SystemClock,
    config::CycleConfig,
    error::PruneError,
    events::{NoEvents, find_journal, journal_dir},
    policy::RestWindow,
    records::{FolderRecords, Records, StoreRecords},
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts},
    validate::SnapshotValidator,
};

/// The folder of a node's marks and certificates, beside its store.
const NODE_FOLDER: &str = "pruner";

/// What checks a store, in use or at rest; nothing in it is written. `state_dir` is where its cycles keep their files, if
/// that is not the folder beside it.
///
/// Errors: the store cannot be opened.
pub fn validator(db: &Path, state_dir: Option<&Path>) -> Result<SnapshotValidator, PruneError> {
    let db = &canonical(db);
    let opened = RocksBackend::open_for_a_look(db).map_err(PruneError::from).and_then(|backend| {
        let store = Arc::new(Store::foreign(Arc::new(backend), AT_REST)?);
        let (validator, holder) = (validator_of(&store, db, state_dir)?, lock_holder(db)?);
        Ok(validator.with_events(events_of(db, state_dir)).beside(holder))
    });
    match (opened, lock_holder(db)?) {
        (Err(PruneError::Store(StoreError::Corrupt(_) | StoreError::Io { .. })), Some(holder)) => {
            Err(PruneError::Moving { holder })
        }
        (opened, _) => opened,
    }
}

/// The folder of the journal: that of the state folder, or of whoever the database belongs to.
fn events_of(db: &Path, state_dir: Option<&Path>) -> PathBuf {
    let given = state_dir.map(journal_dir).filter(|dir| dir.is_dir());
    let beside = || find_journal(db).unwrap_or_else(|| journal_dir(&kept_dir(db, state_dir)));
    given.unwrap_or_else(beside)
}

fn validator_of(store: &Arc<Store>, db: &Path, state_dir: Option<&Path>) -> Result<SnapshotValidator, PruneError> {
    let view = store.view()?;
    let (layout, records, folder, kept): (_, Arc<dyn Records>, _, _) = if view.has_table(&Table::META) {
        let beside = state_dir.map_or_else(|| db.with_file_name(NODE_FOLDER), Path::to_owned);
        let reserve = Reserve::kept_at(&reserve_of(db))?.map_or(0, |bytes| bytes);
        (StoreLayout::Native, Arc::new(StoreRecords(Arc::clone(store))), beside, reserve)
    } else {
        let kept = kept_dir(db, state_dir);
        (StoreLayout::Rooch, Arc::new(FolderRecords(kept.clone())), kept, 0)
    };
    let policy =
        RestWindow { keep_last: NonZeroU64::MIN, allowed_holes: BTreeSet::new(), below: layout.below(&*view)? };
    let parts = SnapshotParts {
        store: Arc::clone(store),
        chain: layout.chain(),
        records,
        policy: Arc::new(policy),
        facts: None,
        clock: Arc::new(SystemClock::new()),
        events: Arc::new(NoEvents), // nothing happens to the store
    };
    let snapshots = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    if let Err(error) = snapshots.initialize() {
        tracing::debug!(%error, "the snapshot cannot be loaded; the validation says so");
    }
    let validator = SnapshotValidator::new(Arc::new(snapshots), None).with_cycles(&CycleConfig::new(folder));
    Ok(validator.with_reserve_kept(kept))
}
