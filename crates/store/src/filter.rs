//! The sweep verdict: which stored versions a compaction may leave out.
//!
//! Promises: a version is dropped only if a sweep is active, its permit is current, the key is 32 bytes, the key is
//! not in the mark and not among the hashes created since the view. Everything else is kept (I8).
//!
//! Why it loses nothing beside commits: the filter judges one stored version. A version written after the view was
//! recorded before it was written (I5), so it is kept. A version from before the view may go, but a newer put of the
//! same key has a higher sequence number and still wins (S23). All they share is the barrier, one shard at a time, for
//! one look or one insertion.
//!
//! Never: the verdict never reads the store, never waits except for the pace it was given, and a panic in it keeps.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Condvar, Mutex};
use state_tree::NodeHash;

use crate::{barrier::BarrierHold, permit::Permit};

/// The nodes that a sealed mark keeps. Implemented by the mark file of the crate above.
pub trait LiveSet: Send + Sync {
    /// Somebody who looks nodes up for one compaction.
    fn reader(&self) -> Box<dyn LiveReader>;
}

/// Looks nodes up in a mark. Those of one compaction come in ascending order, so the next answer is close to the last.
pub trait LiveReader: Send {
    /// Whether the mark holds the node. Unknown is yes (I8): whoever runs the sweep asks the mark whether anything was, BEFORE
    /// saying that it is swept.
    fn contains(&mut self, hash: &NodeHash) -> bool;
}

/// A brake on the bytes a sweep moves. `spend` may block; only compactions that the sweep asked for call it.
pub trait Pace: Send + Sync {
    /// Accounts for bytes about to be moved, and waits as long as they must be delayed.
    fn spend(&self, bytes: u64, haste: Haste);
}

/// What waits for the bytes that are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Nothing.
    Usual,
    /// Level 0: the engine runs one compaction of it at a time, and commits stall where those fall behind (I12).
    Commits,
}

/// What happens to one stored version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In the mark.
    KeepLive,
    /// Created since the view.
    KeepCreated,
    /// Not a node key.
    KeepForeign,
    /// No sweep, or a revoked permit.
    KeepIdle,
    /// Unreachable from every retained root.
    Drop,
}

/// What a sweep saw, by verdict. `seen` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepTally {
    /// Versions judged.
    pub seen: u64,
    /// Versions dropped.
    pub dropped: u64,
    /// Value bytes of the versions dropped.
    pub dropped_bytes: u64,
    /// Kept because the mark holds them.
    pub live: u64,
    /// Kept because they were created since the view.
    pub created: u64,
    /// Kept because the key is not a node key.
    pub foreign: u64,
    /// Kept because the permit was gone.
    pub idle: u64,
}

impl SweepTally {
    fn count(&mut self, verdict: Verdict, bytes: u64) {
        self.seen += 1;
        match verdict {
            Verdict::KeepLive => self.live += 1,
            Verdict::KeepCreated => self.created += 1,
            Verdict::KeepForeign => self.foreign += 1,
            Verdict::KeepIdle => self.idle += 1,
            Verdict::Drop => {
                self.dropped += 1;
                self.dropped_bytes += bytes;
            }
        }
    }

    /// This tally less an earlier one of the same sweep.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            seen: self.seen - earlier.seen,
            dropped: self.dropped - earlier.dropped,
            dropped_bytes: self.dropped_bytes - earlier.dropped_bytes,
            live: self.live - earlier.live,
            created: self.created - earlier.created,
            foreign: self.foreign - earlier.foreign,
            idle: self.idle - earlier.idle,
        }
    }
}

#[derive(Default)]
struct AtomicTally([AtomicU64; 7]);

impl AtomicTally {
    fn add(&self, tally: &SweepTally) {
        let values =
            [tally.seen, tally.dropped, tally.dropped_bytes, tally.live, tally.created, tally.foreign, tally.idle];
        self.0.iter().zip(values).for_each(|(total, value)| {
            total.fetch_add(value, Ordering::AcqRel);
        });
    }

    fn read(&self) -> SweepTally {
        let [seen, dropped, dropped_bytes, live, created, foreign, idle] =
            std::array::from_fn(|i| self.0.get(i).map_or(0, |total| total.load(Ordering::Acquire)));
        SweepTally { seen, dropped, dropped_bytes, live, created, foreign, idle }
    }
}

/// One active sweep: everything a verdict needs. It holds the barrier open, and so does every filter that began under it.
pub(crate) struct Sweep {
    permit: Permit,
    barrier: BarrierHold,
    live: Arc<dyn LiveSet>,
    pace: Option<Arc<dyn Pace>>,
    tally: AtomicTally,
}

impl Sweep {
    pub(crate) fn new(
        permit: Permit,
        barrier: BarrierHold,
        live: Arc<dyn LiveSet>,
        pace: Option<Arc<dyn Pace>>,
    ) -> Self {
        Self { permit, barrier, live, pace, tally: AtomicTally::default() }
    }

    pub(crate) fn tally(&self) -> SweepTally {
        self.tally.read()
    }

    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// The sweep rule, pure.
pub(crate) fn verdict(sweep: &Sweep, live: &mut dyn LiveReader, key: &[u8]) -> Verdict {
    let Ok(hash) = NodeHash::try_from(key) else {
        return Verdict::KeepForeign;
    }; // I8
    if live.contains(&hash) {
        return Verdict::KeepLive; // I2
    }
    if sweep.barrier.protects(&hash) {
        return Verdict::KeepCreated; // I5
    }
    if !sweep.permit.is_current() {
        return Verdict::KeepIdle; // I10
    }
    Verdict::Drop
}

/// Where the engine's compaction filter finds the active sweep, if any. One per store.
#[derive(Default)]
pub struct SweepSlot {
    judges: Mutex<Judges>,
    one_less: Condvar,
}

/// The active sweep, and the judges that are at work, numbered in the order in which their compactions began.
#[derive(Default)]
struct Judges {
    active: Option<Arc<Sweep>>,
    next: u64,
    /// The first judge that may belong to the active sweep.
    first_of_active: u64,
    at_work: BTreeSet<u64>,
}

impl std::fmt::Debug for SweepSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SweepSlot").field("active", &self.judges.lock().active.is_some()).finish_non_exhaustive()
    }
}

impl SweepSlot {
    pub(crate) fn activate(&self, sweep: Arc<Sweep>) {
        let mut judges = self.judges.lock();
        judges.active = Some(sweep);
        judges.first_of_active = judges.next;
    }

    /// Switches this sweep off; one that took its place meanwhile stays on.
    pub(crate) fn deactivate(&self, sweep: &Arc<Sweep>) {
        let mut judges = self.judges.lock();
        if judges.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, sweep)) {
            judges.active = None;
        }
    }

    /// The judge for one compaction, fixed to the sweep that is active as it begins (S43).
    pub(crate) fn judge(self: &Arc<Self>, paced: Paced) -> SweepJudge {
        let mut judges = self.judges.lock();
        let number = judges.next;
        judges.next += 1;
        judges.at_work.insert(number);
        SweepJudge {
            slot: Arc::clone(self),
            number,
            sweep: judges.active.clone().map(|sweep| (sweep.live.reader(), sweep)),
            tally: SweepTally::default(),
            unspent: 0,
            paced,
            haste: Haste::Usual,
        }
    }

    /// Waits until no compaction that began before the active sweep is at work: its output is new to the engine, but
    /// went through a judge that keeps everything, so a rewrite must find it on disk (L16). Ends early once `stop`
    /// says so and [`SweepSlot::wake_waiters`] was called.
    pub(crate) fn wait_for_earlier_judges(&self, stop: &dyn Fn() -> bool) {
        let mut judges = self.judges.lock();
        while judges.at_work.first().is_some_and(|first| *first < judges.first_of_active) && !stop() {
            self.one_less.wait(&mut judges);
        }
    }

    /// Makes waiters ask again whether they should stop.
    pub(crate) fn wake_waiters(&self) {
        let _judges = self.judges.lock(); // a waiter is either before its question or asleep, never between
        self.one_less.notify_all();
    }

    fn dismiss(&self, number: u64) {
        self.judges.lock().at_work.remove(&number);
        self.one_less.notify_all();
    }
}

/// Whether a compaction was asked for by the sweep and obeys its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paced {
    /// Asked for by us.
    Yes,
    /// The engine's own: braking it could stall commits (I12).
    No,
}

/// Judges the versions of one compaction; counts locally and reports when dropped.
pub(crate) struct SweepJudge {
    slot: Arc<SweepSlot>,
    number: u64,
    sweep: Option<(Box<dyn LiveReader>, Arc<Sweep>)>,
    tally: SweepTally,
    unspent: u64,
    paced: Paced,
    haste: Haste,
}

const SPEND_EVERY_BYTES: u64 = 256 << 10;

impl SweepJudge {
    /// The verdict on one version; never panics outwards.
    pub(crate) fn judge(&mut self, key: &[u8], value_bytes: usize) -> Verdict {
        let Some((live, sweep)) = &mut self.sweep else {
            return Verdict::KeepIdle;
        };
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| verdict(sweep, &mut **live, key)));
        let verdict = judged.unwrap_or(Verdict::KeepIdle); // a panic must not cross the C boundary, and keeps
        let bytes = value_bytes as u64;
        self.tally.count(verdict, bytes);
        self.unspent += bytes + key.len() as u64;
        if self.unspent >= SPEND_EVERY_BYTES {
            self.brake();
        }
        verdict
    }

    /// Commits wait for this compaction.
    pub(crate) fn hasten(&mut self) {
        self.haste = Haste::Commits;
    }

    fn brake(&mut self) {
        let spent = std::mem::take(&mut self.unspent);
        if let (Paced::Yes, Some(pace)) = (self.paced, self.sweep.as_ref().and_then(|(_, sweep)| sweep.pace.as_ref())) {
            // A panic must not cross the C boundary here either; without its brake the sweep is only faster.
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pace.spend(spent, self.haste))) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Drop for SweepJudge {
    fn drop(&mut self) {
        if let Some((_, sweep)) = &self.sweep {
            sweep.tally.add(&self.tally);
        }
        if self.unspent > 0 {
            self.brake(); // many small compactions are braked as one
        }
        self.slot.dismiss(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{barrier::Barrier, permit::Fence, stay::Waste};

    impl LiveSet for BTreeSet<NodeHash> {
        fn reader(&self) -> Box<dyn LiveReader> {
            Box::new(self.clone())
        }
    }

    impl LiveReader for BTreeSet<NodeHash> {
        fn contains(&mut self, hash: &NodeHash) -> bool {
            BTreeSet::contains(self, hash)
        }
    }

    struct Panicking;
    impl LiveSet for Panicking {
        fn reader(&self) -> Box<dyn LiveReader> {
            Box::new(Self)
        }
    }

    impl LiveReader for Panicking {
        fn contains(&mut self, _hash: &NodeHash) -> bool {
            panic!("a bug in the mark")
        }
    }

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    #[test]
    fn the_sweep_filter_keeps_on_every_doubt() {
        let (fence, barrier) = (Arc::new(Fence::default()), Barrier::new(10));
        let hold = barrier.open(&mut Waste::default());
        barrier.record([hash(2)].into_iter(), &mut Waste::default());
        let sweep = Sweep::new(fence.issue(), hold, Arc::new(BTreeSet::from([hash(1)])), None);
        let of = |sweep: &Sweep, key: &[u8]| verdict(sweep, &mut *sweep.live.reader(), key);
        let idle = Arc::new(SweepSlot::default());
        assert_eq!(idle.judge(Paced::Yes).judge(hash(9).as_bytes(), 5), Verdict::KeepIdle, "no sweep");
        assert_eq!(of(&sweep, hash(1).as_bytes()), Verdict::KeepLive, "in the mark");
        assert_eq!(of(&sweep, hash(2).as_bytes()), Verdict::KeepCreated, "created since the view");
        assert_eq!(of(&sweep, &[9; 31]), Verdict::KeepForeign, "short key");
        assert_eq!(of(&sweep, &[9; 67]), Verdict::KeepForeign, "long key");
        assert_eq!(of(&sweep, hash(9).as_bytes()), Verdict::Drop, "the only case");
        fence.revoke();
        assert_eq!(of(&sweep, hash(9).as_bytes()), Verdict::KeepIdle, "revoked permit");
    }

    #[test]
    fn a_panic_in_the_verdict_keeps() {
        let (fence, slot) = (Arc::new(Fence::default()), Arc::new(SweepSlot::default()));
        slot.activate(Arc::new(Sweep::new(
            fence.issue(),
            Barrier::new(1).open(&mut Waste::default()),
            Arc::new(Panicking),
            None,
        )));
        assert_eq!(slot.judge(Paced::No).judge(hash(1).as_bytes(), 5), Verdict::KeepIdle);
    }

    #[test]
    fn a_compaction_that_began_before_the_sweep_drops_nothing() {
        let (fence, slot) = (Arc::new(Fence::default()), Arc::new(SweepSlot::default()));
        let mut early = slot.judge(Paced::No);
        slot.activate(Arc::new(Sweep::new(
            fence.issue(),
            Barrier::new(1).open(&mut Waste::default()),
            Arc::new(BTreeSet::new()),
            None,
        )));
        assert_eq!(early.judge(hash(1).as_bytes(), 5), Verdict::KeepIdle);
        assert_eq!(slot.judge(Paced::No).judge(hash(1).as_bytes(), 5), Verdict::Drop);
    }

    /// S24: the sweep and its cycle have ended, and a compaction that began under them still consults their mark.
    #[test]
    fn a_judge_at_work_keeps_what_is_created_after_its_cycle_has_ended() {
        let (fence, slot, barrier) = (Arc::new(Fence::default()), Arc::new(SweepSlot::default()), Barrier::new(10));
        let cycle = barrier.open(&mut Waste::default());
        let sweep = Arc::new(Sweep::new(fence.issue(), cycle.clone(), Arc::new(BTreeSet::new()), None));
        slot.activate(Arc::clone(&sweep));
        let mut judge = slot.judge(Paced::No);
        slot.deactivate(&sweep);
        drop((sweep, cycle));
        barrier.record([hash(1)].into_iter(), &mut Waste::default());
        assert_eq!(judge.judge(hash(1).as_bytes(), 5), Verdict::KeepCreated);
        assert_eq!(judge.judge(hash(2).as_bytes(), 5), Verdict::Drop, "its permit is current and its mark is whole");
        assert_eq!(slot.judge(Paced::No).judge(hash(2).as_bytes(), 5), Verdict::KeepIdle, "a later one has no sweep");
    }

    #[test]
    fn a_rewrite_waits_for_compactions_that_began_before_its_sweep() {
        let (fence, slot) = (Arc::new(Fence::default()), Arc::new(SweepSlot::default()));
        let early = slot.judge(Paced::No);
        slot.activate(Arc::new(Sweep::new(
            fence.issue(),
            Barrier::new(1).open(&mut Waste::default()),
            Arc::new(BTreeSet::new()),
            None,
        )));
        let own = slot.judge(Paced::Yes);
        slot.wait_for_earlier_judges(&|| true); // told to stop: returns although `early` is at work
        let waited = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                slot.wait_for_earlier_judges(&|| false);
                waited.store(slot.judges.lock().at_work.len() as u64, Ordering::Release);
            });
            drop(early);
        });
        assert_eq!(waited.load(Ordering::Acquire), 1, "only the judge of the sweep itself is left");
        drop(own);
    }
}
