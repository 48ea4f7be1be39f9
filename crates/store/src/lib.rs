//! The store: commit gate, barrier, journal, sweep filter and views over RocksDB.
//!
//! Ordering rules, all of them:
//! 1. A commit records its created hashes in the barrier BEFORE it writes them (I5).
//! 2. A capture opens the barrier BEFORE it takes the view (I5, S24).
//! 3. The floor moves, durably, BEFORE any node below it goes (S27, S41).
//! 4. A permit is checked in the critical section of the delete it allows (I10).
//! 5. Locks are taken in the order gate, chain state; the second is never held across a read or write of the engine.

mod backend;
mod barrier;
mod bundle;
mod busy;
mod chain;
mod counting;
mod disk;
mod ending;
mod error;
mod excerpt;
mod filter;
mod fingerprints;
mod gate;
mod journal;
mod kept;
mod lately;
mod lost;
mod many;
mod pending;
mod permit;
mod point;
mod queue;
pub mod record;
mod reserve;
mod rows;
mod schema;
mod standing;
mod stay;
mod store;
mod stored;
mod unjudged;

#[cfg(any(test, feature = "test-util"))]
pub use backend::{Armed, CrashTail, Fault, FaultyBackend, Lasting, MemoryBackend, Operation};
pub use backend::{
    Backend, Batch, Copied, Durability, Era, Flow, KeyRange, LogCut, NodeFile, Rest, RocksBackend, RocksConfig, Space,
    View, allow_every_file, file_holder, free_bytes_of, lock_holder, refuse_if_not_writable, removed_store, space_of,
};
pub use barrier::BarrierHold;
pub use chain::{ChainView, Head, HeadRecord, Hole, NativeChain, RoochChain, RootAt, RootRecord};
#[cfg(all(feature = "test-util", debug_assertions))]
pub use disk::FaultyDisk;
pub use disk::{FileCall, ask};
pub use ending::GoesOn;
pub use error::{Disposition, HeadOrder, Holder, Need, StoreError};
pub use excerpt::Excerpt;
pub use filter::{Haste, LiveReader, LiveSet, Pace, SweepSlot, SweepTally};
pub use gate::{Base, Commit, Committed, PinOwner};
pub use journal::JournalRecord;
pub use lost::{CountsLost, LostBy};
#[cfg(any(test, feature = "test-util"))]
pub use many::marked_on_disk;
pub use pending::{Lag, PendingCounts};
pub use permit::{Occupied, Permit};
pub use point::{CatalogPoint, Point, catalog_reached, reached};
#[cfg(all(feature = "test-util", debug_assertions))]
pub use point::{HANG_AT, KILL_AT, Watching, watch};
pub use reserve::{RESERVE_FILE, Reserve, Room, Taking};
pub use rows::{RowsChecked, check_all_rows, check_rows};
pub use schema::Table;
pub use store::{
    ActiveSweep, Backlog, BadCursor, BadRow, Capture, Condemned, Corrected, Correction, Deleted, Expired, FloorMove,
    Held, Idle, Indexed, Judging, Pin, RolledBack, RowFault, Slice, SliceLimit, Store, StoreConfig, Traced, Waits,
};
