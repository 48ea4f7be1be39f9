//! AtomicSnapshotManager: what a cycle works on, fixed at one instant, and who may work on it.
//!
//! Promises: everything a snapshot states comes from one view (I1), taken behind an open barrier (I5); the integrity
//! hash covers every field and is checked at each load and each lock; a reloaded snapshot keeps its id and its time
//! (S17). A phase enters with a lock that is decided and taken in one scope; an expired lock is taken over only after
//! its permit is dead (S39); a guard releases on drop.

mod captures;
mod failures;
mod guard;
mod holder;
mod lock;
mod manager;
mod outline;
mod parts;
mod probe;
mod telling;
mod types;

pub(crate) use captures::Captures;
pub(crate) use failures::SnapshotFailures;
pub use guard::SnapshotGuard;
pub use holder::{Blocked, LockOwner, LockRecord, SnapshotLock};
pub(crate) use holder::{check_lock, recorded_lock, settle_left_lock};
pub use manager::AtomicSnapshotManager;
pub use parts::{LessKept, NodeFacts, RetentionPolicy, SnapshotParts};
pub(crate) use probe::{LockStanding, NotNow};
#[cfg(test)]
pub(crate) use types::tests::sample;
pub use types::{
    AtomicSnapshot, ChainMetadata, KeptOrders, PruneSnapshot, SnapshotManagerConfig, SnapshotPath, SnapshotStatus,
};
