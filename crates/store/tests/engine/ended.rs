//! C20: what reads much at a start ends when it is told to, at any moment, leaves nothing half-done, and is done later.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use state_store::{
    Base, Batch, CountsLost, Durability, Indexed, LostBy, MemoryBackend, Store, StoreConfig, StoreError, Table, Traced,
};
use state_tree::{Replaced, StateRoot};

use crate::support::{CONFIG, commit_on, correct, delta, hash, root, value};

/// More than are read between two questions, many times.
const ORDERS: u64 = 300;

fn commit(store: &Store, next: u64, created: &[u64], places: u32) {
    let (base, parent) = match next.checked_sub(1) {
        None => (Base::Genesis, StateRoot::EMPTY),
        Some(last) => (Base::Head(root(last)), root(last)),
    };
    let mut delta = delta(parent, root(next), created.iter().map(|n| (hash(*n), value(*n, 10))));
    delta.created.values_mut().for_each(|created| created.places = places);
    let lost = |n: u64| Replaced { hash: hash(n), above: None, below_adoption: false, unchanged: Vec::new() };
    delta.replaced = next.checked_sub(1).map(lost).into_iter().collect();
    commit_on(store, base, &delta).unwrap();
}

/// A chain each of whose orders creates a node and loses that of the order before, as if a cycle had ended at its first.
fn chain() -> MemoryBackend {
    let backend = MemoryBackend::new();
    let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
    commit(&store, 0, &[0], 1);
    correct(&store, 0, &[]).unwrap();
    store.settle_counts(&store.issue_permit(), 1).unwrap();
    (1..ORDERS).for_each(|next| commit(&store, next, &[next], 1));
    backend
}

fn open(backend: &MemoryBackend, config: StoreConfig) -> Store {
    Store::open(Arc::new(backend.copy()), config).unwrap()
}

/// Asks again and again, and is allowed to go on one question longer each time, until it is not ended any more; how often it was.
fn at_each_question<T>(mut attempt: impl FnMut(&(dyn Fn() -> bool + Send + Sync)) -> Option<T>) -> (u64, T) {
    let mut ended = 0;
    loop {
        let asked = AtomicU64::new(0);
        let goes_on = || asked.fetch_add(1, Ordering::Relaxed) < ended;
        if let Some(done) = attempt(&goes_on) {
            return (ended, done);
        }
        ended += 1;
    }
}

#[test]
fn reading_the_journal_ends_when_it_is_told_to_and_is_whole_when_it_is_read_again() {
    let backend = chain();
    let known = |store: &Store| format!("{:?} {:?}", store.pending(), store.lag());
    let (whole, none) = {
        let store = open(&backend, CONFIG);
        let none = known(&store);
        assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
        (known(&store), none)
    };
    assert_ne!(whole, none);
    let (ended, read) = at_each_question(|goes_on| {
        let store = open(&backend, CONFIG);
        match store.index_journal(goes_on) {
            Err(StoreError::Cancelled) => {
                assert_eq!(
                    (known(&store), store.counts_are_settled(), store.counts_lost()),
                    (none.clone(), true, None)
                );
                assert_eq!(store.index_journal(&|| true).unwrap(), Indexed::Whole { bad_rows: Vec::new() });
                assert_eq!(known(&store), whole);
                None
            }
            read => Some((read.unwrap(), known(&store))),
        }
    });
    assert_eq!(read, (Indexed::Whole { bad_rows: Vec::new() }, whole));
    assert!(ended >= ORDERS / 64, "it was asked {ended} times only");
}

/// The last mark is bad: whoever ended early has not found it, and must not take the marks for read.
#[test]
fn reading_the_marks_ends_when_it_is_told_to_and_a_bad_one_is_found_when_they_are_read_again() {
    let small = StoreConfig { marks_limit: 2, ..CONFIG };
    let backend = chain();
    let shared: Vec<u64> = (1000..1000 + ORDERS).collect();
    let store = Store::open(Arc::new(backend.clone()), CONFIG).unwrap();
    commit(&store, ORDERS, &shared, 2);
    store.catch_up().unwrap();
    let last = shared.iter().map(|n| hash(*n).fingerprint()).max().unwrap();
    let mut row = Batch::new();
    row.put(Table::MANY, last.to_be_bytes(), [0; 12]);
    store.write_rows(&row, Durability::Logged).unwrap();
    drop(store);
    let lost = Some(CountsLost { by: LostBy::Mark, order: ORDERS });
    let (ended, begun) = at_each_question(|goes_on| {
        let store = open(&backend, small);
        match store.begin_counting(goes_on) {
            Err(StoreError::Cancelled) => {
                assert_eq!((store.counts_lost(), store.counts_are_settled()), (None, true));
                assert_eq!((store.begin_counting(&|| true).unwrap(), store.counts_lost()), (Traced::Newest, lost));
                None
            }
            begun => Some((begun.unwrap(), store.counts_lost())),
        }
    });
    assert_eq!(begun, (Traced::Newest, lost));
    assert!(ended >= ORDERS / 64, "it was asked {ended} times only");
}
