//! What else a node of a chain wires. docs/embedding.md shows this file.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use state_pruner::{
    Clock, Health, KeepPolicy, LiveRetention, Pruner, PrunerParts, RetentionParts, StoreRecords, SystemClock,
    events::{EventJournal, EventsConfig, Stopping},
};
use state_store::{Batch, Durability, RocksBackend, RocksConfig, Store, StoreConfig};
use state_tree::Order;

use crate::start::{config, parts};

/// A node with named pins, consumers, single orders that are kept, and a journal of what happens.
pub(crate) struct Node {
    pub(crate) store: Arc<Store>,
    pub(crate) retention: Arc<LiveRetention>,
    pub(crate) events: Arc<EventJournal>,
    pub(crate) pruner: Pruner,
}

impl Node {
    pub(crate) fn open(dir: &Path, keep: KeepPolicy) -> Result<Self, Box<dyn Error>> {
        let backend = Arc::new(RocksBackend::open(&dir.join("store"), &RocksConfig::default())?);
        let store = Arc::new(Store::open(backend, StoreConfig::new(Durability::Synced))?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let events = EventJournal::open(&dir.join("events"), EventsConfig::default(), Arc::clone(&clock))?;
        let events = Arc::new(events);
        let retention = Arc::new(LiveRetention::new(RetentionParts {
            store: Arc::clone(&store),
            records: Arc::new(StoreRecords(Arc::clone(&store))),
            clock: Arc::clone(&clock),
            keep: Some(keep),
            floor_rows: None, // rows of the chain that go when the floor moves
            events: Arc::clone(&events) as _,
        }));
        let parts = PrunerParts { clock, ..parts(&store, Arc::clone(&events) as _) };
        let config = config(dir.join("pruner"), keep.last); // the same number, or it does not start
        let pruner = Pruner::start_under(parts, config, Arc::clone(&retention) as _)?;
        Ok(Self { store, retention, events, pruner })
    }

    /// Goes back. The chain makes no block meanwhile.
    pub(crate) fn rollback(&self, to: Order) -> Result<(), Box<dyn Error>> {
        let rows = Batch::new(); // deletes the rows of the chain above `to`
        self.pruner.rollback(to, rows)?;
        Ok(())
    }

    /// The verdict, to which the chain adds what it knows of itself.
    pub(crate) fn health(&self) -> Health {
        self.pruner.health()
    }

    /// Ends in order. After an error end the process: the worker waits for a disk and holds the store.
    pub(crate) fn stop(self, patience: Duration) -> Result<(), Box<dyn Error>> {
        self.events.let_producers_go(); // a journal whose disk hangs must not hold the pruner
        self.pruner.stop_within(patience)?;
        self.store.backend().flush()?;
        match self.events.stop(patience) {
            Stopping::Whole => Ok(()),
            Stopping::GivenUp { events } => Err(format!("{events} events were not written").into()),
        }
    }
}
