//! Going back to an older order in a store of the reference node at rest.

use std::{path::Path, sync::Arc};

use state_store::{Batch, RocksBackend, RocksConfig, RolledBack, Store};
use state_tree::Order;

use super::{AT_REST, StoreLayout, folder::canonical, inspect::refuse_unreadable, refuse_if_held};
use crate::{
    clock::Clock,
    error::PruneError,
    events::{EventJournal, EventSink, EventsConfig, NoEvents, find_journal},
    log_cut::{LogCuts, told_at_rest},
    records::StoreRecords,
    retention::{LiveRetention, RetentionParts},
};

/// Makes a retained order the newest one. A cycle that the node left is given up, unless it captured this order or an older
/// one, and the node owes one when it starts next. `rows` are further rows of the chain in the same batch.
///
/// Errors: no store of the reference node, one that is in use, a damaged write-ahead log, an order that cannot be gone back to, a pin on a later one.
/// After an error the history is what it was.
pub fn rollback(db: &Path, to: Order, rows: Batch, clock: Arc<dyn Clock>) -> Result<RolledBack, PruneError> {
    let db = canonical(db);
    refuse_if_held(&db)?;
    let reading = RocksBackend::open_read_only(&db, &RocksConfig::default())?;
    refuse_unreadable(&db, StoreLayout::Native, &reading)?; // BEFORE anything is opened for writing
    if let Some(what) = told_at_rest(&reading) {
        return Err(PruneError::LogCut { what }); // which would cut it
    }
    drop(reading);
    let store = Arc::new(Store::open(Arc::new(RocksBackend::open(&db, &RocksConfig::default())?), AT_REST)?);
    let records = Arc::new(StoreRecords(Arc::clone(&store)));
    let events = events_of_node(&db, &clock);
    LogCuts::take_over(&store, &*clock, &*events); // the node that starts next finds nothing wrong
    let parts = RetentionParts { store, records, clock, keep: None, floor_rows: None, events };
    LiveRetention::new(parts).rollback(to, rows)
}

/// The journal that the node left beside its store.
fn events_of_node(db: &Path, clock: &Arc<dyn Clock>) -> Arc<dyn EventSink> {
    let Some(dir) = find_journal(db) else { return Arc::new(NoEvents) };
    match EventJournal::open(&dir, EventsConfig::default(), Arc::clone(clock)) {
        Ok(journal) => Arc::new(journal),
        Err(error) => {
            tracing::warn!(%error, "the event journal cannot be written; this rollback is not told in it");
            Arc::new(NoEvents)
        }
    }
}
