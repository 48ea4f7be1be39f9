//! Creating, locking and releasing snapshots.
//!
//! One mutex guards the current snapshot and its lock; it is never held while a view is taken or a record is written,
//! except to swap the result in. Time for decisions is monotonic. A reloaded snapshot keeps its id and its time (S17), and
//! its age by the wall clock decides nothing (C16): whether its cycle may go on follows from the digests of its roots
//! and of its mark.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use primitive_types::H256;
use state_store::{BarrierHold, Head, Permit, StoreError, View};
use state_tree::Order;

use super::{
    failures::SnapshotFailures,
    guard::SnapshotGuard,
    holder::{LockRecord, LockSlot},
    lock::Lock,
    outline::Outline,
    parts::SnapshotParts,
    types::{AtomicSnapshot, ChainMetadata, PruneSnapshot, SnapshotManagerConfig, SnapshotStatus},
};
use crate::{
    error::PruneError,
    phase::PrunePhase,
    policy::retained,
    records::{self, RecordKey},
    roots::{RetainedRoots, Retention, Window},
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

#[derive(Default)]
pub(super) struct State {
    pub(super) held: Option<Held>,
    pub(super) lock: Option<Lock>,
    /// The lock that an earlier process left.
    left: Option<LockRecord>,
    /// What is not known of an earlier process, and why; not told yet.
    untold: Vec<(&'static str, PruneError)>,
    pub(super) last_id: u64,
    /// Captures in a row that failed.
    pub(super) failures: u32,
    /// The permit of whoever tries the lock, and gives way to a phase.
    pub(super) probe: Option<Permit>,
    /// Releases that could not be written down.
    pub(super) unnoted: u64,
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
    pub(super) config: SnapshotManagerConfig,
    pub(super) state: Arc<Mutex<State>>,
    /// Told whenever a lock is let go.
    pub(super) released: Arc<Condvar>,
    /// Held while the lock is written down, so that what is written last is what is so.
    pub(super) noting: Mutex<()>,
    /// Held while a snapshot is taken, and by whoever wants none to be taken.
    pub(super) capturing: Mutex<()>,
}

impl std::fmt::Debug for AtomicSnapshotManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtomicSnapshotManager").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AtomicSnapshotManager {
    /// A manager without a snapshot.
    pub fn new(parts: SnapshotParts, config: SnapshotManagerConfig) -> Self {
        let (noting, capturing) = (Mutex::new(()), Mutex::new(()));
        Self { parts, config, state: Arc::default(), released: Arc::default(), noting, capturing }
    }

    /// What it works with.
    pub(crate) fn parts(&self) -> &SnapshotParts {
        &self.parts
    }

    /// Loads the snapshot that an earlier process persisted: same id, same time, same hash, but without its view. A lock
    /// that it left is told and not obeyed: who held it has gone with the process.
    ///
    /// Errors: a record that is torn, foreign or fails its integrity hash; one that a newer program wrote, of whatever.
    pub fn initialize(&self) -> Result<(), PruneError> {
        let taken = self.take_up();
        if taken.as_ref().err().is_none_or(PruneError::is_damaged_artefact) {
            self.tell_left(); // otherwise it is asked again, and told then
        }
        taken
    }

    /// Tells of a lock that an earlier process left, and what of such a process cannot be known.
    pub(crate) fn tell_left(&self) {
        let (left, untold) = {
            let mut state = self.state.lock();
            (state.left.clone(), std::mem::take(&mut state.untold))
        };
        for (what, error) in untold {
            tracing::warn!(%error, "{what}");
        }
        if let Some(left) = left {
            tracing::warn!("a lock was left: {left}; it is not obeyed");
        }
    }

    /// The snapshot on record; one that is unusable is named by where it lies.
    ///
    /// Errors: a failed read, a record that cannot be decoded or fails its integrity hash.
    pub(super) fn saved(&self) -> Result<Option<AtomicSnapshot>, PruneError> {
        let (records, key) = (&self.parts.records, RecordKey::Snapshot);
        let Some(bytes) = records.load(key)? else { return Ok(None) };
        AtomicSnapshot::decode(&records.place(key).to_string(), &bytes).map(Some)
    }

    /// [`Self::initialize`] of a process that makes several managers, one after another, and tells once.
    pub(crate) fn take_up(&self) -> Result<(), PruneError> {
        if !self.config.enable_persistence {
            return Ok(());
        }
        records::refuse_newer(&*self.parts.records)?;
        let (slot, unknown) = LockSlot::load_past_damage(&*self.parts.records)?;
        let (failures, uncounted) = SnapshotFailures::load_or_begin(&*self.parts.records);
        {
            let mut state = self.state.lock();
            let unknown = unknown.map(|error| ("who held the snapshot last is not known", error));
            let uncounted = uncounted.map(|error| ("the failures of earlier snapshots are counted anew", error));
            state.untold = unknown.into_iter().chain(uncounted).collect();
            (state.left, state.last_id) = (slot.held, slot.last_snapshot);
            state.failures = failures;
        }
        let Some(snapshot) = self.saved()? else {
            return Ok(());
        };
        let mut state = self.state.lock();
        state.last_id = state.last_id.max(snapshot.snapshot_id);
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
        let _capturing = self.capturing.lock(); // until it is the current one (S37)
        self.end_expired()?; // its phase must not come back and hold a snapshot that it never saw
        let id = {
            let mut state = self.state.lock();
            self.refuse_if_alive(&state)?;
            state.next_id()
        };
        let held = self.capture(phase, id).inspect_err(|_| self.count_failure())?;
        self.forget_failures();
        let snapshot = Arc::clone(&held.snapshot);
        let mut state = self.state.lock();
        if let Err(locked) = self.refuse_if_alive(&state) {
            let found = state.held.as_ref().map(|held| Arc::clone(&held.snapshot));
            drop(state);
            found.iter().try_for_each(|found| self.stage(found))?; // what the phase that took the lock meanwhile works on
            return Err(locked);
        }
        state.held = Some(held);
        Ok(snapshot)
    }

    /// Gives up a record of a snapshot that cannot be read: the next snapshot takes its place, under an id that none had.
    /// A cycle that was interrupted on it cannot go on.
    ///
    /// Errors: nothing tells which ids were given out, so none can be given out that none had; a failed write.
    pub(crate) fn forget_damaged(&self) -> Result<(), PruneError> {
        let mut state = self.state.lock();
        if state.last_id == 0 {
            let why = "it cannot be read, and no lock tells which ids were given out".to_owned();
            return Err(StoreError::Record { name: "snapshot".to_owned(), why }.into());
        }
        state.held = None;
        drop(state);
        self.parts.records.remove(RecordKey::Snapshot)
    }

    /// Takes the snapshot, and keeps it where snapshots are kept.
    fn capture(&self, phase: PrunePhase, id: u64) -> Result<Held, PruneError> {
        let held = self.fix(phase, id)?;
        self.stage(&held.snapshot)?;
        Ok(held)
    }

    /// Durable with the phase record that names it, before anything is deleted under it.
    fn stage(&self, snapshot: &AtomicSnapshot) -> Result<(), PruneError> {
        if !self.config.enable_persistence {
            return Ok(());
        }
        self.parts.records.stage(RecordKey::Snapshot, &snapshot.encode()?)
    }

    /// Barrier, then view, then everything else out of that view (I5, I1).
    pub(super) fn fix(&self, phase: PrunePhase, id: u64) -> Result<Held, PruneError> {
        let parts = &self.parts;
        let floor = parts.store.floor(); // BEFORE the view
        let capture = parts.store.capture()?;
        let retention = self.retention_of(&*capture.view, floor)?;
        let (snapshot, head, roots) = self.outline_or_read(&*capture.view, retention)?;
        self.refuse_less_than_readable(&*capture.view, floor, Order::new(snapshot.first_order))?;
        let snapshot = AtomicSnapshot {
            snapshot,
            snapshot_id: id,
            created_at: parts.clock.unix_ms(),
            created_phase: phase,
            chain_metadata: self.metadata(&head),
            integrity_hash: H256::zero(),
        }
        .sealed()?;
        Ok(Held {
            snapshot: Arc::new(snapshot),
            roots,
            view: Some(capture.view),
            barrier: Some(capture.barrier),
            renewed: parts.clock.monotonic(),
        })
    }

    /// What to retain of a view. Asked AFTER it was taken: whatever pins held below its floor are still held, or hold nothing.
    ///
    /// A floor that somebody has moved since `before` counts as moved later: a commit may stand on an order that it has left (I3).
    fn retention_of(&self, view: &dyn View, before: Option<Order>) -> Result<Retention, PruneError> {
        let retention = retained(&*self.parts.policy, &self.parts.store)?;
        match retention.window {
            Window::From(first) if self.parts.store.floor() != before => {
                let window = Window::From(first.min(self.parts.chain.floor(view)?));
                Ok(Retention { window, ..retention })
            }
            Window::From(_) | Window::Last(_) => Ok(retention),
        }
    }

    /// Whatever is readable may be pinned or built on, so a policy that retains less of it is wrong (S41). The floor of the view is
    /// at or above the one before it, if there was one: elsewhere nobody builds.
    fn refuse_less_than_readable(
        &self,
        view: &dyn View,
        before: Option<Order>,
        first: Order,
    ) -> Result<(), PruneError> {
        if before.is_none_or(|before| first <= before) {
            return Ok(());
        }
        let floor = self.parts.chain.floor(view)?;
        if first <= floor {
            return Ok(());
        }
        let told = format!("the policy retains orders from {first} on, and those from {floor} on are readable");
        Err(PruneError::Invariant(told))
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

    /// Replaces the snapshot under the guard by a new one without a gap: the old view and barrier are held until the
    /// new ones are, and the lock is never let go (S40). The old guard is consumed and its permit is dead, so neither
    /// can be used by mistake.
    ///
    /// Errors: a lost lock, or whatever [`AtomicSnapshotManager::create_snapshot`] fails with.
    pub fn refresh<'a>(&'a self, mut guard: SnapshotGuard<'a>) -> Result<SnapshotGuard<'a>, PruneError> {
        let _capturing = self.capturing.lock();
        guard.renew()?;
        self.parts.policy.advance()?;
        let id = self.state.lock().next_id();
        let held = self.fix(guard.phase, id).inspect_err(|_| self.count_failure())?;
        let permit = self.exchange(&guard)?;
        let mut state = self.state.lock();
        let is_ours = state.lock.as_ref().is_some_and(|lock| lock.permit.generation() == guard.permit.generation());
        if !is_ours || !permit.is_current() {
            drop(state);
            self.parts.store.revoke(&permit);
            return Err(StoreError::PermitRevoked.into()); // it expired meanwhile, and another phase has it
        }
        (guard.snapshot, guard.permit) = (Arc::clone(&held.snapshot), permit);
        state.held = Some(held);
        state.lock = Some(self.lock(guard.phase, (guard.snapshot.snapshot_id, &guard.permit)));
        drop(state);
        self.stage(&guard.snapshot)?;
        self.note_lock()?;
        self.forget_failures();
        Ok(guard)
    }

    /// A new permit for the lock of the guard, whose old one is dead. This waits for a commit, so the state is not locked
    /// meanwhile, and the lock is held all the same.
    fn exchange(&self, guard: &SnapshotGuard<'_>) -> Result<Permit, PruneError> {
        let mut state = self.state.lock();
        match state.lock.as_mut().filter(|_| guard.permit.is_current()) {
            Some(lock) => lock.is_exchanging = true,
            None => return Err(StoreError::PermitRevoked.into()),
        }
        drop(state);
        Ok(self.parts.store.issue_permit())
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
            lock: state.lock.as_ref().map(|lock| self.shown(lock)),
            left: state.left.clone(),
            failures: state.failures,
            unnoted: state.unnoted,
            holds_view: state.held.as_ref().is_some_and(|held| held.view.is_some()),
        }
    }
}
