//! What is known of the counts of commits: whether they are settled, what waits, how much is marked.

use std::sync::atomic::Ordering;

use state_tree::{NodeHash, Order};

use super::Store;
use crate::{
    backend::{Batch, Durability},
    bundle::Bundles,
    counting::Counting,
    error::StoreError,
    many,
    pending::{Lag, PendingCounts},
    stay::Stay,
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
    /// The sweep of the journal, which has it at this order. Beside it, what waits at or below the floor.
    LostIn(Order, Lag),
}

/// Nodes that are taken into the index in one stay under the gate, about.
const INDEXED_AT_ONCE: usize = 4096;
/// Orders of the index that are counted in one stay.
const COUNTED_AT_ONCE: usize = 4096;
/// Commits that may come while somebody catches up.
const MOST_OVERTAKING: u32 = 8;
/// Marks that get rows in one stay.
const UNPACKED_AT_ONCE: usize = 128;
/// Stays until all that are left get theirs: by then what was there at first has them.
const MOST_UNPACKING: usize = 2 * Bundles::MOST / UNPACKED_AT_ONCE;

impl Store {
    /// What takes a node if no retained state has it. May wait for a commit.
    ///
    /// [`Waits::LostIn`] says more: no state from that order on has the node. Above the floor the state before that order
    /// has it. At or below the floor that is not known: what a slice finds below a dropped tree waits at the last of the
    /// orders that are worked on together.
    ///
    /// Errors: a failed read of its mark.
    pub fn waits(&self, hash: &NodeHash) -> Result<Waits, StoreError> {
        let (is_marked, lag) = (self.is_marked(hash)?, self.lag());
        let mut gate = self.caught_up();
        let Counting { mode, pending: Some(queue), .. } = &mut *gate else { return Ok(Waits::Unknown) };
        if !mode.is_settled() {
            return Ok(Waits::Unknown);
        }
        if is_marked {
            return Ok(Waits::Shared);
        }
        let lag = lag.unwrap_or(Lag { orders: 0, nodes: 0, chain_ms: 0 }); // without a floor nothing waits at it
        Ok(queue.index().order(hash).map_or(Waits::Unlisted, |order| Waits::LostIn(order, lag)))
    }

    /// Whether a node is marked as shared, by the disk where that is not in memory: it is read without the gate (I12).
    fn is_marked(&self, hash: &NodeHash) -> Result<bool, StoreError> {
        let known = self.gate.lock().marks.knows(hash.fingerprint());
        known.map_or_else(|| Ok(!many::marked_of(&*self.view()?, [hash.fingerprint()].into())?.is_empty()), Ok)
    }

    /// Judges the newest commit, takes what commits created and lost into the index, and writes a row for each mark that has none, in
    /// small stays under the gate (I12): whoever has time spares the next commit that.
    ///
    /// Errors: a failed write.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        drop(self.caught_up());
        drop(self.unpacked_by(&|rows| self.backend().write(rows, Durability::Logged))?); // the reserve is for who needs it
        Ok(())
    }

    /// Waits for the gate, with a row for each mark. Ends also while commits mark as fast as rows are written: what is left then is
    /// at most what one marked, and is written in the last stay.
    ///
    /// Errors: a failed write.
    pub(super) fn unpacked(&self) -> Result<Stay<'_>, StoreError> {
        self.unpacked_by(&|rows| self.write_or_make_room(rows, Durability::Logged))
    }

    fn unpacked_by(&self, write: &dyn Fn(&Batch) -> Result<(), StoreError>) -> Result<Stay<'_>, StoreError> {
        let mut stays = 0;
        loop {
            let mut gate = self.gate.lock();
            if gate.is_unpacked() {
                return Ok(gate);
            }
            stays += 1;
            let most = if stays > MOST_UNPACKING { usize::MAX } else { UNPACKED_AT_ONCE };
            let (rows, marks) = gate.rows(most)?;
            write(&rows)?;
            gate.unpacked(marks);
        }
    }

    /// Waits for the gate, with nothing left to take in once it is had, however much that was. Ends also while commits come as
    /// fast as they are taken in: what is left then is at most what one brought, for each takes in what came before it. Whoever
    /// asks the index takes that in, as the next commit would (S21).
    pub(super) fn caught_up(&self) -> Stay<'_> {
        let (mut newest, mut overtaken) = (None, 0);
        loop {
            let mut gate = self.gate.lock();
            let Some(queue) = gate.pending.as_mut().filter(|queue| queue.is_waiting()) else { return gate };
            overtaken += u32::from(newest.is_some() && newest != queue.newest());
            if overtaken == MOST_OVERTAKING {
                return gate;
            }
            newest = queue.newest();
            self.seen.queued.store(queue.take_in(INDEXED_AT_ONCE), Ordering::Release);
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

    /// Counts in small stays under the gate (I12): a floor may jump over a million orders at once.
    fn lag_at(&self, cutoff: Order, timestamp_ms: u64) -> Option<Lag> {
        loop {
            let mut gate = self.caught_up();
            if let Some(lag) = gate.pending.as_mut()?.index().lag(cutoff, timestamp_ms, COUNTED_AT_ONCE) {
                return Some(lag);
            }
        }
    }

    /// The fingerprints of all that is marked as this process knows it: the disk may mark more.
    ///
    /// Errors: a failed read.
    #[cfg(any(test, feature = "test-util"))]
    pub fn marked(&self) -> Result<std::collections::BTreeSet<u64>, StoreError> {
        let mut gate = self.gate.lock();
        let mut marked = many::marked_in_rows(&*self.view()?)?;
        marked.extend(gate.marks.bundles().all());
        Ok(marked)
    }

    /// Whether every commit was judged by what is stored since this was asked last. Where it was not, its nodes count as shared until
    /// a cycle.
    ///
    /// Errors: the last read that has failed.
    pub fn looked(&self) -> Result<(), StoreError> {
        self.gate.lock().failed_look.take().map_or(Ok(()), Err)
    }

    /// Judges the newest commit and writes what was found of it, if the disk does not have that: no more is marked for the next
    /// process then than for this one. Where that fails it is, and only keeps more.
    pub(super) fn leave_judged(&self) {
        let is_owed = self.gate.lock().is_owed();
        if let Err(error) = if is_owed { self.catch_up() } else { Ok(()) } {
            tracing::warn!(%error, "what the newest commit created may count as shared from here on");
        }
    }

    /// Nodes marked as shared; nothing while they are too many to be held in memory.
    pub fn marks(&self) -> Option<u64> {
        self.gate.lock().marks.count()
    }

    /// What the index holds and was told; nothing while there is none.
    pub fn pending(&self) -> Option<PendingCounts> {
        self.caught_up().pending.as_mut().map(|queue| queue.index().counts())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicBool},
        thread,
    };

    use super::*;
    use crate::{
        backend::{Durability, MemoryBackend},
        pending::Pending,
        queue::{Entry, Queue},
        store::StoreConfig,
    };

    /// What a commit brings that is far more than is taken in at once.
    fn large(order: u64) -> Entry {
        let created = (0..100 * INDEXED_AT_ONCE as u64).collect();
        Entry { order: Order::new(order), timestamp_ms: 1, created, lost: Vec::new(), lately: Vec::new() }
    }

    /// A store to whose index such a commit has come.
    fn behind() -> Store {
        let store = Store::open(Arc::new(MemoryBackend::new()), StoreConfig::new(Durability::Logged)).unwrap();
        let mut queue = Queue::of(Pending::new(9));
        queue.push(large(1));
        store.gate.lock().pending = Some(queue);
        store
    }

    /// I12: a thread that catches up is not kept for ever by a chain that commits as fast as it can.
    #[test]
    fn catching_up_ends_while_commits_bring_more_than_is_taken_in() {
        const MOST: u64 = 50;
        let (store, ended) = (behind(), AtomicBool::new(false));
        let came = thread::scope(|scope| {
            let comes = |order: &u64| {
                while !store.is_behind() && !ended.load(Ordering::Acquire) {
                    thread::yield_now(); // until some of the last one was taken in
                }
                let mut gate = store.gate.lock();
                store.seen.queued.store(false, Ordering::Release);
                gate.pending.as_mut().unwrap().push(large(*order));
                !ended.load(Ordering::Acquire)
            };
            let commits = scope.spawn(move || (2..2 + MOST).take_while(comes).count());
            store.catch_up().unwrap();
            ended.store(true, Ordering::Release);
            commits.join().unwrap()
        });
        assert!(came < MOST as usize, "it went on until no more came");
    }

    /// I12: nobody who asks the index takes more in under the gate than one small batch, however large a commit was.
    #[test]
    fn whoever_asks_the_index_has_nothing_left_to_take_in_however_large_the_last_commit_was() {
        let store = behind();
        let gate = store.caught_up();
        assert!(gate.pending.as_ref().is_some_and(|queue| !queue.is_waiting()));
        drop(gate);
        assert!(!store.is_behind());
    }
}
