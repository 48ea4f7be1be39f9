//! `Store`: a backend with the gate, the barrier, the fence and the sweep slot around it.
//!
//! Two kinds are opened through the same type. A store of our own has a chain: it commits, has a head and a floor, and
//! readers pin orders. A foreign store (a Rooch database at rest) has none of these: it is only captured and swept.

mod active;
mod counts;
mod cursor;
mod expire;
mod floor;
mod group;
mod index;
mod permits;
mod pin;
mod rollback;
mod room;
mod settle;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use state_tree::{NodeHash, Order};

use crate::{
    backend::{Backend, Batch, Durability, View},
    barrier::{Barrier, BarrierHold},
    chain::HeadRecord,
    counting::{Counting, Plan},
    error::StoreError,
    filter::{LiveSet, Pace, Sweep},
    gate::{ChainState, Commit, Committed, Writer},
    journal,
    lost::CountsLost,
    permit::{Fence, Permit},
    point::{Point, reached},
    queue::Queue,
    reserve::{Reserve, Room},
    rows,
    stay::Gate,
};
pub use active::ActiveSweep;
pub use counts::Waits;
pub(crate) use cursor::{ExpiryRecord, LayerRecord, layers as cursor_layers};
pub use expire::{Backlog, Expired, Held, Idle, Judging};
pub use floor::FloorMove;
pub use group::{Slice, SliceLimit};
pub use index::{BadCursor, BadRow, Indexed, RowFault};
pub use pin::Pin;
pub use rollback::RolledBack;
pub use settle::{Corrected, Correction, Traced};

/// How a store behaves; safety is not among the choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Under what an acknowledged commit survives.
    pub durability: Durability,
    /// The most hashes the barrier remembers before it gives a cycle up.
    pub barrier_limit: usize,
    /// Whether commits are journalled and counted. Without, nothing is deleted between cycles, and an interrupted cycle
    /// begins anew.
    pub journal: bool,
    /// The most nodes of unsettled journal entries that are remembered, at about 60 bytes each; what comes after them is
    /// left to a major cycle. Zero where nobody sweeps between cycles: whoever does later reads the journal.
    pub pending_limit: usize,
    /// The most marks of shared nodes that are held in memory, at about 40 bytes each; where there are more, commits and
    /// slices read those that they ask for.
    pub marks_limit: usize,
    /// How many marks there must be for each that a commit would make before somebody has looked whether it is needed: with fewer
    /// it looks itself. A crash leaves such marks, and what is shared spreads; where much is shared, cycles come anyway.
    pub shared_per_presumed: u64,
}

impl StoreConfig {
    /// Commits that are journalled, with room for ten million nodes created during a cycle and as many that wait to go, and
    /// for a million marks.
    pub const fn new(durability: Durability) -> Self {
        let (barrier_limit, pending_limit) = (10_000_000, 10_000_000);
        let (marks_limit, shared_per_presumed) = (1 << 20, 16);
        Self { durability, barrier_limit, journal: true, pending_limit, marks_limit, shared_per_presumed }
    }
}

/// One instant of the store with the barrier opened before it (I1, I5).
pub struct Capture {
    /// The instant.
    pub view: Arc<dyn View>,
    /// Records what is created from before the instant on.
    pub barrier: BarrierHold,
}

/// Candidates for deletion, already judged against a mark.
#[derive(Debug)]
pub struct Condemned<'a> {
    /// Nodes the mark does not hold.
    pub hashes: &'a [NodeHash],
    /// The cursor that goes with them, in the same batch (I9); empty where records live outside the store.
    pub cursor: Batch,
}

/// What a delete batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Nodes deleted.
    pub nodes: u64,
    /// Nodes kept because they were created since the view.
    pub spared: u64,
}

/// Commits, captures and deletes on one backend.
pub struct Store {
    writer: Writer,
    /// The one order of node puts and deletes, held across the write, with what commits are counted by.
    gate: Gate,
    /// Nothing for a foreign store. Taken after the gate, never held across a write.
    chain: Arc<RwLock<Option<ChainState>>>,
    barrier: Arc<Barrier>,
    fence: Arc<Fence>,
    seen: Seen,
    /// Set once, by whoever opened the store.
    reserve: OnceLock<Reserve>,
}

/// What of the things that the gate guards is looked at without waiting for it; follows them.
#[derive(Debug, Default)]
struct Seen {
    /// Whether entries may expire as far as counts go.
    counts_settled: AtomicBool,
    /// As [`Counting::lost`].
    lost: Mutex<Option<CountsLost>>,
    /// Whether the journal is in the index.
    indexed: AtomicBool,
    /// As [`Counting::settled`].
    settled: AtomicU64,
    /// As [`Counting::told`].
    stored: Arc<AtomicU64>,
    /// Whether a commit has told what is not in the index yet. It may be there already.
    queued: AtomicBool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("durability", &self.writer.durability).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store of our own: reads head, floor and retained roots.
    ///
    /// Errors: records that are unusable, an engine that another store has already.
    pub fn open(backend: Arc<dyn Backend>, config: StoreConfig) -> Result<Self, StoreError> {
        let store = Self::build(backend, config)?; // claims the engine BEFORE its state is read
        let view = store.view()?;
        let chain = ChainState::load(&*view)?;
        rows::refuse_newer(&*view, chain.head_order())?; // BEFORE any write (C17)
        let mut gate = store.gate.lock();
        let (counting, lost) = Counting::load(&*view, config)?;
        *gate = Counting { told: Arc::clone(&store.seen.stored), ..counting };
        match lost.map_or(Ok(()), |lost| store.end_counts(&mut gate, lost)) {
            Ok(()) | Err(StoreError::ReadOnly) => {} // where nothing is written, nothing is counted either
            Err(error) => return Err(error),
        }
        store.note(&gate);
        drop(gate);
        *store.chain.write() = Some(chain);
        Ok(store)
    }

    /// Opens somebody else's store for capture and sweep; it has no chain of ours, so it refuses commits.
    ///
    /// Errors: an engine that another store has already.
    pub fn foreign(backend: Arc<dyn Backend>, config: StoreConfig) -> Result<Self, StoreError> {
        Self::build(backend, config)
    }

    /// One engine, one gate, one barrier: every commit is recorded where every delete asks (I5, S25).
    fn build(backend: Arc<dyn Backend>, config: StoreConfig) -> Result<Self, StoreError> {
        if !backend.claim() {
            return Err(StoreError::Invariant("another store works on this engine already".to_owned()));
        }
        Ok(Self {
            writer: Writer { backend, durability: config.durability },
            gate: Gate::of(Counting::new(config)),
            chain: Arc::default(),
            barrier: Barrier::new(config.barrier_limit),
            fence: Arc::default(),
            seen: Seen::default(),
            reserve: OnceLock::new(),
        })
    }

    /// The engine, for views, files and space.
    pub fn backend(&self) -> &dyn Backend {
        &*self.writer.backend
    }

    /// One instant for readers that need no barrier.
    pub fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        self.backend().view()
    }

    /// Commits one change and returns its order.
    ///
    /// Errors: a base that is not retained, a head that moved, a failed write. After an error nothing is visible.
    pub fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let mut gate = self.gate.lock();
        let (delta, timestamp_ms) = (&Arc::clone(&commit.delta), commit.timestamp_ms);
        let (planned, head) = self.look(|chain| (chain.plan(commit), chain.head_order()))?;
        let mut planned = planned?;
        let (order, base, commit) = (planned.committed.order, planned.base, planned.head.commits - 1);
        let recorded = self.barrier.record(delta.created.keys().copied(), &mut gate.waste); // BEFORE the write (I5)
        let plan = Plan { order, base, head, commit, timestamp_ms, delta, recorded };
        let mut booked = gate.book(&self.view()?, &plan)?;
        planned.batch.append(std::mem::take(&mut booked.rows));
        reached(Point::CommitRecorded);
        self.write_or_make_room(&planned.batch, self.writer.durability)?; // nodes, journal and root together (I9)
        reached(Point::CommitWritten);
        gate.keep(&plan, booked);
        self.note(&gate);
        self.change(|chain| chain.apply(&planned))?;
        drop(gate); // a capture that waits goes before the next commit of a busy committer
        Ok(planned.committed)
    }

    /// Call after each change of what the gate guards.
    fn note(&self, counting: &Counting) {
        let Seen { counts_settled, lost, indexed, settled, stored, queued } = &self.seen;
        *lost.lock() = counting.lost;
        counts_settled.store(counting.mode.is_settled(), Ordering::Release);
        indexed.store(counting.pending.is_some(), Ordering::Release);
        settled.store(counting.settled, Ordering::Release);
        if !counting.is_unjudged() {
            stored.store(counting.stored.nodes, Ordering::Release);
        }
        let is_waiting = counting.pending.as_ref().is_some_and(Queue::is_waiting);
        queued.store(is_waiting || counting.is_unjudged(), Ordering::Release);
    }

    /// Nodes that commits put and that were not stored, at most, less those that the sweep of the journal deleted: between
    /// two cycles it grows by as much as the store does, or more. What cycles delete is not taken off. One node is counted too
    /// few where one comes back that a cycle took and whose mark it left: after a start, marks count as new. As of the newest
    /// commit that is judged ([`Store::catch_up`]). Does not wait for a commit.
    pub fn nodes_stored(&self) -> u64 {
        self.seen.stored.load(Ordering::Acquire)
    }

    /// Whether commits are counted exactly and a major cycle has finished under that: without it nothing is deleted between
    /// cycles, and one is owed. Does not wait for a commit.
    pub fn counts_are_settled(&self) -> bool {
        self.seen.counts_settled.load(Ordering::Acquire)
    }

    /// Why commits are not counted exactly any more, if they were: nothing is deleted between cycles, and one is owed. Does
    /// not wait for a commit.
    pub fn counts_lost(&self) -> Option<CountsLost> {
        *self.seen.lost.lock()
    }

    fn look<T>(&self, look: impl FnOnce(&ChainState) -> T) -> Result<T, StoreError> {
        self.chain.read().as_ref().map(look).ok_or(StoreError::ReadOnly)
    }

    fn change<T>(&self, change: impl FnOnce(&mut ChainState) -> T) -> Result<T, StoreError> {
        self.chain.write().as_mut().map(change).ok_or(StoreError::ReadOnly)
    }

    /// The newest committed state with its counts, or nothing before the first commit. Does not wait for a commit.
    pub fn head(&self) -> Option<HeadRecord> {
        self.chain.read().as_ref().and_then(ChainState::head)
    }

    /// The oldest readable order, or nothing for a foreign store.
    pub fn floor(&self) -> Option<Order> {
        self.chain.read().as_ref().map(ChainState::floor)
    }

    /// Opens the barrier, then fixes an instant, inside the commit gate: no commit slips between them (S24).
    pub fn capture(&self) -> Result<Capture, StoreError> {
        let mut gate = self.gate.lock();
        let barrier = self.barrier.open(&mut gate.waste);
        let view = self.backend().view()?;
        Ok(Capture { view, barrier })
    }

    /// Reopens the barrier of a cycle that a restart interrupted: everything created after `since` comes back from
    /// the journal (S20). Call before the cycle deletes anything.
    ///
    /// Errors: [`StoreError::JournalGap`] when the journal does not cover the orders since; abandon the cycle then.
    pub fn reopen_barrier(&self, since: Order) -> Result<BarrierHold, StoreError> {
        if self.chain.read().is_none() {
            return Ok(self.barrier.open(&mut self.gate.lock().waste)); // a foreign store takes no commits: nothing was created since
        }
        let (hold, view, head) = {
            let mut gate = self.caught_up();
            gate.forget_lately(); // of a branch that was left since, the sweep takes what only memory would know
            let head = self.look(ChainState::head_order)?.ok_or(StoreError::JournalGap(since))?;
            (self.barrier.open(&mut gate.waste), self.backend().view()?, head)
        };
        if head < since {
            return Err(StoreError::JournalGap(since));
        }
        // Outside the gate: what is committed from now on records itself, and nothing is deleted before this returns.
        journal::replay(&*view, since, head, &mut |_, row| {
            self.barrier.record_fingerprints(row.created.into_iter());
        })?;
        Ok(hold)
    }

    /// Deletes condemned nodes except those created since the view, with the cursor in the same batch.
    ///
    /// Errors: a revoked permit, a barrier of another store, a failed write. After an error nothing was deleted.
    pub fn delete(
        &self,
        permit: &Permit,
        barrier: &BarrierHold,
        condemned: Condemned<'_>,
    ) -> Result<Deleted, StoreError> {
        self.check_owner(permit, barrier)?;
        let gate = self.gate.lock(); // same critical section as commit
        self.admit(permit)?; // I10
        // A cursor in the same batch is lost with the deletes, if at all; one that is kept elsewhere comes after them, durably.
        let durability = if condemned.cursor.is_empty() { Durability::Synced } else { Durability::Logged };
        let mut batch = condemned.cursor;
        let mut deleted = Deleted { nodes: 0, spared: 0 };
        for hash in condemned.hashes {
            if barrier.protects(hash) {
                deleted.spared += 1; // re-created since the view (S21)
            } else {
                batch.delete_node(*hash);
                deleted.nodes += 1;
            }
        }
        reached(Point::BatchJudged);
        self.backend().write(&batch, durability)?; // deletes and cursor together (I9)
        reached(Point::BatchWritten);
        drop(gate); // a waiting commit goes before the next delete batch (I12)
        Ok(deleted)
    }

    /// Activates the sweep filter until the returned value is dropped. What is in memory is written to files first, for a
    /// filter is never asked about a memtable (L16); what comes later is in the barrier.
    ///
    /// Errors: no filter installed (O21), a revoked permit, a permit or barrier of another store, a failed flush.
    pub fn sweep(
        &self,
        permit: Permit,
        barrier: BarrierHold,
        live: Arc<dyn LiveSet>,
        pace: Option<Arc<dyn Pace>>,
    ) -> Result<ActiveSweep<'_>, StoreError> {
        self.check_owner(&permit, &barrier)?;
        let slot = self.backend().sweep_slot();
        let slot = slot.ok_or_else(|| StoreError::Invariant("no sweep filter is installed".to_owned()))?;
        if !permit.is_current() {
            return Err(StoreError::PermitRevoked);
        }
        self.backend().flush()?; // BEFORE a compaction may delete by it: the floor that lets nodes go is durable (S27)
        let sweep = Arc::new(Sweep::new(permit, barrier, live, pace));
        slot.activate(Arc::clone(&sweep));
        Ok(ActiveSweep { store: self, slot, sweep })
    }

    fn check_owner(&self, permit: &Permit, barrier: &BarrierHold) -> Result<(), StoreError> {
        if permit.belongs_to(&self.fence) && barrier.belongs_to(&self.barrier) {
            Ok(())
        } else {
            Err(StoreError::Invariant("permit or barrier of another store".to_owned()))
        }
    }

    /// Moves the oldest readable order, durably, and drops the root records below it; nodes may go only afterwards
    /// (S27, S41). `rows` are further rows of the chain in the same batch. Lowering is refused.
    pub fn raise_floor(&self, to: Order, rows: Batch) -> Result<(), StoreError> {
        let (keep, let_go) = (BTreeSet::new(), BTreeSet::new());
        self.move_floor(FloorMove { to, keep, let_go, rows: vec![rows] }, Durability::Synced)
    }

    /// Writes rows of the pruner; nodes cannot be named by them. Where there is no room the reserve goes, and it is tried once more.
    pub fn write_rows(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let is_kept = self.reserve().is_some_and(|reserve| reserve.room() == Room::Kept);
        match self.write_or_make_room(batch, durability) {
            Err(StoreError::DiskFull { .. }) if is_kept => self.backend().write(batch, durability),
            written => written,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.leave_judged();
        self.revoke_all(); // BEFORE another store may claim the backend: its commits are in no barrier of this one (I10)
        self.backend().unclaim();
    }
}
