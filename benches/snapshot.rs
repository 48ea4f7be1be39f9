//! Snapshots and locks beside commits: creation and lock p99, and the persisted size for a window of 30,000 roots.
//!
//!     cargo bench --package state-benches --bench snapshot -- [--window N] [--rounds N] [--logged]

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench measures time and prints results")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use state_benches::{
    args,
    chain::{Chain, percentile},
};
use state_pruner::{
    LiveWindow, RecordKey, Records, StoreRecords, SystemClock,
    phase::PrunePhase,
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts},
};
use state_store::{Durability, NativeChain};

fn main() {
    let window = args::number("--window").unwrap_or(1_000);
    let rounds = args::number("--rounds").unwrap_or(500);
    let durability = if args::flag("--logged") { Durability::Logged } else { Durability::Synced };
    let dir = tempfile::tempdir().expect("tempdir");
    let mut chain = Chain::create(dir.path(), durability, 1_000);
    for _ in 0..window {
        chain.step(1);
    }
    let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(&chain.store)));
    let policy = LiveWindow {
        store: Arc::clone(&chain.store),
        keep_last: window.try_into().expect("not zero"),
        floor_rows: None,
    };
    let parts = SnapshotParts {
        store: Arc::clone(&chain.store),
        chain: Arc::new(NativeChain),
        records: Arc::clone(&records),
        policy: Arc::new(policy),
        facts: None,
        clock: Arc::new(SystemClock::new()),
    };
    let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
    let (create, lock, commits) = measure(&mut chain, &manager, rounds);
    let persisted = records.load(RecordKey::Snapshot).expect("record").expect("saved").len();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let line = serde_json::json!({
        "bench": "snapshot", "window": window, "rounds": rounds, "durability": format!("{durability:?}"),
        "commits_meanwhile": commits,
        "create_ms": { "p50": ms(percentile(&create, 0.5)), "p99": ms(percentile(&create, 0.99)) },
        "lock_us": { "p50": ms(percentile(&lock, 0.5)) * 1e3, "p99": ms(percentile(&lock, 0.99)) * 1e3 },
        "persisted_bytes": persisted,
        "goal": { "create_p99_ms": 5, "lock_p99_us": 100, "persisted_bytes_at_30000": 500_000 },
    });
    println!("{line}");
}

fn measure(chain: &mut Chain, manager: &AtomicSnapshotManager, rounds: u64) -> (Vec<Duration>, Vec<Duration>, u64) {
    let (done, mut commits) = (AtomicBool::new(false), 0);
    let (mut create, mut lock) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            for _ in 0..rounds {
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
            chain.step(10);
            commits += 1;
        }
        snapshots.join().expect("joined");
    });
    create.sort();
    lock.sort();
    (create, lock, commits)
}
