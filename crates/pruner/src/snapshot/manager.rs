//! Creating, locking and releasing snapshots.
//!
//! One mutex guards the current snapshot and its lock; it is never held while a view is taken or a record is written,
//! except to swap the result in. Time for decisions is monotonic. A reloaded snapshot keeps its id and its time (S17), and
//! its age by the wall clock decides nothing (C16): whether its cycle may go on follows from the digests of its roots
//! and of its mark.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use primitive_types::H256;
use state_store::{BarrierHold, Head, Permit, StoreError, View};

use super::{
    guard::SnapshotGuard,
    outline::Outline,
    parts::SnapshotParts,
    types::{
        AtomicSnapshot, Blocked, ChainMetadata, PruneSnapshot, SnapshotLock, SnapshotManagerConfig, SnapshotStatus,
    },
};
use crate::{
    error::PruneError,
    phase::PrunePhase,
    records::RecordKey,
    roots::{RetainedRoots, Retention},
};

/// The retained roots of a snapshot.
#[derive(Clone)]
pub(super) enum Roots {
    /// Read from its view.
    Read(Arc<RetainedRoots>),
    /// To be read when a phase asks for them; the snapshot is sealed over their digest.
    Unread(Arc<Retention>),
    /// The snapshot comes from an earlier process.
    Gone,
}

pub(super) struct Held {
    pub(super) snapshot: Arc<AtomicSnapshot>,
    pub(super) roots: Roots,
    pub(super) view: Option<Arc<dyn View>>,
    pub(super) barrier: Option<BarrierHold>,
    /// Monotonic time of creation, load or last renewal.
    pub(super) renewed: Duration,
}

pub(super) struct Lock {
    pub(super) phase: PrunePhase,
    permit: Permit,
    pub(super) taken: Duration,
    pub(super) taken_unix_ms: u64,
}

#[derive(Default)]
pub(super) struct State {
    held: Option<Held>,
    pub(super) lock: Option<Lock>,
    last_id: u64,
}

impl State {
    /// An id that no snapshot of this manager had before.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What is held, if it is still the snapshot of this id.
    pub(super) fn of(&mut self, id: u64) -> Option<&mut Held> {
        self.held.as_mut().filter(|held| held.snapshot.snapshot_id == id)
    }
}

/// Creates snapshots and lets one phase at a time work on the current one.
pub struct AtomicSnapshotManager {
    pub(super) parts: SnapshotParts,
    config: SnapshotManagerConfig,
    pub(super) state: Mutex<State>,
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
            roots: Roots::Gone,
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
        self.telling_created(phase, self.create(phase))
    }

    fn create(&self, phase: PrunePhase) -> Result<Arc<AtomicSnapshot>, PruneError> {
        let id = {
            let mut state = self.state.lock();
            self.refuse_if_locked(&state)?;
            state.next_id()
        };
        let held = self.capture(phase, id)?;
        let snapshot = Arc::clone(&held.snapshot);
        let mut state = self.state.lock();
        self.refuse_if_locked(&state)?; // a phase that took the lock meanwhile works on the snapshot it found
        state.held = Some(held);
        Ok(snapshot)
    }

    fn refuse_if_locked(&self, state: &State) -> Result<(), PruneError> {
        let blocked = state.lock.as_ref().and_then(|lock| self.blocked_by(lock));
        blocked.map_or(Ok(()), |blocked| Err(PruneError::Blocked(blocked)))
    }

    /// Barrier, then view, then everything else out of that view (I5, I1).
    fn capture(&self, phase: PrunePhase, id: u64) -> Result<Held, PruneError> {
        let parts = &self.parts;
        let capture = parts.store.capture()?;
        // AFTER the view: whatever pins held below the floor of the view are still held, or hold nothing.
        let retention = parts.policy.retention()?;
        let (snapshot, head, roots) = self.outline_or_read(&*capture.view, retention)?;
        let snapshot = AtomicSnapshot {
            snapshot,
            snapshot_id: id,
            created_at: parts.clock.unix_ms(),
            created_phase: phase,
            chain_metadata: self.metadata(&head),
            integrity_hash: H256::zero(),
        }
        .sealed()?;
        if self.config.enable_persistence {
            // Durable with the phase record that names it, before anything is deleted under it.
            parts.records.stage(RecordKey::Snapshot, &snapshot.encode()?)?;
        }
        Ok(Held {
            snapshot: Arc::new(snapshot),
            roots,
            view: Some(capture.view),
            barrier: Some(capture.barrier),
            renewed: parts.clock.monotonic(),
        })
    }

    /// What the ends of the window tell, where the chain's records chain its roots; else every root is read.
    fn outline_or_read(
        &self,
        view: &dyn View,
        retention: Retention,
    ) -> Result<(PruneSnapshot, Head, Roots), PruneError> {
        let (chain, sequence) = (&*self.parts.chain, view.sequence());
        if let Some(outline) = Outline::of(chain, view, &retention)? {
            let snapshot = PruneSnapshot::outlined(&outline, sequence);
            return Ok((snapshot, outline.head, Roots::Unread(Arc::new(retention))));
        }
        let roots = RetainedRoots::resolve(chain, view, &retention)?;
        Ok((PruneSnapshot::of(&roots, sequence), roots.head, Roots::Read(Arc::new(roots))))
    }

    fn metadata(&self, head: &Head) -> ChainMetadata {
        let facts = self.parts.facts.as_ref();
        ChainMetadata {
            block_height: head.order.get(),
            chain_timestamp: head.timestamp_ms,
            latest_block_hash: head.block_hash.map_or_else(H256::zero, H256),
            mempool_size: facts.and_then(|facts| facts.mempool_size()),
            sync_status: facts.and_then(|facts| facts.sync_status()),
        }
    }

    /// Lets the phase work on the current snapshot. Decided and taken in one scope (S39): an expired lock is taken
    /// over, and its permit is dead before the new one exists.
    ///
    /// Errors: [`Blocked`] while another phase holds it; a snapshot that is too old or fails its integrity hash.
    pub fn lock_snapshot(&self, phase: PrunePhase) -> Result<SnapshotGuard<'_>, PruneError> {
        self.telling_refused(phase, self.take(phase))
    }

    fn take(&self, phase: PrunePhase) -> Result<SnapshotGuard<'_>, PruneError> {
        self.end_expired()?;
        let mut state = self.state.lock();
        self.refuse_if_locked(&state)?;
        let held = state.held.as_ref().ok_or(PruneError::Blocked(Blocked::NoSnapshot))?;
        let snapshot = Arc::clone(&held.snapshot);
        if self.config.enable_validation {
            self.validate(held)?;
        }
        let permit = self.parts.store.issue_permit();
        let before = state.lock.replace(self.lock(phase, &permit));
        drop(state);
        self.tell_taken(phase, snapshot.snapshot_id, before);
        Ok(SnapshotGuard::new(self, snapshot, phase, permit))
    }

    fn lock(&self, phase: PrunePhase, permit: &Permit) -> Lock {
        let (taken, taken_unix_ms) = (self.parts.clock.monotonic(), self.parts.clock.unix_ms());
        Lock { phase, permit: permit.clone(), taken, taken_unix_ms }
    }

    /// Revokes the permit of an expired lock. This waits for a commit, so it is done BEFORE the state is locked:
    /// whoever asks for the status does not wait for one.
    fn end_expired(&self) -> Result<(), PruneError> {
        let expired = {
            let state = self.state.lock();
            self.refuse_if_locked(&state)?;
            state.lock.as_ref().map(|lock| lock.permit.clone())
        };
        if let Some(permit) = expired {
            self.parts.store.revoke(&permit);
        }
        Ok(())
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
        let permit = match &self.state.lock().lock {
            Some(lock) if lock.phase == phase => lock.permit.clone(),
            Some(lock) => return self.blocked_by(lock).map_or(Ok(()), |blocked| Err(PruneError::Blocked(blocked))),
            None => return Ok(()),
        };
        self.release(phase, &permit);
        Ok(())
    }

    /// Ends one lock. Its permit dies first, outside the state: that waits for a commit.
    pub(super) fn release(&self, phase: PrunePhase, permit: &Permit) {
        self.parts.store.revoke(permit);
        let mut state = self.state.lock();
        if state.lock.as_ref().is_some_and(|lock| lock.permit.generation() == permit.generation()) {
            state.lock = None;
            drop(state);
            self.tell_released(phase);
        }
    }

    /// Replaces the snapshot under the guard by a new one without a gap: the old view and barrier are held until the
    /// new ones are, and the lock is never let go (S40). The old guard is consumed and its permit is dead, so neither
    /// can be used by mistake.
    ///
    /// Errors: a lost lock, or whatever [`AtomicSnapshotManager::create_snapshot`] fails with.
    pub fn refresh<'a>(&'a self, mut guard: SnapshotGuard<'a>) -> Result<SnapshotGuard<'a>, PruneError> {
        guard.renew()?;
        self.parts.policy.advance()?;
        let id = self.state.lock().next_id();
        let held = self.capture(guard.phase, id)?;
        let mut state = self.state.lock();
        if !guard.permit.is_current() {
            return Err(StoreError::PermitRevoked.into());
        }
        (guard.snapshot, guard.permit) = (Arc::clone(&held.snapshot), self.parts.store.issue_permit());
        state.held = Some(held);
        state.lock = Some(self.lock(guard.phase, &guard.permit));
        drop(state);
        Ok(guard)
    }

    /// Lets go of the view and the barrier of the current snapshot: its cycle has ended.
    pub fn end_cycle(&self) {
        let mut state = self.state.lock();
        if let Some(held) = state.held.as_mut() {
            held.view = None;
            held.barrier = None;
        }
    }

    /// Whether more was created since the snapshot than its barrier remembers, so that its cycle must be abandoned.
    pub(crate) fn is_barrier_full(&self) -> bool {
        let state = self.state.lock();
        let barrier = state.held.as_ref().and_then(|held| held.barrier.as_ref());
        barrier.is_some_and(|barrier| barrier.overflow().is_some())
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
