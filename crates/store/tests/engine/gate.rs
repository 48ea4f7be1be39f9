//! The commit gate: one order of puts and deletes, the barrier inside it, and who may build on what.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use state_store::{
    Backend, Base, Batch, Condemned, CrashTail, Durability, Fault, FaultyBackend, Flow, KeyRange, MemoryBackend,
    RocksBackend, Store, StoreConfig, StoreError, Table, View,
};
use state_tree::{NodeHash, Order, StateRoot};

use crate::support::{
    CONFIG, Live, Rig, SMALL, await_sleep, commit, commit_on, delta, files, hash, nodes, order, root, sweep,
};

fn memory() -> (Store, FaultyBackend) {
    let backend = FaultyBackend::over(MemoryBackend::new());
    (Store::open(Arc::new(backend.clone()), CONFIG).unwrap(), backend)
}

fn condemn(hashes: &[NodeHash]) -> Condemned<'_> {
    Condemned { hashes, cursor: Batch::new() }
}

#[test]
fn no_commit_slips_between_barrier_and_capture() {
    let rig = Rig::new();
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (rig, acknowledged, stop) = (&rig, &acknowledged, &stop);
            scope.spawn(move || {
                let numbers = (writer..).step_by(2).take_while(|_| !stop.load(Ordering::Acquire));
                let committed = numbers.filter(|n| commit(&rig.store, nodes(*n, 1, 40)).is_ok());
                committed.for_each(|n| acknowledged.lock().unwrap().push(hash(n)));
            });
        }
        for round in 0..60 {
            let capture = rig.store.capture().unwrap();
            let known = acknowledged.lock().unwrap().len();
            while acknowledged.lock().unwrap().len() < known + 20 {
                std::thread::yield_now();
            }
            let around = acknowledged.lock().unwrap().clone().split_off(known.saturating_sub(20));
            for node in &around {
                let seen = capture.view.node(node).unwrap().is_some();
                assert!(
                    seen || capture.barrier.protects(node),
                    "round {round}: {node} is neither in the view nor recorded"
                );
            }
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn every_write_path_records_into_the_barrier() {
    let rig = Rig::new();
    let capture = rig.store.capture().unwrap();
    let by_base = [
        (Base::Genesis, delta(StateRoot::EMPTY, root(0), nodes(0, 3, 10))),
        (Base::Head(root(0)), delta(root(0), root(1), nodes(10, 3, 10))),
        (Base::Retained(order(0), root(0)), delta(root(0), root(2), nodes(20, 3, 10))),
    ];
    for (base, delta) in by_base {
        commit_on(&rig.store, base, &delta).unwrap();
        for node in delta.created.keys() {
            assert!(capture.barrier.protects(node), "{base:?}");
        }
    }
    assert_eq!(capture.barrier.created(), 9);
    assert!(Table::foreign("state_node").is_none(), "no row can be written into the node family");
}

#[test]
fn a_put_and_a_delete_of_one_hash_never_reorder() {
    let rig = Rig::new();
    for round in 0..150u64 {
        let node = hash(round);
        rig.commit(nodes(round, 1, 60));
        let capture = rig.store.capture().unwrap();
        let permit = rig.store.issue_permit();
        std::thread::scope(|scope| {
            scope.spawn(|| rig.commit(nodes(round, 1, 60)));
            scope.spawn(|| {
                rig.store.delete(&permit, &capture.barrier, condemn(&[node])).unwrap();
            });
        });
        let found = rig.store.view().unwrap().node(&node).unwrap();
        assert!(found.is_some(), "round {round}: the delete overtook the commit");
    }
}

#[test]
fn a_revoked_permit_deletes_nothing() {
    let (store, backend) = memory();
    commit(&store, nodes(0, 10, 10)).unwrap();
    let capture = store.capture().unwrap();
    let dead: Vec<NodeHash> = (0..10).map(hash).collect();
    let first = store.issue_permit();
    let second = store.issue_permit();
    let delete = |permit| store.delete(permit, &capture.barrier, condemn(&dead));
    assert!(matches!(delete(&first), Err(StoreError::PermitRevoked)), "a later one exists");
    store.revoke(&first);
    assert!(second.is_current(), "revoking one that is dead already touches no other");
    store.revoke(&second);
    assert!(matches!(delete(&second), Err(StoreError::PermitRevoked)));
    assert_eq!(backend.writes(), 1, "neither wrote anything");
    let third = store.issue_permit();
    assert_eq!(delete(&third).unwrap().nodes, 10);
}

/// I10: a compaction may still hold a permit of a store that is no more, and the next one's commits are in no barrier of it.
#[test]
fn a_store_that_is_dropped_takes_its_permits_along() {
    let (store, backend) = memory();
    let permit = store.issue_permit();
    drop(store);
    assert!(!permit.is_current());
    let next = Store::open(Arc::new(backend), CONFIG).unwrap();
    assert!(next.try_issue_permit().is_ok() && !permit.is_current());
}

/// I9: a cursor that is kept elsewhere is written behind the deletes, and must not outlive them.
#[test]
fn deletes_without_their_cursor_are_durable_when_they_are_told() {
    let backend = FaultyBackend::over(MemoryBackend::new());
    let store = Store::open(Arc::new(backend.clone()), StoreConfig::new(Durability::Logged)).unwrap();
    commit(&store, nodes(0, 10, 10)).unwrap();
    let capture = store.capture().unwrap();
    let dead: Vec<NodeHash> = (0..10).map(hash).collect();
    let mut row = Batch::new();
    row.put(Table::META, b"a row", b"that is synced");
    store.write_rows(&row, Durability::Synced).unwrap();
    let left = || {
        let view = backend.crash_image(CrashTail::Lost).unwrap().view().unwrap();
        dead.iter().filter(|node| view.node(node).unwrap().is_some()).count()
    };
    assert_eq!(left(), 10);
    store.delete(&store.issue_permit(), &capture.barrier, condemn(&dead)).unwrap();
    assert_eq!(left(), 0);
}

#[test]
fn a_permit_or_barrier_of_another_store_is_refused() {
    let ((here, _), (there, _)) = (memory(), memory());
    let (capture, foreign) = (here.capture().unwrap(), there.capture().unwrap());
    let permit = here.issue_permit();
    for result in [
        here.delete(&there.issue_permit(), &capture.barrier, condemn(&[])),
        here.delete(&permit, &foreign.barrier, condemn(&[])),
    ] {
        assert!(matches!(result, Err(StoreError::Invariant(_))));
    }
}

#[test]
fn a_recreated_node_is_put_again_even_if_present() {
    let rig = Rig::new();
    for versions in 1..=3 {
        rig.commit(nodes(7, 1, 100));
        rig.backend.flush().unwrap();
        assert_eq!(files(&*rig.backend), versions, "one stored version per commit");
    }
}

#[test]
fn a_commit_on_a_root_that_is_not_retained_is_refused() {
    let (store, backend) = memory();
    for n in 0..5 {
        commit(&store, nodes(n, 1, 10)).unwrap();
    }
    store.raise_floor(order(2), Batch::new()).unwrap();
    let writes = backend.writes();
    let refused = |base, parent| {
        let error = commit_on(&store, base, &delta(parent, root(99), nodes(50, 1, 10))).unwrap_err();
        matches!(error, StoreError::BaseNotRetained { .. })
    };
    assert!(refused(Base::Retained(order(1), root(1)), root(1)), "below the floor");
    assert!(refused(Base::Retained(order(3), root(2)), root(2)), "a root of another order");
    assert!(refused(Base::Retained(order(9), root(9)), root(9)), "never committed");
    assert!(refused(Base::Retained(order(3), root(3)), root(4)), "computed on another parent");
    assert_eq!(backend.writes(), writes);
    let next = delta(root(2), root(99), nodes(50, 1, 10));
    let committed = commit_on(&store, Base::Retained(order(2), root(2)), &next).unwrap();
    assert_eq!(committed.order, order(5), "at the floor is retained");
}

#[test]
fn a_commit_that_lost_the_race_is_told_to_compute_again() {
    let (store, _) = memory();
    commit(&store, nodes(0, 1, 10)).unwrap();
    commit(&store, nodes(1, 1, 10)).unwrap();
    let late = delta(root(0), root(77), nodes(2, 1, 10));
    let error = commit_on(&store, Base::Head(root(0)), &late).unwrap_err();
    assert!(matches!(error, StoreError::HeadMoved { head } if head == order(1)), "{error}");
    let error = commit_on(&store, Base::Genesis, &delta(StateRoot::EMPTY, root(0), [])).unwrap_err();
    assert!(matches!(error, StoreError::HeadMoved { .. }), "{error}");
}

#[test]
fn many_committers_on_one_store_keep_orders_dense() {
    let rig = Rig::new();
    const EACH: u64 = 60;
    let moved = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let (rig, moved) = (&rig, &moved);
            scope.spawn(move || {
                let mut done = 0;
                while done < EACH {
                    match commit(&rig.store, nodes(writer * EACH + done, 1, 30)) {
                        Ok(_) => done += 1,
                        Err(StoreError::HeadMoved { .. }) => drop(moved.fetch_add(1, Ordering::AcqRel)),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let rig = rig.reopen();
    let head = rig.store.head().unwrap();
    assert_eq!((head.order, head.commits, head.nodes_put), (4 * EACH - 1, 4 * EACH, 4 * EACH));
    assert!((0..4 * EACH).all(|n| rig.store.root(order(n)).unwrap() == root(n)));
    assert_eq!(rig.present().len() as u64, 4 * EACH);
}

#[test]
fn a_root_pinned_before_the_floor_moves_stays_readable() {
    let (store, _) = memory();
    for n in 0..5 {
        commit(&store, nodes(n, 1, 10)).unwrap();
    }
    let pin = store.pin(order(1), "an export").unwrap();
    store.raise_floor(order(3), Batch::new()).unwrap();
    assert_eq!((pin.order(), pin.root()), (order(1), root(1)));
    let pins = store.pins();
    assert_eq!(pins.len(), 1, "whoever deletes after raising the floor sees it");
    assert_eq!((pins[0].0, pins[0].1[0].owner.as_str()), (order(1), "an export"));
    assert!(matches!(store.pin(order(1), "late"), Err(StoreError::Pruned { floor, .. }) if floor == order(3)));
    assert!(matches!(store.root(order(9)), Err(StoreError::NoSuchOrder { .. })));
    drop(pin);
    assert!(store.pins().is_empty());
}

#[test]
fn the_floor_is_never_lowered_and_survives_a_reopen() {
    let rig = Rig::new();
    for n in 0..5 {
        rig.commit(nodes(n, 1, 10));
    }
    rig.store.raise_floor(order(3), Batch::new()).unwrap();
    assert!(rig.store.raise_floor(order(2), Batch::new()).is_err());
    assert!(rig.store.raise_floor(order(5), Batch::new()).is_err(), "above the head");
    let rig = rig.reopen();
    assert_eq!(rig.store.floor(), Some(order(3)));
    assert!(matches!(rig.store.root(order(2)), Err(StoreError::Pruned { .. })));
    assert_eq!(rig.store.root(order(3)).unwrap(), root(3));
}

/// A store with one commit whose writes by threads of this name are held, and the two ends of the hold.
struct Holding {
    store: Store,
    entered: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
    wrote: Arc<Mutex<Vec<String>>>,
}

impl Holding {
    fn writes_of(name: &'static str) -> Self {
        let (store, backend) = memory();
        commit(&store, nodes(0, 1, 10)).unwrap();
        let ((in_write, entered), (release, go_on)) = (mpsc::channel(), mpsc::channel());
        let (wrote, go_on) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(go_on));
        let writers = Arc::clone(&wrote);
        backend.before_write(move || {
            let thread = std::thread::current().name().unwrap().to_owned();
            writers.lock().unwrap().push(thread.clone());
            if thread == name {
                in_write.send(()).unwrap();
                go_on.lock().unwrap().recv().unwrap();
            }
        });
        Self { store, entered, release, wrote }
    }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

#[test]
fn a_reader_pins_while_a_commit_waits_for_its_sync() {
    let held = Holding::writes_of("committer");
    let store = &held.store;
    std::thread::scope(|scope| {
        named("committer").spawn_scoped(scope, || commit(store, nodes(1, 1, 10)).unwrap()).unwrap();
        held.entered.recv().unwrap();
        assert_eq!(store.pin(order(0), "a reader").unwrap().root(), root(0));
        assert!(store.root(order(1)).is_err(), "not before it is written");
        assert_eq!(store.head().unwrap().order, 0);
        held.release.send(()).unwrap();
    });
    assert_eq!(store.root(order(1)).unwrap(), root(1));
}

/// A commit that queues while one delete batch is being written goes before the next one, though the deleter never
/// pauses between its batches.
#[test]
fn a_commit_waits_for_at_most_one_delete_batch() {
    const ROUNDS: u64 = 20;
    let held = Holding::writes_of("deleter");
    let store = &held.store;
    let capture = store.capture().unwrap();
    let permit = store.issue_permit();
    std::thread::scope(|scope| {
        let delete = || {
            for _ in 0..2 * ROUNDS {
                store.delete(&permit, &capture.barrier, condemn(&[hash(9)])).unwrap();
            }
        };
        named("deleter").spawn_scoped(scope, delete).unwrap();
        for n in 0..ROUNDS {
            held.entered.recv().unwrap();
            let (queueing, about_to) = mpsc::channel();
            let one = move || {
                queueing.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
                commit(store, nodes(n, 1, 10)).unwrap();
            };
            named("committer").spawn_scoped(scope, one).unwrap();
            await_sleep(&about_to.recv().unwrap());
            held.release.send(()).unwrap();
            held.entered.recv().unwrap(); // the next batch is at its write: it must come after the commit's
            held.release.send(()).unwrap();
        }
    });
    let wrote = held.wrote.lock().unwrap();
    let wrote: Vec<&str> = wrote.iter().map(String::as_str).collect();
    assert_eq!(wrote, ["deleter", "committer", "deleter"].repeat(ROUNDS as usize));
}

#[test]
fn bookkeeping_adds_one_record_and_one_batched_read_to_a_commit() {
    let (store, backend) = memory();
    commit(&store, nodes(0, 1, 10)).unwrap();
    let (reads, writes) = (backend.reads(), backend.writes());
    commit(&store, nodes(0, 500, 10)).unwrap();
    assert!(backend.reads() - reads <= 1, "presence is asked at most once, for all nodes together");
    assert_eq!(backend.writes() - writes, 1, "everything is in the commit's own batch");
    let mut rows = 0;
    let view = backend.view().unwrap();
    view.scan(&Table::JOURNAL, &KeyRange::ALL, &mut |_, _| {
        rows += 1;
        Flow::Continue(())
    })
    .unwrap();
    assert_eq!(rows, 2, "one journal record for each commit");
}

#[test]
fn order_keys_iterate_in_numeric_order() {
    let rig = Rig::new();
    let orders = [0, 1, 2, 254, 255, 256, 257, 65_535, 65_536, 1 << 40, u64::MAX];
    let mut batch = Batch::new();
    for n in orders.iter().rev() {
        batch.put(Table::BLOCK, Order::new(*n).to_key(), *b"block");
    }
    rig.store.write_rows(&batch, Durability::Logged).unwrap();
    let mut seen = Vec::new();
    let view = rig.store.view().unwrap();
    view.scan(&Table::BLOCK, &KeyRange::ALL, &mut |key, _| {
        seen.push(u64::from_be_bytes(key.try_into().unwrap()));
        Flow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, orders);
}

#[test]
fn a_failed_existence_read_is_not_an_absence() {
    let (store, backend) = memory();
    commit(&store, nodes(0, 2, 10)).unwrap();
    let view = store.view().unwrap();
    let (mut rows, mut scanned) = (0, 0);
    backend.fail_read(0, Fault::Transient);
    assert!(view.node(&hash(0)).is_err());
    backend.fail_read(0, Fault::Corrupt);
    assert!(view.nodes(&[hash(0)], &mut |_, _| rows += 1).is_err());
    backend.fail_read(0, Fault::Transient);
    let scan = view.scan_nodes(&KeyRange::ALL, &mut |_, _| {
        scanned += 1;
        Flow::Continue(())
    });
    assert!(scan.is_err() && rows + scanned == 0, "a failed read tells of no row at all");
    let absent = Table::foreign("no_such_table").unwrap();
    assert!(matches!(view.row(&absent, b"key"), Err(StoreError::NoTable(_))));
    assert!(view.node(&hash(0)).unwrap().is_some() && view.node(&hash(5)).unwrap().is_none());
}

#[test]
fn a_store_opened_without_the_sweep_filter_says_so() {
    let rig = Rig::new();
    rig.commit(nodes(0, 1, 10));
    let path = rig.path();
    drop(rig.store.capture());
    let reader = RocksBackend::open_read_only(&path, &SMALL).unwrap();
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(MemoryBackend::without_filter()), Arc::new(reader)];
    for backend in backends {
        let store = Store::foreign(backend, CONFIG).unwrap();
        let capture = store.capture().unwrap();
        let live = Arc::new(Live(BTreeSet::new()));
        let refused = store.sweep(store.issue_permit(), capture.barrier, live, None);
        let Err(error) = refused else { panic!("a sweep that cannot drop anything began") };
        assert!(error.to_string().contains("no sweep filter"), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused_before_any_write() {
    let memory = MemoryBackend::new();
    let store = Store::open(Arc::new(memory.clone()), CONFIG).unwrap();
    commit(&store, nodes(0, 1, 10)).unwrap();
    let mut head = store.view().unwrap().row(&Table::CHAIN, b"head").unwrap().unwrap();
    head.truncate(head.len() - 4);
    head[8] = 9; // the version
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    let mut batch = Batch::new();
    batch.put(Table::CHAIN, *b"head", head);
    store.write_rows(&batch, Durability::Logged).unwrap();
    let backend = FaultyBackend::over(memory);
    let error = Store::open(Arc::new(backend.clone()), CONFIG).unwrap_err();
    assert!(matches!(error, StoreError::Newer { version: 9, .. }), "{error}");
    assert_eq!(backend.writes(), 0);
}

#[test]
fn the_twin_in_memory_forgets_swept_versions_in_older_views_too() {
    let (store, _) = memory();
    commit(&store, nodes(0, 4, 10)).unwrap();
    let capture = store.capture().unwrap();
    commit(&store, nodes(0, 1, 10)).unwrap();
    sweep(&store, &capture, [hash(3)]).rewrite(&KeyRange::ALL).unwrap();
    let left = |view: &dyn View| {
        let nodes = (0..4).filter(|n| view.node(&hash(*n)).unwrap().is_some());
        nodes.collect::<Vec<u64>>()
    };
    assert_eq!(left(&*store.view().unwrap()), [0, 3], "created since the view, and live");
    assert_eq!(left(&*capture.view), [0, 3], "a filter does not spare older views");
}
