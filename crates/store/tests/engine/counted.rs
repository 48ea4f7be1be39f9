//! S21, S33, S35, S57, L11, P1: what the journal lets go, on deltas whose nodes are made up, against plain sets.

use std::{cell::Cell, collections::BTreeSet, num::NonZeroUsize, sync::Arc, time::Duration};

use state_store::{
    Backend as _, Backlog, Base, Batch, Condemned, CountsLost, Durability, Expired, Fault, FaultyBackend, FloorMove,
    Flow, Held, Idle, Indexed, Judging, KeyRange, Lag, Lasting, LostBy, MemoryBackend, Operation, SliceLimit, Store,
    StoreConfig, StoreError, Table, Traced, check_all_rows, check_rows,
};
use state_tree::{NodeHash, Replaced, RoochLayout, StateRoot};

use crate::support::{CONFIG, commit_on, correct, delta, hash, order, present, root, value};

/// A store that counts, as if a major cycle had just finished.
pub(crate) struct Counted {
    pub(crate) backend: MemoryBackend,
    pub(crate) store: Store,
    pub(crate) backlog: Backlog,
}

/// What older states have.
pub(crate) struct Older(BTreeSet<NodeHash>);

impl Held for Older {
    fn version(&self) -> u64 {
        0
    }

    fn covers(&self, _: &StateRoot) -> bool {
        true
    }

    fn holds(&self, hash: &NodeHash) -> Result<bool, StoreError> {
        Ok(self.0.contains(hash))
    }
}

impl Counted {
    pub(crate) fn new() -> Self {
        let backend = MemoryBackend::new();
        let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
        Self { backend, store, backlog: Backlog::default() }
    }

    /// What a cycle at the head leaves: nothing is shared, and entries may expire.
    pub(crate) fn cycle(&self) {
        correct(&self.store, self.store.head().unwrap().order, &[]).unwrap();
        self.store.settle_counts(&self.store.issue_permit(), 1).unwrap();
    }

    /// The next order creates some nodes, each at so many places, and others lose one place each.
    pub(crate) fn commit(&self, created: &[(u64, u32)], lost: &[u64]) {
        let (base, parent, next) = match self.store.head() {
            None => (Base::Genesis, StateRoot::EMPTY, 0),
            Some(head) => (Base::Head(root(head.order)), root(head.order), head.order + 1),
        };
        let mut delta = delta(parent, root(next), created.iter().map(|(n, _)| (hash(*n), value(*n, 10))));
        for (n, places) in created {
            delta.created.get_mut(&hash(*n)).unwrap().places = *places;
        }
        let replaced = |n: &u64| Replaced { hash: hash(*n), above: None, below_adoption: false, unchanged: Vec::new() };
        delta.replaced = lost.iter().map(replaced).collect();
        commit_on(&self.store, base, &delta).unwrap();
    }

    pub(crate) fn raise_floor(&self, to: u64) {
        self.store.raise_floor(order(to), Batch::new()).unwrap();
    }

    fn slice(&mut self, most: usize, older: &Older) -> Result<Expired, Idle> {
        let Self { store, backlog, .. } = self;
        let most = NonZeroUsize::new(most).unwrap();
        let slice = store.next_slice(backlog, limit(most), &RoochLayout, &mut |_, error| panic!("{error}")).unwrap()?;
        Ok(store
            .expire(&store.issue_permit(), backlog, &slice, Judging { held: older, now: &|| Duration::ZERO })
            .unwrap())
    }

    /// Slices to the end: nodes deleted, nodes passed.
    pub(crate) fn sweep(&mut self, most: usize, older: &Older) -> (u64, u64) {
        let (mut nodes, mut passed) = (0, 0);
        loop {
            match self.slice(most, older) {
                Ok(slice) => (nodes, passed) = (nodes + slice.nodes, passed + slice.passed),
                Err(idle) => {
                    assert_eq!(idle, Idle::Done);
                    return (nodes, passed);
                }
            }
        }
    }

    pub(crate) fn restart(self) -> Self {
        self.restart_with(CONFIG.marks_limit)
    }

    fn restart_with(self, marks_limit: usize) -> Self {
        let Self { backend, store, .. } = self;
        drop(store);
        let store = Store::open(Arc::new(backend.clone()), StoreConfig { marks_limit, ..CONFIG }).unwrap();
        assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
        Self { backend, store, backlog: Backlog::default() }
    }
}

/// Of so many nodes, with all the time there is.
fn limit(most: NonZeroUsize) -> SliceLimit<'static> {
    SliceLimit { most, goes_on: &|| true }
}

pub(crate) fn nobody() -> Older {
    Older(BTreeSet::new())
}

/// Order 0 has node 0; each later order n creates node n and loses node n - 1.
pub(crate) fn chain_of(orders: u64) -> Counted {
    let counted = Counted::new();
    counted.commit(&[(0, 1)], &[]);
    counted.cycle();
    (1..orders).for_each(|n| counted.commit(&[(n, 1)], &[n - 1]));
    counted
}

fn hashes(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<NodeHash> {
    numbers.into_iter().map(hash).collect()
}

/// S36: what the branch lost and the fork creates again stands at two places: where the base has it, and where it was created.
#[test]
fn what_a_branch_lost_and_a_fork_creates_again_stands_at_two_places() {
    let mut counted = Counted::new();
    counted.commit(&[(1, 1), (2, 1)], &[]);
    counted.cycle();
    counted.commit(&[(3, 1)], &[1]); // a branch, which is left
    let mut fork = delta(root(0), root(2), [(hash(1), value(1, 10))]);
    fork.created.get_mut(&hash(1)).unwrap().places = 1;
    commit_on(&counted.store, Base::Retained(order(0), root(0)), &fork).unwrap();
    counted.commit(&[(4, 1)], &[1]); // one of its two places is gone
    counted.raise_floor(3);
    counted.sweep(9, &nobody());
    assert!(present(&counted.store).contains(&hash(1)), "the other place has it");
    assert_eq!(counted.store.counts_lost(), None);
}

/// A fork on a state whose marks may be gone ends exact counting, and says so, also to the next process.
#[test]
fn a_fork_on_a_state_that_was_not_counted_ends_exact_counting_and_says_so() {
    let mut counted = chain_of(4);
    for (n, base) in [(4, 2), (5, 3)] {
        let fork = delta(root(base), root(n), [(hash(10 + n), value(n, 10))]);
        commit_on(&counted.store, Base::Retained(order(base), root(base)), &fork).unwrap();
        let lost = (n == 5).then_some(CountsLost { by: LostBy::Fork, order: n }); // its base is older than the first fork
        assert_eq!((counted.store.counts_lost(), counted.store.counts_are_settled()), (lost, lost.is_none()));
    }
    let Counted { backend, store, .. } = counted;
    drop(store);
    counted = Counted {
        store: Store::open(Arc::new(backend.clone()), CONFIG).unwrap(),
        backend,
        backlog: Backlog::default(),
    };
    assert_eq!(counted.store.counts_lost(), Some(CountsLost { by: LostBy::Fork, order: 5 }));
    counted.store.begin_counting(&|| true).unwrap();
    counted.cycle();
    assert_eq!((counted.store.counts_lost(), counted.store.counts_are_settled()), (None, true));
}

/// S36: what a branch marked first is unmarked with it, so that what comes after it may go; what was marked before stays so,
/// and what a state needs that a cycle has traced.
#[test]
fn a_rollback_takes_back_the_marks_that_its_branch_made_first() {
    let branch = |counted: &Counted| {
        counted.commit(&[(2, 1), (3, 1)], &[0]); // both are there: a second place
        counted.store.rollback(order(1), Batch::new()).unwrap();
        counted.store.marks()
    };
    let mut counted = Counted::new();
    counted.commit(&[(0, 1)], &[]);
    counted.cycle();
    counted.commit(&[(2, 1), (3, 2)], &[]);
    assert_eq!(branch(&counted), Some(1), "node 3 was marked before");
    counted.commit(&[(4, 1)], &[2]);
    counted.commit(&[], &[3]);
    counted = counted.restart();
    assert_eq!(counted.store.marks(), Some(1), "the same on disk");
    counted.raise_floor(3);
    assert_eq!(counted.sweep(9, &nobody()), (1, 0));
    assert!(!present(&counted.store).contains(&hash(2)) && present(&counted.store).contains(&hash(3)));

    let blind = Counted::new();
    blind.commit(&[(0, 1), (1, 1)], &[]);
    blind.store.rollback(order(0), Batch::new()).unwrap();
    blind.commit(&[(5, 1)], &[]);
    blind.commit(&[(6, 2)], &[]);
    let shared = [hash(6).fingerprint()]; // as the state of order 1 had it at two places, and no commit knew
    correct(&blind.store, 1, &shared).unwrap();
    blind.store.rollback(order(1), Batch::new()).unwrap();
    assert_eq!(blind.store.marks(), Some(1), "order 2 marked it first, and order 1 needs it");
}

/// The process that goes back need not be the one that made them. What was made while marks had no room outlives it.
#[test]
fn marks_of_an_earlier_process_are_taken_back_as_far_as_nothing_had_made_them_before() {
    let roomy = CONFIG.marks_limit;
    for (marks_limit, left) in [(roomy, 1), (0, 2)] {
        let counted = chain_of(3);
        counted.commit(&[(7, 2)], &[]);
        let counted = counted.restart_with(marks_limit);
        counted.commit(&[(7, 1), (8, 2)], &[]); // 7 is marked again
        for reader in [roomy, 0] {
            let copy = Counted { backend: counted.backend.copy(), ..Counted::new() };
            let copy = copy.restart_with(reader);
            copy.store.rollback(order(3), Batch::new()).unwrap();
            let copy = copy.restart_with(roomy);
            assert_eq!(copy.store.marks(), Some(left), "made with room for {marks_limit}, taken back with {reader}");
            copy.store.rollback(order(2), Batch::new()).unwrap();
            assert_eq!(copy.store.marks(), Some(if marks_limit == 0 { 2 } else { 0 }));
        }
    }
}

/// I8: a mark that cannot be read may be the only one of its node. Nothing expires, also after a restart, before a cycle has
/// made the marks anew; which writes that row anew, or takes it away.
#[test]
fn a_mark_that_cannot_be_read_ends_exact_counting_until_a_cycle() {
    for shared in [&[7][..], &[]] {
        let counted = chain_of(3);
        counted.commit(&[(7, 2)], &[]);
        counted.store.catch_up().unwrap(); // each has a row of its own then
        let mut row = Batch::new();
        row.put(Table::MANY, hash(7).fingerprint().to_be_bytes(), [0; 12]);
        counted.store.write_rows(&row, Durability::Logged).unwrap();
        let mut backend = counted.backend.clone();
        drop(counted);
        let lost = Some(CountsLost { by: LostBy::Mark, order: 3 });
        for _ in 0..2 {
            let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
            assert_eq!((store.counts_lost(), store.counts_are_settled()), (lost, false));
            assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
            drop(store);
            backend = backend.copy();
        }
        let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
        store.begin_counting(&|| true).unwrap();
        let fingerprints: Vec<u64> = shared.iter().map(|n| hash(*n).fingerprint()).collect();
        correct(&store, 3, &fingerprints).unwrap();
        assert_eq!((store.counts_lost(), store.counts_are_settled()), (None, false), "its sweep is not over");
        store.settle_counts(&store.issue_permit(), 2).unwrap();
        assert_eq!((store.counts_lost(), store.counts_are_settled()), (None, true));
        drop(store);
        let store = Store::open(Arc::new(backend), CONFIG).unwrap();
        assert_eq!((store.counts_lost(), store.marks()), (None, Some(shared.len() as u64)), "{shared:?}");
    }
}

/// C5: a flipped bit in the key of a mark makes it that of another node. It is found in a row that had no room in memory, too,
/// by whoever comes first: the sweep between cycles, or a cycle, which then traces what a state without marks needs.
#[test]
fn a_mark_of_another_node_is_found_beyond_the_room_for_marks_before_anything_relies_on_it() {
    let small = StoreConfig { marks_limit: 2, ..CONFIG };
    for bad in 0..5 {
        let counted = chain_of(3);
        counted.commit(&[(11, 2), (12, 2), (13, 2), (14, 2), (15, 2)], &[]);
        counted.store.catch_up().unwrap(); // each has a row of its own then
        let (mut row, mut key) = (None, hash(11 + bad).fingerprint().to_be_bytes());
        counted
            .store
            .view()
            .unwrap()
            .scan(&Table::MANY, &KeyRange::ALL, &mut |at, value| {
                row = row.take().or_else(|| (at == key).then(|| value.to_vec()));
                Flow::Continue(())
            })
            .unwrap();
        let mut batch = Batch::new();
        batch.delete(Table::MANY, key);
        key[7] ^= 1;
        batch.put(Table::MANY, key, row.unwrap());
        counted.store.write_rows(&batch, Durability::Logged).unwrap();
        let backend = counted.backend.clone();
        drop(counted);
        let open = || Store::open(Arc::new(backend.copy()), small).unwrap();
        let lost = Some(CountsLost { by: LostBy::Mark, order: 3 });

        let store = open();
        assert_eq!(
            (store.index_journal(&|| true).unwrap(), store.counts_lost()),
            (Indexed::Uncounted, lost),
            "row {bad}"
        );
        let store = open();
        assert_eq!((store.begin_counting(&|| true).unwrap(), store.counts_lost()), (Traced::Newest, lost), "row {bad}");
    }
    let counted = chain_of(3);
    counted.commit(&[(11, 2), (12, 2), (13, 2), (14, 2), (15, 2)], &[]);
    let store = Store::open(Arc::new(counted.backend.copy()), small).unwrap();
    assert_eq!(
        store.index_journal(&|| true).unwrap(),
        Indexed::Whole { bad_rows: Vec::new() },
        "and nothing is wrong with good ones"
    );
}

/// S33, S57: a cycle that counted blindly leaves exact marks before its sweep, and a restart in between finds them so. Nothing
/// expires before the sweep is over, and what came blindly never.
#[test]
fn what_was_counted_blindly_is_exact_from_before_the_sweep_on_and_expires_after_it() {
    let backend = MemoryBackend::new();
    let open = |config| Counted {
        backend: backend.clone(),
        store: Store::open(Arc::new(backend.clone()), config).unwrap(),
        backlog: Backlog::default(),
    };
    open(StoreConfig { journal: false, ..CONFIG }).commit(&[(0, 1), (1, 1)], &[]);
    let counted = open(CONFIG);
    assert_eq!(counted.store.begin_counting(&|| true).unwrap(), Traced::Newest);
    counted.commit(&[(2, 1)], &[0]); // blindly: 0 waits for a cycle
    correct(&counted.store, 0, &[]).unwrap();
    let mut counted = counted.restart(); // in the middle of its sweep
    counted.commit(&[(3, 1)], &[1]);
    counted.raise_floor(2);
    assert_eq!(counted.slice(9, &nobody()), Err(Idle::Uncounted));
    assert_eq!(
        counted.store.begin_counting(&|| true).unwrap(),
        Traced::OldestFrom(order(0)),
        "nothing is to be counted anew"
    );
    counted.store.settle_counts(&counted.store.issue_permit(), 1).unwrap();
    assert_eq!(counted.sweep(9, &nobody()), (1, 0));
    assert_eq!(present(&counted.store), hashes([0, 2, 3]));
}

/// I10: whoever lost the permit after a slice was read deletes nothing with it.
#[test]
fn a_slice_is_refused_once_its_permit_is_revoked() {
    let mut counted = chain_of(9);
    counted.raise_floor(5);
    let Counted { store, backlog, .. } = &mut counted;
    let (before, most, older) = (present(store), NonZeroUsize::new(9).unwrap(), nobody());
    let slice =
        store.next_slice(backlog, limit(most), &RoochLayout, &mut |_, error| panic!("{error}")).unwrap().unwrap();
    let (permit, newer) = (store.issue_permit(), store.issue_permit());
    let by = Judging { held: &older, now: &|| Duration::ZERO };
    assert!(matches!(store.expire(&permit, backlog, &slice, by), Err(StoreError::PermitRevoked)));
    assert_eq!(present(store), before);
    assert!(store.expire(&newer, backlog, &slice, by).unwrap().nodes > 0);
}

/// The floor is the policy's cutoff: nothing that an order above it lost goes, however often somebody asks.
#[test]
fn incremental_never_passes_the_policy_cutoff() {
    let mut counted = chain_of(30);
    assert_eq!(counted.sweep(100, &nobody()), (0, 0), "the floor has not moved");
    for floor in [1, 2, 7, 8, 20, 29] {
        counted.raise_floor(floor);
        counted.sweep(3, &nobody());
        // The state of order n has node n alone, and node n - 1 was lost in order n: the floor's own state keeps its node.
        assert_eq!(present(&counted.store), hashes(floor..30), "floor {floor}");
        assert_eq!(counted.slice(100, &nobody()), Err(Idle::Done));
    }
}

#[test]
fn every_expired_root_is_visited_exactly_once() {
    for most in [1, 2, 5, 100] {
        let mut counted = chain_of(40);
        let (mut nodes, mut passed) = (0, 0);
        for floor in [9, 10, 25, 39] {
            counted.raise_floor(floor);
            while let Ok(slice) = counted.slice(most, &nobody()) {
                (nodes, passed) = (nodes + slice.nodes, passed + slice.passed);
                if nodes % 4 == 3 {
                    counted = counted.restart(); // the cursor is on disk, not in the process
                }
            }
        }
        assert_eq!((nodes, passed), (39, 0), "slices of {most}: each entry names one node");
        assert_eq!(present(&counted.store), hashes([39]));
    }
}

/// What was dealt with of entries that were begun is not named again by the journal of the next process.
#[test]
fn a_restart_in_the_middle_of_entries_leaves_nothing_that_waits_for_ever() {
    for kept in [vec![], vec![35, 36]] {
        for slices in 1..=6 {
            let mut counted = chain_of(40);
            counted.raise_floor(39);
            let older = Older(hashes(kept.iter().copied()));
            for _ in 0..slices {
                counted.slice(7, &older).unwrap();
            }
            let lag = counted.store.lag().unwrap();
            let mut counted = counted.restart();
            assert_eq!(counted.store.lag().unwrap(), lag, "after {slices} slices, {kept:?} kept");
            counted.sweep(7, &older);
            assert_eq!(counted.store.lag().unwrap(), Lag::default(), "after {slices} slices, {kept:?} kept");
            assert_eq!(present(&counted.store), hashes(kept.iter().copied().chain([39])));
        }
    }
}

/// A cursor that is torn, or of other entries, is met until it is passed over, which ends exact counting like a gap; a cycle
/// begins anew.
#[test]
fn a_cursor_of_other_entries_ends_counting_and_waits_for_a_cycle() {
    for torn in [false, true] {
        let mut counted = chain_of(40);
        counted.raise_floor(39);
        counted.slice(2, &nobody()).unwrap(); // 37 of 39 are left
        let mut batch = Batch::new();
        if torn {
            batch.put(Table::META, *b"expiry", *b"torn");
        } else {
            batch.delete_range(Table::JOURNAL, order(9).to_key(), order(30).to_key());
        }
        counted.store.write_rows(&batch, Durability::Logged).unwrap();
        let before = present(&counted.store);
        counted.backlog = Backlog::default(); // as after a slice that failed
        let Counted { store, backlog, .. } = &mut counted;
        let mut idle =
            || store.next_slice(backlog, limit(NonZeroUsize::MIN), &RoochLayout, &mut |_, error| panic!("{error}"));
        for _ in 0..3 {
            let met = idle().unwrap().unwrap_err();
            assert!(matches!(met, Idle::BadCursor(_)) && store.counts_are_settled(), "torn {torn}: {met:?}");
        }
        let Idle::BadCursor(cursor) = idle().unwrap().unwrap_err() else { panic!("torn {torn}: it is not met") };
        store.pass_over(&cursor).unwrap();
        assert_eq!(idle().unwrap().unwrap_err(), Idle::Uncounted, "torn {torn}");
        assert_eq!(store.counts_lost().unwrap().by, LostBy::Cursor, "torn {torn}");
        assert_eq!(present(&counted.store), before, "torn {torn}");
        let Counted { backend, store, .. } = counted;
        drop(store);
        let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
        assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Uncounted, "torn {torn}: also after a restart");
        let mut counted = Counted { backend, store, backlog: Backlog::default() };
        counted.store.begin_counting(&|| true).unwrap();
        counted.store.settle_journal(&counted.store.issue_permit(), order(39)).unwrap();
        counted.cycle();
        counted.commit(&[(40, 1)], &[39]);
        counted.commit(&[(41, 1)], &[40]);
        counted.raise_floor(41);
        assert_eq!(counted.sweep(5, &nobody()), (2, 0), "torn {torn}: a cycle has begun anew");
    }
    let counted = chain_of(3);
    let mut batch = Batch::new();
    batch.put(Table::META, *b"expiry", *b"torn");
    counted.store.write_rows(&batch, Durability::Logged).unwrap();
    let Counted { backend, store, .. } = counted;
    drop(store);
    let store = Store::open(Arc::new(backend), CONFIG).unwrap();
    assert!(matches!(store.index_journal(&|| true).unwrap(), Indexed::BadCursor(_)));
    let Indexed::BadCursor(cursor) = store.index_journal(&|| true).unwrap() else {
        panic!("it is met until it is passed over")
    };
    assert_eq!(store.counts_lost(), None);
    store.pass_over(&cursor).unwrap();
    assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
}

/// What is kept is passed for good: what lies behind it goes, and nobody comes back to it.
#[test]
fn kept_entries_never_block_those_behind_them() {
    let kept = [0, 1, 2, 3, 10, 11];
    for most in [1, 3, 100] {
        let mut counted = chain_of(30);
        counted.raise_floor(29);
        let older = Older(hashes(kept));
        assert_eq!(counted.sweep(most, &older), (23, 6), "slices of {most}");
        assert_eq!(present(&counted.store), hashes(kept.into_iter().chain([29])));
        assert_eq!(counted.sweep(most, &nobody()), (0, 0), "a major cycle finds them");
    }
}

/// S21: the entry of a node that is created again is void, and the next loss of it is an entry like any other.
#[test]
fn a_reinserted_node_cancels_its_stale_entry() {
    let mut counted = chain_of(10); // order 4 lost node 3
    counted.commit(&[(3, 1), (10, 1)], &[9]);
    counted.commit(&[(11, 1)], &[10]);
    counted.raise_floor(11);
    counted.sweep(2, &nobody());
    assert_eq!(present(&counted.store), hashes([3, 11]), "its entry had fallen to the floor");
    counted.commit(&[(12, 1)], &[11, 3]);
    counted.raise_floor(12);
    counted.sweep(2, &nobody());
    assert_eq!(present(&counted.store), hashes([12]), "it was not taken for shared");
}

/// I13: what is counted as stored is what is stored; while a cycle may delete, what is there and comes back counts once more.
#[test]
fn what_is_stored_is_counted_as_it_comes_and_goes() {
    let surplus = |counted: &Counted| {
        counted.store.catch_up().unwrap();
        counted.store.nodes_stored() - present(&counted.store).len() as u64
    };
    let mut counted = chain_of(10);
    assert_eq!(surplus(&counted), 0);
    counted.commit(&[(3, 1), (10, 1)], &[9]);
    assert_eq!(surplus(&counted), 0, "node 3 was there");
    counted.raise_floor(9);
    counted.sweep(2, &nobody());
    assert_eq!(present(&counted.store), hashes([3, 9, 10]));
    assert_eq!(surplus(&counted), 0, "what went is taken off");
    counted = counted.restart();
    assert_eq!(surplus(&counted), 0, "it is on disk");
    let capture = counted.store.capture().unwrap();
    counted.commit(&[(3, 1), (11, 1)], &[10]);
    counted.commit(&[(3, 1), (12, 1)], &[11]);
    assert_eq!(surplus(&counted), 1, "node 3 might have been deleted before it came back, once");
    drop(capture);
}

/// What was created lately is taken for stored until a slice deletes it, or a cycle begins to.
#[test]
fn what_comes_back_after_it_was_deleted_is_not_taken_for_stored() {
    let mut counted = chain_of(3);
    counted.raise_floor(2);
    assert_eq!(counted.sweep(9, &nobody()), (2, 0));
    counted.commit(&[(0, 1)], &[]);
    assert_eq!(counted.store.marks(), Some(0), "a slice told of it");
    counted.commit(&[(4, 1)], &[2]);
    let (permit, capture) = (counted.store.issue_permit(), counted.store.capture().unwrap());
    counted.store.settle_journal(&permit, order(4)).unwrap();
    let condemned = Condemned { hashes: &[hash(2)], cursor: Batch::new() };
    assert_eq!(counted.store.delete(&permit, &capture.barrier, condemned).unwrap().nodes, 1);
    counted.commit(&[(2, 1)], &[]);
    assert_eq!(counted.store.marks(), Some(0), "a cycle told that it begins");
    counted.commit(&[(2, 1)], &[]);
    assert_eq!(counted.store.marks(), Some(1), "it is stored");
}

/// S21: the same where the node comes back between the reading of a slice and its taking.
#[test]
fn a_node_that_comes_back_while_its_slice_is_at_work_is_kept() {
    let mut counted = chain_of(6);
    counted.raise_floor(5);
    let most = NonZeroUsize::new(100).unwrap();
    let Counted { store, backlog, .. } = &mut counted;
    let slice =
        store.next_slice(backlog, limit(most), &RoochLayout, &mut |_, error| panic!("{error}")).unwrap().unwrap();
    counted.commit(&[(6, 1), (2, 1)], &[5]);
    let Counted { store, backlog, .. } = &mut counted;
    let taken = store
        .expire(&store.issue_permit(), backlog, &slice, Judging { held: &nobody(), now: &|| Duration::ZERO })
        .unwrap();
    assert_eq!((taken.nodes, taken.passed), (4, 1));
    assert_eq!(present(store), hashes([2, 5, 6]));
}

#[test]
fn a_hash_created_twice_in_one_commit_is_shared() {
    for (places, left) in [(1, hashes([2])), (2, hashes([1, 2]))] {
        let mut counted = Counted::new();
        counted.commit(&[(0, 1)], &[]);
        counted.cycle();
        counted.commit(&[(1, places)], &[0]);
        counted.commit(&[(2, 1)], &[1]); // one place of it is lost
        counted.raise_floor(2);
        counted.sweep(10, &nobody());
        assert_eq!(present(&counted.store), left, "created at {places} places");
    }
}

/// A mark that is made again is not written again, and a cycle that traces a state from before that leaves it all the same.
#[test]
fn a_mark_made_again_outlives_a_cycle_that_traces_an_older_state() {
    let mut counted = Counted::new();
    counted.commit(&[(0, 1)], &[]);
    counted.cycle();
    counted.commit(&[(1, 2)], &[]);
    counted.commit(&[(1, 1), (2, 1)], &[]);
    let removed = |counted: &Counted, traced| correct(&counted.store, traced, &[]).unwrap().removed;
    assert_eq!(removed(&counted, 1), 0, "order 2 marked it too");
    counted = counted.restart();
    assert_eq!(removed(&counted, 1), 0, "nobody knows any more when it was marked last");
    assert_eq!(removed(&counted, 2), 1);
    counted.commit(&[(3, 1)], &[1]);
    counted.raise_floor(3);
    counted.sweep(10, &nobody());
    assert_eq!(present(&counted.store), hashes([0, 2, 3]), "it is one again");
}

/// I8: a write that failed may have taken effect. Whoever counts next asks the disk, and not what was in memory before.
#[test]
fn a_mark_whose_write_failed_and_took_effect_all_the_same_is_known_to_the_next_commit() {
    let memory = MemoryBackend::new();
    let faulty = FaultyBackend::over(memory.clone());
    let store = Store::open(Arc::new(faulty.clone()), CONFIG).unwrap();
    let mut counted = Counted { backend: memory, store, backlog: Backlog::default() };
    counted.commit(&[(0, 1)], &[]);
    counted.cycle();
    counted.commit(&[(1, 1)], &[]);
    let shared = [hash(1).fingerprint()]; // so a cycle found, though no commit knew
    counted.store.catch_up().unwrap();
    faulty.inject(Operation::Write, 0, Fault::Transient, Lasting::Once);
    correct(&counted.store, 1, &shared).unwrap_err();

    let twin = Store::open(Arc::new(counted.backend.copy()), CONFIG).unwrap();
    correct(&twin, 1, &shared).unwrap();
    let mut rows = Batch::new();
    twin.view()
        .unwrap()
        .scan(&Table::MANY, &KeyRange::ALL, &mut |key, value| {
            rows.put(Table::MANY, key, value);
            Flow::Continue(())
        })
        .unwrap();
    counted.backend.write(&rows, Durability::Logged).unwrap(); // what the failed write did

    correct(&counted.store, 1, &shared).unwrap();
    counted.commit(&[(2, 1)], &[1]); // one of its two places is lost
    counted.raise_floor(2);
    counted.sweep(10, &nobody());
    assert_eq!(present(&counted.store), hashes([0, 1, 2]));
}

/// S33: nodes that no entry names, and nodes of a time when nobody counted.
#[test]
fn a_node_without_bookkeeping_is_kept() {
    let mut counted = chain_of(10);
    counted.backend.plant(hash(500).as_bytes(), b"of nobody's");
    counted.raise_floor(9);
    counted.sweep(3, &nobody());
    assert_eq!(present(&counted.store), hashes([9, 500]));

    let Counted { backend, store, .. } = chain_of(10);
    drop(store);
    let uncounted = state_store::StoreConfig { journal: false, ..CONFIG };
    let store = Store::open(Arc::new(backend.clone()), uncounted).unwrap();
    let mut counted = Counted { backend, store, backlog: Backlog::default() };
    counted.commit(&[(10, 1)], &[9]);
    let Counted { backend, store, .. } = counted;
    drop(store);
    let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
    counted = Counted { backend, store, backlog: Backlog::default() };
    counted.commit(&[(11, 1)], &[10]);
    counted.raise_floor(11);
    assert_eq!(counted.store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
    assert_eq!(counted.slice(100, &nobody()), Err(Idle::Uncounted), "a gap lies before what is counted now");
    assert_eq!(present(&counted.store), hashes(0..12));
}

/// I12: however many orders are kept, a slice asks for none that another one has asked for.
#[test]
fn no_slice_asks_again_for_a_kept_order_unless_somebody_else_answers() {
    struct Asked {
        version: u64,
        times: Cell<u64>,
    }
    impl Held for Asked {
        fn version(&self) -> u64 {
            self.version
        }

        fn covers(&self, _: &StateRoot) -> bool {
            self.times.set(self.times.get() + 1);
            true
        }

        fn holds(&self, _: &NodeHash) -> Result<bool, StoreError> {
            Ok(false)
        }
    }

    let mut counted = chain_of(30);
    let mut asked = Asked { version: 1, times: Cell::new(0) };
    let times_of = |counted: &mut Counted, asked: &Asked, new: std::ops::Range<u64>| {
        let (to, keep) = (order(new.end), new.map(order).collect());
        let change = FloorMove { to, keep, let_go: BTreeSet::new(), rows: Vec::new() };
        counted.store.move_floor(change, Durability::Logged).unwrap();
        let Counted { store, backlog, .. } = counted;
        let before = asked.times.get();
        let most = limit(NonZeroUsize::new(2).unwrap());
        while let Ok(slice) = store.next_slice(backlog, most, &RoochLayout, &mut |_, error| panic!("{error}")).unwrap()
        {
            let by = Judging { held: asked, now: &|| Duration::ZERO };
            store.expire(&store.issue_permit(), backlog, &slice, by).unwrap();
        }
        asked.times.get() - before
    };
    assert_eq!(times_of(&mut counted, &asked, 0..10), 10, "of 0 to 9, once each, in five slices");
    assert_eq!(times_of(&mut counted, &asked, 10..20), 10, "of 10 to 19");
    asked.version = 2;
    assert_eq!(times_of(&mut counted, &asked, 20..29), 29, "somebody else answers for all of them");
}

/// S41, S58: a reader below the floor whose state nobody answers for stops the slice, which then goes on where it was.
#[test]
fn a_slice_waits_for_a_reader_whose_state_is_unknown() {
    struct Unknown;
    impl Held for Unknown {
        fn version(&self) -> u64 {
            1
        }

        fn covers(&self, _: &StateRoot) -> bool {
            false
        }

        fn holds(&self, _: &NodeHash) -> Result<bool, StoreError> {
            Ok(false)
        }
    }

    let mut counted = chain_of(8);
    let pin = counted.store.pin(order(2), "a reader").unwrap();
    counted.raise_floor(7);
    let Counted { store, backlog, .. } = &mut counted;
    let most = NonZeroUsize::new(100).unwrap();
    let slice =
        store.next_slice(backlog, limit(most), &RoochLayout, &mut |_, error| panic!("{error}")).unwrap().unwrap();
    let refused = store
        .expire(&store.issue_permit(), backlog, &slice, Judging { held: &Unknown, now: &|| Duration::ZERO })
        .unwrap_err();
    let StoreError::HeldByReader { order: at, owner } = &refused else { panic!("{refused}") };
    assert_eq!((*at, owner.as_str()), (order(2), "a reader"));
    assert_eq!(present(store), hashes(0..8));
    drop(pin);
    let taken = store
        .expire(&store.issue_permit(), backlog, &slice, Judging { held: &nobody(), now: &|| Duration::ZERO })
        .unwrap();
    assert_eq!((taken.nodes, present(store)), (7, hashes([7])));
}

/// C5: a bad row of marks ends exact counting once, also where marks have no room in memory: the cycle that follows writes it anew,
/// or takes it away. While counts are exact it stays, for it may be all that tells that a mark is missing (I8).
#[test]
fn a_bad_mark_beyond_the_room_for_marks_ends_exact_counting_until_the_next_cycle_and_not_again() {
    let counted = chain_of(3);
    counted.commit(&[(11, 2), (12, 2), (13, 2), (14, 2), (15, 2)], &[]);
    counted.store.catch_up().unwrap();
    let backend = counted.backend.clone();
    drop(counted);
    let mut shared: Vec<u64> = (11..16).map(|n| hash(n).fingerprint()).collect();
    shared.sort_unstable();
    let bad_keys = [vec![0xff; 8], vec![0xff; 9], vec![7; 3]];
    let spoil = |key: &[u8]| {
        let mut row = Batch::new();
        row.put(Table::MANY, key, [0; 12]);
        backend.write(&row, Durability::Logged).unwrap();
    };
    let open = || Store::open(Arc::new(backend.clone()), StoreConfig { marks_limit: 2, ..CONFIG }).unwrap();
    let faults = |store: &Store| check_all_rows(store, &|| true).unwrap().faults;
    let lost = Some(CountsLost { by: LostBy::Mark, order: 3 });
    bad_keys.iter().for_each(|key| spoil(key));
    let mut store = open();
    assert_eq!((store.begin_counting(&|| true).unwrap(), store.counts_lost()), (Traced::Newest, lost));
    assert_eq!(faults(&store).len(), bad_keys.len());
    correct(&store, 3, &shared).unwrap();
    store.settle_counts(&store.issue_permit(), 2).unwrap();
    assert_eq!(faults(&store), Vec::<String>::new());
    drop(store);

    store = open();
    assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
    assert_eq!((store.counts_lost(), store.counts_are_settled()), (None, true), "it is not met again");
    for key in bad_keys {
        spoil(&key);
        correct(&store, 3, &shared).unwrap();
        drop(store);
        store = open();
        store.index_journal(&|| true).unwrap();
        assert_eq!(store.counts_lost(), lost, "{key:?}: a cycle of exact counts has taken it away");
        store.begin_counting(&|| true).unwrap();
        correct(&store, 3, &shared).unwrap();
        store.settle_counts(&store.issue_permit(), 3).unwrap();
    }
}

/// O11: what is counted for triggers only keeps no store from opening. A validation tells of the row, everything that was ever put
/// stands in for it, and the next commit writes it anew.
#[test]
fn a_torn_row_of_what_is_stored_is_told_and_keeps_no_store_from_opening() {
    let mut counted = chain_of(10);
    counted.raise_floor(9);
    counted.sweep(9, &nobody());
    counted.store.catch_up().unwrap(); // or the end of it would write the record anew
    let put = counted.store.head().unwrap().nodes_put;
    assert!(counted.store.nodes_stored() < put);
    let faults = |counted: &Counted| check_rows(&*counted.store.view().unwrap()).unwrap().faults;
    let mut row = Batch::new();
    row.put(Table::META, *b"stored", *b"torn");
    counted.backend.write(&row, Durability::Logged).unwrap();
    let mut counted = counted.restart();
    assert!(matches!(&faults(&counted)[..], [fault] if fault.contains("stored")), "{:?}", faults(&counted));
    assert_eq!(counted.store.nodes_stored(), put);
    counted.commit(&[(10, 1)], &[9]);
    counted.store.catch_up().unwrap();
    assert_eq!((faults(&counted), counted.store.nodes_stored()), (Vec::new(), put + 1));
    counted = counted.restart();
    assert_eq!(counted.store.nodes_stored(), put + 1);
}

/// I8: without the record that says since when counts are exact nothing is deleted between cycles; the store opens and says so,
/// and a cycle counts anew.
#[test]
fn a_torn_record_of_counts_ends_exact_counting_and_keeps_no_store_from_opening() {
    let counted = chain_of(5);
    counted.raise_floor(4);
    let mut row = Batch::new();
    row.put(Table::META, *b"counts", *b"torn");
    counted.backend.write(&row, Durability::Logged).unwrap();
    let backend = counted.backend.clone();
    drop(counted);
    let lost = Some(CountsLost { by: LostBy::Record, order: 4 });
    for _ in 0..2 {
        let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
        assert_eq!((store.counts_lost(), store.counts_are_settled()), (lost, false));
        assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Uncounted);
        let mut counted = Counted { backend: backend.clone(), store, backlog: Backlog::default() };
        assert_eq!(counted.slice(9, &nobody()), Err(Idle::Uncounted));
        assert_eq!(check_rows(&*counted.store.view().unwrap()).unwrap().faults, Vec::<String>::new());
    }
    let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
    assert_eq!(store.begin_counting(&|| true).unwrap(), Traced::Newest);
    store.settle_journal(&store.issue_permit(), order(4)).unwrap();
    let mut counted = Counted { backend, store, backlog: Backlog::default() };
    correct(&counted.store, 4, &[]).unwrap();
    counted.store.settle_counts(&counted.store.issue_permit(), 2).unwrap();
    assert_eq!((counted.store.counts_lost(), counted.store.counts_are_settled()), (None, true));
    counted.commit(&[(5, 1)], &[4]);
    counted.raise_floor(5);
    assert_eq!(counted.sweep(9, &nobody()), (1, 0), "what was lost before waits for that cycle");
}

/// C5, I8: a bundle of marks that cannot be read, or that lies under another key, may be all that marks its nodes. Nothing expires
/// before a cycle has made the marks anew, which takes it away: it is met once.
#[test]
fn a_bundle_of_marks_that_is_not_what_was_written_ends_exact_counting_until_the_next_cycle_and_not_again() {
    let key = [&b"bundle/"[..], &3u64.to_be_bytes()].concat();
    let at = |change: fn(&mut Vec<u8>)| {
        let mut key = key.clone();
        change(&mut key);
        key
    };
    let moved = [at(|_| {}), at(|key| key[0] ^= 1), at(|key| key[14] ^= 4), at(|key| key.push(0))];
    for (to, is_torn) in moved.into_iter().map(|to| (to.clone(), to == key)) {
        let counted = chain_of(3);
        counted.commit(&[(11, 2)], &[]);
        let Counted { backend, store, .. } = counted;
        let value = store.view().unwrap().row(&Table::META, &key).unwrap().unwrap();
        drop(store);
        let mut rows = Batch::new();
        rows.delete(Table::META, key.as_slice());
        rows.put(Table::META, to.as_slice(), if is_torn { b"torn".to_vec() } else { value });
        backend.write(&rows, Durability::Logged).unwrap();
        let open = || Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
        let store = open();
        assert_eq!(store.counts_lost(), Some(CountsLost { by: LostBy::Mark, order: 3 }), "{to:?}");
        store.begin_counting(&|| true).unwrap();
        store.settle_journal(&store.issue_permit(), order(3)).unwrap();
        correct(&store, 3, &[hash(11).fingerprint()]).unwrap();
        store.settle_counts(&store.issue_permit(), 2).unwrap();
        drop(store);
        let store = open();
        assert_eq!((store.counts_lost(), store.counts_are_settled()), (None, true), "{to:?}");
        assert_eq!(store.marks(), Some(1), "{to:?}");
    }
}

/// S36: a commit that failed and was written all the same left a bundle that memory does not know.
#[test]
fn a_rollback_takes_bundles_away_that_memory_does_not_know() {
    let counted = chain_of(6);
    let (order_of_nobody, mut rows) = (9_u64, Batch::new());
    let twin = Counted { backend: counted.backend.copy(), ..Counted::new() }.restart();
    (0..3).for_each(|n| twin.commit(&[(60 + n, 1)], &[]));
    twin.commit(&[(70, 2)], &[]);
    let key = [&b"bundle/"[..], &order_of_nobody.to_be_bytes()].concat();
    let bundle = twin.store.view().unwrap().row(&Table::META, &key).unwrap().unwrap();
    rows.put(Table::META, key.as_slice(), bundle);
    counted.backend.write(&rows, Durability::Logged).unwrap();
    counted.store.rollback(order(4), Batch::new()).unwrap();
    assert_eq!(counted.store.view().unwrap().row(&Table::META, &key).unwrap(), None);
    assert_eq!(counted.restart().store.marks(), Some(0));
}
