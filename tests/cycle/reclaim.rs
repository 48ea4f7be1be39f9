//! L2, L3, I12: what was deleted between cycles is given back while the chain is idle, a range at a time, and never beside
//! commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use state_pruner::{
    Command, Pruner, PrunerParts, Reply,
    events::{Event, Reclaimed},
    snapshot::NodeFacts,
};
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Rig},
    told::Told,
    workload::{Profile, Workload},
};

const WINDOW: u64 = 5;

fn given_back(told: &Told) -> Option<Event> {
    told.0.lock().iter().find(|event| matches!(event, Event::SpaceReclaimed(_))).cloned()
}

fn start(rig: &Rig, told: &Arc<Told>, looks: &Arc<Looks>) -> Pruner {
    let facts = Some(Arc::clone(looks) as _);
    let parts = PrunerParts { events: Arc::clone(told) as _, facts, ..rig.pruner_parts(&Hooks::none()) };
    Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap()
}

/// How often the worker has looked what is due: it asks for these facts each time.
#[derive(Default)]
struct Looks(AtomicU64);

impl NodeFacts for Looks {
    fn mempool_size(&self) -> Option<u64> {
        None
    }

    fn sync_status(&self) -> Option<bool> {
        if thread::current().name() == Some("pruner") {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
        None
    }
}

/// A chain on the real engine whose rounds have deleted what its window lost: rows and tombstones of it are in the files.
fn swept(told: &Arc<Told>) -> (Rig, Pruner, Workload) {
    swept_seen(told, &Arc::default())
}

fn swept_seen(told: &Arc<Told>, looks: &Arc<Looks>) -> (Rig, Pruner, Workload) {
    let rig = Rig::new(Engine::Rocks);
    let mut workload = Workload::new(Profile::Uniform, 701);
    rig.chain.run(&mut workload, 9);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.run(&mut workload, 120);
    rig.backend.flush().unwrap(); // puts and deletes lie in files of their own
    let pruner = start(&rig, told, looks);
    pruner.committed(rig.chain.head());
    settle(&rig, &pruner);
    (rig, pruner, workload)
}

/// Until the rounds have nothing left to do.
fn settle(rig: &Rig, pruner: &Pruner) {
    rig.until(|| {
        pruner.committed(rig.chain.head()); // so that however long it takes the chain is not idle
        let lag = pruner.status().incremental.unwrap().lag_nodes;
        !pruner.status().running && lag == Some(0) && rig.chain.floor().get() == rig.chain.head().get() + 1 - WINDOW
    });
}

fn until(reached: impl Fn() -> bool) {
    while !reached() {
        thread::yield_now(); // no time passes
    }
}

/// Time passes, and the worker looks again.
fn later(rig: &Rig, pruner: &Pruner, time: Duration) {
    rig.clock.advance(time);
    assert_eq!(pruner.command(Command::Enable), Reply::Unchanged); // it was on, and wakes the worker
}

/// Deletes and rows in the files.
fn in_files(rig: &Rig) -> (u64, u64) {
    let files = rig.backend.node_files().unwrap();
    (files.iter().map(|file| file.deletes).sum(), files.iter().map(|file| file.entries).sum())
}

#[test]
fn an_idle_chain_gives_the_space_of_deleted_rows_back() {
    let told = Arc::new(Told::default());
    let looks = Arc::<Looks>::default();
    let (rig, pruner, _) = swept_seen(&told, &looks);
    let live = check::present(&rig.chain.store).len() as u64;
    until(|| {
        later(&rig, &pruner, Duration::from_secs(40));
        given_back(&told).is_some()
    });
    assert_eq!(in_files(&rig), (0, live), "each row of the files is a node that is there");
    let Some(Event::SpaceReclaimed(reclaimed)) = given_back(&told) else { panic!("nothing was told") };
    let Reclaimed { ranges, deletes_before, deletes_after, bytes_before, bytes_after, .. } = reclaimed;
    assert!(ranges > 0 && deletes_before > 100 && bytes_after < bytes_before, "{:?}", given_back(&told));
    let status = pruner.status().reclaim.unwrap();
    assert_eq!((deletes_after, status.found.unwrap().deletes, status.under_way), (0, 0, false));
    assert_eq!((status.ranges_total, status.failure), (ranges, None));
    check::exact(&rig.chain, "nothing else went");
    let files = rig.backend.node_files().unwrap();
    for _ in 0..4 {
        let before = looks.0.load(Ordering::Acquire);
        later(&rig, &pruner, Duration::from_secs(3600));
        until(|| looks.0.load(Ordering::Acquire) > before); // a look comes after whatever the one before it began
    }
    let status = pruner.status().reclaim.unwrap();
    assert_eq!((status.ranges_total, status.under_way), (ranges, false), "each range once");
    assert_eq!(rig.backend.node_files().unwrap(), files, "and no file anew");
}

#[test]
fn no_range_is_rewritten_while_commits_come() {
    let told = Arc::new(Told::default());
    let (rig, pruner, mut workload) = swept(&told);
    for _ in 0..20 {
        later(&rig, &pruner, Duration::from_secs(20)); // never as long as an idle chain takes
        let swept = pruner.status().incremental.unwrap().slices_total;
        rig.chain.run(&mut workload, 1);
        pruner.committed(rig.chain.head());
        until(|| pruner.status().incremental.unwrap().slices_total > swept);
    }
    let status = pruner.status().reclaim.unwrap();
    assert_eq!((status.ranges_total, status.under_way, given_back(&told)), (0, false, None));
}
