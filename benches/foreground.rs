//! What a cycle costs the commits that run beside it: throughput and p99 with cycles back to back against the same
//! store without, in segments that alternate.
//!
//!     cargo bench --package state-benches --bench foreground -- [--objects N] [--seconds S] [--logged] [--io-limit MIB]

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench measures time and prints results")]

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use state_benches::{
    args,
    chain::{Chain, percentile},
};
use state_pruner::Command;
use state_store::Durability;

const OBJECTS_PER_COMMIT: usize = 100;
const KEEP_LAST: u64 = 100;
const SEGMENTS: usize = 5;

#[derive(Default)]
struct Side {
    commits: Vec<Duration>,
    wall: Duration,
}

impl Side {
    fn run(&mut self, chain: &mut Chain, time: Duration, mut each: impl FnMut(state_tree::Order)) {
        let start = Instant::now();
        while start.elapsed() < time {
            let (order, took) = chain.step(OBJECTS_PER_COMMIT);
            self.commits.push(took);
            each(order);
        }
        self.wall += start.elapsed();
    }

    fn per_second(&self) -> f64 {
        self.commits.len() as f64 / self.wall.as_secs_f64()
    }

    fn p99(&mut self) -> Duration {
        self.commits.sort();
        percentile(&self.commits, 0.99)
    }
}

fn main() {
    let objects = args::number("--objects").unwrap_or(100_000);
    let seconds = args::number("--seconds").unwrap_or(4);
    let durability = if args::flag("--logged") { Durability::Logged } else { Durability::Synced };
    let dir = tempfile::tempdir().expect("tempdir");
    let mut chain = Chain::create(dir.path(), durability, objects);
    let io_limit = args::number("--io-limit").and_then(|mib| NonZeroU64::new(mib << 20));
    let pruner = chain.pruner(dir.path(), KEEP_LAST, io_limit);
    let (mut without, mut with) = (Side::default(), Side::default());
    let segment = Duration::from_secs(seconds);
    Side::default().run(&mut chain, segment, |_| ()); // warm-up, not counted
    let mut cycles = 0;
    for _ in 0..SEGMENTS {
        without.run(&mut chain, segment, |_| ());
        let before = pruner.status().cycles_finished;
        pruner.command(Command::Run);
        with.run(&mut chain, segment, |order| {
            pruner.committed(order);
            if !pruner.status().running {
                pruner.command(Command::Run);
            }
        });
        while pruner.status().running {
            std::thread::sleep(Duration::from_millis(10));
        }
        cycles += pruner.status().cycles_finished - before;
    }
    assert!(cycles > 0, "no cycle finished: {:?}", pruner.status());
    let (throughput, p99) =
        (with.per_second() / without.per_second(), with.p99().as_secs_f64() / without.p99().as_secs_f64());
    let line = serde_json::json!({
        "bench": "foreground", "objects": objects, "io_limit_bytes": io_limit, "durability": format!("{durability:?}"), "cycles": cycles,
        "commits_per_second": { "without": without.per_second(), "with": with.per_second() },
        "p99_ms": { "without": without.p99().as_secs_f64() * 1e3, "with": with.p99().as_secs_f64() * 1e3 },
        "throughput_ratio": throughput, "p99_ratio": p99,
        "goal": { "throughput_ratio": 0.85, "p99_ratio": 1.5 },
    });
    println!("{line}");
}
