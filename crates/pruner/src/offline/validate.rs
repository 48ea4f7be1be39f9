//! Validating a store from outside: at one instant, without writing to it.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{ChainView as _, NativeChain, Reserve, RocksBackend, Store, StoreError, Table, View, lock_holder};
use state_tree::Order;

use super::{
    AT_REST, StoreLayout,
    folder::{canonical, data_dir, default_state_dir, kept_dir},
    health::reserve_of,
};
use crate::{
    clock::SystemClock,
    config::CycleConfig,
    error::PruneError,
    events::{NoEvents, find_journal, journal_dir},
    log_cut::told_at_rest,
    policy::RestWindow,
    records::{FolderRecords, Records, StoreRecords},
    roots::{RetainedRoot, Retention, Window},
    snapshot::{AtomicSnapshotManager, RetentionPolicy, SnapshotManagerConfig, SnapshotParts},
    validate::SnapshotValidator,
};

/// The folder of a node's marks and certificates, beside its store.
const NODE_FOLDER: &str = "pruner";

/// What checks a store, in use or at rest; nothing in it is written. `state_dir` is where its cycles keep their files, if
/// that is not the folder beside it.
///
/// Errors: the store cannot be opened.
pub fn validator(db: &Path, state_dir: Option<&Path>) -> Result<SnapshotValidator, PruneError> {
    let (given, db) = (db, &canonical(db));
    let opened = RocksBackend::open_for_a_look(db).map_err(PruneError::from).and_then(|backend| {
        let store = Arc::new(Store::foreign(Arc::new(backend), AT_REST)?);
        let layout = if store.view()?.has_table(&Table::META) { StoreLayout::Native } else { StoreLayout::Rooch };
        let (validator, holder) = (validator_of(&store, layout, (db, state_dir))?, lock_holder(db)?);
        Ok(validator.with_events(events_of(layout, (given, db), state_dir)).beside(holder))
    });
    match (opened, lock_holder(db)?) {
        (Err(PruneError::Store(StoreError::Corrupt(_) | StoreError::Io { .. })), Some(holder)) => {
            Err(PruneError::Moving { holder })
        }
        (opened, _) => opened,
    }
}

/// The folder of the journal: that of the state folder, or of whoever the database belongs to. Where none is there, that in
/// which one will be.
fn events_of(layout: StoreLayout, (given, db): (&Path, &Path), state_dir: Option<&Path>) -> PathBuf {
    let named = state_dir.map(journal_dir).filter(|dir| dir.is_dir());
    let found = named.or_else(|| find_journal(given)).or_else(|| find_journal(db)); // as given it may be a link of the node's
    found.unwrap_or_else(|| match layout {
        StoreLayout::Native => journal_dir(&node_dir(db)),
        StoreLayout::Rooch => journal_dir(&kept_dir(db, state_dir)),
    })
}

/// The data folder of the node whose store this is. One beside the store of another node has none yet, and no file of that one is
/// taken for its own.
fn node_dir(db: &Path) -> PathBuf {
    data_dir(db).unwrap_or_else(|| default_state_dir(db))
}

/// What a node's store retains by its rows. Readers hold more, of which only the process knows that has them.
struct ByItsRows {
    floor: Order,
    below: Vec<RetainedRoot>,
}

impl RetentionPolicy for ByItsRows {
    fn advance(&self) -> Result<(), PruneError> {
        Ok(())
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        let (window, pins) = (Window::From(self.floor), self.below.clone());
        Ok(Retention { window, pins, allowed_holes: BTreeSet::new() })
    }
}

/// How much a prune of a Rooch store keeps it is told each time: its newest order is all that is known to stay.
fn policy_of(layout: StoreLayout, view: &dyn View) -> Result<Arc<dyn RetentionPolicy>, PruneError> {
    let below = layout.below(view)?;
    Ok(match layout {
        StoreLayout::Native => Arc::new(ByItsRows { floor: NativeChain.floor(view)?, below }),
        StoreLayout::Rooch => {
            Arc::new(RestWindow { keep_last: NonZeroU64::MIN, allowed_holes: BTreeSet::new(), below })
        }
    })
}

fn validator_of(
    store: &Arc<Store>,
    layout: StoreLayout,
    (db, state_dir): (&Path, Option<&Path>),
) -> Result<SnapshotValidator, PruneError> {
    let (records, folder, kept): (Arc<dyn Records>, _, _) = match layout {
        StoreLayout::Native => {
            let beside = state_dir.map_or_else(|| node_dir(db).join(NODE_FOLDER), Path::to_owned);
            let reserve = Reserve::kept_at(&reserve_of(db))?.map_or(0, |bytes| bytes);
            (Arc::new(StoreRecords(Arc::clone(store))), beside, reserve)
        }
        StoreLayout::Rooch => {
            let kept = kept_dir(db, state_dir);
            (Arc::new(FolderRecords(kept.clone())), kept, 0)
        }
    };
    let parts = SnapshotParts {
        store: Arc::clone(store),
        chain: layout.chain(),
        records,
        policy: policy_of(layout, &*store.view()?)?,
        facts: None,
        clock: Arc::new(SystemClock::new()),
        events: Arc::new(NoEvents), // nothing happens to the store
    };
    let snapshots = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    if let Err(error) = snapshots.initialize() {
        tracing::debug!(%error, "the snapshot cannot be loaded; the validation says so");
    }
    let validator = SnapshotValidator::new(Arc::new(snapshots), None).with_cycles(&CycleConfig::new(folder));
    Ok(validator.with_reserve_kept(kept).with_log_cut(told_at_rest(store.backend())))
}
