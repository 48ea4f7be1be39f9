//! Sweeps on the real engine: which versions a range rewrite sees, what it may drop, and what it must never lose.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use state_store::{Backend, Batch, Durability, FaultyBackend, Haste, KeyRange, Pace, Store, StoreError, Table};
use state_tree::NodeHash;

use crate::support::{CONFIG, Live, Rig, await_sleep, commit, files, hash, nodes, present, sixteenth, sweep};

/// S44: a range delete names a table, and no table is the node family.
#[test]
fn the_node_family_has_no_range_delete() {
    assert!(Table::foreign("state_node").is_none());
    assert!(Table::ALL.iter().all(|table| table.name() != "state_node"));
    let rig = Rig::new();
    rig.commit(nodes(0, 50, 40));
    let mut everything = Batch::new();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::CHAIN) {
        everything.delete_range(table, [0], [0xff; 40]);
    }
    rig.store.write_rows(&everything, Durability::Logged).unwrap();
    assert_eq!(present(&rig.store).len(), 50, "range deletes of every table there is");
}

#[test]
fn a_compaction_outside_an_active_sweep_drops_nothing() {
    let rig = Rig::new();
    rig.commit(nodes(0, 2_000, 300));
    let before = rig.present();
    rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    assert_eq!(rig.present(), before, "no sweep was ever active");
    let capture = rig.store.capture().unwrap();
    drop(sweep(&rig.store, &capture, []));
    rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    assert_eq!(rig.present(), before, "the sweep has ended");
    let active = sweep(&rig.store, &capture, []);
    active.rewrite(&KeyRange::ALL).unwrap();
    assert!(rig.present().is_empty(), "the same compaction inside a sweep");
}

#[test]
fn a_revoked_permit_sweeps_nothing() {
    let rig = Rig::new();
    rig.commit(nodes(0, 500, 100));
    let capture = rig.store.capture().unwrap();
    let active = sweep(&rig.store, &capture, []);
    drop(rig.store.issue_permit()); // the one of the sweep is dead by now
    assert!(matches!(active.rewrite(&KeyRange::ALL), Err(StoreError::PermitRevoked)));
    rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    assert_eq!(rig.present().len(), 500, "not even a compaction by other means");
}

/// Versions in the memtable, in level 0, in several levels and in blob files, some keys in several of them.
#[test]
fn a_range_sweep_sees_every_version_in_its_range() {
    let rig = Rig::new();
    rig.commit(nodes(0, 9_000, 400));
    rig.commit(nodes(9_000, 500, 3_000)); // blobs
    rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap(); // the bottom level
    rig.commit(nodes(4_000, 3_000, 400)); // again, above
    rig.backend.flush().unwrap();
    rig.commit(nodes(20_000, 1_000, 400)); // level 0
    rig.backend.flush().unwrap();
    rig.commit(nodes(30_000, 1_000, 400)); // memtable only
    let levels: BTreeSet<u32> = rig.backend.node_files().unwrap().iter().map(|file| file.level).collect();
    assert!(levels.len() > 1, "the test needs versions on several levels, not {levels:?}");

    let capture = rig.store.capture().unwrap();
    let all = rig.present();
    let live: BTreeSet<NodeHash> = all.iter().copied().filter(|hash| hash.as_bytes()[31] % 4 == 0).collect();
    let active = sweep(&rig.store, &capture, live.clone());
    let range = sixteenth(5);
    let tally = active.rewrite(&range).unwrap();
    let expected: BTreeSet<NodeHash> =
        all.iter().copied().filter(|hash| live.contains(hash) || !range.contains(hash.as_bytes())).collect();
    let left = rig.present();
    assert!(left.is_subset(&expected), "a dead version of the range is still there");
    assert!(left.is_superset(&live), "a live node is gone");
    assert_eq!(tally.seen, tally.dropped + tally.live + tally.created + tally.foreign + tally.idle);
    for part in 0..16 {
        active.rewrite(&sixteenth(part)).unwrap();
    }
    drop(active);
    assert_eq!(rig.present(), live, "all ranges together are the whole sweep");
    assert_eq!(files(&*rig.backend), live.len() as u64, "and no tombstone or old version is left on disk");
}

#[test]
fn a_range_without_any_key_is_rewritten_without_complaint() {
    let rig = Rig::new();
    rig.commit([(NodeHash::new([0x10; 32]), vec![1]), (NodeHash::new([0xf0; 32]), vec![2])]);
    let capture = rig.store.capture().unwrap();
    let active = sweep(&rig.store, &capture, []);
    let gap = sixteenth(8);
    active.rewrite(&gap).unwrap();
    active.rewrite(&KeyRange::ALL).unwrap();
    assert!(rig.present().is_empty());
    active.rewrite(&gap).unwrap();
}

/// A brake that tells when it is first touched and holds until it is let go.
struct Brake {
    touched: Mutex<mpsc::Sender<()>>,
    held: Mutex<mpsc::Receiver<()>>,
}

impl Pace for Brake {
    fn spend(&self, _bytes: u64, _haste: Haste) {
        // Both ends are gone once the test has let go: every later call passes.
        let _told = self.touched.lock().unwrap().send(()).is_ok();
        let _let_go = self.held.lock().unwrap().recv().is_err();
    }
}

#[test]
fn a_cancelled_rewrite_says_so_loses_nothing_and_can_be_repeated() {
    let rig = Rig::new();
    rig.commit(nodes(0, 4_000, 900));
    let before = rig.present();
    let capture = rig.store.capture().unwrap();
    let ((touched, braking), (let_go, held)) = (mpsc::channel(), mpsc::channel());
    let brake = Brake { touched: Mutex::new(touched), held: Mutex::new(held) };
    let live = Arc::new(Live(before.clone()));
    let permit = rig.store.issue_permit();
    let active = rig.store.sweep(permit, capture.barrier.clone(), live, Some(Arc::new(brake))).unwrap();
    let error = std::thread::scope(|scope| {
        let rewriting = scope.spawn(|| active.rewrite(&KeyRange::ALL).unwrap_err());
        braking.recv().unwrap();
        let (about_to, queueing) = mpsc::channel();
        let backend = &rig.backend;
        scope.spawn(move || {
            about_to.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            backend.cancel_rewrite();
        });
        await_sleep(&queueing.recv().unwrap()); // the engine waits for the compaction to end
        drop(let_go);
        rewriting.join().unwrap()
    });
    assert!(matches!(error, StoreError::Cancelled), "{error:?}");
    assert_eq!(rig.present(), before);
    assert_eq!(active.rewrite(&KeyRange::ALL).unwrap().live, 4_000, "the next one is not cancelled");
    rig.backend.cancel_rewrite(); // nothing is running: no effect
    active.rewrite(&KeyRange::ALL).unwrap();
}

const KEYS: u64 = 3_000;

/// What two writers have done so far, and whether they should end.
#[derive(Default)]
struct Race {
    created: Mutex<BTreeSet<NodeHash>>,
    committed: AtomicU64,
    stop: AtomicBool,
}

impl Race {
    /// Commits dead nodes again, twenty at a time, until told to stop.
    fn write(&self, store: &Store, from: u64) {
        for round in 0.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.write_once(store, (round * 37 + from) % KEYS);
        }
    }

    fn write_once(&self, store: &Store, from: u64) {
        match commit(store, nodes(from, 20, 200)) {
            Ok(_) => {
                self.created.lock().unwrap().extend((from..from + 20).map(hash));
                self.committed.fetch_add(1, Ordering::AcqRel);
            }
            Err(StoreError::HeadMoved { .. }) => {} // the other writer was faster
            Err(error) => panic!("{error}"),
        }
    }
}

/// Re-creates dead nodes from two threads while their ranges are swept over and over through `sweeper`.
/// Returns how many re-created nodes were lost, and how many commits raced the sweep.
fn race(rig: &Rig, sweeper: &Store) -> (usize, u64) {
    rig.commit(nodes(0, KEYS, 200));
    let capture = sweeper.capture().unwrap();
    let race = Race::default();
    let commits = || race.committed.load(Ordering::Acquire);
    let active = sweep(sweeper, &capture, []);
    let pass = || {
        rig.backend.flush().unwrap(); // a filter judges files only: so that it meets what was created meanwhile
        for part in [0, 7, 12] {
            active.rewrite(&sixteenth(part)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| race.write(&rig.store, 0));
        scope.spawn(|| race.write(&rig.store, KEYS / 2));
        let mut rounds = 0;
        while rounds < 3 || commits() < 200 {
            pass();
            rounds += 1;
        }
        race.stop.store(true, Ordering::Release);
    });
    pass(); // what the writers created last, and would have created again
    let left = present(&rig.store);
    let lost = race.created.lock().unwrap().difference(&left).count();
    (lost, commits())
}

#[test]
fn a_resurrected_node_survives_sweep() {
    let rig = Rig::new();
    let (lost, committed) = race(&rig, &rig.store);
    assert_eq!(lost, 0, "of the nodes that {committed} commits created again");
}

#[test]
fn an_engine_serves_one_store_at_a_time() {
    let rig = Rig::new();
    rig.commit(nodes(0, 1, 10));
    let second = Store::open(rig.backend.clone(), CONFIG);
    assert!(matches!(second, Err(StoreError::Invariant(_))), "its barrier would see no commit of the first");
    let backend = rig.backend.clone();
    drop(rig.store);
    assert!(Store::open(backend, CONFIG).is_ok(), "the first is gone");
}

/// The proof that the test above can fail: a second gate on the same engine has a barrier that no commit reaches. No
/// product code can have one; this one looks at the engine through a twin that does not say whose it is.
#[test]
fn a_sweep_whose_barrier_sees_no_commit_loses_resurrected_nodes() {
    let rig = Rig::new();
    rig.commit(nodes(90_000, 1, 10));
    let apart = Store::open(Arc::new(FaultyBackend::around(rig.backend.clone())), CONFIG).unwrap();
    let (lost, committed) = race(&rig, &apart);
    assert!(lost > 0, "{committed} commits raced a sweep without a barrier and lost nothing");
}
