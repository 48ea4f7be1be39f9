//! Why something is kept in a store of the reference node, read from outside while the node runs or does not.

use std::{path::Path, sync::Arc};

use state_store::{RocksBackend, RocksConfig, Store};
use state_tree::RoochLayout;

use super::{AT_REST, StoreLayout, folder::canonical, inspect::refuse_unreadable};
use crate::{
    clock::Clock,
    error::PruneError,
    events::NoEvents,
    records::StoreRecords,
    retention::{Asked, Explanation, LiveRetention, RetentionParts},
};

/// Explains under the bounds that were in force when the node moved its floor last; nothing is written. At most `limit`
/// nodes are looked at.
///
/// Errors: the store cannot be opened or read, it is of another layout, it has no commit yet.
pub fn explain(db: &Path, asked: Asked, limit: u64, clock: Arc<dyn Clock>) -> Result<Explanation, PruneError> {
    let db = canonical(db);
    let backend = Arc::new(RocksBackend::open_read_only(&db, &RocksConfig::default())?);
    refuse_unreadable(&db, StoreLayout::Native, &backend)?;
    let store = Arc::new(Store::open(backend, AT_REST)?);
    let records = Arc::new(StoreRecords(Arc::clone(&store)));
    let parts = RetentionParts { store, records, clock, keep: None, floor_rows: None, events: Arc::new(NoEvents) };
    LiveRetention::as_recorded(parts)?.explain(asked, &RoochLayout, limit)
}
