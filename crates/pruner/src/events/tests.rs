//! What a journal promises to producers, watchers and readers, and what damage and crashes leave of it.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use state_store::{FaultyDisk, FileCall, Lasting};
use tempfile::TempDir;

use super::{
    compact::{Compaction, Keep, Step},
    file::{EventFile, FILE, Found},
    frame::{HEADER, JournalHeader, Scanner},
    medium::{Medium, Mount, plain},
    queue::{CAPACITY, Queue, Refused, Sent, Taken},
    *,
};
use crate::{
    clock::{Clock, ManualClock, SystemClock},
    error::PruneError,
};

const LONG: Duration = Duration::from_secs(60);

fn pin(producer: u64, number: u64) -> Event {
    Event::PinRemoved { name: format!("producer-{producer}"), order: number }
}

fn quiet() -> EventsConfig {
    EventsConfig { flush_every: LONG, sync: EventsSync::Never, room_within: LONG, ..EventsConfig::default() }
}

fn open(dir: &Path, config: EventsConfig) -> EventJournal {
    EventJournal::open(dir, config, Arc::new(ManualClock::default())).unwrap()
}

fn all(dir: &Path) -> JournalRead {
    read_journal(dir, &Filter::default()).unwrap()
}

fn orders(read: &JournalRead) -> Vec<u64> {
    let pins = read.events.iter().filter(|entry| entry.code == "pin_removed");
    pins.map(|entry| entry.data["order"].as_u64().unwrap()).collect()
}

/// A journal of these many pins on disk, as bytes.
fn small_journal(pins: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), quiet());
    (1..=pins).for_each(|number| journal.emit(pin(0, number)));
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    fs::read(dir.path().join(FILE)).unwrap()
}

/// A folder with a journal of these bytes.
fn folder_with(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), bytes).unwrap();
    dir
}

/// A disk that fails or hangs when it is told to.
#[derive(Default)]
struct Disk {
    full: Mutex<bool>,
    hangs: Mutex<bool>,
    /// What a failed write left cannot be taken back.
    keeps_leftovers: Mutex<bool>,
    answers: Condvar,
    /// Syncs to fail.
    bad_syncs: AtomicU64,
    /// What a failed sync was to make durable is gone.
    forgets: AtomicBool,
    durable: AtomicU64,
    appended: AtomicU64,
    synced: AtomicU64,
}

struct OnDisk {
    file: File,
    disk: Arc<Disk>,
}

impl Disk {
    fn mount(self: &Arc<Self>) -> Mount {
        let disk = Arc::clone(self);
        Arc::new(move |file| Arc::new(OnDisk { file, disk: Arc::clone(&disk) }))
    }

    fn open(self: &Arc<Self>, dir: &Path, config: EventsConfig) -> EventJournal {
        EventJournal::mounted(dir, config, Arc::new(ManualClock::default()), self.mount()).unwrap()
    }

    fn answer(&self) {
        *self.hangs.lock() = false;
        self.answers.notify_all();
    }
}

impl Medium for OnDisk {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.disk.appended.fetch_add(1, Ordering::SeqCst);
        let mut hangs = self.disk.hangs.lock();
        while *hangs {
            self.disk.answers.wait(&mut hangs);
        }
        if *self.disk.full.lock() {
            self.file.append(&bytes[..bytes.len() / 2])?; // as a real one does
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let less = |left: u64| left.checked_sub(1);
        match self.disk.bad_syncs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => {
                if self.disk.forgets.load(Ordering::SeqCst) {
                    self.file.cut(self.disk.durable.load(Ordering::SeqCst))?;
                }
                Err(io::Error::other("injected"))
            }
            Err(_) => {
                self.disk.synced.fetch_add(1, Ordering::SeqCst);
                self.disk.durable.store(self.file.length()?, Ordering::SeqCst);
                self.file.sync()
            }
        }
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        if *self.disk.keeps_leftovers.lock() {
            return Err(io::Error::other("injected"));
        }
        self.file.cut(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

fn run_end(trigger: crate::certificate::Trigger) -> RunEnd {
    let outcome = "finished".to_owned();
    RunEnd { run: 1, trigger, duration_ms: None, counted: 1, cycle: None, outcome, message: None }
}

/// One of every kind, in the order of their numbers.
fn every_event() -> Vec<Event> {
    let (phase, trigger) = (crate::phase::PrunePhase::BuildReach, crate::Trigger::Orders);
    let text = String::new;
    let first = [
        Event::Started { version: text(), pid: 1, damaged: 0, torn_bytes: 0 },
        Event::Stopped { lost: 0 },
        Event::CycleBegun { cycle: 1, trigger },
        Event::CycleEnded(super::CycleEnd {
            cycle: 1,
            outcome: text(),
            message: None,
            deleted: None,
            live: None,
            bytes_before: None,
            bytes_after: None,
        }),
        Event::PhaseEntered { cycle: 1, phase },
        Event::PhaseLeft { cycle: 1, phase, outcome: text(), millis: 0 },
        Event::LockTaken { phase, snapshot: 1 },
        Event::LockTakenOver { phase, from: phase, unrenewed_ms: 1 },
        Event::LockWaited { phase, holder: phase, waited_ms: 1 },
        Event::LockRefused { phase, holder: phase, held_ms: 1 },
        Event::LockReleased { phase },
        Event::SnapshotCreated { snapshot: 1, phase, first_order: 1, head_order: 1 },
        Event::SnapshotFailed { phase, error: text(), message: text() },
        Event::DeletesFrozen { cycle: None, why: text() },
        Event::DeletesUnfrozen,
        Event::PinAdded { name: text(), owner: text(), order: 1, ttl_ms: None },
        Event::PinRemoved { name: text(), order: 1 },
        Event::PinExpired { name: text(), owner: text(), order: 1 },
        Event::ConsumerAdded { name: text(), order: 1, ttl_ms: 1 },
        Event::ConsumerRemoved { name: text(), order: 1 },
        Event::ConsumerWentSilent { name: text(), order: 1 },
        Event::TriggerFired { trigger, run: 1, head_order: 1, figure: Some(crate::Figure::Free { bytes: 1 }) },
        Event::TriggerCoalesced { joined: Joined::Cycle, trigger: Some(trigger) },
        Event::RoundsSwept(super::RoundTotals::default()),
        Event::RoundFailed { error: text(), message: text(), failures: 1 },
    ];
    first.into_iter().chain(later_events(trigger)).collect()
}

fn later_events(trigger: crate::Trigger) -> Vec<Event> {
    let (phase, text) = (crate::phase::PrunePhase::BuildReach, String::new);
    vec![
        Event::RolledBack { from: 2, to: 1, duration_ms: Some(1) },
        Event::ConfigChanged { what: text() },
        Event::PoisonItem { what: text(), count: 1 },
        Event::WorkerPanicked { why: text() },
        Event::RetryAttempted { what: text(), attempt: 1, delay_ms: 1, error: text() },
        Event::RetryGivenUp { what: text(), attempts: 1, error: text() },
        Event::BreakerChanged { state: Breaker::Open },
        Event::PhaseRolledBack { cycle: 1, from: phase, to: phase, error: text() },
        Event::EventsLost { count: 1 },
        Event::JournalCompacted { dropped: 1, bytes_before: 1, bytes_after: 1 },
        Event::ReaderTooOld { order: 1, owner: text(), since_order: 1, alone_ms: 1 },
        Event::ReaderLetGo { order: 1, owner: text() },
        Event::ReserveLetGo { bytes: 1 },
        Event::ReserveTaken { bytes: 1 },
        Event::CatalogSnapshotMade { id: text(), catalog: text(), bytes: 1, removed: 0 },
        Event::CatalogSnapshotRefused { catalog: text(), error: text(), message: text() },
        Event::Validated { passed: 1, skipped: 1, failed: Vec::new() },
        Event::PhaseGivenUp { what: text(), attempts: 1, error: text() },
        Event::CountsLost { why: text(), order: 1 },
        Event::SpaceReclaimed(Reclaimed::default()),
        Event::RunEnded(run_end(trigger)),
        Event::RequestDropped { ids: vec![text()] },
        Event::ConsumerAhead { name: text(), order: 2, head: 1 },
        Event::RollbackFailed { to: 1, error: text(), message: text(), duration_ms: 1 },
        Event::LogCut { what: text(), head: Some(1), kept: None },
        Event::EngineDamaged { what: text() },
        Event::EngineStopped { what: text() },
        Event::DamageMet { what: text() },
        Event::ProductionEnded,
        Event::CommitsFailing { error: text(), message: text(), times: 1 },
        Event::CyclePaused,
        Event::CycleResumed,
        Event::QuarantineEnded { cycle: 1, items: 1 },
    ]
}

#[test]
fn every_event_has_a_word_that_is_its_name_in_json_and_keeps_its_number() {
    let events = every_event();
    for (number, event) in events.iter().enumerate() {
        let json = serde_json::to_value(event).unwrap();
        let word = json.as_str().or_else(|| json.as_object()?.keys().next().map(String::as_str));
        assert_eq!(word, Some(event.code()));
        let bytes = bcs::to_bytes(event).unwrap();
        assert_eq!(usize::from(bytes[0]), number, "{} has another number in records", event.code());
        assert_eq!(bcs::from_bytes::<Event>(&bytes).unwrap(), *event);
    }
    assert!(bcs::from_bytes::<Event>(&[events.len() as u8]).is_err(), "an event is missing in this list");
}

/// As written before an event said how long it took.
#[test]
fn a_rollback_that_was_told_without_its_duration_is_read() {
    let told = Event::RolledBack { from: 2, to: 1, duration_ms: None };
    let bytes = bcs::to_bytes(&told).unwrap();
    let (_, earlier) = bytes.split_last().unwrap();
    assert_eq!(bcs::from_bytes::<Event>(earlier).unwrap(), told);
}

/// As written before an event said what was measured.
#[test]
fn a_run_that_was_told_without_its_figure_is_read() {
    let (trigger, run, head_order) = (crate::Trigger::Garbage, 7, 300);
    let told = |figure| Event::TriggerFired { trigger, run, head_order, figure };
    let bytes = bcs::to_bytes(&(1u64, 2u64, told(None))).unwrap();
    let (_, earlier) = bytes.split_last().unwrap();
    assert_eq!(bcs::from_bytes::<(u64, u64, Event)>(earlier).unwrap(), (1, 2, told(None)));
    let figure = Some(crate::Figure::Garbage { nodes: 5, of: 9 });
    let bytes = bcs::to_bytes(&(1u64, 2u64, told(figure))).unwrap();
    assert_eq!(bcs::from_bytes::<(u64, u64, Event)>(&bytes).unwrap(), (1, 2, told(figure)));
}

/// As written before an event said which trigger it was.
#[test]
fn a_trigger_that_joined_another_cycle_without_its_name_is_read() {
    let told = Event::TriggerCoalesced { joined: Joined::Cycle, trigger: None };
    let bytes = bcs::to_bytes(&told).unwrap();
    let (_, earlier) = bytes.split_last().unwrap();
    assert_eq!(bcs::from_bytes::<Event>(earlier).unwrap(), told);
}

#[test]
fn the_bytes_of_a_journal_are_pinned() {
    let header = JournalHeader { id: [7; 16], created_ms: 8 };
    let mut bytes = header.encode().to_vec();
    frame::encode(&Happened { seq: 1, at_ms: 2, event: pin(3, 4) }, &mut bytes).unwrap();
    let pinned = concat!(
        "5350524e455654530100000007070707070707070707070707070707080000000000000049c7712e",
        "e54556f824000000ad66e23501000000000000000200000000000000100a70726f64756365722d33040000000000000091423206",
    );
    assert_eq!(hex::encode(bytes), pinned);
}

/// Both places of the journal of a database fail alike, and neither is taken for empty (I8).
#[test]
fn a_journal_that_cannot_be_read_is_not_told_to_be_absent() {
    for of_node in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("store");
        let kept = if of_node { dir.path().to_owned() } else { crate::offline::default_state_dir(&db) };
        assert_eq!(find_journal(&db), None, "there is none");
        fs::create_dir_all(&kept).unwrap();
        fs::write(journal_dir(&kept), b"no folder").unwrap();
        assert_eq!(find_journal(&db), Some(journal_dir(&kept)), "a file in place of the folder, of a node: {of_node}");
        let error = verify_journal(&journal_dir(&kept)).unwrap_err();
        assert!(error.to_string().contains("Not a directory"), "{error}");

        fs::remove_file(journal_dir(&kept)).unwrap();
        open(&journal_dir(&kept), quiet()).stop(LONG);
        let disk = FaultyDisk::under(&journal_dir(&kept));
        disk.inject(FILE, FileCall::Open, 0, Lasting::UntilHealed);
        let found = find_journal(&db).unwrap();
        assert_eq!(found, journal_dir(&kept));
        let error = verify_journal(&found).unwrap_err();
        let path = journal_file(&found).display().to_string();
        assert!(error.code() == "file" && error.to_string().contains(&path), "{error}");
    }
}

#[test]
fn a_flood_from_several_threads_is_on_disk_in_order_after_a_stop_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let journal = EventJournal::open(dir.path(), EventsConfig::default(), Arc::new(SystemClock::new())).unwrap();
    std::thread::scope(|scope| {
        for producer in 0..4 {
            let journal = &journal;
            scope.spawn(move || (0..2_500).for_each(|number| journal.emit(pin(producer, number))));
        }
    });
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let read = all(dir.path());
    assert_eq!((read.damaged, read.torn_bytes, read.missing), (0, 0, 0));
    for producer in 0..4 {
        let name = format!("producer-{producer}");
        let of = read.events.iter().filter(|entry| entry.data.get("name").is_some_and(|given| *given == name));
        let numbers: Vec<u64> = of.map(|entry| entry.data["order"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..2_500).collect::<Vec<_>>(), "{name}");
    }
    let sequence: Vec<u64> = read.events.iter().map(|entry| entry.seq).collect();
    assert_eq!(sequence, (1..=10_002).collect::<Vec<_>>(), "the beginning and the end are told, too");
    assert_eq!(read.events.last().unwrap().code, "stopped");
    assert_eq!(journal.status().lost_total, 0);
}

/// In the order in which a node ends: its producers are at work, they are let go, and then the journal stops.
#[test]
fn what_came_before_the_end_of_a_node_is_on_disk_and_what_came_later_is_there_or_counted() {
    const PRODUCERS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let config = EventsConfig { max_bytes: (1 << 30).try_into().unwrap(), ..EventsConfig::default() };
    let journal = EventJournal::open(dir.path(), config, Arc::new(SystemClock::new())).unwrap();
    let (emitted, has_stopped) = ([const { AtomicU64::new(0) }; PRODUCERS as usize], AtomicBool::new(false));
    let now = || emitted.each_ref().map(|emitted| emitted.load(Ordering::SeqCst));
    let (before, stopped) = std::thread::scope(|scope| {
        for (producer, emitted) in (0..PRODUCERS).zip(&emitted) {
            let (journal, has_stopped) = (&journal, &has_stopped);
            scope.spawn(move || {
                (0..).find(|number| {
                    let is_last = has_stopped.load(Ordering::SeqCst); // one comes after the end
                    journal.emit(pin(producer, *number));
                    emitted.store(number + 1, Ordering::SeqCst);
                    is_last
                })
            });
        }
        while now().iter().sum::<u64>() < 10_000 {
            std::thread::yield_now();
        }
        let before = now();
        journal.let_producers_go();
        while now().iter().zip(before).any(|(now, before)| *now < before + 100) {
            std::thread::yield_now();
        }
        let stopped = journal.stop(LONG);
        has_stopped.store(true, Ordering::SeqCst);
        (before, stopped)
    });
    assert_eq!(stopped, Stopping::Whole);
    let (read, status) = (all(dir.path()), journal.status());
    assert_eq!((read.damaged, read.torn_bytes, read.missing), (0, 0, 0));
    assert_eq!(read.events.last().unwrap().code, "stopped");
    for (producer, before) in (0..PRODUCERS).zip(before) {
        let name = format!("producer-{producer}");
        let of = read.events.iter().filter(|entry| entry.data.get("name").is_some_and(|given| *given == name));
        let numbers: Vec<u64> = of.map(|entry| entry.data["order"].as_u64().unwrap()).collect();
        assert_eq!(numbers[..before as usize], (0..before).collect::<Vec<_>>(), "{name} came before");
        assert!(numbers.is_sorted_by(|a, b| a < b), "{name}");
    }
    assert!(status.lost_total >= PRODUCERS, "{status:?}");
    assert_eq!(orders(&read).len() as u64 + status.lost_total, now().iter().sum::<u64>(), "each is there or counted");
}

#[test]
fn a_full_queue_makes_its_producer_wait_until_there_is_room_and_a_close_lets_it_go() {
    let queue = Queue::default();
    let sent = |number| Sent { at_ms: 0, event: pin(0, number) };
    (0..CAPACITY as u64).for_each(|number| queue.send(sent(number), LONG).unwrap());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.send(sent(5_000), LONG));
        let Taken::Events(taken) = queue.take(1, 0, None) else { panic!("nothing to take") };
        assert_eq!(taken, [sent(0)]);
        assert!(!waits.is_finished(), "what is in hand takes room until it is dealt with");
        assert!(matches!(queue.take(1, 0, None), Taken::Events(_)), "and then the producer goes on");
        assert_eq!(waits.join().unwrap(), Ok(()));
        let waits = scope.spawn(|| queue.send(sent(6_000), LONG));
        queue.close(Some(sent(7_000)));
        assert_eq!(waits.join().unwrap(), Err(Refused::Closed), "whoever waits is let go");
    });
    let mut rest = Vec::new();
    while let Taken::Events(taken) = queue.take(CAPACITY, 0, None) {
        rest.extend(taken);
    }
    let expected: Vec<Sent> = (2..CAPACITY as u64).chain([5_000, 7_000]).map(sent).collect();
    assert_eq!(rest, expected, "what was taken in is written, the last words at the end");
}

#[test]
fn a_disk_that_hangs_holds_producers_back_and_a_stop_returns_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.flush(LONG).unwrap();
    *disk.hangs.lock() = true;
    (0..CAPACITY as u64).for_each(|number| journal.emit(pin(0, number)));
    std::thread::scope(|scope| {
        let one_more = scope.spawn(|| journal.emit(pin(0, CAPACITY as u64)));
        while journal.status().waiting < CAPACITY as u64 || disk.appended.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        assert!(!one_more.is_finished(), "the 2,049th waits");
        let stopped = journal.stop(Duration::from_millis(20));
        assert_eq!(stopped, Stopping::GivenUp { events: CAPACITY as u64 + 1 }, "the last words among them");
        one_more.join().unwrap();
    });
    assert_eq!(journal.status().lost_total, CAPACITY as u64 + 2);
    disk.answer();
}

/// I13: what was taken from the queue and waits in memory for its time counts, too.
#[test]
fn what_is_kept_to_be_written_together_is_told_as_given_up_where_the_disk_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), quiet());
    journal.flush(LONG).unwrap();
    *disk.hangs.lock() = true;
    (0..10).for_each(|number| journal.emit(pin(0, number)));
    assert_eq!(journal.status().waiting, 10);
    let stopped = journal.stop(Duration::from_millis(20));
    assert_eq!(stopped, Stopping::GivenUp { events: 11 }, "the last words among them");
    assert_eq!(journal.status().lost_total, 11);
    disk.answer();
}

/// Whoever stops a pruner joins its thread, which must not hang in the journal.
#[test]
fn a_producer_that_waits_for_a_disk_that_hangs_can_be_let_go_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.flush(LONG).unwrap();
    *disk.hangs.lock() = true;
    (0..CAPACITY as u64).for_each(|number| journal.emit(pin(0, number)));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| (0..10).for_each(|number| journal.emit(pin(1, number))));
        journal.let_producers_go();
        worker.join().unwrap();
    });
    assert_eq!(journal.status().lost_total, 10);
    disk.answer();
    journal.flush(LONG).unwrap();
    journal.emit(pin(2, 0));
    assert_eq!(journal.stop(LONG), Stopping::Whole, "what there is room for is still taken");
    let read = all(dir.path());
    assert_eq!(
        read.events.iter().filter(|entry| entry.data.get("name").is_some_and(|it| *it == "producer-2")).count(),
        1
    );
    assert_eq!(orders(&read).len(), CAPACITY + 1);
}

/// A rollback waits for the pruner while it holds what commits wait for, so nobody may wait for a disk for ever.
#[test]
fn nobody_waits_for_a_writer_that_makes_no_progress_once_somebody_has_in_vain() {
    let queue = Queue::default();
    let (sent, endless) = (|number| Sent { at_ms: 0, event: pin(0, number) }, Duration::MAX);
    (0..CAPACITY as u64).for_each(|number| queue.send(sent(number), endless).unwrap());
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| queue.send(sent(9_000), endless));
        assert_eq!(queue.send(sent(9_001), Duration::from_millis(1)), Err(Refused::Stuck));
        assert_eq!(beside.join().unwrap(), Err(Refused::Stuck), "who waits with more patience is let go too");
    });
    assert_eq!(queue.send(sent(9_002), endless), Err(Refused::Stuck), "at once");
    assert_eq!((queue.unadmitted(), queue.take_untold()), (3, 3));
    assert!(matches!(queue.take(1, 0, None), Taken::Events(_)));
    assert_eq!(queue.unadmitted(), 3, "what is in hand may hang");
    assert!(matches!(queue.take(1, 0, None), Taken::Events(_)));
    assert_eq!((queue.unadmitted(), queue.take_untold()), (0, 0));
    assert_eq!(queue.send(sent(9_003), endless), Ok(()), "there is room again");
}

#[test]
fn a_disk_that_hangs_loses_what_finds_no_room_in_time_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let impatient = EventsConfig { sync: EventsSync::Each, room_within: Duration::from_millis(1), ..quiet() };
    let journal = disk.open(dir.path(), impatient);
    journal.flush(LONG).unwrap();
    *disk.hangs.lock() = true;
    (0..2 * CAPACITY as u64).for_each(|number| journal.emit(pin(0, number)));
    let status = journal.status();
    assert_eq!(status.lost_total, CAPACITY as u64);
    let failure = status.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.times), ("file", CAPACITY as u64));
    assert!(failure.message.contains("2048 events that found no room are lost"), "{failure:?}");
    disk.answer();
    journal.flush(LONG).unwrap();
    assert_eq!(journal.status().failure, None);
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let read = all(dir.path());
    assert_eq!(orders(&read).len(), CAPACITY);
    let told = read.events.iter().filter(|it| it.code == "events_lost").map(|it| it.data["count"].as_u64().unwrap());
    assert_eq!(told.sum::<u64>(), CAPACITY as u64);
}

#[test]
fn a_slow_watcher_loses_the_oldest_and_is_told_how_many_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), quiet());
    journal.flush(LONG).unwrap();
    let (mut slow, mut quick) = (journal.subscribe(), journal.subscribe());
    for number in 0..3_000 {
        journal.emit(pin(0, number));
        if number % 500 == 499 {
            journal.flush(LONG).unwrap();
            let heard = std::iter::from_fn(|| quick.try_next());
            assert_eq!(heard.filter(|heard| matches!(heard, Heard::Event(_))).count(), 500);
        }
    }
    let Some(Heard::Missed(missed)) = slow.try_next() else { panic!("it was not told") };
    let rest: Vec<u64> = std::iter::from_fn(|| slow.try_next())
        .map(|heard| match heard {
            Heard::Event(happened) => happened.seq,
            Heard::Missed(_) | Heard::Numbered(_) | Heard::Ended => panic!("told twice"),
        })
        .collect();
    assert_eq!(missed + rest.len() as u64, 3_000);
    assert_eq!(*rest.last().unwrap(), 3_001, "the newest is there");
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    assert_eq!(orders(&all(dir.path())).len(), 3_000);
}

#[test]
fn every_byte_of_damage_loses_the_record_it_hits_and_is_counted() {
    let bytes = small_journal(6);
    let whole = all(folder_with(&bytes).path());
    assert_eq!(orders(&whole), [1, 2, 3, 4, 5, 6]);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let read = all(folder_with(&damaged).path());
            let lost = whole.records - read.records;
            assert!(lost <= 1, "{lost} records lost by one byte at {at}");
            assert!(read.damaged + read.torn_bytes > 0, "damage at {at} is not told");
            let holds = |place: &DamagedPlace| (place.from..place.from + place.length).contains(&(at as u64));
            let is_torn = at as u64 >= damaged.len() as u64 - read.torn_bytes;
            assert!(is_torn || read.places.iter().any(holds), "it is not told that it is at {at}: {}", read.told());
            assert_eq!(lost == 0, at < HEADER, "byte {at}");
            let kept = |entry: &&Entry| read.events.contains(entry);
            assert_eq!(whole.events.iter().filter(kept).count() as u64, read.records, "nothing is made up at {at}");
        }
    }
}

/// Where each record begins and ends, by its number.
fn records(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut scanner = Scanner::new(&bytes[HEADER..], HEADER as u64);
    std::iter::from_fn(|| scanner.next().unwrap()).map(|frame| (frame.at, frame.bytes.len() as u64)).collect()
}

#[test]
fn a_damaged_place_is_told_by_its_bytes_and_by_the_events_around_it() {
    let bytes = small_journal(30);
    let records = records(&bytes);
    let place = |numbers: std::ops::RangeInclusive<u64>, before: bool| {
        let of = |number: u64| records[number as usize - 1];
        let (from, (last, length)) = (of(*numbers.start()).0, of(*numbers.end()));
        let after = numbers.start().checked_sub(1).filter(|number| *number > 0);
        DamagedPlace { from, length: last + length - from, after, before: before.then_some(numbers.end() + 1) }
    };
    let damaged = |numbers: &[u64]| {
        let mut damaged = bytes.clone();
        numbers.iter().for_each(|number| damaged[records[*number as usize - 1].0 as usize + 20] ^= 1);
        damaged
    };
    let newest = records.len() as u64;
    let rows = [
        (damaged(&[]), vec![]),
        (damaged(&[1]), vec![place(1..=1, true)]),
        (damaged(&[5, 6, 7, 20]), vec![place(5..=7, true), place(20..=20, true)]),
        (damaged(&[newest]), vec![place(newest..=newest, false)]),
    ];
    for (damaged, places) in rows {
        let dir = folder_with(&damaged);
        let read = all(dir.path());
        assert_eq!((read.damaged, &read.places), (places.len() as u64, &places));
        assert_eq!(read.lack_told().contains('('), !places.is_empty());
        let opened = open(dir.path(), quiet()).status().replay;
        assert_eq!((opened.damaged, opened.places), (places.len() as u64, places), "whoever opens it tells the same");
    }
    let many: Vec<u64> = (1..=10).map(|n| 3 * n).collect();
    let read = all(folder_with(&damaged(&many)).path());
    let first: Vec<DamagedPlace> = many[..8].iter().map(|number| place(*number..=*number, true)).collect();
    assert_eq!((read.damaged, read.places), (10, first), "all are counted, and the first are told");
}

/// It may be anybody's file: nothing is written to it, and nobody is told that a start mends it.
#[test]
fn a_file_without_a_header_and_without_an_event_is_refused_by_readers_as_by_the_writer() {
    for (bytes, is_refused) in [(0, false), (HEADER, false), (HEADER + 1, true), (100_000, true)] {
        let dir = folder_with(&vec![0xAB; bytes]);
        let opened = EventJournal::open(dir.path(), quiet(), Arc::new(ManualClock::default()));
        assert_eq!(opened.is_err(), is_refused, "{bytes} bytes");
        drop(opened);
        let dir = folder_with(&vec![0xAB; bytes]);
        let read = verify_journal(dir.path());
        let told = match &read {
            Ok(read) => read.told(),
            Err(error) => error.to_string(),
        };
        let says = if is_refused { ["is no event journal", "move it away"] } else { ["no events", "writes it anew"] };
        assert!(says.iter().all(|part| told.contains(part)), "{bytes} bytes: {told}");
        assert!(told.contains(dir.path().to_str().unwrap()), "{told}");
        assert_eq!((read.is_err(), read.is_ok_and(|read| read.is_sound())), (is_refused, false), "{bytes} bytes");
    }
}

#[test]
fn damage_that_an_opening_found_is_told_until_somebody_has_seen_to_it_and_by_the_next_opening_again() {
    let mut bytes = small_journal(5);
    assert_eq!(open(folder_with(&bytes).path(), quiet()).damage(), None);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let dir = folder_with(&bytes);
    for _ in 0..2 {
        let journal = open(dir.path(), quiet());
        assert_eq!(journal.damage().map(|damage| (damage.damaged, damage.places.len())), Some((1, 1)));
        assert_eq!((journal.acknowledge_damage(), journal.damage()), (true, None));
        assert!(!journal.acknowledge_damage(), "once");
        assert_eq!(journal.status().replay.damaged, 1, "the status tells it on");
    }
}

#[test]
fn every_damaged_or_cut_journal_opens_for_writing_and_goes_on() {
    let bytes = small_journal(2);
    let whole = all(folder_with(&bytes).path());
    let cut = (0..=bytes.len()).map(|length| bytes[..length].to_vec());
    let flipped = (0..bytes.len()).map(|at| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        damaged
    });
    for (case, damaged) in cut.chain(flipped).enumerate() {
        let dir = folder_with(&damaged);
        let before = all(dir.path());
        let journal = open(dir.path(), quiet());
        let replay = journal.status().replay;
        assert_eq!(replay.records, before.records);
        let is_whole = damaged == bytes;
        assert_eq!(replay.damaged + replay.torn_bytes == 0, is_whole || before.damaged + before.torn_bytes == 0);
        journal.emit(pin(0, 99));
        assert_eq!(journal.stop(LONG), Stopping::Whole);
        let after = all(dir.path());
        assert_eq!(after.events[..before.events.len()], before.events, "case {case}");
        assert_eq!(after.events.iter().filter(|entry| entry.data.get("order").is_some_and(|it| *it == 99)).count(), 1);
        assert_eq!((after.torn_bytes, after.id.is_some()), (0, true), "case {case}: {after:?}");
        assert!(before.records + 1 >= whole.records || damaged.len() < bytes.len(), "case {case}");
    }
}

#[test]
fn a_torn_tail_is_told_as_long_as_it_is_and_a_whole_journal_is_not_called_torn() {
    let bytes = small_journal(3);
    let whole = all(folder_with(&bytes).path());
    for length in HEADER..=bytes.len() {
        let read = all(folder_with(&bytes[..length]).path());
        let mut scanner = Scanner::new(&bytes[HEADER..], HEADER as u64);
        let mut end = HEADER;
        while let Some(frame) = scanner.next().unwrap() {
            let next = frame.at as usize + frame.bytes.len();
            if next > length {
                break;
            }
            end = next;
        }
        assert_eq!(read.torn_bytes as usize, length - end, "cut at {length}");
        assert_eq!(read.damaged, 0);
        assert_eq!(read.events[..], whole.events[..read.events.len()]);
    }
}

/// Cut where it may be, the last record is a torn tail, which is sound; with its last byte there it is damaged, and is not.
#[test]
fn a_torn_tail_is_sound_and_is_cut_off_before_anything_is_written_behind_it() {
    let bytes = small_journal(2);
    let begins = {
        let mut scanner = Scanner::new(&bytes[HEADER..], HEADER as u64);
        std::iter::from_fn(|| scanner.next().unwrap()).last().unwrap().at as usize
    };
    for length in begins + 1..bytes.len() {
        let dir = folder_with(&bytes[..length]);
        let read = all(dir.path());
        assert_eq!((read.is_sound(), read.torn_bytes as usize), (true, length - begins), "cut at {length}");
        assert!(read.told().contains("0 damaged places, "), "{}", read.told());
        let journal = open(dir.path(), quiet());
        assert_eq!(journal.status().replay.torn_bytes as usize, length - begins);
        assert_eq!(journal.stop(LONG), Stopping::Whole);
        let after = all(dir.path());
        assert_eq!((after.damaged, after.torn_bytes, after.missing), (0, 0, 0), "cut at {length}: {}", after.told());
    }
    for at in begins..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let read = all(folder_with(&flipped).path());
        assert_eq!((read.is_sound(), read.damaged), (false, 1), "byte {at}");
        assert_eq!(read.torn_bytes as usize, bytes.len() - begins, "byte {at}");
    }
}

/// Whoever reads it and whoever opens it count the same places.
#[test]
fn a_header_that_cannot_be_read_is_one_damaged_place() {
    let bytes = small_journal(3);
    let headless = bytes[HEADER..].to_vec();
    let spoilt = |at: &[usize]| {
        let mut spoilt = bytes.clone();
        at.iter().for_each(|at| spoilt[*at] ^= 1);
        spoilt
    };
    let in_the_middle = bytes.len() / 2;
    let rows = [
        (spoilt(&[20]), 1),
        (spoilt(&[20, HEADER]), 1), // they touch
        (spoilt(&[20, in_the_middle]), 2),
        (headless.clone(), 1),
        (headless.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == in_the_middle)).collect(), 2),
        (Vec::new(), 1),
        (bytes[..HEADER - 1].to_vec(), 1),
    ];
    for (case, (damaged, places)) in rows.into_iter().enumerate() {
        let dir = folder_with(&damaged);
        let read = all(dir.path());
        assert_eq!((read.damaged, read.is_sound()), (places, false), "case {case}: {}", read.told());
        let journal = open(dir.path(), quiet());
        assert_eq!(journal.status().replay.damaged, places, "case {case}");
        assert_eq!(journal.stop(LONG), Stopping::Whole);
    }
}

#[test]
fn a_journal_of_a_newer_program_is_refused_and_left_as_it_is() {
    let mut bytes = small_journal(2);
    bytes[8] = 2;
    let sum = crc32fast::hash(&bytes[..HEADER - 4]).to_le_bytes();
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum);
    let foreign = vec![b'x'; 100];
    for (bytes, code, says) in [(bytes, "newer", "version 2"), (foreign, "record", "no event journal")] {
        let dir = folder_with(&bytes);
        let refused = EventJournal::open(dir.path(), quiet(), Arc::new(ManualClock::default())).unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.to_string().contains(says), "{refused}");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), bytes);
        assert!(!dir.path().join("journal.events.tmp").exists());
    }
}

#[test]
fn an_event_of_a_newer_program_is_kept_and_told_as_unknown() {
    let dir = folder_with(&small_journal(2));
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let known = bytes.len();
    frame::encode(&Happened { seq: 9, at_ms: 5, event: pin(0, 3) }, &mut bytes).unwrap();
    bytes[known + 12 + 16] = 127; // the number of the variant
    let end = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[known..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    fs::write(&path, &bytes).unwrap();
    let file = EventFile::open(dir.path(), plain(), 0).unwrap().0;
    compact(&file, Keep::ALL);
    drop(file);
    let read = all(dir.path());
    assert_eq!((read.unknown, read.damaged), (1, 0));
    assert_eq!(read.events.last().unwrap(), &Entry::unknown(9, 5));
    let journal = open(dir.path(), quiet());
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    assert_eq!(all(dir.path()).events.last().unwrap().seq, 11, "numbers go on behind it");
}

#[test]
fn a_second_writer_of_the_same_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), quiet());
    let second = EventJournal::open(dir.path(), quiet(), Arc::new(ManualClock::default())).unwrap_err();
    assert_eq!(second.code(), "locked");
    drop(journal);
    drop(open(dir.path(), quiet()));
}

#[test]
fn a_full_disk_reaches_the_status_loses_nothing_that_fits_and_tells_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), quiet());
    journal.emit(pin(0, 1));
    journal.flush(LONG).unwrap();
    *disk.full.lock() = true;
    journal.emit(pin(0, 2));
    let unwritten = journal.flush(LONG).unwrap_err().to_string();
    let status = journal.status();
    assert!(unwritten.contains(&status.failure.as_ref().unwrap().message), "{unwritten}");
    assert_eq!(status.failure.as_ref().unwrap().code, "disk_full");
    assert_eq!((status.lost_total, status.failure.unwrap().times), (0, 1), "it is kept, and tried again");
    let why = "x".repeat(60_000);
    (0..20).for_each(|_| journal.emit(Event::WorkerPanicked { why: why.clone() }));
    assert!(journal.flush(LONG).is_err());
    assert!(journal.flush(LONG).is_err(), "what was lost meanwhile is not told in the journal yet");
    let lost = journal.status().lost_total;
    assert!(lost > 0, "more than is kept in memory is lost, and nobody waits");
    *disk.full.lock() = false;
    journal.emit(pin(0, 3));
    journal.flush(LONG).unwrap();
    assert_eq!(journal.status().failure, None, "it recovers");
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let read = all(dir.path());
    let told: Vec<u64> =
        read.events.iter().filter(|it| it.code == "events_lost").map(|it| it.data["count"].as_u64().unwrap()).collect();
    assert_eq!(told, [lost]);
    assert_eq!((read.damaged, read.missing), (0, lost), "no half of a record is left");
    assert_eq!(orders(&read).last(), Some(&3));
}

/// Nobody asks for it, and nothing else happens on the node.
#[test]
fn what_was_lost_is_told_as_soon_as_there_is_room_though_nothing_more_comes() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let journal = disk.open(dir.path(), quiet());
    journal.flush(LONG).unwrap();
    *disk.full.lock() = true;
    let mut emitted = 0;
    while emitted == 0 || journal.status().lost_total < emitted {
        journal.emit(Event::WorkerPanicked { why: "x".repeat(60_000) });
        emitted += 1;
        assert!(journal.flush(LONG).is_err());
        assert!(emitted < 1_000, "nothing is ever lost");
    }
    *disk.full.lock() = false;
    while journal.status().failure.is_some() {
        std::thread::yield_now();
    }
    let read = all(dir.path());
    let lost = read.events.iter().filter(|it| it.code == "events_lost").map(|it| it.data["count"].as_u64().unwrap());
    assert_eq!((lost.collect::<Vec<u64>>(), journal.status().lost_total), (vec![emitted], emitted));
}

#[test]
fn events_are_written_by_one_time_and_synced_by_another() {
    let (dir, disk, clock) =
        (tempfile::tempdir().unwrap(), Arc::new(Disk::default()), Arc::new(ManualClock::default()));
    let times = EventsConfig { flush_every: Duration::from_millis(1), sync_every: LONG, ..EventsConfig::default() };
    let journal = EventJournal::mounted(dir.path(), times, Arc::clone(&clock) as _, disk.mount()).unwrap();
    let write = |number: u64| {
        let before = journal.status().written_total;
        journal.emit(pin(0, number));
        while journal.status().written_total == before {
            std::thread::yield_now(); // nobody asks for it
        }
    };
    write(1);
    let synced = || disk.synced.load(Ordering::SeqCst);
    let opened = synced();
    write(2);
    assert_eq!(synced(), opened, "it is not time yet");
    clock.advance(LONG);
    write(3);
    while synced() == opened {
        std::thread::yield_now();
    }
    assert_eq!(orders(&all(dir.path())), [1, 2, 3]);
}

#[test]
fn what_is_written_is_synced_in_its_time_though_nothing_more_comes() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let soon = Duration::from_millis(1);
    let times = EventsConfig { flush_every: soon, sync_every: soon, ..EventsConfig::default() };
    let journal = EventJournal::mounted(dir.path(), times, Arc::new(SystemClock::new()), disk.mount()).unwrap();
    let synced = || disk.synced.load(Ordering::SeqCst);
    for number in 0..3 {
        let before = (journal.status().written_total, synced());
        journal.emit(pin(0, number));
        while journal.status().written_total == before.0 || synced() == before.1 {
            std::thread::yield_now();
        }
    }
}

/// Also of what could not be written at once.
#[test]
fn with_each_what_is_written_later_is_synced_too() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.flush(LONG).unwrap();
    *disk.full.lock() = true;
    journal.emit(pin(0, 1));
    while journal.status().failure.is_none() {
        std::thread::yield_now();
    }
    let (written, synced) = (journal.status().written_total, disk.synced.load(Ordering::SeqCst));
    *disk.full.lock() = false;
    while journal.status().written_total == written || disk.synced.load(Ordering::SeqCst) == synced {
        std::thread::yield_now();
    }
}

#[test]
fn after_a_failed_sync_the_journal_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.flush(LONG).unwrap();
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join(FILE)).unwrap());
    let old = inode();
    disk.bad_syncs.store(1, Ordering::SeqCst);
    journal.emit(pin(0, 1));
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let status = journal.status();
    assert_eq!((status.compactions_total, status.failure), (1, None), "what was not synced is written again");
    assert_ne!(inode(), old);
    assert_eq!(orders(&all(dir.path())), [1]);
}

/// C4: the file was written anew, and nothing of it says that there was more.
#[test]
fn what_a_failed_sync_took_with_it_is_told_as_lost() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.emit(pin(0, 1));
    journal.flush(LONG).unwrap();
    disk.forgets.store(true, Ordering::SeqCst);
    disk.bad_syncs.store(1, Ordering::SeqCst);
    journal.emit(pin(0, 2));
    while journal.status().compactions_total == 0 {
        std::thread::yield_now();
    }
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let (read, status) = (all(dir.path()), journal.status());
    assert_eq!((orders(&read), status.lost_total, status.compactions_total), (vec![1], 1, 1), "{read:?} {status:?}");
    assert_eq!((read.damaged, read.missing), (0, 1));
    let told = read.events.iter().find(|entry| entry.code == "events_lost").map(|entry| &entry.data["count"]);
    assert_eq!(told.and_then(|count| count.as_u64()), Some(1), "by the journal itself: {:?}", read.events);
}

#[test]
fn a_second_failed_write_cuts_nothing_that_was_written_behind_the_leftover_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), quiet());
    journal.emit(pin(0, 1));
    journal.flush(LONG).unwrap();
    (*disk.full.lock(), *disk.keeps_leftovers.lock()) = (true, true);
    journal.emit(pin(0, 2));
    (0..2).for_each(|_| assert!(journal.flush(LONG).is_err())); // and it cannot be written anew
    *disk.full.lock() = false;
    journal.emit(pin(0, 3));
    assert!(journal.flush(LONG).is_err(), "the leftover is still to be removed");
    (*disk.full.lock(), *disk.keeps_leftovers.lock()) = (true, false);
    journal.emit(pin(0, 4));
    assert!(journal.flush(LONG).is_err());
    assert_eq!(orders(&all(dir.path())), [1, 2, 3]);
    *disk.full.lock() = false;
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let (read, status) = (all(dir.path()), journal.status());
    assert_eq!((orders(&read), status.lost_total, status.compactions_total), (vec![1, 2, 3, 4], 0, 1));
    assert_eq!((read.damaged, read.torn_bytes, read.missing), (0, 0, 0), "the leftover went");
}

#[test]
fn a_stop_writes_anew_at_once_what_a_failed_sync_left_and_counts_what_it_cannot() {
    for (bad_syncs, lost) in [(2, 0), (u64::MAX, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
        journal.flush(LONG).unwrap();
        disk.bad_syncs.store(bad_syncs, Ordering::SeqCst);
        journal.emit(pin(0, 1));
        while disk.bad_syncs.load(Ordering::SeqCst) > bad_syncs - 2 {
            std::thread::yield_now(); // its own sync, and that of the file that is written anew
        }
        assert!(journal.flush(LONG).is_err(), "nobody knows whether it is there");
        assert_eq!(journal.stop(LONG), Stopping::Whole);
        let status = journal.status();
        assert_eq!((status.lost_total, status.compactions_total), (lost, u64::from(lost == 0)), "{status:?}");
        assert_eq!(status.failure.is_some(), lost > 0);
        assert_eq!(orders(&all(dir.path())), [1]);
    }
}

/// Runs a compaction to its end.
fn compact(file: &EventFile, keep: Keep) {
    let mut compaction = Compaction::begin(file, keep).unwrap();
    while compaction.step().unwrap() == Step::More {}
    compaction.swap(file, &ManualClock::default()).unwrap();
}

#[test]
fn a_crash_at_any_point_of_a_compaction_leaves_the_old_journal_or_the_new_one() {
    let dir = folder_with(&small_journal(500));
    let old = all(dir.path());
    let copy = |name: &str| {
        let crashed = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), crashed.path().join(entry.file_name())).unwrap();
        }
        (name.to_owned(), crashed)
    };
    let file = EventFile::open(dir.path(), plain(), 0).unwrap().0;
    let from = file.bytes() / 2;
    let mut compaction = Compaction::begin(&file, Keep { from, since_ms: 0, spared_from: 0 }).unwrap();
    let mut crashes = vec![copy("begun")];
    while compaction.step().unwrap() == Step::More {
        crashes.push(copy("copying"));
    }
    crashes.push(copy("copied"));
    let aside = dir.path().join("journal.events.tmp");
    let copied = fs::read(&aside).unwrap();
    for torn in [0, 10, copied.len() / 2, copied.len() - 1] {
        fs::write(&aside, &copied[..torn]).unwrap();
        crashes.push(copy("the copy is torn"));
    }
    fs::write(&aside, &copied).unwrap();
    compaction.swap(&file, &ManualClock::default()).unwrap();
    let new = all(dir.path());
    assert!((1..old.records).contains(&new.records));
    crashes.push(copy("swapped"));
    drop(file);
    for (name, crashed) in crashes {
        let (file, found) = EventFile::open(crashed.path(), plain(), 0).unwrap();
        drop(file);
        let read = all(crashed.path());
        assert_eq!(found.counts.records, read.records);
        let expected = if name == "swapped" { &new } else { &old };
        assert_eq!(read.events, expected.events, "{name}");
        assert!(!crashed.path().join("journal.events.tmp").exists(), "{name}");
    }
}

/// C4: a journal that is written anew is no journal from which nothing was taken.
#[test]
fn damage_that_took_events_stays_in_a_journal_that_is_made_smaller_until_it_goes_with_the_oldest() {
    let mut first = small_journal(9);
    first[HEADER + 20] ^= 1;
    let dir = folder_with(&first);
    let file = EventFile::open(dir.path(), plain(), 0).unwrap().0;
    compact(&file, Keep::ALL);
    let read = verify_journal(dir.path()).unwrap();
    assert_eq!((read.damaged, read.range), (1, Some((2, 11))), "also before the first that is whole");

    let mut bytes = small_journal(500);
    let spoilt = bytes.len() * 2 / 3;
    bytes[spoilt] ^= 1;
    let dir = folder_with(&bytes);
    let lack = || {
        let JournalRead { damaged, missing, places, .. } = verify_journal(dir.path()).unwrap();
        (damaged, missing, places.first().map(|place| (place.after, place.before)))
    };
    let found = lack();
    assert_eq!((found.0, found.1), (1, 1), "{found:?}");
    let (file, Found { last_seq, .. }) = EventFile::open(dir.path(), plain(), 0).unwrap();
    let keep = |from| Keep { from, since_ms: 0, spared_from: 0 };
    for from in [0, file.bytes() / 3] {
        compact(&file, keep(from));
        assert_eq!(lack(), found, "from byte {from} on");
    }
    file.append(&[0, 0, 0]).unwrap(); // as a failed write leaves it, which takes no event
    let mut next = Vec::new();
    frame::encode(&Happened { seq: last_seq + 1, at_ms: 0, event: pin(0, 501) }, &mut next).unwrap();
    file.append(&next).unwrap();
    assert_eq!(lack().0, 2);
    compact(&file, Keep::ALL);
    assert_eq!(lack(), found, "the leftover alone is gone");
    compact(&file, keep(file.bytes() - next.len() as u64));
    assert_eq!((lack(), orders(&all(dir.path()))), ((0, 0, None), vec![501]));
}

#[test]
fn what_is_appended_while_a_journal_is_made_smaller_stays() {
    let dir = folder_with(&small_journal(20));
    let file = EventFile::open(dir.path(), plain(), 0).unwrap().0;
    let mut compaction = Compaction::begin(&file, Keep { from: u64::MAX - 1, since_ms: 0, spared_from: 0 }).unwrap();
    assert_eq!(compaction.step().unwrap(), Step::CaughtUp);
    let mut later = Vec::new();
    frame::encode(&Happened { seq: 100, at_ms: 0, event: pin(0, 100) }, &mut later).unwrap();
    drop(compaction); // given up: nothing has changed
    file.append(&later).unwrap();
    let from = file.bytes() - later.len() as u64;
    compact(&file, Keep { from, since_ms: 0, spared_from: 0 });
    assert_eq!(orders(&all(dir.path())), [100]);
    file.append(&{
        let mut next = Vec::new();
        frame::encode(&Happened { seq: 101, at_ms: 0, event: pin(0, 101) }, &mut next).unwrap();
        next
    })
    .unwrap();
    assert_eq!(orders(&all(dir.path())), [100, 101], "the handle is that of the new file");
}

/// Whatever writes or syncs finds the lock of the file free, but for the records themselves.
#[test]
fn nothing_but_a_rename_is_done_under_the_lock_of_a_compaction() {
    struct Watched {
        file: File,
        journal: Arc<Mutex<Option<std::sync::Weak<EventFile>>>>,
        seen: Arc<AtomicU64>,
    }
    impl Watched {
        fn look(&self) {
            if let Some(journal) = self.journal.lock().as_ref().and_then(std::sync::Weak::upgrade) {
                assert!(journal.active.try_lock().is_some(), "the lock is held while the disk works");
                self.seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    impl Medium for Watched {
        fn append(&self, bytes: &[u8]) -> io::Result<()> {
            self.look();
            self.file.append(bytes)
        }
        fn sync(&self) -> io::Result<()> {
            self.look();
            self.file.sync()
        }
        fn cut(&self, bytes: u64) -> io::Result<()> {
            self.file.cut(bytes)
        }
        fn length(&self) -> io::Result<u64> {
            self.file.length()
        }
    }
    let dir = folder_with(&small_journal(50));
    let (watched, seen) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
    let mount: Mount = {
        let (journal, seen) = (Arc::clone(&watched), Arc::clone(&seen));
        Arc::new(move |file| Arc::new(Watched { file, journal: Arc::clone(&journal), seen: Arc::clone(&seen) }))
    };
    let file = Arc::new(EventFile::open(dir.path(), mount, 0).unwrap().0);
    *watched.lock() = Some(Arc::downgrade(&file));
    compact(&file, Keep::ALL);
    assert!(seen.load(Ordering::SeqCst) >= 3, "header, records, sync");
    file.sync().unwrap();
}

/// A disk whose syncs take their time, by the clock of the journal.
struct SlowSync(File, Arc<ManualClock>);

impl Medium for SlowSync {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.advance(Duration::from_millis(50));
        self.0.sync()
    }
    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

#[test]
fn how_long_events_wait_while_a_journal_is_made_smaller_is_told_apart_from_the_lock() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
    let mount: Mount = {
        let clock = Arc::clone(&clock);
        Arc::new(move |file| Arc::new(SlowSync(file, Arc::clone(&clock))))
    };
    let config = EventsConfig { max_bytes: 8_000.try_into().unwrap(), ..quiet() };
    let journal = EventJournal::mounted(dir.path(), config, clock, mount).unwrap();
    let told = || {
        let status = journal.status();
        (status.compactions_total > 0, status.longest_stall_us, status.longest_swap_us)
    };
    journal.flush(LONG).unwrap();
    assert_eq!(told(), (false, 0, 0));
    while !told().0 {
        journal.emit(pin(0, 1));
        journal.flush(LONG).unwrap();
    }
    journal.flush(LONG).unwrap(); // it was told of its end before it was told how long it took
    assert_eq!(told(), (true, 50_000, 0), "the copy is synced before the lock is taken");
}

#[test]
fn a_journal_keeps_its_size_and_the_newest_events() {
    let dir = tempfile::tempdir().unwrap();
    let config = EventsConfig { max_bytes: 64_000.try_into().unwrap(), ..quiet() };
    let journal = open(dir.path(), config);
    for number in 0..20_000 {
        journal.emit(pin(0, number));
        if number % 100 == 0 {
            journal.flush(LONG).unwrap();
            assert!(journal.status().bytes < 64_000 + 40_000, "{:?}", journal.status());
        }
    }
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let (read, status) = (all(dir.path()), journal.status());
    assert!(status.compactions_total > 5, "{status:?}");
    assert_eq!((read.damaged, read.torn_bytes, read.missing, status.lost_total), (0, 0, 0, 0));
    let orders = orders(&read);
    let first = *orders.first().unwrap();
    assert_eq!(orders, (first..20_000).collect::<Vec<_>>(), "the newest are there, without a hole");
}

/// Of which a thousand bytes, about twenty events, go by no age.
fn short_lived() -> EventsConfig {
    EventsConfig { keep: Duration::from_secs(100), max_bytes: 8_000.try_into().unwrap(), ..quiet() }
}

#[test]
fn events_older_than_the_journal_keeps_go_but_for_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let journal = EventJournal::open(dir.path(), short_lived(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let pass = |seconds: u64| {
        clock.advance(Duration::from_secs(seconds));
        clock.set_unix_ms(clock.unix_ms() + seconds * 1000);
    };
    (1..=60).for_each(|number| journal.emit(pin(0, number)));
    journal.flush(LONG).unwrap();
    pass(105);
    journal.emit(pin(0, 61));
    journal.flush(LONG).unwrap();
    assert_eq!(orders(&all(dir.path())), (1..=61).collect::<Vec<_>>(), "an eighth later");
    pass(10);
    journal.emit(pin(0, 62));
    while journal.status().compactions_total == 0 {
        journal.flush(LONG).unwrap();
    }
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let (left, bytes) = (orders(&all(dir.path())), journal.status().bytes);
    assert!((43..47).contains(&left[0]) && bytes < 1_250, "{left:?}, {bytes} bytes");
    assert_eq!(left, (left[0]..=62).collect::<Vec<_>>());
}

#[test]
fn a_wall_clock_that_steps_forward_does_not_take_the_history() {
    const YEARS: u64 = 10 * 365 * 24 * 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let start = || EventJournal::open(dir.path(), short_lived(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let journal = start();
    (1..=60).for_each(|number| journal.emit(pin(0, number)));
    journal.flush(LONG).unwrap();
    clock.set_unix_ms(YEARS);
    (61..=65).for_each(|number| {
        journal.emit(pin(0, number));
        journal.flush(LONG).unwrap();
    });
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    assert_eq!(journal.status().compactions_total, 0);
    assert_eq!(orders(&all(dir.path())), (1..=65).collect::<Vec<_>>(), "no time has passed");
    clock.set_unix_ms(2 * YEARS); // as a process that starts finds it, which knows of no other time
    let journal = start();
    while journal.status().compactions_total == 0 {
        journal.emit(pin(0, 66));
        journal.flush(LONG).unwrap();
    }
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let left = orders(&all(dir.path()));
    assert!(left[0] > 1 && left.iter().filter(|number| **number <= 65).count() >= 10, "{left:?}");
}

#[test]
fn a_reader_takes_what_it_asks_for() {
    let dir = folder_with(&small_journal(9));
    let read = |filter: Filter| -> Vec<u64> { orders(&read_journal(dir.path(), &filter).unwrap()) };
    assert_eq!(read(Filter { after: Some(4), first: Some(3), ..Filter::default() }), [4, 5, 6]);
    assert_eq!(read(Filter { last: Some(3), codes: vec!["pin_removed".to_owned()], ..Filter::default() }), [7, 8, 9]);
    assert_eq!(read(Filter { codes: vec!["stopped".to_owned()], ..Filter::default() }), [0_u64; 0]);
    assert_eq!(read(Filter { since_ms: Some(1), ..Filter::default() }), [0_u64; 0]);
    let verified = verify_journal(dir.path()).unwrap();
    assert_eq!((verified.records, verified.range, verified.events.len()), (11, Some((1, 11)), 0));
    let absent = verify_journal(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(absent, PruneError::File { .. }), "{absent}");
}

#[test]
fn a_journal_that_cannot_be_opened_is_heard_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let no_folder = dir.path().join("file");
    fs::write(&no_folder, b"").unwrap();
    let error = PruneError::Invariant("injected".to_owned());
    let journal = EventJournal::unwritten(&no_folder, &error, quiet(), Arc::new(ManualClock::default())).unwrap();
    let mut watcher = journal.subscribe();
    journal.emit(pin(0, 1));
    assert!(journal.flush(LONG).unwrap_err().to_string().contains("injected"));
    assert!(matches!(watcher.try_next(), Some(Heard::Event(_))));
    let status = journal.status();
    assert_eq!((status.failure.unwrap().code.as_str(), status.lost_total, status.written_total), ("internal", 0, 0));
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let status = journal.status();
    assert_eq!((status.failure.unwrap().code.as_str(), status.lost_total), ("file", 2), "it was tried once more");
}

/// A full device, one failed call or the lock of a process that is just dying is no reason to write nothing for as long as the node
/// lives.
#[test]
fn a_journal_that_could_not_be_opened_is_opened_later_and_what_happened_meanwhile_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let predecessor = open(dir.path(), quiet());
    predecessor.emit(pin(0, 1));
    predecessor.flush(LONG).unwrap();
    let refused = EventJournal::open(dir.path(), quiet(), Arc::new(SystemClock::new())).unwrap_err();
    let clock = Arc::new(ManualClock::default());
    let journal = EventJournal::unwritten(dir.path(), &refused, quiet(), Arc::clone(&clock) as _).unwrap();
    let mut watcher = journal.subscribe();
    journal.emit(pin(0, 2));
    assert!(journal.flush(LONG).is_err());
    clock.advance(Duration::from_secs(1));
    assert!(journal.flush(LONG).is_err(), "tried again, in vain");
    assert_eq!(journal.status().failure.unwrap().times, 2);
    drop(predecessor);
    assert!(journal.flush(LONG).is_err(), "not before its time");
    assert_eq!(journal.status().failure.unwrap().times, 2);
    clock.advance(Duration::from_secs(2));
    journal.flush(LONG).unwrap();
    let status = journal.status();
    assert_eq!((status.failure, status.lost_total, status.replay.records), (None, 0, 3));
    journal.emit(pin(0, 3));
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let read = all(dir.path());
    let codes: Vec<&str> = read.events.iter().map(|event| event.code.as_str()).collect();
    assert_eq!(codes, ["started", "pin_removed", "stopped", "started", "pin_removed", "pin_removed", "stopped"]);
    assert_eq!((orders(&read), read.missing, read.damaged), (vec![1, 2, 3], 0, 0));
    let heard: Vec<(&str, u64)> = std::iter::from_fn(|| watcher.try_next())
        .map_while(|heard| match heard {
            Heard::Event(happened) => Some((happened.event.code(), happened.seq)),
            Heard::Numbered(seq) => Some(("numbered", seq)),
            Heard::Missed(_) | Heard::Ended => None,
        })
        .collect();
    let expected =
        [("pin_removed", Happened::UNNUMBERED), ("started", 4), ("numbered", 5), ("pin_removed", 6), ("stopped", 7)];
    assert_eq!(heard, expected, "no number is given twice");
}

#[test]
fn while_a_journal_cannot_be_opened_more_than_is_kept_is_lost_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let error = PruneError::Invariant("injected".to_owned());
    let journal = EventJournal::unwritten(dir.path(), &error, quiet(), Arc::clone(&clock) as _).unwrap();
    (0..CAPACITY as u64 + 7).for_each(|number| journal.emit(pin(0, number)));
    assert!(journal.flush(LONG).is_err());
    assert_eq!(journal.status().lost_total, 7);
    clock.advance(LONG);
    while journal.flush(LONG).is_err() {} // until what was lost is told, too
    drop(journal);
    let read = all(dir.path());
    let lost: Vec<_> =
        read.events.iter().filter(|event| event.code == "events_lost").map(|event| &event.data["count"]).collect();
    assert_eq!((lost, orders(&read).len()), (vec![&serde_json::json!(7)], CAPACITY));
}

/// Breaks as no disk does.
struct Panics;

impl Medium for Panics {
    fn append(&self, _bytes: &[u8]) -> io::Result<()> {
        panic!("as if there was a bug")
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn cut(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn a_writer_that_panics_is_told_as_that_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mount: Mount = Arc::new(|_| Arc::new(Panics));
    let journal = EventJournal::mounted(dir.path(), quiet(), Arc::new(ManualClock::default()), mount).unwrap();
    let told = journal.flush(LONG).unwrap_err().to_string();
    assert!(told.contains("panicked"), "{told}");
    (0..2 * CAPACITY as u64).for_each(|number| journal.emit(pin(0, number)));
    let status = journal.status();
    assert!(status.failure.unwrap().message.contains("panicked"));
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    assert_eq!(journal.status().lost_total, 2 * CAPACITY as u64 + 1, "that it has begun among them");
}

/// The last words may be what makes the journal too long, wherever it is before them.
#[test]
fn nothing_is_told_behind_the_last_words_also_where_they_make_the_journal_smaller() {
    let mut untold = 0;
    for padding in 0..80 {
        let dir = tempfile::tempdir().unwrap();
        let config = EventsConfig { sync: EventsSync::Each, max_bytes: 4_096.try_into().unwrap(), ..quiet() };
        let journal = open(dir.path(), config);
        let bytes = || fs::metadata(dir.path().join(FILE)).unwrap().len();
        journal.flush(LONG).unwrap();
        while bytes() < 3_800 {
            journal.emit(pin(0, 1));
            journal.flush(LONG).unwrap();
        }
        journal.emit(Event::PinRemoved { name: "x".repeat(4 * padding), order: 1 });
        journal.flush(LONG).unwrap();
        let before = bytes();
        assert_eq!(journal.stop(LONG), Stopping::Whole);
        let read = all(dir.path());
        assert_eq!(read.events.last().unwrap().code, "stopped", "after {before} bytes");
        let told = read.events.iter().filter(|entry| entry.code == "journal_compacted").count() as u64;
        untold += journal.status().compactions_total - told;
        assert!(read.missing == 0 && bytes() < 4_096, "after {before} bytes: {}", bytes());
    }
    assert!(untold > 0, "no last words ever made it too long");
}

/// The last words count what was lost before them; room that comes at the very end is for those.
#[test]
fn what_was_lost_is_not_told_behind_the_last_words_which_count_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let journal = disk.open(dir.path(), EventsConfig { sync: EventsSync::Each, ..quiet() });
    journal.flush(LONG).unwrap();
    *disk.full.lock() = true;
    while journal.status().lost_total == 0 {
        journal.emit(Event::PinRemoved { name: "x".repeat(8 << 10), order: 1 }); // until memory keeps no more
    }
    journal.flush(LONG).unwrap_err();
    let lost = journal.status().lost_total;
    *disk.full.lock() = false;
    assert_eq!(journal.stop(LONG), Stopping::Whole);
    let read = all(dir.path());
    let last = read.events.last().unwrap();
    assert_eq!((last.code.as_str(), &last.data["lost"]), ("stopped", &serde_json::json!(lost)));
    assert_eq!(journal.status().lost_total, lost);
}
