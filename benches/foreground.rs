//! What a cycle costs the commits that run beside it: throughput and p99 with cycles back to back against the same
//! store without, in segments that alternate.
//!
//!     ./scripts/bench --bench foreground -- [--objects N] [--seconds S] [--logged] [--io-limit MIB | --no-io-limit]
//!
//! The sweep is braked as a node brakes it by default, unless told otherwise.

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    num::NonZeroU64,
    process::ExitCode,
    time::{Duration, Instant},
};

use state_benches::{
    Bound, Table, args,
    chain::{Flat, NODE_IO_LIMIT_MIB, percentile},
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
    fn run(&mut self, chain: &mut Flat, time: Duration, mut each: impl FnMut(state_tree::Order)) {
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

/// The brake asked for, in bytes per second.
fn io_limit() -> Option<NonZeroU64> {
    if args::flag("--no-io-limit") {
        return None;
    }
    NonZeroU64::new(args::number("--io-limit").unwrap_or(NODE_IO_LIMIT_MIB) << 20)
}

fn main() -> ExitCode {
    let objects = args::number("--objects").unwrap_or(100_000);
    let seconds = args::number("--seconds").unwrap_or(4);
    let durability = if args::flag("--logged") { Durability::Logged } else { Durability::Synced };
    let dir = tempfile::tempdir().expect("tempdir");
    let mut chain = Flat::create(dir.path(), durability, objects);
    let pruner = chain.pruner(dir.path(), KEEP_LAST, io_limit());
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
    report(&mut without, &mut with, cycles)
}

fn report(without: &mut Side, with: &mut Side, cycles: u64) -> ExitCode {
    let mut table = Table::default();
    let brake = io_limit().map_or(f64::INFINITY, |bytes| (bytes.get() >> 20) as f64);
    table.number("brake on the sweep", (brake, "MiB/s"), Bound::None);
    table.number("cycles finished meanwhile", (cycles as f64, "cycles"), Bound::None);
    table.number("throughput without a cycle", (without.per_second(), "commits/s"), Bound::None);
    table.number("throughput with a cycle", (with.per_second(), "commits/s"), Bound::None);
    let (calm, busy) = (without.p99().as_secs_f64() * 1e3, with.p99().as_secs_f64() * 1e3);
    table.number("commit p99 without a cycle", (calm, "ms"), Bound::None);
    table.number("commit p99 with a cycle", (busy, "ms"), Bound::None);
    let throughput = with.per_second() / without.per_second();
    table.number("throughput with / without", (throughput, "times"), Bound::AtLeast(0.85));
    table.number("commit p99 with / without", (busy / calm, "times"), Bound::AtMost(1.5));
    table.finish()
}
