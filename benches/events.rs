//! The journal of events: how many a second it takes, how long a producer waits, memory, and how long a compaction keeps
//! others waiting.
//!
//!     ./scripts/bench --bench events -- [--events N] [--check]

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    num::NonZeroU64,
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use state_benches::{Bound, Error, Table, args, chain::percentile, resident};
use state_pruner::{
    SystemClock,
    events::{Event, EventJournal, EventSink as _, EventsConfig, EventsSync, JournalStatus, Stopping},
};

/// Producers at once: worker and operators.
const PRODUCERS: u64 = 2;
/// Events per second of the paced run, of all producers.
const PACE: u64 = 5_000;
/// How long the disk may take at the end.
const PATIENCE: Duration = Duration::from_secs(60);

const MODES: [(EventsSync, &str); 3] =
    [(EventsSync::Each, "each"), (EventsSync::Interval, "interval"), (EventsSync::Never, "never")];

fn event(number: u64) -> Event {
    Event::PinAdded { name: "indexer-7".to_owned(), owner: "operator".to_owned(), order: number, ttl_ms: Some(60_000) }
}

/// What one run came to.
struct Measured {
    seconds: f64,
    waits: Vec<Duration>,
    grown: f64,
    status: JournalStatus,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => panic!("{error}"),
    }
}

fn run() -> Result<ExitCode, Error> {
    let events = args::number("--events").unwrap_or(200_000);
    let mut table = Table::default();
    for (sync, name) in MODES {
        let flood = measure(events, sync, Rate::Flood)?;
        let per_second = events as f64 / flood.seconds;
        let least = if sync == EventsSync::Interval { Bound::AtLeast(5_000.0) } else { Bound::None };
        table.number(&format!("sync {name}: as fast as it takes them"), (per_second, "events/s"), least);
        table.number(
            &format!("sync {name}: memory grown by {events} events"),
            (flood.grown, "MiB"),
            Bound::AtMost(8.0),
        );
        compaction(&mut table, name, &flood.status);

        let paced = measure(events.min(5 * PACE), sync, Rate::Paced)?;
        let ms = |share: f64| (percentile(&paced.waits, share).as_secs_f64() * 1e3, "ms");
        table.number(&format!("sync {name}: producer waits at 5,000 a second, p50"), ms(0.5), Bound::None);
        table.number(&format!("sync {name}: producer waits at 5,000 a second, p99"), ms(0.99), Bound::AtMost(10.0));
    }
    Ok(table.finish())
}

fn compaction(table: &mut Table, name: &str, status: &JournalStatus) {
    let times = (status.compactions_total as f64, "times");
    table.number(&format!("sync {name}: made smaller"), times, Bound::AtLeast(1.0));
    let ms = (status.longest_swap_us as f64 / 1e3, "ms");
    table.number(&format!("sync {name}: lock held by that, longest"), ms, Bound::AtMost(5.0));
    table.number(&format!("sync {name}: events lost"), (status.lost_total as f64, "events"), Bound::AtMost(0.0));
}

/// How events come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rate {
    Flood,
    Paced,
}

fn measure(events: u64, sync: EventsSync, rate: Rate) -> Result<Measured, Error> {
    let dir = tempfile::tempdir()?;
    let journal = open(dir.path(), sync)?;
    emit(&journal, 10_000, Rate::Flood)?; // buffers have their size now
    journal.flush(PATIENCE)?;
    let (before, start) = (resident()?, Instant::now());
    let mut waits = emit(&journal, events, rate)?;
    journal.flush(PATIENCE)?;
    let seconds = start.elapsed().as_secs_f64();
    let grown = resident()?.saturating_sub(before) as f64 / f64::from(1 << 20);
    if journal.stop(PATIENCE) != Stopping::Whole {
        return Err("the disk does not answer".into());
    }
    waits.sort();
    Ok(Measured { seconds, waits, grown, status: journal.status() })
}

fn open(dir: &Path, sync: EventsSync) -> Result<EventJournal, Error> {
    let max_bytes = NonZeroU64::MIN.saturating_add((4 << 20) - 1); // so that it is made smaller several times
    let config = EventsConfig { sync, max_bytes, ..EventsConfig::default() };
    Ok(EventJournal::open(dir, config, Arc::new(SystemClock::new()))?)
}

/// How long each event of a paced run took its producer.
fn emit(journal: &EventJournal, events: u64, rate: Rate) -> Result<Vec<Duration>, Error> {
    let produce = || {
        let (share, begun) = (events / PRODUCERS, Instant::now());
        let mut waits = Vec::new();
        for number in 0..share {
            if rate == Rate::Paced {
                let due = Duration::from_secs_f64(number as f64 * PRODUCERS as f64 / PACE as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let event = event(number);
            let start = Instant::now();
            journal.emit(event);
            if rate == Rate::Paced {
                waits.push(start.elapsed()); // only there: they would count as memory
            }
        }
        waits
    };
    thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS).map(|_| scope.spawn(produce)).collect();
        let waits = producers.into_iter().map(|producer| producer.join().map_err(|_| "a producer panicked"));
        Ok(waits.collect::<Result<Vec<_>, _>>()?.concat())
    })
}
