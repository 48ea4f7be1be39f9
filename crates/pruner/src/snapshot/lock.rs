//! The lock of a phase on the current snapshot: who holds it, since when and for what, and how another one gets it.
//!
//! Decided and taken in one scope, by monotonic time; an expired lock is taken over only after its permit is dead (S39).
//! Whoever waits, waits on a condition that the release, the end of the holder's time and a stop of the waiter each end:
//! nothing polls. The holder is written down where records survive; a record that a dead process left is told, and not
//! obeyed, because the store is open in one process at a time.

use std::{sync::Arc, time::Duration};

use state_store::{Permit, RootAt, record};
use state_tree::Order;

use super::{
    guard::SnapshotGuard,
    holder::{Blocked, LockOwner, LockRecord, LockSlot, SnapshotLock},
    manager::{AtomicSnapshotManager, Held, State},
    types::AtomicSnapshot,
};
use crate::{clock::millis, control::Control, error::PruneError, metrics, phase::PrunePhase, records::RecordKey};

/// A lock that is held.
pub(super) struct Lock {
    owner: LockOwner,
    snapshot_id: u64,
    pub(super) phase: PrunePhase,
    pub(super) permit: Permit,
    taken: Duration,
    taken_unix_ms: u64,
    /// When its phase said last that it makes progress.
    pub(super) renewed: Duration,
    /// Its permit is being exchanged for a new one, which waits for a commit: it is dead, and the lock is held (S40).
    pub(super) is_exchanging: bool,
}

impl Lock {
    /// Whether its phase may delete, or will in a moment.
    pub(super) fn is_alive(&self) -> bool {
        self.is_exchanging || self.permit.is_current()
    }
}

/// How a wait for a lock ended.
enum Waited {
    /// Something has changed: look again.
    Changed,
    /// The time is over.
    TimedOut,
}

impl AtomicSnapshotManager {
    /// Lets the phase work on the current snapshot. Decided and taken in one scope (S39): an expired lock is taken
    /// over, and its permit is dead before the new one exists.
    ///
    /// Errors: [`Blocked`] while another phase holds it; a snapshot that is too old, fails its integrity hash, or whose
    /// head is not in the history of the chain any more.
    pub fn lock_snapshot(&self, phase: PrunePhase) -> Result<SnapshotGuard<'_>, PruneError> {
        self.telling_refused(phase, self.take(phase))
    }

    fn take(&self, phase: PrunePhase) -> Result<SnapshotGuard<'_>, PruneError> {
        self.end_expired()?;
        loop {
            let (checked, renewed) = self.current()?;
            if self.config.enable_validation {
                self.validate(&checked, renewed)?;
            }
            let mut state = self.state.lock();
            self.refuse_if_locked(&state)?;
            let same = |held: &&Held| held.snapshot.snapshot_id == checked.snapshot_id;
            let Some(held) = state.held.as_ref().filter(same) else { continue }; // another one took its place meanwhile
            let snapshot = Arc::clone(&held.snapshot);
            let permit = match self.parts.store.try_issue_permit() {
                Ok(permit) => permit,
                Err(occupied) => {
                    drop(state); // a probe has it, or a lock that has expired since: ending that waits for a commit
                    self.parts.store.vacate(occupied);
                    continue;
                }
            };
            let before = state.lock.replace(self.lock(phase, (snapshot.snapshot_id, &permit)));
            drop(state);
            self.tell_taken(phase, snapshot.snapshot_id, before);
            let guard = SnapshotGuard::new(self, snapshot, phase, permit);
            self.note_lock()?; // a failure drops the guard, which lets the lock go
            return Ok(guard);
        }
    }

    /// The same, and waits for whoever holds it, at most so long.
    ///
    /// Errors: [`PruneError::LockTimeout`] with the holder; the end of the control, at once; those of
    /// [`AtomicSnapshotManager::lock_snapshot`].
    pub fn lock_snapshot_within(
        &self,
        phase: PrunePhase,
        timeout: Duration,
        control: &Control,
    ) -> Result<SnapshotGuard<'_>, PruneError> {
        let begun = self.parts.clock.monotonic();
        let (state, released) = (Arc::clone(&self.state), Arc::clone(&self.released));
        control.on_end(Box::new(move || {
            drop(state.lock()); // whoever looked before the end waits by now
            released.notify_all();
        }));
        let locked = self.lock_when_free(phase, (begun, timeout), control);
        control.forget_end();
        let waited = self.parts.clock.monotonic().saturating_sub(begun);
        metrics::lock_waited(phase, waited);
        self.telling_refused(phase, locked)
    }

    /// The lock of a phase of a cycle, which waits as long as the configuration says.
    pub(crate) fn lock_in_cycle(&self, phase: PrunePhase, control: &Control) -> Result<SnapshotGuard<'_>, PruneError> {
        self.lock_snapshot_within(phase, Duration::from_millis(self.config.lock_wait_ms), control)
    }

    fn lock_when_free(
        &self,
        phase: PrunePhase,
        (begun, timeout): (Duration, Duration),
        control: &Control,
    ) -> Result<SnapshotGuard<'_>, PruneError> {
        let (mut is_over, mut holder) = (timeout.is_zero(), None);
        loop {
            let lock = match self.take(phase) {
                Err(PruneError::Blocked(Blocked::Held(lock))) => lock,
                Ok(guard) => {
                    self.tell_waited(phase, holder, begun);
                    return Ok(guard);
                }
                other => return other,
            };
            holder = Some(lock.locked_by_phase);
            let waited = self.parts.clock.monotonic().saturating_sub(begun);
            if is_over || waited >= timeout {
                let waited_ms = millis(waited.max(timeout));
                return Err(PruneError::LockTimeout { waited_ms, blocked: Blocked::Held(lock) });
            }
            let left = timeout.saturating_sub(waited);
            is_over = match self.await_release(&lock, left, control)? {
                Waited::TimedOut => true,
                Waited::Changed => false,
            };
        }
    }

    /// Waits until this lock is let go or has expired, or the time is over.
    fn await_release(&self, lock: &SnapshotLock, left: Duration, control: &Control) -> Result<Waited, PruneError> {
        let expires = Duration::from_millis(lock.timeout_ms.saturating_sub(lock.unrenewed_ms).saturating_add(1));
        let mut state = self.state.lock();
        if let Some(end) = control.ended() {
            return Err(end);
        }
        let is_same = |held: &Lock| held.permit.generation() == lock.generation;
        if !state.lock.as_ref().is_some_and(is_same) {
            return Ok(Waited::Changed);
        }
        let timed_out = self.released.wait_for(&mut state, left.min(expires)).timed_out();
        drop(state);
        match control.ended() {
            Some(end) => Err(end),
            None if timed_out && left <= expires => Ok(Waited::TimedOut),
            None => Ok(Waited::Changed),
        }
    }

    /// The current snapshot, and when it was renewed last.
    fn current(&self) -> Result<(Arc<AtomicSnapshot>, Duration), PruneError> {
        let state = self.state.lock();
        let held = state.held.as_ref().ok_or(PruneError::Blocked(Blocked::NoSnapshot))?;
        Ok((Arc::clone(&held.snapshot), held.renewed))
    }

    fn refuse_if_locked(&self, state: &State) -> Result<(), PruneError> {
        self.refuse_if(state, |_, shown| shown.is_valid)
    }

    /// Also while one has expired that is not ended yet.
    pub(super) fn refuse_if_alive(&self, state: &State) -> Result<(), PruneError> {
        self.refuse_if(state, |lock, _| lock.is_alive())
    }

    fn refuse_if(&self, state: &State, stands: fn(&Lock, &SnapshotLock) -> bool) -> Result<(), PruneError> {
        let Some(lock) = &state.lock else { return Ok(()) };
        let shown = self.shown(lock);
        if stands(lock, &shown) {
            return Err(PruneError::Blocked(Blocked::Held(shown)));
        }
        Ok(())
    }

    pub(super) fn shown(&self, lock: &Lock) -> SnapshotLock {
        let now = self.parts.clock.monotonic();
        let unrenewed_ms = millis(now.saturating_sub(lock.renewed));
        SnapshotLock {
            snapshot_id: lock.snapshot_id,
            locked_by_phase: lock.phase,
            owner: lock.owner.clone(),
            generation: lock.permit.generation(),
            locked_at: lock.taken_unix_ms,
            held_for_ms: millis(now.saturating_sub(lock.taken)),
            unrenewed_ms,
            timeout_ms: self.config.lock_timeout_ms,
            is_valid: unrenewed_ms <= self.config.lock_timeout_ms && lock.is_alive(),
        }
    }

    pub(super) fn lock(&self, phase: PrunePhase, (snapshot_id, permit): (u64, &Permit)) -> Lock {
        let (taken, taken_unix_ms) = (self.parts.clock.monotonic(), self.parts.clock.unix_ms());
        Lock {
            owner: LockOwner::here(),
            snapshot_id,
            phase,
            permit: permit.clone(),
            taken,
            taken_unix_ms,
            renewed: taken,
            is_exchanging: false,
        }
    }

    /// Revokes the permit of an expired lock. This waits for a commit, so it is done BEFORE the state is locked:
    /// whoever asks for the status does not wait for one.
    pub(super) fn end_expired(&self) -> Result<(), PruneError> {
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

    /// Holds a snapshot against its hash, its age, and the history that the chain has now. Without the state locked.
    fn validate(&self, snapshot: &AtomicSnapshot, renewed: Duration) -> Result<(), PruneError> {
        snapshot.verify_integrity()?;
        let refuse = |why: String| Err(PruneError::BadSnapshot { id: snapshot.snapshot_id, why });
        let age = self.parts.clock.monotonic().saturating_sub(renewed);
        if age > Duration::from_millis(self.config.max_snapshot_age_ms) {
            return refuse(format!(
                "it is {} ms old, {} are allowed (max_snapshot_age): nothing made progress on it for so long, as while its \
                 cycle is paused. The next one takes its place; resume a paused cycle sooner, or raise the bound",
                age.as_millis(),
                self.config.max_snapshot_age_ms
            ));
        }
        if !self.is_ancestor(snapshot)? {
            let order = snapshot.snapshot.latest_order;
            return refuse(format!("its head, order {order}, is not in the history of the chain any more"));
        }
        Ok(())
    }

    /// Whether the chain still has the history of the snapshot: by the trail that our root records carry, or, where
    /// records carry none or the beginning of the window is pruned, by the root at its head.
    fn is_ancestor(&self, snapshot: &AtomicSnapshot) -> Result<bool, PruneError> {
        let (chain, view) = (&*self.parts.chain, self.parts.store.view()?);
        let of = &snapshot.snapshot;
        let (first, head) = (Order::new(of.first_order), Order::new(of.latest_order));
        if let Some(digest) = chain.window_digest(&*view, first, head)? {
            return Ok(digest == of.roots_digest.0);
        }
        let roots = chain.roots(&*view, head, head)?;
        let is_it = |at: &RootAt| matches!(at, RootAt::Root(root) if *root.hash().as_bytes() == of.state_root.0);
        Ok(roots.iter().any(|(order, at)| *order == head && is_it(at)))
    }

    /// Ends one lock. Its permit dies first, outside the state: that waits for a commit.
    pub(super) fn release(&self, phase: PrunePhase, permit: &Permit) {
        self.parts.store.revoke(permit);
        let mut state = self.state.lock();
        let was_held = state.lock.take_if(|lock| lock.permit.generation() == permit.generation()).is_some();
        drop(state);
        self.released.notify_all(); // BEFORE it is told: a full journal waits for the disk
        if was_held {
            self.tell_released(phase);
        }
        if let Err(error) = self.note_lock() {
            tracing::debug!(%error, "that the lock is free could not be written down; the next start tells of it");
            self.state.lock().unnoted += 1;
        }
    }

    /// Writes down who holds the lock now; it is durable with what is synced next.
    pub(super) fn note_lock(&self) -> Result<(), PruneError> {
        if !self.config.enable_persistence {
            return Ok(());
        }
        let _in_order = self.noting.lock();
        let slot = {
            let state = self.state.lock();
            let held = state.lock.as_ref().map(|lock| LockRecord {
                owner: lock.owner.clone(),
                phase: lock.phase,
                snapshot_id: lock.snapshot_id,
                generation: lock.permit.generation(),
                since: lock.taken_unix_ms,
            });
            LockSlot { held, last_snapshot: state.last_id }
        };
        self.parts.records.stage(RecordKey::Lock, &record::encode(&slot)?)
    }
}
