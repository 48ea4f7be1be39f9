//! What is known of the counts of commits: whether they are settled, what waits, how much is marked.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use state_tree::{NodeHash, Order};

use super::Store;
use crate::{
    backend::{Batch, Durability},
    counting::{Counting, CountsRecord, Mode},
    error::StoreError,
    pending::{Lag, Pending, PendingCounts},
    permit::Permit,
    point::{Point, reached},
    queue::Queue,
};

/// What takes a node that no retained state has, as far as commits were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// They are not counted exactly, or the journal was not read.
    Unknown,
    /// A major cycle: it is marked as shared.
    Shared,
    /// No entry names it by itself: it is below a tree that was dropped, and goes with it, or waits for a major cycle.
    Unlisted,
    /// The sweep of the journal: it left its last place in this order. Beside it, what waits at or below the floor.
    LostIn(Order, Lag),
}

/// Nodes that are taken into the index in one stay under the gate, about.
const INDEXED_AT_ONCE: usize = 4096;
/// Stays that one catching up takes at most.
const STAYS: u32 = 64;

impl Store {
    /// What takes a node if no retained state has it. May wait for a commit.
    ///
    /// Errors: a failed read of its mark.
    pub fn waits(&self, hash: &NodeHash) -> Result<Waits, StoreError> {
        let (floor, mut gate) = (self.look(|chain| chain.floor_time())?, self.gate.lock());
        let Counting { mode, pending: Some(queue), marks, .. } = &mut *gate else { return Ok(Waits::Unknown) };
        if !mode.is_settled() {
            return Ok(Waits::Unknown);
        }
        if marks.ask(&*self.view()?, || [hash.fingerprint()].into())?.contains(hash) {
            return Ok(Waits::Shared);
        }
        let pending = queue.index();
        let lag = floor.map_or_else(Lag::default, |(floor, timestamp_ms)| pending.lag(floor, timestamp_ms));
        Ok(pending.order(hash).map_or(Waits::Unlisted, |order| Waits::LostIn(order, lag)))
    }

    /// A cycle has finished that could not correct marks: a sweep that goes on after a restart does not know which nodes its
    /// mark found shared. Where counts were exact before, every node that needs a mark has one; there are only more, until the
    /// next cycle. Where they were not, nothing changes, and a cycle stays owed.
    ///
    /// Errors: a revoked permit, a failed write.
    pub fn settle_counts(&self, permit: &Permit, cycle: u64) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        let Mode::Exact(record) = gate.mode else { return Ok(()) };
        self.settle_by(&mut gate, CountsRecord { cycle: Some(cycle), ..record })
    }

    /// From here on counts are exact and entries may expire, as the record says.
    pub(super) fn settle_by(&self, gate: &mut Counting, record: CountsRecord) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        record.put(&mut batch)?;
        self.backend().write(&batch, Durability::Logged)?;
        reached(Point::CountsConfirmed);
        if gate.mode == Mode::Blind {
            gate.pending = Some(Queue::of(Pending::new(gate.limit))); // what was counted blindly names nothing
            gate.settled += 1; // and what was named before it may not be trusted
        }
        (gate.mode, gate.lost) = (Mode::Exact(record), None);
        self.note(gate);
        Ok(())
    }

    /// Takes what commits created and lost into the index, in small stays under the gate (I12): whoever has time spares the next
    /// commit that. Ends also while commits go on: what is left is taken in by whoever asks the index.
    pub fn catch_up(&self) {
        for _ in 0..STAYS {
            let mut gate = self.gate.lock();
            let more = gate.pending.as_mut().is_some_and(|queue| queue.take_in(INDEXED_AT_ONCE));
            self.seen.queued.store(more, Ordering::Release);
            MutexGuard::unlock_fair(gate);
            if !more {
                return;
            }
        }
    }

    /// Whether the index may lack what commits created and lost. Does not wait for a commit.
    pub fn is_behind(&self) -> bool {
        self.seen.queued.load(Ordering::Acquire)
    }

    /// How far the journal is ahead of the sweep of it; nothing while counts are not exact or the index is not read.
    pub fn lag(&self) -> Option<Lag> {
        let (floor, timestamp_ms) = self.chain.read().as_ref()?.floor_time()?;
        self.lag_at(floor, timestamp_ms)
    }

    /// The same as if the floor were at a retained order.
    pub fn lag_to(&self, order: Order) -> Option<Lag> {
        let timestamp_ms = self.chain.read().as_ref()?.time(order)?;
        self.lag_at(order, timestamp_ms)
    }

    fn lag_at(&self, cutoff: Order, timestamp_ms: u64) -> Option<Lag> {
        self.catch_up();
        self.gate.lock().pending.as_mut().map(|queue| queue.index().lag(cutoff, timestamp_ms))
    }

    /// Nodes marked as shared; nothing while they are too many to be held in memory.
    pub fn marks(&self) -> Option<u64> {
        self.gate.lock().marks.count()
    }

    /// What the index holds and was told; nothing while there is none.
    pub fn pending(&self) -> Option<PendingCounts> {
        self.gate.lock().pending.as_mut().map(|queue| queue.index().counts())
    }
}
