//! What is kept in a store of the reference node, by whom and why, read from outside while the node runs or does not.
//!
//! Bounds are those that were in force when the node moved its floor last, pins and consumers those that were written last;
//! how old they are goes by the wall clock. Nothing is written.

use std::{path::Path, sync::Arc};

use state_store::{RocksBackend, RocksConfig, Store};
use state_tree::RoochLayout;

use super::{AT_REST, StoreLayout, folder::canonical, inspect::refuse_unreadable};
use crate::{
    clock::Clock,
    error::PruneError,
    events::NoEvents,
    records::StoreRecords,
    retention::{Asked, Explanation, LiveRetention, RetentionParts, RetentionStatus},
};

/// Explains an order, a root or a node. At most `limit` nodes are looked at.
///
/// Errors: the store cannot be opened or read, it is of another layout, it has no commit yet.
pub fn explain(db: &Path, asked: Asked, limit: u64, clock: Arc<dyn Clock>) -> Result<Explanation, PruneError> {
    recorded(db, clock)?.explain(asked, &RoochLayout, limit)
}

/// Bounds, pins and consumers, and what each asks for; readers are those of a process, and no other knows of them.
///
/// Errors: the store cannot be opened or read, it is of another layout, it has no commit yet.
pub fn retention(db: &Path, clock: Arc<dyn Clock>) -> Result<RetentionStatus, PruneError> {
    recorded(db, clock)?.status()
}

fn recorded(db: &Path, clock: Arc<dyn Clock>) -> Result<LiveRetention, PruneError> {
    let db = canonical(db);
    let backend = Arc::new(RocksBackend::open_read_only(&db, &RocksConfig::default())?);
    refuse_unreadable(&db, StoreLayout::Native, &backend)?;
    let store = Arc::new(Store::open(backend, AT_REST)?);
    let records = Arc::new(StoreRecords(Arc::clone(&store)));
    let parts = RetentionParts { store, records, clock, keep: None, floor_rows: None, events: Arc::new(NoEvents) };
    LiveRetention::as_recorded(parts)
}
