//! The barrier: which nodes were created since a cycle's view was taken (I5).
//!
//! Promises: it opens before the view is taken and stays open until the last holder is gone, be it the cycle or a
//! compaction that may still consult the cycle's mark (S24). While it is open, the commit gate records every created
//! hash before the write that puts it. A hash is remembered by its fingerprint: equal ones merge and keep more (I6).
//!
//! Costs: 8 bytes and hash-set overhead per node created since the view, up to a limit. Over the limit the barrier
//! answers "created" for every hash, so nothing more is deleted, and the cycle is abandoned (P22).

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;
use state_tree::NodeHash;

use crate::stay::Waste;

const SHARDS: usize = 64;

/// Fingerprints are hashes already.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Hashes by fingerprint need no further hashing.
pub(crate) type ByFingerprint = BuildHasherDefault<Identity>;

type Set = HashSet<u64, ByFingerprint>;
type Shard = RwLock<Set>;

/// The set itself; lives as long as the store, filled only while someone holds it open.
#[derive(Debug)]
pub(crate) struct Barrier {
    holders: AtomicUsize,
    shards: Vec<Shard>,
    len: AtomicUsize,
    limit: usize,
    full: AtomicBool,
}

impl Barrier {
    /// A closed barrier that remembers at most `limit` hashes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Arc::new(Self {
            holders: AtomicUsize::new(0),
            shards,
            len: AtomicUsize::new(0),
            limit,
            full: AtomicBool::new(false),
        })
    }

    /// Opens the barrier, or joins an open one: what it remembers can then only be more than is needed.
    /// Call inside the commit gate, BEFORE the view is taken: a commit is then either in the view or recorded.
    pub(crate) fn open(self: &Arc<Self>, waste: &mut Waste) -> BarrierHold {
        if self.holders.fetch_add(1, Ordering::AcqRel) == 0 {
            self.clear(waste);
        }
        BarrierHold { barrier: Arc::clone(self) }
    }

    /// Records hashes that are about to be put, and tells how many of them are new to it: none while it is closed. Call
    /// inside the commit gate, BEFORE the write.
    pub(crate) fn record(&self, hashes: impl Iterator<Item = NodeHash>, waste: &mut Waste) -> u64 {
        if self.holders.load(Ordering::Acquire) == 0 {
            self.clear(waste); // only the gate opens it, so nobody can have done so in between
            return 0;
        }
        self.record_fingerprints(hashes.map(|hash| hash.fingerprint()))
    }

    /// The same from the journal, while somebody holds it open.
    pub(crate) fn record_fingerprints(&self, fingerprints: impl Iterator<Item = u64>) -> u64 {
        let mut new = 0;
        for fingerprint in fingerprints {
            if self.full.load(Ordering::Acquire) {
                break;
            }
            if self.shard(fingerprint).is_some_and(|shard| shard.write().insert(fingerprint)) {
                new += 1;
                if self.len.fetch_add(1, Ordering::AcqRel) >= self.limit {
                    self.full.store(true, Ordering::Release);
                }
            }
        }
        new
    }

    fn shard(&self, fingerprint: u64) -> Option<&Shard> {
        // Neither the top nor the low bits: the hash set spends those itself.
        self.shards.get((fingerprint >> 32) as usize % SHARDS)
    }

    fn clear(&self, waste: &mut Waste) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let sets: Vec<Set> = self.shards.iter().map(|shard| std::mem::take(&mut *shard.write())).collect();
        waste.push(sets);
        self.len.store(0, Ordering::Release);
        self.full.store(false, Ordering::Release);
    }
}

/// Keeps the barrier open. The store hands it out with a view; a sweep keeps a clone in every filter.
#[derive(Debug)]
pub struct BarrierHold {
    barrier: Arc<Barrier>,
}

impl BarrierHold {
    /// Whether the hash may have been created since the view: such a node is kept.
    pub fn protects(&self, hash: &NodeHash) -> bool {
        let fingerprint = hash.fingerprint();
        self.barrier.full.load(Ordering::Acquire)
            || self.barrier.shard(fingerprint).is_none_or(|shard| shard.read().contains(&fingerprint))
    }

    /// Distinct hashes created since the view.
    pub fn created(&self) -> usize {
        self.barrier.len.load(Ordering::Acquire)
    }

    /// The limit, once it is exceeded: the cycle must be abandoned.
    pub fn overflow(&self) -> Option<usize> {
        self.barrier.full.load(Ordering::Acquire).then_some(self.barrier.limit)
    }

    pub(crate) fn belongs_to(&self, barrier: &Arc<Barrier>) -> bool {
        Arc::ptr_eq(&self.barrier, barrier)
    }
}

impl Clone for BarrierHold {
    fn clone(&self) -> Self {
        self.barrier.holders.fetch_add(1, Ordering::AcqRel);
        Self { barrier: Arc::clone(&self.barrier) }
    }
}

impl Drop for BarrierHold {
    fn drop(&mut self) {
        self.barrier.holders.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    #[test]
    fn a_closed_barrier_remembers_nothing_and_an_open_one_everything() {
        let (barrier, mut waste) = (Barrier::new(100), Waste::default());
        assert_eq!(barrier.record([hash(1)].into_iter(), &mut waste), 0);
        let hold = barrier.open(&mut waste);
        assert!(!hold.protects(&hash(1)));
        assert_eq!(barrier.record([hash(2), hash(2)].into_iter(), &mut waste), 1);
        assert!(hold.protects(&hash(2)) && hold.created() == 1);
    }

    /// I12: by the next commit, or by the next cycle if that comes first.
    #[test]
    fn what_a_barrier_remembered_is_not_freed_under_the_gate() {
        for is_commit in [true, false] {
            let (barrier, mut waste) = (Barrier::new(100), Waste::default());
            let hold = barrier.open(&mut waste);
            barrier.record([hash(1)].into_iter(), &mut waste);
            drop(hold);
            assert!(!waste.has::<Vec<Set>>());
            if is_commit {
                barrier.record([hash(2)].into_iter(), &mut waste);
            } else {
                assert!(!barrier.open(&mut waste).protects(&hash(1)));
            }
            assert!(waste.has::<Vec<Set>>() && barrier.shards.iter().all(|shard| shard.read().capacity() == 0));
        }
    }

    #[test]
    fn the_barrier_outlives_every_compaction_that_may_consult_its_mark() {
        let (barrier, mut waste) = (Barrier::new(100), Waste::default());
        let cycle = barrier.open(&mut waste);
        let filter = cycle.clone();
        drop(cycle);
        barrier.record([hash(3)].into_iter(), &mut waste);
        assert!(filter.protects(&hash(3)));
        let next = barrier.open(&mut waste);
        assert!(next.protects(&hash(3)), "joining an open barrier forgets nothing");
    }

    #[test]
    fn a_full_barrier_protects_every_hash_and_says_so() {
        let (barrier, mut waste) = (Barrier::new(2), Waste::default());
        let hold = barrier.open(&mut waste);
        barrier.record((0..3).map(hash), &mut waste);
        assert_eq!(hold.overflow(), Some(2));
        assert!(hold.protects(&hash(200)));
    }
}
