//! What a node says of itself beside its store tells its health as the store would, as long as it counts, and never longer.

use std::{
    cell::Cell,
    fs::{self, File},
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use state_pruner::{
    Freeze, Health, Heart, KeepPolicy, LiveRetention, NewPin, NoHeartbeat, PruneError, RecordKey, Records as _,
    StoreRecords, Verdict,
    offline::{CycleDue, HealthRequest, health_by_heartbeat, health_of_opened},
};
use state_store::{Era, FaultyDisk, FileCall, Lasting, StoreError, record};
use state_tests::{
    folder,
    rig::{AtRest, Engine, Rig},
    workload::Profile,
};

const MINUTE_MS: u64 = 60_000;
/// While a process has the store open.
const FRESH_MS: u64 = 15_000;

/// A node's store with a few orders and its heart.
struct Beating {
    rig: Rig,
    heart: Heart,
}

impl Beating {
    fn new() -> Self {
        let rig = Rig::new(Engine::Rocks);
        rig.chain.grow(Profile::Uniform, 140, 9);
        rig.clock.set_unix_ms(1_000 * MINUTE_MS);
        let heart = Heart::of(&rig.chain.store, &rig.store_dir(), Arc::clone(&rig.clock) as _);
        Self { rig, heart }
    }

    fn file(&self) -> PathBuf {
        self.rig.store_dir().with_added_extension("heartbeat")
    }

    fn beat(&self) {
        self.heart.beat(|| Some(1)).unwrap();
    }

    fn records(&self) -> StoreRecords {
        StoreRecords(Arc::clone(&self.rig.chain.store))
    }

    /// A request at the time of the heart.
    fn asked(&self) -> HealthRequest {
        asked(&self.rig.store_dir(), state_pruner::Clock::unix_ms(&*self.rig.clock))
    }

    /// Ends it as a node does; whether its last heartbeat was written.
    fn end(self) -> (AtRest, Heart, bool) {
        let Self { rig, heart } = self;
        let store = Arc::clone(&rig.chain.store);
        let rest = rig.rest();
        let is_last = heart.last(store).unwrap();
        (rest, heart, is_last)
    }

    fn save_freeze(&self, why: &str) {
        let freeze = Freeze { cycle: 1, at: 0, why: why.to_owned() };
        self.records().save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    }
}

fn asked(db: &Path, now_ms: u64) -> HealthRequest {
    HealthRequest { now_ms: Some(now_ms), ..HealthRequest::new(db, None) }
}

fn codes(health: &Health) -> Vec<&str> {
    health.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// What it tells beside that nobody looked.
fn heard(request: &HealthRequest) -> Vec<state_pruner::Reason> {
    let Health { reasons, .. } = health_by_heartbeat(request).unwrap();
    let (by, reasons): (Vec<_>, Vec<_>) = reasons.into_iter().partition(|reason| reason.code == "by_heartbeat");
    assert_eq!(by.iter().map(|by| by.verdict).collect::<Vec<_>>(), [Verdict::Healthy], "{reasons:?}");
    reasons
}

/// The oracle is the store itself.
#[test]
fn a_heartbeat_tells_what_the_store_tells_whatever_its_records_say() {
    let node = Beating::new();
    let keeps = |orders: u64, time: Option<Duration>| {
        let keep = KeepPolicy { time, ..KeepPolicy::last(NonZeroU64::new(5).unwrap()) };
        CycleDue::After { orders, keep }
    };
    let whole = Duration::from_secs(1 << 30);
    let dues = [CycleDue::Unknown, CycleDue::Never, keeps(1, None), keeps(1_000, None), keeps(1, Some(whole))];
    let told = Cell::new(0);
    let tells = |what: &str| {
        node.beat();
        for due in dues {
            let request = HealthRequest { due, reserve: NonZeroU64::new(1 << 20), ..node.asked() };
            let of_store = health_of_opened(Arc::clone(&node.rig.chain.store), &request).unwrap().reasons;
            assert_eq!(heard(&request), of_store, "{what}, {due:?}");
            told.set(told.get() + of_store.len());
        }
    };
    tells("nothing happened");
    let retention = LiveRetention::new(node.rig.retention_parts(None));
    let pin = NewPin { name: "audit".to_owned(), owner: "me".to_owned(), order: node.rig.chain.head(), ttl: None };
    retention.add_pin(pin).unwrap();
    tells("a pin");
    node.rig.cycle(&node.rig.plan(5));
    node.rig.chain.grow(Profile::Uniform, 141, 9);
    tells("a cycle");
    for key in RecordKey::ALL {
        node.records().save(key, b"torn").unwrap();
        tells(&format!("{key:?} torn"));
    }
    node.save_freeze("a node is missing");
    tells("frozen");
    assert!(told.get() > 100, "{} reasons: the states differ", told.get());
}

/// What the next cycle needs is measured by the node, what is free by whoever asks.
#[test]
fn a_heartbeat_tells_that_the_next_cycle_has_no_room_or_that_nobody_measured_it() {
    for (need, code) in [(Some(0), None), (Some(u64::MAX), Some("cycle_room")), (None, Some("unmeasured"))] {
        let node = Beating::new();
        node.heart.beat(|| need).unwrap();
        let reasons = heard(&HealthRequest { due: CycleDue::Never, ..node.asked() });
        let codes: Vec<&str> = reasons.iter().map(|it| it.code.as_str()).filter(|code| *code != "unpruned").collect();
        assert_eq!(codes, code.into_iter().collect::<Vec<_>>(), "{need:?}");
    }
}

#[test]
fn a_heartbeat_counts_for_a_while_where_the_store_is_open_and_for_one_opening() {
    let node = Beating::new();
    let (db, at_ms) = (node.rig.store_dir(), node.asked().now_ms.unwrap());
    let at = |now_ms: u64| health_by_heartbeat(&asked(&db, now_ms));
    assert!(matches!(at(at_ms), Err(NoHeartbeat::Absent)));
    node.beat();
    for age in [0, FRESH_MS] {
        let told = at(at_ms + age).unwrap();
        assert_eq!(told.reasons.last().unwrap().code, "by_heartbeat", "{age}");
    }
    for stepped in [at_ms + FRESH_MS + 1, at_ms - FRESH_MS - 1] {
        assert!(matches!(at(stepped), Err(NoHeartbeat::Stale(_))), "its process writes none, or the clock is wrong");
    }
    let Beating { rig, heart } = node;
    let rest = rig.rest();
    let killed = at(at_ms + 1_000 * MINUTE_MS).unwrap();
    let last = killed.reasons.last().unwrap();
    assert_eq!((last.verdict, last.code.as_str()), (Verdict::Degraded, "heartbeat_cut"), "nobody wrote a last one");
    heart.beat(|| panic!("the store is closed")).unwrap();
    let rig = rest.wake();
    assert!(matches!(at(at_ms), Err(NoHeartbeat::OfAnotherEra)), "another process has it");
    let rest = rig.rest();
    assert!(matches!(at(at_ms), Err(NoHeartbeat::OfAnotherEra)), "and may have written what it likes");
    drop(rest);
}

#[test]
fn behind_the_last_heartbeat_of_a_node_there_is_none_and_it_counts_until_the_store_is_opened_again() {
    let node = Beating::new();
    let (db, now_ms) = (node.rig.store_dir(), node.asked().now_ms.unwrap() + 1_000 * MINUTE_MS);
    node.beat();
    node.save_freeze("met at the end");
    let (rest, heart, is_last) = node.end();
    assert!(is_last);
    let file = db.with_added_extension("heartbeat");
    let written = fs::read(&file).unwrap();
    heart.beat(|| panic!("the store is closed")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), written);
    let told = health_by_heartbeat(&asked(&db, now_ms)).unwrap();
    assert_eq!((codes(&told)[0], *codes(&told).last().unwrap()), ("frozen", "by_heartbeat"));
    assert!(told.reasons[0].message.contains("met at the end"), "{told:?}");
    let rest = rest.wake().rest();
    assert!(matches!(health_by_heartbeat(&asked(&db, now_ms)), Err(NoHeartbeat::OfAnotherEra)));
    drop(rest);
}

/// Whoever puts another store in the place of one has not the heartbeat of the first.
#[test]
fn a_heartbeat_is_of_no_store_that_was_copied_over_its_own() {
    let node = Beating::new();
    let (db, now_ms) = (node.rig.store_dir(), node.asked().now_ms.unwrap());
    let (rest, _, is_last) = node.end();
    assert!(is_last);
    let (era, away) = (Era::of(&db).unwrap(), db.with_file_name("away"));
    fs::rename(&db, &away).unwrap();
    fs::create_dir(&db).unwrap();
    for file in fs::read_dir(&away).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), db.join(file.file_name())).unwrap();
    }
    assert!(Era::of(&db).unwrap() != era);
    assert!(matches!(health_by_heartbeat(&asked(&db, now_ms)), Err(NoHeartbeat::OfAnotherEra)));
    drop(rest);
}

/// What is missing at rest only a look at the store finds out, so nobody may be told without one.
#[test]
fn the_last_heartbeat_does_not_count_once_a_file_came_to_the_store_or_went() {
    let node = Beating::new();
    node.rig.backend.flush().unwrap();
    let (db, request) = (node.rig.store_dir(), node.asked());
    let (rest, _, is_last) = node.end();
    assert!(is_last && health_by_heartbeat(&request).is_ok());
    let table = folder::with_ending(&db, "sst").pop().unwrap();
    fs::remove_file(table).unwrap();
    let ticks = (0..10_000).take_while(|_| health_by_heartbeat(&request).is_ok());
    ticks.for_each(|_| {
        File::create(db.join("another")).unwrap(); // the clock of the file system goes in steps
        fs::remove_file(db.join("another")).unwrap();
    });
    assert!(matches!(health_by_heartbeat(&request), Err(NoHeartbeat::OfAnotherEra)));
    drop(rest);
}

/// Whoever still has the store may still write to it.
#[test]
fn there_is_no_last_heartbeat_while_somebody_else_has_the_store() {
    let node = Beating::new();
    let (db, request, late) = (node.rig.store_dir(), node.asked(), Arc::clone(&node.rig.chain.store));
    node.beat();
    let (rest, _, is_last) = node.end();
    assert!(!is_last);
    let freeze = Freeze { cycle: 1, at: 0, why: "found by a read that did not end".to_owned() };
    StoreRecords(Arc::clone(&late)).save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    drop(late);
    let told = health_by_heartbeat(&HealthRequest { db, ..request }).unwrap();
    assert_eq!(told.reasons.last().unwrap().code, "heartbeat_cut", "it does not know of that");
    drop(rest);
}

#[test]
fn a_heartbeat_of_a_node_that_ends_meanwhile_is_its_last_one() {
    let node = Beating::new();
    node.beat();
    let (file, request) = (node.file(), node.asked());
    let before = fs::read(&file).unwrap();
    let (rest, _, is_last) = node.end();
    assert!(is_last);
    let last = fs::read(&file).unwrap();
    fs::write(&file, before).unwrap();
    let (mut reads, of) = (0, file.clone());
    let disk = FaultyDisk::heard(file.parent().unwrap(), move |call, path| {
        reads += u32::from(call == FileCall::Read && path == of);
        if reads == 2 {
            fs::write(&of, &last).unwrap(); // it had written that by the time that nobody had the store open
        }
        Ok(())
    });
    heard(&request);
    drop((disk, rest));
}

/// Whoever is kept by a disk keeps nobody else.
#[test]
fn a_heartbeat_that_hangs_is_not_waited_for_at_the_end() {
    let node = Beating::new();
    let (home, (writes, is_written), (release, released)) =
        (node.rig.store_dir().parent().unwrap().to_owned(), mpsc::channel(), mpsc::channel::<()>());
    let mut hangs = true;
    let disk = FaultyDisk::heard(&home, move |call, _| {
        if call == FileCall::Create && std::mem::take(&mut hangs) {
            writes.send(()).unwrap();
            assert!(released.recv().is_err(), "held until the other end is dropped");
        }
        Ok(())
    });
    let Beating { rig, heart } = node;
    let rest = thread::scope(|scope| {
        let beats = scope.spawn(|| heart.beat(|| None).unwrap());
        is_written.recv().unwrap();
        let store = Arc::clone(&rig.chain.store);
        let rest = rig.rest();
        assert!(!heart.last(store).unwrap());
        let rest = rest.wake().rest(); // nobody has the store open any more
        drop(release);
        beats.join().unwrap();
        rest
    });
    let late = health_by_heartbeat(&asked(&rest.store_dir(), 0));
    assert!(matches!(late, Err(NoHeartbeat::OfAnotherEra)), "it was of the process before: {late:?}");
    drop((disk, rest));
}

#[test]
fn what_is_no_heartbeat_is_none_and_is_not_waited_for() {
    let node = Beating::new();
    let (file, request) = (node.file(), node.asked());
    let is_unreadable = |what: &str| {
        let told = health_by_heartbeat(&request);
        assert!(matches!(told, Err(NoHeartbeat::Unreadable(_))), "{what}: {told:?}");
    };
    fs::create_dir(&file).unwrap();
    is_unreadable("a folder");
    fs::remove_dir(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    is_unreadable("a pipe");
    fs::remove_file(&file).unwrap();
    File::create(&file).unwrap().set_len(1 << 40).unwrap();
    is_unreadable("a tebibyte");
    fs::remove_file(&file).unwrap();
    node.beat();
    heard(&request);
}

/// C5.
#[test]
fn a_heartbeat_with_a_flipped_bit_or_without_its_end_is_none() {
    let node = Beating::new();
    node.beat();
    let (file, request) = (node.file(), node.asked());
    let whole = fs::read(&file).unwrap();
    let is_unreadable = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let told = health_by_heartbeat(&request);
        assert!(matches!(told, Err(NoHeartbeat::Unreadable(_))), "{what}: {told:?}");
    };
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        is_unreadable(&flipped, &format!("bit {bit}"));
    }
    for end in 0..whole.len() {
        is_unreadable(&whole[..end], &format!("cut at {end}"));
    }
    fs::write(&file, &whole).unwrap();
    heard(&request);
}

#[test]
fn a_heartbeat_is_written_where_what_it_says_has_changed_and_every_five_seconds() {
    let node = Beating::new();
    let after = |seconds: u64| {
        node.rig.clock.advance(Duration::from_secs(seconds));
        node.rig.clock.set_unix_ms(state_pruner::Clock::unix_ms(&*node.rig.clock) + 1_000 * seconds);
        let before = fs::read(node.file()).unwrap();
        node.beat();
        fs::read(node.file()).unwrap() != before
    };
    assert!(!node.file().exists());
    node.beat();
    assert!(!after(1), "nothing has changed");
    node.rig.chain.grow(Profile::Uniform, 142, 3);
    assert!(!after(1), "the chain goes on all the time");
    node.save_freeze("why");
    assert!(after(1));
    assert!(!after(4));
    assert!(after(1));
}

/// Whoever lists the files of a large store holds up its commits.
#[test]
fn what_the_next_cycle_needs_is_asked_for_once_an_hour_and_until_it_is_known() {
    let node = Beating::new();
    let asked_after = |seconds: u64, need: Option<u64>| {
        node.rig.clock.advance(Duration::from_secs(seconds));
        let asked = Cell::new(false);
        let ask = || {
            asked.set(true);
            need
        };
        node.heart.beat(ask).unwrap();
        asked.get()
    };
    assert!(asked_after(0, None) && asked_after(10, None), "not known yet");
    assert!(asked_after(10, Some(7)));
    assert!(!asked_after(3_590, Some(8)));
    assert!(asked_after(10, Some(9)));
}

/// What is there may be true no more, and nobody is told so.
#[test]
fn a_heartbeat_that_cannot_be_written_takes_the_one_before_with_it() {
    let aside = "store.heartbeat.tmp";
    for (file, call) in [(aside, FileCall::Create), (aside, FileCall::Write), ("store.heartbeat", FileCall::Rename)] {
        let node = Beating::new();
        node.beat();
        let home = node.rig.store_dir().parent().unwrap().to_owned();
        node.save_freeze("why");
        let disk = FaultyDisk::under(&home);
        disk.fill(file, call, 0, Lasting::UntilHealed);
        assert!(matches!(node.heart.beat(|| None), Err(PruneError::Store(StoreError::DiskFull { .. }))), "{call:?}");
        assert!(matches!(health_by_heartbeat(&node.asked()), Err(NoHeartbeat::Absent)), "{call:?}");
        drop(disk);
        node.beat();
        assert_eq!(heard(&node.asked())[0].code, "frozen", "it is tried again at once");
    }
}
