//! I8, I9, I12: a commit that is judged by whoever takes the gate next, and what the disk says until then.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use state_store::{
    Backend as _, Backlog, CrashTail, Fault, FaultyBackend, Flow, KeyRange, Lasting, MemoryBackend, Operation, Store,
    StoreConfig, StoreError, Table, marked_on_disk,
};

use crate::{
    counted::{Counted, chain_of, nobody},
    support::{CONFIG, hash, present},
};

/// Behind faults, and with the chain of [`chain_of`].
fn behind_faults(orders: u64) -> (Counted, FaultyBackend) {
    let Counted { backend, store, .. } = chain_of(orders);
    drop(store);
    let faulty = FaultyBackend::over(backend.clone());
    let store = Store::open(Arc::new(faulty.clone()), CONFIG).unwrap();
    store.index_journal(&|| true).unwrap();
    (Counted { backend, store, backlog: Backlog::default() }, faulty)
}

fn fingerprints(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    nodes.into_iter().map(|n| hash(n).fingerprint()).collect()
}

fn on_disk(backend: &MemoryBackend) -> BTreeSet<u64> {
    marked_on_disk(&*backend.view().unwrap()).unwrap()
}

/// Node 2 is stored when it is created again, nodes 20 and 21 are not.
#[test]
fn a_commit_marks_all_that_may_be_shared_until_it_is_judged_and_what_is_shared_from_then_on() {
    let counted = chain_of(3);
    counted.commit(&[(2, 1), (20, 1), (21, 1)], &[]);
    assert_eq!(on_disk(&counted.backend), fingerprints([2, 20, 21]), "nobody has looked");
    assert_eq!(counted.store.marks(), Some(1), "who asks has it judged");
    let copy = counted.backend.copy();
    counted.store.catch_up().unwrap();
    assert_eq!(on_disk(&counted.backend), fingerprints([2]));

    let crashed = Counted { backend: copy.clone(), ..Counted::new() }.restart();
    assert_eq!(crashed.store.marks(), Some(3), "the next process does not know better");
    crashed.commit(&[(22, 1)], &[20, 21]);
    crashed.raise_floor(4);
    let mut crashed = crashed;
    crashed.sweep(9, &nobody());
    assert!(present(&crashed.store).is_superset(&[2, 20, 21, 22].map(hash).into()), "they wait for a cycle");
}

/// Where nobody catches up the next commit writes what was found of the one before, and the end of a process that of the last.
#[test]
fn what_was_found_is_written_with_the_next_commit_or_at_the_end_of_the_process() {
    let counted = chain_of(3);
    counted.commit(&[(2, 1), (20, 1)], &[]);
    counted.commit(&[(30, 1)], &[]);
    assert_eq!(on_disk(&counted.backend), fingerprints([2, 30]));
    let counted = counted.restart();
    assert_eq!((on_disk(&counted.backend), counted.store.marks()), (fingerprints([2]), Some(1)));
}

/// I8: where nobody can tell whether the nodes were there, they were.
#[test]
fn what_cannot_be_looked_for_counts_as_shared() {
    let (mut counted, faulty) = behind_faults(3);
    counted.commit(&[(2, 1), (20, 1)], &[]);
    faulty.inject(Operation::ReadNodes, 0, Fault::Transient, Lasting::Once);
    counted.store.catch_up().unwrap();
    assert_eq!((faulty.met(), on_disk(&counted.backend)), (1, fingerprints([2, 20])));
    assert!(matches!(counted.store.looked(), Err(StoreError::Io { .. })), "it is told");
    counted.store.looked().expect("once");
    counted.commit(&[(21, 1)], &[2]);
    counted.raise_floor(4);
    counted.sweep(9, &nobody());
    assert!(present(&counted.store).contains(&hash(2)), "one of its two places is left");
}

/// S21: node 1 waits to go when it is created again, and the look panics.
#[test]
fn a_look_that_panics_is_for_the_next_stay_and_nothing_of_the_commit_is_forgotten() {
    let (mut counted, faulty) = behind_faults(3);
    counted.commit(&[(1, 1), (50, 1)], &[]);
    let once = AtomicBool::new(true);
    faulty.before_read(move || assert!(!once.swap(false, Ordering::AcqRel), "a bug of ours"));
    catch_unwind(AssertUnwindSafe(|| counted.store.marks())).unwrap_err();
    counted.commit(&[(51, 1)], &[]);
    counted.raise_floor(4);
    counted.sweep(9, &nobody());
    assert!(present(&counted.store).contains(&hash(1)));
}

/// Where little is shared a commit looks itself, so that a crash leaves no marks that nobody needs: what is shared spreads.
#[test]
fn a_commit_presumes_nothing_where_little_is_shared() {
    let counted = chain_of(3);
    drop(counted.store);
    let config = StoreConfig { shared_per_presumed: 2, ..CONFIG };
    let store = Store::open(Arc::new(counted.backend.clone()), config).unwrap();
    store.index_journal(&|| true).unwrap();
    let counted = Counted { store, ..counted };
    counted.commit(&[(2, 1), (20, 1)], &[]);
    assert_eq!(on_disk(&counted.backend), fingerprints([2]));
    counted.commit(&[(30, 2), (31, 2), (32, 2)], &[]);
    counted.commit(&[(40, 1), (41, 1)], &[]);
    assert_eq!(on_disk(&counted.backend), fingerprints([2, 30, 31, 32, 40, 41]), "four marks are enough for two");
}

/// It never falls while nothing goes, and is on disk when the process ends.
#[test]
fn what_is_stored_is_told_as_of_the_newest_commit_that_is_judged() {
    let mut counted = chain_of(3);
    let mut told = counted.store.nodes_stored();
    for n in 0..5 {
        counted.commit(&[(2, 1), (20, 1), (100 + n, 1)], &[]);
        let before = counted.store.nodes_stored();
        counted.store.catch_up().unwrap();
        let after = counted.store.nodes_stored();
        assert!(told <= before && before <= after, "{told}, {before}, {after}");
        assert_eq!(after, present(&counted.store).len() as u64);
        counted = counted.restart();
        told = counted.store.nodes_stored();
        assert_eq!(told, after);
    }
}

/// I9: at each write of it, a crash finds every mark that was found.
#[test]
fn a_crash_while_what_was_found_is_written_loses_none_of_it() {
    let shared: Vec<u64> = (100..400).collect();
    let all = fingerprints(shared.iter().copied());
    for writes in 0..5 {
        let (counted, faulty) = behind_faults(3);
        let created: Vec<(u64, u32)> = shared.iter().map(|n| (*n, 1)).collect();
        counted.commit(&created, &[]);
        counted.store.catch_up().unwrap();
        counted.commit(&created, &[]); // each is there
        faulty.freeze_after(writes);
        let is_whole = counted.store.catch_up().is_ok();
        let image = faulty.crash_image(CrashTail::Kept).unwrap();
        let missing = all.difference(&on_disk(&image)).count();
        assert_eq!(missing, 0, "after {writes} writes");
        assert_eq!(is_whole, writes >= 3, "300 marks are three batches");
    }
}

/// Where nobody ever catches up, bundles do not become more without end: from some number on a commit judges itself, and
/// writes rows.
#[test]
fn bundles_that_nobody_unpacks_stay_few() {
    let counted = chain_of(3);
    for turn in 0..100 {
        let nodes: Vec<(u64, u32)> = (0..100).map(|n| (1_000 + turn * 100 + n, 2)).collect();
        counted.commit(&nodes, &[]);
    }
    let (mut bytes, view) = (0, counted.backend.view().unwrap());
    let mut take = |key: &[u8], value: &[u8]| {
        bytes += if key.starts_with(b"bundle/") { value.len() } else { 0 };
        Flow::Continue(())
    };
    view.scan(&Table::META, &KeyRange::ALL, &mut take).unwrap();
    assert!(bytes < 50_000, "{bytes} bytes of bundles");
    assert_eq!(counted.store.marks(), Some(10_000));
}

/// I12: what a large commit marks is not written in one stay.
#[test]
fn a_commit_that_has_more_nodes_than_bundles_have_room_for_judges_itself() {
    let counted = chain_of(3);
    let large: Vec<(u64, u32)> = (1_000..6_000).map(|n| (n, 1)).collect();
    counted.commit(&large, &[]);
    assert_eq!(on_disk(&counted.backend), fingerprints([]));
    counted.commit(&large, &[]);
    let mut rows = 0;
    let mut take = |_: &[u8], _: &[u8]| {
        rows += 1;
        Flow::Continue(())
    };
    counted.store.view().unwrap().scan(&Table::MANY, &KeyRange::ALL, &mut take).unwrap();
    assert_eq!(rows, 5_000, "each has its row at once");
}
