//! Snapshots and locks beside commits: creation and lock p99, and the persisted size for a window of 30,000 roots. What
//! creation consists of is timed apart, on a quiet store, and so is reading a root of a store whose floor has moved often.
//!
//!     ./scripts/bench --bench snapshot -- [--window N] [--rounds N] [--logged]

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use state_benches::{
    Bound, Table, args,
    chain::{Chain, Flat, percentile},
};
use state_pruner::{
    LiveWindow, RecordKey, Records, RetainedRoots, StoreRecords, SystemClock,
    events::NoEvents,
    phase::PrunePhase,
    snapshot::{AtomicSnapshotManager, RetentionPolicy, SnapshotManagerConfig, SnapshotParts},
};
use state_store::{ChainView as _, Durability, FloorMove, NativeChain};
use state_tree::Order;

fn main() -> ExitCode {
    let window = args::number("--window").unwrap_or(1_000);
    let rounds = args::number("--rounds").unwrap_or(500);
    let durability = if args::flag("--logged") { Durability::Logged } else { Durability::Synced };
    let dir = tempfile::tempdir().expect("tempdir");
    let mut flat = Flat::create(dir.path(), durability, 1_000);
    for _ in 0..window {
        flat.step(1);
    }
    let chain = &flat.chain;
    let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(&chain.store)));
    let policy = LiveWindow {
        store: Arc::clone(&chain.store),
        keep_last: window.try_into().expect("not zero"),
        floor_rows: None,
    };
    let policy: Arc<dyn RetentionPolicy> = Arc::new(policy);
    let parts = SnapshotParts {
        store: Arc::clone(&chain.store),
        chain: Arc::new(NativeChain),
        records: Arc::clone(&records),
        policy: Arc::clone(&policy),
        facts: None,
        clock: Arc::new(SystemClock::new()),
        events: Arc::new(NoEvents),
    };
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    let (create, lock, commits) = measure(&mut flat, &manager, (&*policy, rounds));
    let persisted = records.load(RecordKey::Snapshot).expect("record").expect("saved").len();
    let mut table = Table::default();
    table.number("orders in the window", (window as f64, "orders"), Bound::None);
    table.number("commits meanwhile", (commits as f64, "commits"), Bound::None);
    let ms = |time: Duration| (time.as_secs_f64() * 1e3, "ms");
    table.number("snapshot creation, p50", ms(percentile(&create, 0.5)), Bound::None);
    table.number("snapshot creation, p99", ms(percentile(&create, 0.99)), Bound::AtMost(5.0));
    let us = |time: Duration| (time.as_secs_f64() * 1e6, "us");
    table.number("lock acquisition, p50", us(percentile(&lock, 0.5)), Bound::None);
    table.number("lock acquisition, p99", us(percentile(&lock, 0.99)), Bound::AtMost(100.0));
    table.number("persisted snapshot", (persisted as f64, "bytes"), Bound::AtMost(500_000.0));
    parts_of_a_creation(&flat.chain, &*policy, rounds, &mut table);
    reads_behind_moves(&mut table);
    table.finish()
}

/// Times how a root is read just after the floor has moved for the 400th time and for the 4,000th, with nothing flushed.
fn reads_behind_moves(table: &mut Table) {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut flat = Flat::create(dir.path(), Durability::Logged, 100);
    let read = |flat: &mut Flat| {
        flat.step(1);
        let head = Order::new(flat.chain.store.head().expect("a head").order);
        let (keep, let_go, rows) = Default::default();
        let moved = flat.chain.store.move_floor(FloorMove { to: head, keep, let_go, rows }, Durability::Logged);
        moved.expect("floor");
        let start = Instant::now();
        NativeChain.record(&*flat.chain.store.view().expect("view"), head).expect("record").expect("a root");
        start.elapsed()
    };
    let mut behind = |moves: usize| {
        let mut times: Vec<Duration> = (0..moves).map(|_| read(&mut flat)).collect();
        let mut last = times.split_off(moves - 100);
        last.sort();
        percentile(&last, 0.5).as_secs_f64() * 1e3
    };
    let (few, many) = (behind(400), behind(3_600));
    table.number("a root is read behind 4,000 moves of the floor, p50", (many, "ms"), Bound::None);
    table.number("the same / behind 400", (many / few, "times"), Bound::AtMost(3.0));
}

/// Times what creation consists of, while nobody commits.
fn parts_of_a_creation(chain: &Chain, policy: &dyn RetentionPolicy, rounds: u64, table: &mut Table) {
    let view = chain.store.view().expect("view");
    let retention = policy.retention().expect("retention");
    let roots = RetainedRoots::resolve(&NativeChain, &*view, &retention).expect("resolved");
    let time = |work: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..rounds)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed()
            })
            .collect();
        times.sort();
        (percentile(&times, 0.5).as_secs_f64() * 1e3, "ms")
    };
    let read = time(&|| drop(NativeChain.roots(&*view, roots.first, roots.head.order).expect("roots")));
    table.number("quiet, p50: the chain reads its roots", read, Bound::None);
    let resolve = time(&|| drop(RetainedRoots::resolve(&NativeChain, &*view, &retention).expect("resolved")));
    table.number("quiet, p50: the retention is resolved, reading included", resolve, Bound::None);
    let of_ends = || NativeChain.window_digest(&*view, roots.first, roots.head.order).expect("rows");
    let digest = time(&|| assert!(of_ends().is_some()));
    table.number("quiet, p50: the digest of the window, from its ends", digest, Bound::None);
}

/// Times of creation and of locking, sorted, and how often the chain committed meanwhile.
type Measured = (Vec<Duration>, Vec<Duration>, u64);

fn measure(
    flat: &mut Flat,
    manager: &AtomicSnapshotManager,
    (policy, rounds): (&dyn RetentionPolicy, u64),
) -> Measured {
    let (done, mut commits) = (AtomicBool::new(false), 0);
    let (mut create, mut lock) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            for _ in 0..rounds {
                policy.advance().expect("floor"); // as before each cycle: the window keeps its size
                let start = Instant::now();
                manager.create_snapshot(PrunePhase::BuildReach).expect("snapshot");
                create.push(start.elapsed());
                let start = Instant::now();
                let guard = manager.lock_snapshot(PrunePhase::BuildReach).expect("lock");
                lock.push(start.elapsed());
                drop(guard);
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            flat.step(10);
            commits += 1;
        }
        snapshots.join().expect("joined");
    });
    create.sort();
    lock.sort();
    (create, lock, commits)
}
