//! Creating, locking and releasing snapshots.
//!
//! One mutex guards the current snapshot and its lock; it is never held while a view is taken or a record is written,
//! except to swap the result in. Time for decisions is monotonic. A reloaded snapshot keeps its id and its time (S17), and
//! its age by the wall clock decides nothing (C16): whether its cycle may go on follows from the digests of its roots
//! and of its mark.

use std::{ops::Deref, sync::Arc, time::Duration};

use parking_lot::Mutex;
use primitive_types::H256;
use state_store::{BarrierHold, ChainView, Head, Permit, Store, View};
use state_tree::Order;

use super::types::{
    AtomicSnapshot, Blocked, ChainMetadata, PruneSnapshot, SnapshotLock, SnapshotManagerConfig, SnapshotStatus,
};
use crate::{
    clock::Clock,
    error::PruneError,
    phase::PrunePhase,
    records::{RecordKey, Records},
    roots::{RetainedRoots, Retention},
};

/// What a node may tell about itself; each is absent where it does not know (I13).
pub trait NodeFacts: Send + Sync {
    /// Transactions waiting.
    fn mempool_size(&self) -> Option<u64>;
    /// Whether the node follows the tip.
    fn sync_status(&self) -> Option<bool>;
}

/// Says what to retain, and makes the readable range agree with it before anything is captured.
pub trait RetentionPolicy: Send + Sync {
    /// Moves the oldest readable order, durably, where there is one. Called BEFORE the capture (S27, S41).
    fn advance(&self) -> Result<(), PruneError>;

    /// What to retain now, pins included. Called AFTER `advance`: no pin below the floor can appear any more.
    fn retention(&self) -> Result<Retention, PruneError>;
}

/// Everything the manager works with.
#[derive(Clone)]
pub struct SnapshotParts {
    /// The store.
    pub store: Arc<Store>,
    /// Reads the chain's records.
    pub chain: Arc<dyn ChainView>,
    /// Keeps the snapshot.
    pub records: Arc<dyn Records>,
    /// Says what to retain.
    pub policy: Arc<dyn RetentionPolicy>,
    /// Tells about the node.
    pub facts: Option<Arc<dyn NodeFacts>>,
    /// Reads time.
    pub clock: Arc<dyn Clock>,
}

struct Held {
    snapshot: Arc<AtomicSnapshot>,
    roots: Option<Arc<RetainedRoots>>,
    view: Option<Arc<dyn View>>,
    barrier: Option<BarrierHold>,
    /// Monotonic time of creation, load or last renewal.
    renewed: Duration,
}

struct Lock {
    phase: PrunePhase,
    permit: Permit,
    taken: Duration,
    taken_unix_ms: u64,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    lock: Option<Lock>,
    last_id: u64,
}

/// Creates snapshots and lets one phase at a time work on the current one.
pub struct AtomicSnapshotManager {
    parts: SnapshotParts,
    config: SnapshotManagerConfig,
    state: Mutex<State>,
}

impl std::fmt::Debug for AtomicSnapshotManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtomicSnapshotManager").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AtomicSnapshotManager {
    /// A manager without a snapshot.
    pub fn new(parts: SnapshotParts, config: SnapshotManagerConfig) -> Self {
        Self { parts, config, state: Mutex::default() }
    }

    /// Loads the snapshot that an earlier process persisted: same id, same time, same hash, but without its view.
    ///
    /// Errors: a record that is torn, foreign or fails its integrity hash.
    pub fn initialize(&self) -> Result<(), PruneError> {
        if !self.config.enable_persistence {
            return Ok(());
        }
        let Some(bytes) = self.parts.records.load(RecordKey::Snapshot)? else {
            return Ok(());
        };
        let snapshot = AtomicSnapshot::decode(&bytes)?;
        let mut state = self.state.lock();
        state.last_id = snapshot.snapshot_id;
        state.held = Some(Held {
            snapshot: Arc::new(snapshot),
            roots: None,
            view: None,
            barrier: None,
            renewed: self.parts.clock.monotonic(),
        });
        Ok(())
    }

    /// Fixes the chain at one instant for the given phase and makes it the current snapshot.
    ///
    /// Errors: a lock that is held on the current one, records that cannot be read, holes, a failed write. After an
    /// error the current snapshot is what it was.
    pub fn create_snapshot(&self, phase: PrunePhase) -> Result<Arc<AtomicSnapshot>, PruneError> {
        let id = {
            let state = self.state.lock();
            if let Some(blocked) = state.lock.as_ref().and_then(|lock| self.blocked_by(lock)) {
                return Err(PruneError::Blocked(blocked));
            }
            state.last_id + 1
        };
        let held = self.capture(phase, id)?;
        let snapshot = Arc::clone(&held.snapshot);
        let mut state = self.state.lock();
        state.last_id = id;
        state.held = Some(held);
        Ok(snapshot)
    }

    /// Barrier, then view, then everything else out of that view (I5, I1).
    fn capture(&self, phase: PrunePhase, id: u64) -> Result<Held, PruneError> {
        let parts = &self.parts;
        let capture = parts.store.capture()?;
        // AFTER the view: whatever pins held below the floor of the view are still held, or hold nothing.
        let retention = parts.policy.retention()?;
        let roots = RetainedRoots::resolve(&*parts.chain, &*capture.view, &retention)?;
        let snapshot = AtomicSnapshot {
            snapshot: PruneSnapshot::of(&roots, capture.view.sequence()),
            snapshot_id: id,
            created_at: parts.clock.unix_ms(),
            created_phase: phase,
            chain_metadata: self.metadata(&roots.head),
            integrity_hash: H256::zero(),
        }
        .sealed()?;
        if self.config.enable_persistence {
            // Durable with the phase record that names it, before anything is deleted under it.
            parts.records.stage(RecordKey::Snapshot, &snapshot.encode()?)?;
        }
        Ok(Held {
            snapshot: Arc::new(snapshot),
            roots: Some(Arc::new(roots)),
            view: Some(capture.view),
            barrier: Some(capture.barrier),
            renewed: parts.clock.monotonic(),
        })
    }

    fn metadata(&self, head: &Head) -> ChainMetadata {
        let facts = self.parts.facts.as_ref();
        ChainMetadata {
            block_height: head.order.get(),
            chain_timestamp: head.timestamp_ms,
            latest_block_hash: H256(head.block_hash.map_or(*head.root.hash().as_bytes(), |hash| hash)),
            mempool_size: facts.and_then(|facts| facts.mempool_size()),
            sync_status: facts.and_then(|facts| facts.sync_status()),
        }
    }

    /// Lets the phase work on the current snapshot. Decided and taken in one scope (S39): an expired lock is taken
    /// over, and its permit is dead before the new one exists.
    ///
    /// Errors: [`Blocked`] while another phase holds it; a snapshot that is too old or fails its integrity hash.
    pub fn lock_snapshot(&self, phase: PrunePhase) -> Result<SnapshotGuard<'_>, PruneError> {
        let mut state = self.state.lock();
        if let Some(blocked) = state.lock.as_ref().and_then(|lock| self.blocked_by(lock)) {
            return Err(PruneError::Blocked(blocked));
        }
        let held = state.held.as_ref().ok_or(PruneError::Blocked(Blocked::NoSnapshot))?;
        let snapshot = Arc::clone(&held.snapshot);
        if self.config.enable_validation {
            self.validate(held)?;
        }
        let permit = self.parts.store.issue_permit();
        let (taken, taken_unix_ms) = (self.parts.clock.monotonic(), self.parts.clock.unix_ms());
        state.lock = Some(Lock { phase, permit: permit.clone(), taken, taken_unix_ms });
        Ok(SnapshotGuard { manager: self, snapshot, phase, permit })
    }

    fn validate(&self, held: &Held) -> Result<(), PruneError> {
        held.snapshot.verify_integrity()?;
        let age = self.parts.clock.monotonic().saturating_sub(held.renewed);
        if age > Duration::from_millis(self.config.max_snapshot_age_ms) {
            let why = format!("it is {} ms old, {} are allowed", age.as_millis(), self.config.max_snapshot_age_ms);
            return Err(PruneError::BadSnapshot { id: held.snapshot.snapshot_id, why });
        }
        Ok(())
    }

    fn blocked_by(&self, lock: &Lock) -> Option<Blocked> {
        let held_for = self.parts.clock.monotonic().saturating_sub(lock.taken);
        let held_for_ms = u64::try_from(held_for.as_millis()).map_or(u64::MAX, |ms| ms);
        let valid = held_for_ms <= self.config.lock_timeout_ms && lock.permit.is_current();
        valid.then_some(Blocked::Held { by: lock.phase, held_for_ms, timeout_ms: self.config.lock_timeout_ms })
    }

    /// Takes the lock away from the phase; its permit is dead when this returns. Nothing to do if it holds none.
    ///
    /// Errors: another phase holds the lock.
    pub fn release_snapshot(&self, phase: PrunePhase) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        match &state.lock {
            Some(lock) if lock.phase != phase => match self.blocked_by(lock) {
                Some(blocked) => Err(PruneError::Blocked(blocked)),
                None => Ok(()),
            },
            Some(_) => {
                self.parts.store.revoke_permits();
                state.lock = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Replaces the snapshot under the guard by a new one without a gap: the old view and barrier are held until the
    /// new ones are (S40). The old guard is consumed, so it cannot be used by mistake.
    pub fn refresh<'a>(&'a self, guard: SnapshotGuard<'a>) -> Result<SnapshotGuard<'a>, PruneError> {
        let phase = guard.phase;
        self.parts.policy.advance()?;
        let id = self.state.lock().last_id + 1;
        let held = self.capture(phase, id)?;
        {
            let mut state = self.state.lock();
            if !guard.permit.is_current() {
                return Err(PruneError::Store(state_store::StoreError::PermitRevoked));
            }
            state.last_id = id;
            state.held = Some(held);
        }
        drop(guard);
        self.lock_snapshot(phase)
    }

    /// Lets go of the view and the barrier of the current snapshot: its cycle has ended.
    pub fn end_cycle(&self) {
        let mut state = self.state.lock();
        if let Some(held) = state.held.as_mut() {
            held.view = None;
            held.barrier = None;
        }
    }

    /// What is held now.
    pub fn status(&self) -> SnapshotStatus {
        let state = self.state.lock();
        SnapshotStatus {
            snapshot: state.held.as_ref().map(|held| AtomicSnapshot::clone(&held.snapshot)),
            lock: state.held.as_ref().zip(state.lock.as_ref()).map(|(held, lock)| SnapshotLock {
                snapshot_id: held.snapshot.snapshot_id,
                locked_by_phase: lock.phase,
                locked_at: lock.taken_unix_ms,
                timeout_ms: self.config.lock_timeout_ms,
                is_valid: self.blocked_by(lock).is_some(),
            }),
            holds_view: state.held.as_ref().is_some_and(|held| held.view.is_some()),
        }
    }
}

/// The right of one phase to work on one snapshot; dropping it releases the lock.
pub struct SnapshotGuard<'a> {
    manager: &'a AtomicSnapshotManager,
    snapshot: Arc<AtomicSnapshot>,
    phase: PrunePhase,
    permit: Permit,
}

impl std::fmt::Debug for SnapshotGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotGuard")
            .field("phase", &self.phase)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

impl Deref for SnapshotGuard<'_> {
    type Target = AtomicSnapshot;

    fn deref(&self) -> &AtomicSnapshot {
        &self.snapshot
    }
}

impl SnapshotGuard<'_> {
    /// The right to delete; dead once the lock is lost (I10).
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Says that the phase makes progress: neither its lock nor its snapshot grows old (P12).
    ///
    /// Errors: the lock was lost.
    pub fn renew(&self) -> Result<(), PruneError> {
        let mut state = self.manager.state.lock();
        if !self.permit.is_current() {
            return Err(PruneError::Store(state_store::StoreError::PermitRevoked));
        }
        let (now, unix_ms) = (self.manager.parts.clock.monotonic(), self.manager.parts.clock.unix_ms());
        if let Some(lock) = state.lock.as_mut() {
            (lock.taken, lock.taken_unix_ms) = (now, unix_ms);
        }
        if let Some(held) = state.held.as_mut() {
            held.renewed = now;
        }
        Ok(())
    }

    /// The view of the snapshot.
    ///
    /// Errors: it was let go, or the snapshot comes from an earlier process.
    pub fn view(&self) -> Result<Arc<dyn View>, PruneError> {
        let state = self.manager.state.lock();
        let view = state.held.as_ref().and_then(|held| held.view.clone());
        view.ok_or_else(|| self.unusable("its view is gone"))
    }

    /// The retained roots of the snapshot.
    ///
    /// Errors: the snapshot comes from an earlier process.
    pub fn roots(&self) -> Result<Arc<RetainedRoots>, PruneError> {
        let state = self.manager.state.lock();
        let roots = state.held.as_ref().and_then(|held| held.roots.clone());
        roots.ok_or_else(|| self.unusable("its roots are gone"))
    }

    /// The barrier of the snapshot: reopened from the commit journal if the snapshot comes from an earlier process
    /// (S20), which must happen before that snapshot's cycle deletes anything.
    ///
    /// Errors: the journal does not cover what was committed since; abandon the cycle then.
    pub fn barrier(&self) -> Result<BarrierHold, PruneError> {
        let kept = self.manager.state.lock().held.as_ref().and_then(|held| held.barrier.clone());
        if let Some(barrier) = kept {
            return Ok(barrier);
        }
        let since = Order::new(self.snapshot.snapshot.latest_order);
        let barrier = self.manager.parts.store.reopen_barrier(since)?;
        if let Some(held) = self.manager.state.lock().held.as_mut() {
            held.barrier = Some(barrier.clone());
        }
        Ok(barrier)
    }

    /// Lets go of the view, which keeps bytes on disk; the barrier stays (L4).
    pub fn let_go_of_view(&self) {
        if let Some(held) = self.manager.state.lock().held.as_mut() {
            held.view = None;
        }
    }

    fn unusable(&self, why: &str) -> PruneError {
        PruneError::BadSnapshot { id: self.snapshot.snapshot_id, why: why.to_owned() }
    }
}

impl Drop for SnapshotGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.manager.state.lock();
        let ours = state.lock.as_ref().is_some_and(|lock| lock.permit.generation() == self.permit.generation());
        if ours {
            self.manager.parts.store.revoke_permits();
            state.lock = None;
        }
    }
}
