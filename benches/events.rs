//! The journal of events: how many a second it takes, how long a producer waits, how long an event takes to the file, memory,
//! and how long a compaction holds its lock and keeps events waiting.
//!
//!     ./scripts/bench --bench events -- [--events N] [--check]

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    collections::VecDeque,
    num::NonZeroU64,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use state_benches::{Bound, Error, Table, args, chain::percentile, resident};
use state_pruner::{
    SystemClock,
    events::{
        Event, EventJournal, EventSink as _, EventsConfig, EventsSync, Heard, JournalStatus, Stopping, Subscription,
    },
};

/// Producers at once: worker and operators.
const PRODUCERS: usize = 2;
/// Events per second of a paced run, of all producers.
const PACE: u64 = 5_000;
/// Events before anything is measured: buffers have their size then.
const WARM: u64 = 10_000;
/// How long the disk may take at the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// The journal of a flood has at most so many bytes, so that it is made smaller several times.
const FLOOD_BYTES: u64 = 4 << 20;
/// That of a paced run, for the same reason: five seconds bring 1.6 MB.
const PACED_BYTES: u64 = 512 << 10;
/// So often is looked what is written: the time to the file is told too long by as much.
const LOOK_EVERY: Duration = Duration::from_micros(500);

const MODES: [(EventsSync, &str); 3] =
    [(EventsSync::Each, "each"), (EventsSync::Interval, "interval"), (EventsSync::Never, "never")];

fn event(number: u64) -> Event {
    Event::PinAdded { name: "indexer-7".to_owned(), owner: "operator".to_owned(), order: number, ttl_ms: Some(60_000) }
}

/// The usual one but for when events are made durable, and the most bytes.
fn config(sync: EventsSync, max_bytes: u64) -> EventsConfig {
    let max_bytes = NonZeroU64::MIN.saturating_add(max_bytes - 1);
    EventsConfig { sync, max_bytes, ..EventsConfig::default() }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => panic!("{error}"),
    }
}

fn run() -> Result<ExitCode, Error> {
    let events = args::number("--events").unwrap_or(200_000);
    let paced = events.min(5 * PACE);
    let mut table = Table::default();
    for (sync, name) in MODES {
        flood(&mut table, (sync, name), events)?;
        // With `each` it waits for the disk, whose time is not the journal's.
        let to_the_file = if sync == EventsSync::Each { Bound::None } else { Bound::AtMost(10.0) };
        Paced::measure(paced, config(sync, PACED_BYTES))?.tell(&mut table, &format!("sync {name}, paced"), to_the_file);
    }
    Ok(table.finish())
}

/// As many events as are taken.
fn flood(table: &mut Table, (sync, name): (EventsSync, &str), events: u64) -> Result<(), Error> {
    let journal = Warm::open(config(sync, FLOOD_BYTES))?;
    let (before, start) = (resident()?, Instant::now());
    journal.emit_all(events)?;
    let seconds = start.elapsed().as_secs_f64();
    let grown = resident()?.saturating_sub(before) as f64 / f64::from(1 << 20);
    let least = if sync == EventsSync::Interval { Bound::AtLeast(PACE as f64) } else { Bound::None };
    let run = format!("sync {name}");
    table.number(&format!("{run}: as fast as it takes them"), (events as f64 / seconds, "events/s"), least);
    table.number(&format!("{run}: memory grown by {events} events"), (grown, "MiB"), Bound::AtMost(8.0));
    let (compactions, status) = journal.end()?;
    compaction(table, &run, (compactions, Bound::AtLeast(1.0)), &status);
    Ok(())
}

/// What making the file smaller cost, and what was lost.
fn compaction(table: &mut Table, run: &str, (times, least): (u64, Bound), status: &JournalStatus) {
    let ms = |us: u64| (us as f64 / 1e3, "ms");
    table.number(&format!("{run}: made smaller"), (times as f64, "times"), least);
    table.number(&format!("{run}: lock held by that, longest"), ms(status.longest_swap_us), Bound::AtMost(5.0));
    table.number(&format!("{run}: no event taken for that, longest"), ms(status.longest_stall_us), Bound::None);
    table.number(&format!("{run}: events lost"), (status.lost_total as f64, "events"), Bound::AtMost(0.0));
}

/// A journal whose buffers have their size, in a folder of its own.
struct Warm {
    journal: EventJournal,
    /// Compactions before anything was measured.
    compactions: u64,
    _dir: tempfile::TempDir,
}

impl Warm {
    fn open(config: EventsConfig) -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let journal = EventJournal::open(dir.path(), config, Arc::new(SystemClock::new()))?;
        let warm = Self { journal, compactions: 0, _dir: dir };
        warm.emit_all(WARM)?;
        Ok(Self { compactions: warm.journal.status().compactions_total, ..warm })
    }

    /// Emits as fast as events are taken, and returns when they are written.
    fn emit_all(&self, events: u64) -> Result<(), Error> {
        let produce = || (0..events / PRODUCERS as u64).for_each(|number| self.journal.emit(event(number)));
        thread::scope(|scope| {
            let producers: Vec<_> = (0..PRODUCERS).map(|_| scope.spawn(produce)).collect();
            producers.into_iter().try_for_each(|producer| producer.join().map_err(|_| "a producer panicked"))
        })?;
        Ok(self.journal.flush(PATIENCE)?)
    }

    /// How often it was made smaller while it was measured, and what it tells of itself.
    fn end(self) -> Result<(u64, JournalStatus), Error> {
        if self.journal.stop(PATIENCE) != Stopping::Whole {
            return Err("the disk does not answer".into());
        }
        let status = self.journal.status();
        Ok((status.compactions_total - self.compactions, status))
    }
}

/// What a paced run came to.
struct Paced {
    /// How long each event took its producer, sorted.
    waits: Vec<Duration>,
    /// How long each took from there to the file, sorted.
    written: Vec<Duration>,
    compactions: u64,
    status: JournalStatus,
}

impl Paced {
    fn measure(events: u64, config: EventsConfig) -> Result<Self, Error> {
        let journal = Warm::open(config)?;
        let (mut waits, mut written) = pace(&journal.journal, events)?;
        let (compactions, status) = journal.end()?;
        waits.sort();
        written.sort();
        Ok(Self { waits, written, compactions, status })
    }

    fn tell(&self, table: &mut Table, run: &str, to_the_file: Bound) {
        let ms = |times: &[Duration], share| (percentile(times, share).as_secs_f64() * 1e3, "ms");
        table.number(&format!("{run}: producer waits, p50"), ms(&self.waits, 0.5), Bound::None);
        table.number(&format!("{run}: producer waits, p99"), ms(&self.waits, 0.99), Bound::AtMost(10.0));
        table.number(&format!("{run}: emitted to written, p50"), ms(&self.written, 0.5), Bound::None);
        table.number(&format!("{run}: emitted to written, p99"), ms(&self.written, 0.99), to_the_file);
        compaction(table, run, (self.compactions, Bound::AtLeast(3.0)), &self.status);
    }
}

/// How long each event took its producer, and how long it took to the file.
fn pace(journal: &EventJournal, events: u64) -> Result<(Vec<Duration>, Vec<Duration>), Error> {
    let (live, begun) = (journal.subscribe(), Instant::now());
    let emitted: Vec<AtomicU64> = (0..events).map(|_| AtomicU64::new(0)).collect();
    let produce = |producer: usize| {
        let mut waits = Vec::new();
        for (number, emitted) in (0..).zip(&emitted).skip(producer).step_by(PRODUCERS) {
            let due = Duration::from_secs_f64(number as f64 / PACE as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let event = event(number);
            let start = begun.elapsed();
            emitted.store(start.as_nanos() as u64, Ordering::Release); // BEFORE it can be heard
            journal.emit(event);
            waits.push(begun.elapsed() - start);
        }
        waits
    };
    thread::scope(|scope| {
        let produce = &produce;
        let watcher = scope.spawn(|| watch(journal, live, (&emitted, begun)));
        let producers: Vec<_> = (0..PRODUCERS).map(|producer| scope.spawn(move || produce(producer))).collect();
        let waits = producers.into_iter().map(|producer| producer.join().map_err(|_| "a producer panicked"));
        let waits = waits.collect::<Result<Vec<_>, _>>()?.concat();
        Ok((waits, watcher.join().map_err(|_| "the watcher panicked")??))
    })
}

/// Waits until each event is written. The numbers of events follow each other from 1 on, and they are written in that order: one is
/// written when at least so many are.
fn watch(
    journal: &EventJournal,
    mut live: Subscription,
    (emitted, begun): (&[AtomicU64], Instant),
) -> Result<Vec<Duration>, Error> {
    let (mut waiting, mut took) = (VecDeque::new(), Vec::with_capacity(emitted.len()));
    while took.len() < emitted.len() {
        while let Some(heard) = live.try_next() {
            let Heard::Event(happened) = heard else { return Err("the watcher was too slow".into()) };
            if let Event::PinAdded { order, .. } = &happened.event {
                waiting.push_back((happened.seq, *order));
            }
        }
        let (status, now) = (journal.status(), begun.elapsed());
        if status.lost_total > 0 {
            return Err("events were lost".into());
        }
        while let Some((seq, order)) = waiting.pop_front() {
            if seq > status.written_total {
                waiting.push_front((seq, order));
                break;
            }
            let at = emitted.get(usize::try_from(order)?).ok_or("an event that nobody emitted")?;
            took.push(now.saturating_sub(Duration::from_nanos(at.load(Ordering::Acquire))));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(took)
}
